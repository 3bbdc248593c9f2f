"""Judging predictions: panoptic quality and its kin, unknown objects, reports."""
