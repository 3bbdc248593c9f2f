from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from blocked_bag import BlockedBag, has_ended
from result_bag import write_result_bag

from upsnet_ros.cli import main


def run(capfd: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "bags", *(str(arg) for arg in args)])
    out, err = capfd.readouterr()
    return end.value.code or 0, out, err


def test_ctrl_c_keeps_what_was_judged_and_the_same_command_goes_on(tmp_path: Path, capfd):
    first = write_result_bag(tmp_path / "first", 0)
    blocked = BlockedBag(write_result_bag(tmp_path / "second", 1), tmp_path / "blocked")
    state = tmp_path / "state"
    command = ("--cluster", "local", "--workers", 1, first, blocked.path, "--state", state)
    process = subprocess.Popen(
        [sys.executable, "-m", "upsnet_ros.cli", "evaluate", "bags", *map(str, command)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with blocked.reader() as worker:  # which has done with the first bag
            process.send_signal(signal.SIGINT)
            _, err = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"finished bags are kept in {state}" in " ".join(err.split())
    assert "Traceback" not in err
    assert has_ended(worker)
    assert [file.name.partition("-")[0] for file in state.glob("*.result")] == ["first"]

    blocked.mend()
    code, out, err = run(capfd, *command, "--json", tmp_path / "many.json")
    assert code == 0, err
    assert "panoptic quality" in out
    assert str(state) in err.splitlines()[-1] and "remove" in err.splitlines()[-1]
    assert len(list(state.glob("*.result"))) == 2
    code, _, err = run(
        capfd, first, blocked.path, "--processes", 1, "--json", tmp_path / "one.json"
    )
    assert code == 0, err
    many, one = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("many", "one"))
    assert many == one


def test_what_cannot_be(tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "w"):
        (tmp_path / name).write_bytes(b"\x80\x02")
    for options, reason in (
        (("--cluster", "slurm", "a"), "unknown cluster 'slurm': choose one of ray, local"),
        (("--cluster", "local", "--cluster-address", "a:1", "a"), "--cluster-address needs"),
        (
            ("--cluster", "local", "a", "--device", "cuda:0", "--weights", "w"),
            "assigns one GPU to each",
        ),
    ):
        code, _, err = run(capfd, *options, "--state", tmp_path / "state")
        assert (code, err.count("\n")) == (1, 1), err
        assert reason in err
