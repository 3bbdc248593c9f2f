"""UPSNet panoptic segmentation for ROS 2."""
