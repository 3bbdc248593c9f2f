"""What `upsnet bench` measures; needs no ROS, but times its ends too where it is installed."""
