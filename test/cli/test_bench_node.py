"""`upsnet bench node` for real, but tiny: what is counted, not how fast it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

COMMAND = [sys.executable, "-m", "upsnet_ros.cli", "bench", "node"]

pytestmark = pytest.mark.dds


def bench(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> subprocess.CompletedProcess[str]:
    monkeypatch.setenv("COLUMNS", "80")
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=280)


def test_every_frame_of_every_run_is_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "report.json"
    done = bench(
        *("--variant", "cityscapes-r18", "--size", "64x128", "--device", "cpu", "--threads", "1"),
        *("--duration", "0.2", "--least-frames", "2", "--repeats", "2", "--rates", "40"),
        *("--limit", "3", "--json", str(file)),
        monkeypatch=monkeypatch,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert report["one_by_one"]["missed"] == 0
    assert report["node"]["variant"] == "cityscapes-r18"
    assert report["machine"]["cores"] > 0
    assert report["machine"]["ros"]["middleware"].startswith("rmw_")
    assert "fastdds_shm.xml" in report["machine"]["ros"].values(), "frames would get lost"
    assert report["search"]
    assert all(one["rate_hz"] <= 3 for one in report["search"])
    assert all(0 <= one["missed"] <= one["sent"] >= 2 for one in report["search"])
    assert [one["rate_hz"] for one in report["fixed"]] == [40.0]
    for figures in (*report["fixed"], report["maximum"]):
        assert len(figures["runs"]) == 2
        for run in figures["runs"]:
            assert run["sent"] == max(2, round(0.2 * figures["rate_hz"]))
            assert run["missed_share"] == pytest.approx(run["missed"] / run["sent"], abs=1e-4)
            assert run["missed"] < run["sent"], "the last frame is always answered"
            latency = run["latency_ms"]
            assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] <= latency["max"]
            assert run["use"]["cpu_percent"] > 0
            assert run["use"]["memory_mib"] > 100
    assert (
        f"highest rate with fewer than 5 % missed: {report['maximum']['rate_hz']:.3g}"
        in done.stdout
    )
    assert "…" not in done.stdout, "the table fits into 80 columns"
    assert done.stdout.count("%)") == 3, "a row for one by one, the maximum and the rate"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rates", "ten"], "--rates 'ten' is not a list of numbers"),
        (["--rates", "0"], "a rate must be above 0"),
        (["--duration", "0"], "duration must be above 0"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_what_cannot_be_measured(arguments: list[str], says: str) -> None:
    from typer.testing import CliRunner

    from upsnet_ros.cli.commands import app

    result = CliRunner().invoke(app, ["bench", "node", *arguments])
    assert result.exit_code == 1
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_table_fits_into_80_columns_with_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from upsnet_ros.cli.bench import show_node

    names = ("mean", "min", "p50", "p99", "max")
    row = {
        "sent": 1000,
        "missed": 123,
        "missed_share": 0.123,
        "latency_ms": dict.fromkeys(names, 1234.56),
        "jitter_ms": {"mean": 123.4},
        "use": {"cpu_percent": 1234.0, "gpu_percent": {"mean": 100.0}},
        "rate_hz": 12.345,
    }
    report = {
        "settings": {"height": 64, "width": 128, "repeats": 3, "duration": 5, "least_frames": 20},
        "machine": {"gpu": "G", "ros": {"middleware": "m"}, "load_average": [0.1]},
        "node": {"variant": "v"},
        "one_by_one": row,
        "maximum": row,
        "fixed": [row],
    }
    show_node(report, Console(width=80, soft_wrap=True))
    _, *table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["Hz", "sent", "missed", *names, "jitter", "CPU", "GPU"]
    assert all(line.count("1234.6") == 5 and "123 (12%)" in line for line in table[1:4])
    assert max(map(len, table[:4])) <= 80
