"""Image in, `PanopticFrame` out."""
