"""A progress bar is for a user who watches, not for a log."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

SHOW = """
import os, sys
from upsnet_ros.cli.terminal import frame_progress
if sys.argv[1] == "in front":  # take the terminal as a shell does
    import fcntl, termios
    fcntl.ioctl(2, termios.TIOCSCTTY, 0)
with frame_progress() as progress:
    task = progress.add_task("at work", total=1)
    progress.advance(task)
"""


@pytest.mark.parametrize(("place", "shown"), [("in front", True), ("under ros2 launch", False)])
def test_a_bar_is_shown_in_the_users_terminal_only(place: str, shown: bool) -> None:
    """`ros2 launch` gives a process a terminal that is not the one it was started from."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW, place],
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 4096):
            output += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    assert (b"at work" in output) == shown
    assert shown or output == b""
