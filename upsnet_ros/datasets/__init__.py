"""Data sets: class taxonomies today; readers for evaluation and training belong here too."""
