from __future__ import annotations

import os
import subprocess
import sys

import pytest

from upsnet_ros import processes
from upsnet_ros.processes import threads_spin, wait_passively

CHOICES = {
    "OMP_WAIT_POLICY": "ACTIVE",
    "GOMP_SPINCOUNT": "1000",
    "KMP_BLOCKTIME": "200",
    "KMP_LIBRARY": "turnaround",
}


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_too_late", threads_spin())  # comes back as it was
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", CHOICES)
def test_the_users_choice_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, CHOICES[name])
    wait_passively()
    assert {key: os.environ[key] for key in CHOICES if key in os.environ} == {name: CHOICES[name]}


@pytest.mark.parametrize(
    "statement",
    [
        "import upsnet_ros",
        "from upsnet_ros import Predictor",
        "from upsnet_ros.datasets.taxonomy import get_taxonomy",
        "import upsnet_ros.cli.commands",
    ],
)
def test_the_policy_is_set_before_torch_is_imported(statement: str) -> None:
    code = f"""
import builtins, os
plain = builtins.__import__
def noting(name, *args, **kwargs):
    if name == "torch":
        print("torch", os.environ.get("OMP_WAIT_POLICY"))
        os._exit(0)
    return plain(name, *args, **kwargs)
builtins.__import__ = noting
{statement}
print("no torch", os.environ.get("OMP_WAIT_POLICY"))
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-uc", code], capture_output=True, text=True, timeout=240
    )
    assert done.stdout.split()[-1:] == ["PASSIVE"], done.stderr


@pytest.mark.parametrize(
    ("torch_first", "choice", "expected"),
    [(False, None, False), (True, None, True), (True, "ACTIVE", False)],
)
def test_it_knows_where_torch_came_first(
    torch_first: bool, choice: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_too_late", False)
    if choice is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", choice)
    if torch_first:
        monkeypatch.setitem(sys.modules, "torch", sys)
    else:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    wait_passively()
    assert threads_spin() is expected


@pytest.mark.parametrize("too_late", [False, True])
def test_a_predictor_says_so(
    too_late: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from upsnet_ros import Predictor

    monkeypatch.setattr(processes, "_too_late", too_late)
    Predictor(device="cpu", scale=64)
    said = [record for record in caplog.records if "import upsnet_ros first" in record.message]
    assert len(said) == too_late
