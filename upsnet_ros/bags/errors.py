"""What goes wrong with bags."""

from __future__ import annotations


class BagError(ValueError):
    """A bag cannot be read or written; the message names it and says why."""
