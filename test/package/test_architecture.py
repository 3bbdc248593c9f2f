"""The order of the folders in docs/architecture.md is the order of their imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = re.findall(r"^\| `upsnet_ros/(\w+)/`", (ROOT / "docs/architecture.md").read_text(), re.M)
#: Rooms that the document calls independent of each other.
INDEPENDENT = [{"tracking", "drawing", "messages"}, {"training", "bags"}, {"view", "benchmark"}]


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
    assert folders_imported(folder) <= above


@pytest.mark.parametrize("folder", FOLDERS)
def test_independent_folders_do_not_import_each_other(folder: str):
    others = set().union(*(group - {folder} for group in INDEPENDENT if folder in group))
    assert not folders_imported(folder) & others


def names_bound(node: ast.stmt) -> list[str]:
    """Names that a statement at the top of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        inner = [one for target in targets for one in ast.walk(target)]
        return [
            one.id for one in inner if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
        ]
    return []


def test_no_module_defines_a_name_twice():
    """As constants of one name do after a merge of two files: the later one changes the first."""
    for file in (ROOT / "upsnet_ros").rglob("*.py"):
        names = [name for node in ast.parse(file.read_text()).body for name in names_bound(node)]
        twice = {name for name in names if names.count(name) > 1}
        assert not twice, f"{file.relative_to(ROOT)}: {twice}"
