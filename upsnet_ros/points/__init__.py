"""Panoptic labels of points: depth images and lidar clouds, objects in space, and their node."""
