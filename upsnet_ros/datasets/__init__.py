"""Data sets: class taxonomies, readers for evaluation and training, and drawn driving scenes."""
