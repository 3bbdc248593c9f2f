"""Sizes of frames on a command line."""

from __future__ import annotations

from upsnet_ros.cli import fail


def parse_rows_columns(text: str) -> tuple[int, int]:
    """Rows and columns of ``HEIGHTxWIDTH``; ends the command where it is nothing of the kind."""
    rows, cross, columns = text.lower().partition("x")
    if not cross or not rows.isdigit() or not columns.isdigit():
        fail(f"size {text!r} is not HEIGHTxWIDTH, such as 512x1024")
    size = int(rows), int(columns)
    if min(size) < 16:
        fail(f"size {text}: scenes need at least 16x16 pixels")
    return size
