from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from upsnet_ros.errors import CheckpointError, DatasetError, SettingsError
from upsnet_ros.training.settings import (
    Quirks,
    RunSettings,
    TargetSettings,
    check_files,
    load_settings,
    parse_settings,
    to_plain,
)

CONFIGS = Path(__file__).parents[2] / "config" / "train"


def test_defaults_are_without_quirks() -> None:
    assert not any(getattr(Quirks(), name) for name in Quirks.__dataclass_fields__)


@pytest.mark.parametrize(
    ("name", "iterations", "decay_at", "warmup", "scales", "semantic", "semantic_roi", "panoptic"),
    [
        ("cityscapes-r50", 12000, (9000,), 1500, range(800, 1025, 32), 1.0, 0.0, 0.5),
        ("cityscapes-r101-coco", 3000, (2000,), 0, range(800, 1025, 32), 1.0, 0.0, 0.5),
        ("coco-r50", 90000, (60000, 80000), 1500, (800,), 0.2, 0.04, 0.1),
        ("coco-r101-dcn", 270000, (210000, 250000), 1500, range(640, 833, 32), 0.2, 0.04, 0.1),
    ],
)
def test_published_configurations(
    name: str,
    iterations: int,
    decay_at: tuple[int, ...],
    warmup: int,
    scales: range,
    semantic: float,
    semantic_roi: float,
    panoptic: float,
) -> None:
    settings = load_settings(CONFIGS / f"{name}.yaml")
    schedule, losses = settings.schedule, settings.losses
    assert settings.variant == name
    assert (schedule.iterations, schedule.decay_at, schedule.warmup) == (
        iterations,
        decay_at,
        warmup,
    )
    assert settings.augment.scales == tuple(scales)
    assert settings.augment.max_size == (1333 if "dcn" in name or name == "coco-r50" else 2048)
    assert losses.semantic == semantic
    assert losses.semantic_roi == pytest.approx(semantic_roi)
    assert losses.panoptic == panoptic
    assert settings.batch_size == 16
    assert settings.optimizer.learning_rate == 0.02
    assert settings.optimizer.weight_decay == 1e-4
    assert settings.optimizer.bias_rate == 2
    assert settings.frozen_stages == 2
    assert settings.batch_norm == "frozen"
    assert settings.targets == TargetSettings()
    off = {k for k in Quirks.__dataclass_fields__ if not getattr(settings.quirks, k)}
    assert off == ({"crowd_shifts_panoptic_masks"} if name.startswith("coco") else set())


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_can_be_read_and_written(path: Path) -> None:
    settings = load_settings(path)
    assert parse_settings(to_plain(settings), source="again") == settings


def test_toml(content: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("tomllib", reason="TOML needs Python 3.11")
    path = tmp_path / "run.toml"
    path.write_text(
        'variant = "cityscapes-r18"\n'
        'train = {kind = "cityscapes", root = "data", split = "train"}\n'
        "augment = {scales = [64], max_size = 128}\n"
        "schedule = {iterations = 7}\n"
    )
    assert load_settings(path).schedule.iterations == 7


def test_overrides(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    settings = load_settings(path, ["losses.panoptic=0.25", "augment.scales=[96, 128]"])
    assert settings.losses.panoptic == 0.25
    assert settings.augment.scales == (96, 128)
    with pytest.raises(SettingsError, match="write name=value"):
        load_settings(path, ["losses.panoptic"])
    with pytest.raises(SettingsError, match=r"cannot parse 'batch_size=\['"):
        load_settings(path, ["batch_size=["])


def test_a_file_of_another_kind_is_told_briefly(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("".join(f"class_{index}: sky\n" for index in range(20)))
    with pytest.raises(SettingsError, match=r"classes.yaml: variant: .*; and 19 more$") as error:
        load_settings(path)
    assert str(error.value).count(";") == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "coco-fpn-r50"}, r"run.yaml: variant: coco-fpn-r50 cannot be trained"),
        ({"start": {"kind": "coco_fpn"}}, r"start: weights is needed"),
        ({"variant": "resnet"}, r"run.yaml: variant: .*unknown variant 'resnet'; choose from"),
        ({"bach_size": 3}, r"bach_size: Unexpected key"),
        ({"losses": {"mask": -1}}, r"losses.mask: .*greater than or equal to 0"),
        ({"schedule": {}}, r"schedule: give iterations or seconds"),
        ({"schedule": {"iterations": 1, "seconds": 1}}, r"schedule: give iterations or seconds"),
        ({"schedule": {"seconds": 60}}, r"schedule: kind step .*use kind cosine"),
        ({"schedule": {"seconds": 0, "kind": "cosine"}}, r"schedule.seconds: .*greater than 0"),
        ({"train": {"kind": "mapillary"}}, r"train: .*'mapillary'"),
        ({"start": {"kind": "checkpoint"}}, r"start: weights is needed unless kind is nothing"),
        ({"augment": {"scales": [], "max_size": 64}}, r"augment.scales: .*at least 1 item"),
    ],
)
def test_what_is_wrong_is_named(
    content: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(content | change))
    with pytest.raises(SettingsError, match=message) as error:
        load_settings(path)
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot open settings file"):
        load_settings(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    for data, message in (
        (b"a: 1\nb: [", r"broken.yaml, line 2: expected .*'$"),
        (b"\x89PNG", r"broken.yaml is not a text file"),
        (b"\0", r"broken.yaml cannot be read"),
    ):
        broken.write_bytes(data)
        with pytest.raises(SettingsError, match=message):
            load_settings(broken)
    broken.write_text("- a")
    with pytest.raises(SettingsError, match="a mapping of settings"):
        load_settings(broken)


def test_settings_made_in_code_are_checked(content: dict[str, Any]) -> None:
    settings = parse_settings(content, source="code")
    with pytest.raises(ValueError, match="batch_size"):
        RunSettings(
            variant=settings.variant,
            train=settings.train,
            augment=settings.augment,
            schedule=settings.schedule,
            batch_size=0,
        )


#: For each kind of dataset its settings, and which of them name what must be there.
DATASETS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "cityscapes": ({"split": "train", "root": "there"}, ("root",)),
    "coco_panoptic": (
        {"images": "there", "annotations": "file.json", "segments": "there"},
        ("images", "annotations", "segments"),
    ),
    "folder": (
        {"images": "there", "labels": "there", "taxonomy": "coco", "classes": {1: "person"}},
        ("images", "labels"),
    ),
    "scenes": ({"split": "train", "length": 3, "cache": "nowhere"}, ()),
}


@pytest.mark.parametrize("place", ["train", "validation"])
@pytest.mark.parametrize("kind", DATASETS)
def test_what_a_dataset_names_must_be_there(
    content: dict[str, Any], kind: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("file.json").touch()
    settings, names = DATASETS[kind]
    content[place] = {"kind": kind, **settings}
    check_files(parse_settings(content, source="good"))
    for name in names:
        bad = {**content, place: {**content[place], name: "nowhere"}}
        with pytest.raises(DatasetError, match=rf"{place}\.{name}: there is no .* nowhere"):
            check_files(parse_settings(bad, source="bad"))


def test_weights_to_start_from_must_be_there(content: dict[str, Any]) -> None:
    content["start"] = {"kind": "checkpoint", "weights": "/no/such.pth"}
    settings = parse_settings(content, source="bad")
    with pytest.raises(CheckpointError, match=r"/no/such\.pth"):
        check_files(settings)
    check_files(settings, resume=True)
    content["start"] = {"kind": "torchvision", "weights": "DEFAULT", "model": "resnet50"}
    check_files(parse_settings(content, source="good"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "train={kind: cityscapes, root: /no/such, split: train}",
            "train.root: there is no folder",
        ),
        ("start={kind: checkpoint, weights: /no/such.pth}", "/no/such.pth"),
        ("losses.panoptik=3", "losses.panoptik"),
        ("variant=coco-r5", "coco-r5"),
    ],
)
def test_the_command_says_so_without_torch(change: str, says: str, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from upsnet_ros.cli import main; sys.argv[0] = 'upsnet'; sys.exit(main())"
    )
    command = ["train", "--config", str(CONFIGS / "scenes-r18.yaml"), "--set", change]
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--out", str(tmp_path / "out")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert says in done.stderr and "torch" not in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
