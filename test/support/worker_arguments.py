"""An argument for processes, in a module of its own."""

from __future__ import annotations

import os
from pathlib import PosixPath

#: The process that imported this module.
PID = os.getpid()


class Folder(PosixPath):
    """A folder."""
