"""The page that shows an evaluation: figures, classes, and frames to look through."""
