"""The ROS 2 side: node, settings, image codec, messages, player and recorder."""
