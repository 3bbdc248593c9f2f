"""Draws results as overlay images and videos, and writes them to files."""
