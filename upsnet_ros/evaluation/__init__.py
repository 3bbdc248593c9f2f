"""Compares predictions with ground truth: metrics, tables and the HTML report."""
