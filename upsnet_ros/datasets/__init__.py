"""Class taxonomies and readers of labelled image datasets."""
