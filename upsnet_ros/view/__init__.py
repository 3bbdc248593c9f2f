"""Local web page that shows the state of the nodes (/diagnostics) and their overlays."""
