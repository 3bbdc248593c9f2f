"""`upsnet weights check`: a tiny COCO folder, evaluated and compared with the published quality."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from upsnet_ros.cli import weights
from upsnet_ros.cli.commands import app

NAME = "coco-fpn-r50"


def check(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["weights", "check", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_weights_are_evaluated_on_a_coco_folder(named: Path, coco: Path):
    code, out, err = check(NAME, "--coco", coco, "--scale", "64", "--limit", "2", "--device", "cpu")
    assert code == 0, err
    assert f"on 2 images of {coco}" in out and "published: PQ 41.5 on COCO val2017" in out
    assert "no verdict" in out


def evaluated(pq: float, frames: int = 5000) -> SimpleNamespace:
    return SimpleNamespace(pq=pq, frames=range(frames), intervals={"PQ": (pq - 0.01, pq + 0.01)})


@pytest.mark.parametrize(
    ("name", "pq", "frames", "known", "code", "told"),
    [
        (NAME, 0.4152, 5000, True, 0, "they agree (difference +0.02)"),
        (NAME, 0.4119, 5000, True, 1, "differs from the published one by -0.31"),
        (NAME, 0.4150, 4999, True, 0, "no verdict on the published figure: it is of all 5000"),
        (NAME, 0.4150, 5000, False, 0, "no verdict on the published figure: the MD5"),
        ("coco-r50", 0.425, 5000, False, 0, "they agree"),
        ("coco-r101-dcn", 0.466, 5000, False, 0, "it is of COCO test-dev"),
    ],
)
def test_the_verdict(
    monkeypatch, coco: Path, tmp_path: Path, name, pq, frames, known: bool, code: int, told: str
):
    monkeypatch.setenv("UPSNET_WEIGHTS", str(tmp_path))
    (tmp_path / f"{name}.safetensors").touch()
    metadata = {"source_md5": "c10459" + "0" * 26 if known else "0" * 32}
    monkeypatch.setattr(weights, "read_installed", lambda _: SimpleNamespace(metadata=metadata))
    monkeypatch.setattr(weights, "_evaluate", lambda *_, **__: evaluated(pq, frames))
    found, out, err = check(name, "--coco", coco)
    assert found == code and told in out + err


def test_the_other_schedule_has_its_own_figure(monkeypatch, coco: Path, tmp_path: Path):
    monkeypatch.setenv("UPSNET_WEIGHTS", str(tmp_path))
    (tmp_path / f"{NAME}.safetensors").touch()
    here = SimpleNamespace(metadata={"source_md5": "dbfeb4" + "0" * 26})
    monkeypatch.setattr(weights, "read_installed", lambda _: here)
    monkeypatch.setattr(weights, "_evaluate", lambda *_, **__: evaluated(0.394))
    code, out, _ = check(NAME, "--coco", coco)
    assert code == 0 and "PQ 39.4" in out


@pytest.mark.parametrize("missing", ["val2017", "annotations", "annotations/panoptic_val2017.json"])
def test_a_folder_that_is_not_coco_is_told_at_once(named: Path, coco: Path, missing: str):
    (coco / missing).rename(coco / "elsewhere")
    code, _, err = check(NAME, "--coco", coco)
    assert code == 1 and str(coco / missing) in err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("coco-fpn-r101", "upsnet weights get coco-fpn-r101"),
        ("cityscapes-r50", "upsnet evaluate"),
        ("coco-fpn", "did you mean"),
    ],
)
def test_weights_that_cannot_be_checked(named: Path, coco: Path, name: str, told: str):
    code, _, err = check(name, "--coco", coco)
    assert code == 1 and told in err


def test_a_wrong_name_is_reported_before_a_missing_folder():
    code, _, err = check("nope")
    assert code == 1 and "nope" in err and "--coco" not in err


def test_the_folder_of_coco_is_required(named: Path):
    code, _, err = check(NAME)
    assert code == 2 and "--coco" in err
