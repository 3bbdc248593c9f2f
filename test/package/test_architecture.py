"""The order of the folders in docs/architecture.md is the order of their imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = re.findall(r"^\| `upsnet_ros/(\w+)/`", (ROOT / "docs/architecture.md").read_text(), re.M)
#: Those that the document names beside the rule.
EXCEPTIONS = {("ros", "bags")}


def folders_imported(folder: str) -> set[str]:
    """Folders of the package that another one's modules import from, also inside functions."""
    names = set()
    for file in (ROOT / "upsnet_ros" / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name.split(".")[1] for name in names if name.startswith("upsnet_ros.")}
    return inside & set(FOLDERS) - {folder}


def test_the_table_has_every_folder():
    there = {file.parent.name for file in (ROOT / "upsnet_ros").glob("*/__init__.py")}
    assert sorted(FOLDERS) == sorted(there)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_upwards(folder: str):
    above = set(FOLDERS[: FOLDERS.index(folder)])
    below = {(folder, other) for other in folders_imported(folder) - above}
    assert below <= EXCEPTIONS


def test_the_exceptions_are_needed():
    assert all(other in folders_imported(folder) for folder, other in EXCEPTIONS)
