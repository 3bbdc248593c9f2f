"""Conversion between ROS messages and NumPy arrays; no node is needed."""
