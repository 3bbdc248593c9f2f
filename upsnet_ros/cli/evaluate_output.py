"""What `upsnet evaluate` prints and writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from upsnet_ros.cli import fail
from upsnet_ros.evaluation.evaluation import EvaluationResult
from upsnet_ros.evaluation.tables import class_table, headline_lines


def show(result: EvaluationResult, notes: Sequence[str]) -> None:
    """Print the figures, by class and in the whole, and what has to be known of them."""
    console = Console()
    console.print(class_table(result))
    for line in headline_lines(result):
        console.print(line, highlight=False, markup=False)
    if result.intervals:
        console.print("in brackets: 95 % intervals, bootstrap over sequences", style="dim")
    for note in notes:
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)


def write(path: Path, text: str) -> None:
    """Write a file, or end the command with what is in the way."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror}")
    typer.echo(f"wrote {path}", err=True)
