"""Fault tests: what each tries, how often, and what happens, told once and printed in the docs.

``make fault-test`` runs all of them; other runs leave out the cases that `repeats` marks as long.
``python test/support/faults.py`` writes the table of docs/reliability.md from the tests.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = _ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
_HEAD = "| What was tried | How often | What happened | Test |\n|---|---|---|---|"


def fault(tried: str, *, often: str, happens: str) -> pytest.MarkDecorator:
    """Marks a test as that of a fault.

    Args:
        tried: What goes wrong.
        often: How often; ``{name}`` stands for the last value of that parameter of the test, which
            is what `make fault-test` runs, and ``{cases}`` for the number of cases.
        happens: What the test has seen to happen when it passes.
    """
    return pytest.mark.fault(tried=tried, often=often, happens=happens)


def repeats(few: int, many: int) -> list[Any]:
    """Values of a parameter: few times in every run, many times in ``make fault-test``."""
    return [few, pytest.param(many, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]


def render() -> str:
    """The table of all fault tests."""
    return "\n".join((_HEAD, *_rows()))


def tests() -> Iterator[tuple[Path, str, Any]]:
    """Each test of the folder: its file, its name, and the function."""
    for path in sorted((_ROOT / "test" / "faults").glob("test_*.py")):
        for name, found in vars(_load(path)).items():
            if name.startswith("test_") and callable(found):
                yield path, name, found


def _rows() -> Iterator[str]:
    for path, name, function in tests():
        marks = {mark.name: mark for mark in getattr(function, "pytestmark", ())}
        if "fault" not in marks:
            continue
        told = marks["fault"].kwargs
        cases, last = _parameters(function)
        often = told["often"].format(cases=cases, **last)
        where = f"`{path.relative_to(_ROOT / 'test' / 'faults')}::{name}`"
        yield f"| {told['tried']} | {often} | {told['happens']} | {where} |"


def _parameters(function: Any) -> tuple[int, dict[str, Any]]:
    """How many cases there are, and the last value of each parameter."""
    counts, last = [], {}
    for mark in function.pytestmark:
        if mark.name == "parametrize":
            names, values = mark.args[0], [*mark.args[1]]
            several = any("long" in _marks(value) for value in values)
            counts.append(1 if several else len(values))
            if isinstance(names, str) and "," not in names:
                last[names] = getattr(values[-1], "values", (values[-1],))[0]
    return math.prod(counts), {
        name: f"{value:,}" if isinstance(value, int) else value for name, value in last.items()
    }


def _marks(value: Any) -> list[str]:
    return [mark.name for mark in getattr(value, "marks", ())]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fault_table_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write() -> None:
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{render()}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    _write()
