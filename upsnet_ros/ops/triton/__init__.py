"""Triton kernels, one file for each file of `upsnet_ros.ops` that has any."""
