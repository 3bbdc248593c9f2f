"""What `upsnet bench` measures; needs no ROS, but also times its ends if it is installed."""
