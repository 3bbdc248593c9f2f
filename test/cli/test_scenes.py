"""`upsnet scenes`: into a Cityscapes root, or the cache of a training set."""

from __future__ import annotations

from pathlib import Path

import pytest

from upsnet_ros.cli import main


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ending:
        main(["scenes", *map(str, arguments)])
    return int(ending.value.code or 0)


def test_the_cache_of_a_training_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--split", "train", "--frames", 5, "--size", "32x64", "--workers", 2)
    assert run("--cache", tmp_path, *options) == 0
    assert len(list((tmp_path / "train0_32x64").glob("*_image.png"))) == 5
    assert f"5 frames of train 0 in the cache {tmp_path} (" in capsys.readouterr().out


@pytest.mark.parametrize("options", [(), ("--out", "a", "--cache", "b")])
def test_one_thing_at_a_time(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*options) == 1
    assert "error: give either --out, or --cache" in capsys.readouterr().err
