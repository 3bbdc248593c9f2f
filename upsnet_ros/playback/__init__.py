"""ROS nodes around the node: they play images, replay bags and record results."""
