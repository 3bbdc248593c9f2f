"""What commands print: safe for a terminal, whatever names come from other people's files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.text import Text

from upsnet_ros.output_files import write_file

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")


class _SafeConsole(Console):
    """A console that prints strings as they are: no markup, no control characters."""

    def render_str(self, text: str, *args: Any, **options: Any) -> Text:
        lines = ("".join(c for c in line if c.isprintable()) for line in text.split("\n"))
        return super().render_str("\n".join(lines), *args, **options)


def console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """Return a console for any text; colours come from ``style`` and `rich.text` only."""
    return _SafeConsole(
        stderr=stderr, soft_wrap=soft_wrap, markup=False, highlight=False, emoji=False
    )


def write_report(path: Path, text: str, *, overwrite: bool) -> None:
    """Write a file that the user asked for and say so on stderr; see `write_file`."""
    write_file(path, text, overwrite=overwrite)
    console(stderr=True, soft_wrap=True).print(f"wrote {path}")


def shows_progress() -> bool:
    """Return whether progress bars are shown: in a terminal in the foreground, not in logs."""
    return console(stderr=True).is_terminal and _is_in_foreground()


def frame_progress() -> Progress:
    """Return a progress bar on stderr; stdout stays free for what other programs read.

    It is shown only if `shows_progress`.
    """
    # Imported here because it takes long, and commands without a bar do not need it.
    import rich.progress

    return rich.progress.Progress(
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(bar_width=30),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        console=console(stderr=True),
        disable=not shows_progress(),
    )


def with_progress(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Yield the items under a progress bar, which takes long to import, if one is shown."""
    if not shows_progress():
        yield from items
        return
    with frame_progress() as progress:
        task = progress.add_task(what, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _is_in_foreground() -> bool:
    """Return whether stderr is this process's controlling terminal, with the process in front.

    `ros2 launch` gives its processes terminals of their own (``emulate_tty``) and writes their
    output to its log, where the bar would become one endless line.
    """
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except OSError:  # it is not this process's controlling terminal
        return False
