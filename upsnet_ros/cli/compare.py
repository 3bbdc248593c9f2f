"""`upsnet compare`: compare two evaluations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from upsnet_ros.cli.commands import fail
from upsnet_ros.cli.options import JsonFile, Overwrite, require_file
from upsnet_ros.cli.terminal import console, write_report
from upsnet_ros.output_files import check_file

_HEADLINE = ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "mIoU", "AP", "AP50")
# Section and name in the file, and the name in the table.
_FURTHER = (
    ("video", "VPQ", "VPQ"),
    ("tracks", "MOTSA", "MOTSA"),
    ("tracks", "sMOTSA", "sMOTSA"),
    ("unknown", "recall", "unknown_recall"),
    ("unknown", "known_pixels_lost", "known_pixels_lost"),
)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A file of `upsnet evaluate --json`.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    frames: Annotated[int, typer.Option(metavar="N", min=0, help="Changed frames to list.")] = 10,
    json_file: JsonFile = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare two evaluations: metrics, classes, and the frames that changed most."""
    check_file(json_file, overwrite=overwrite)
    for path in (first, second):
        require_file(path)
    a, b = _load(first), _load(second)
    out = console(soft_wrap=True)
    out.print(f"A: {first}\nB: {second}\n")
    difference = compared(a, b)
    out.print(_table("metrics, %", difference["figures"], "metric"))
    out.print(_table("PQ by class, %", difference["classes"], "class"))
    changed = [row for row in difference["frames"] if row["change"]][:frames]
    if changed:
        out.print(_table("frames whose PQ changed most, %", changed, "frame"))
    elif difference["frames"]:
        out.print("no frame changed its PQ")
    for side, names in (("A", difference["only_in_a"]), ("B", difference["only_in_b"])):
        if names:
            shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
            out.print(f"note: {len(names)} only in {side}: {shown}", style="yellow")
    if json_file:
        write_report(json_file, json.dumps(difference, indent=1), overwrite=overwrite)


def compared(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The differences of two contents of `upsnet evaluate --json` files.

    Returns:
        ``figures``, ``classes`` and ``frames``: rows of name, a, b and change (b - a), fractions
        or None; frames by falling size of change. ``only_in_a`` and ``only_in_b``: names of frames.
    """
    figures = [_row(name, a.get(name), b.get(name)) for name in _HEADLINE if name in a or name in b]
    windows = [side.get("video", {}).get("windows", {}) for side in (a, b)]
    for k in dict.fromkeys([*windows[0], *windows[1]]):
        sides = (window.get(k, {}).get("PQ") for window in windows)
        figures.append(_row(f"VPQ_{k}", *sides))
    for part, name, title in _FURTHER:
        if part in a or part in b:
            sides = (side.get(part, {}).get(name) for side in (a, b))
            figures.append(_row(title, *sides))
    frames = [
        _row(name, first["PQ"], second["PQ"])
        for name, first, second in _paired(a["frames"], b["frames"])
    ]
    names = [{row["name"] for row in side["frames"]} for side in (a, b)]
    return {
        "figures": figures,
        "classes": [
            _row(name, first["PQ"], second["PQ"])
            for name, first, second in _paired(a["classes"], b["classes"])
            if first["PQ"] is not None or second["PQ"] is not None
        ],
        "frames": sorted(frames, key=lambda row: -abs(row["change"] or 0)),
        "only_in_a": sorted(names[0] - names[1]),
        "only_in_b": sorted(names[1] - names[0]),
    }


def _paired(
    first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    others = {row["name"]: row for row in second}
    return [(row["name"], row, others[row["name"]]) for row in first if row["name"] in others]


def _row(name: str, a: float | None, b: float | None) -> dict[str, Any]:
    return {"name": name, "a": a, "b": b, "change": None if a is None or b is None else b - a}


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        fail(f"{path} is not a JSON file: {error}")
    if not isinstance(content, dict) or not {"PQ", "classes", "frames"} <= content.keys():
        fail(f"{path} was not written by `upsnet evaluate --json`")
    return content


def _table(title: str, rows: list[dict[str, Any]], what: str) -> Table:
    table = Table(what, title=title, title_justify="left")
    for column in ("A", "B", "change"):
        table.add_column(column, justify="right")
    for row in rows:
        change = row["change"] or 0
        style = "green" if change > 0 else "red" if change < 0 else ""
        values = (_percent(row["a"]), _percent(row["b"]))
        # As `evaluate` prints metrics; names of classes and frames stay.
        name = row["name"].replace("_", " ") if what == "metric" else row["name"]
        table.add_row(name, *values, _percent(row["change"], sign=True), style=style)
    return table


def _percent(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    rounded = round(100 * value, 1) + 0.0  # not -0.0
    return f"{rounded:+.1f}" if sign and rounded else f"{rounded:.1f}"
