"""What the node does, on a local web page: figures from /diagnostics, pictures from overlay."""
