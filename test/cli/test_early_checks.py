"""Mistakes in a command line are reported before torch, rclpy, OpenCV or Ray are imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import drive_bag
import pytest
from typer.testing import CliRunner

from upsnet_ros.bags.make import BagJob, ScenesDrive, make_bag
from upsnet_ros.bags.writer import BagWriter
from upsnet_ros.cli.commands import COMMANDS, app, load_command
from upsnet_ros.cli.options import (
    SCENE_SPLITS,
    check_device,
    check_namespace,
    check_precision,
    check_topic,
    parse_height_width,
    require_weights,
)
from upsnet_ros.errors import CheckpointError, SettingsError

HEAVY = ("torch", "rclpy", "cv2", "ray")

#: Runs command lines, one after the other in one process, and says which heavy modules are there.
RUN = """
import json, sys
from typer.testing import CliRunner
from upsnet_ros.cli.commands import app
heavy = set(json.loads(sys.argv[1]))
for arguments in json.load(sys.stdin):
    at = (arguments + ["--ros-args"]).index("--ros-args")
    done = CliRunner().invoke(app, arguments[:at], obj=arguments[at:])
    print(json.dumps([arguments, done.exit_code, done.stderr, sorted(heavy & set(sys.modules))]))
"""


def leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Commands without subcommands, with their names."""
    subcommands = getattr(command, "commands", {})
    for sub, found in subcommands.items():
        yield from leaves(f"{name} {sub}", found)
    if not subcommands:
        yield name, command


LEAVES = dict(pair for name in COMMANDS for pair in leaves(name, load_command(name)))

#: Command lines that name something that is missing.
MISSING = (
    "node --weights {none}",
    "node --weights {file}",
    "node --weights {empty}",
    "node --weights {short}",
    "replay {here} --weights {short}",
    "weights get coco-fpn-r50 --file {short}",
    "demo --weights {file}",
    "evaluate bags {here} --weights {file}",
    "bench stages --weights {file}",
    "play {none}",
    "replay {none}",
    "replay {here} --weights {none}",
    "demo {none}",
    "demo --weights {none}",
    "train --config {none}",
    "bag make {none} --out {new}",
    "bag make {here} --labels {none} --classes {none} --out {new}",
    "bag info {none}",
    "weights get coco-fpn-r50 --file {none}",
    "weights check coco-fpn-r50 --coco {none}",
    "evaluate bags {none}",
    "evaluate bags {here} --gt-bag {none}",
    "evaluate bags {here} --weights {none}",
    "evaluate files --gt-json {none} --pred-json {none}",
    "evaluate dataset cityscapes --root {none}",
    "evaluate dataset scenes --weights {none}",
    "compare {none} {none}",
    "bench stages --weights {none}",
    "bench goals --image {none}",
    "bench goals --parity {none}",
    "bench goals --goals {none}",
    "bench node --weights {none}",
)
#: Command lines whose output is in the way.
BLOCKED = (
    "replay {none} --out {full}",
    "train --config {file} --out {full}",
    "bag make --scenes 1 --out {full}",
    "evaluate bags {here} --json {file}",
    "evaluate bags {here} --cluster local --state {full}",
    "evaluate files --gt-json {file} --pred-json {file} --report {file}",
    "evaluate dataset scenes --json {file}",
    "bench stages --json {file}",
    "bench goals --markdown {file}",
    "bench node --json {file}",
    "evaluate bags {here} --json {none}/a.json",
    "evaluate bags {here} --report {none}/a.html",
    "evaluate files --gt-json {file} --pred-json {file} --json {none}/a.json",
    "evaluate dataset scenes --json {none}/a.json",
    "compare {file} {file} --json {none}/a.json",
    "bench stages --json {none}/a.json",
    "bench goals --json {none}/a.json",
    "bench goals --markdown {none}/a.md",
    "bench node --json {none}/a.json",
    "evaluate bags {here} --json {new} --report {new}",
    "evaluate files --gt-json {file} --pred-json {file} --json {new} --report {here}/../new",
    "evaluate dataset scenes --json new --report ./new",
    "bench goals --json {new} --markdown {new}",
)
#: Command lines with values that cannot be.
IMPOSSIBLE = (
    "node --scale 20",
    "node --variant r1000",
    "node --weights cityscapes-r18 --variant coco-r50",
    "evaluate dataset scenes --weights cityscapes-r18 --variant coco-r50",
    "node --device abacus",
    "node --device cpu --precision fp16",
    "replay {here} --device cpu --precision fp16",
    "node --classes carr",
    "node --image-topic bad?topic",
    "node --image-topic /a//b",
    "node --image-topic /a/",
    "node --ros-args --params-file {none}",
    "node --ros-args --params-file {file}",
    "node --ros-args --params-file {flat}",
    "node --label-map coco_to_cityscapes",
    "node --label-map coco_to_cityscapes --classes carr --variant coco-fpn-r50",
    "play {here} --rate 0",
    "play {here} --size 640",
    "play {here} --size 1024x512",
    "play {here} --image-topic /a/1b",
    "play {here} --image-topic=",
    "play {here} --answer-topic a-b",
    "play {here} --ros-args --params-file {none}",
    "record --out {new} --count 0",
    "record --out {new} --image-topic x?y",
    "record --out {new} --namespace /a?b",
    "record --out {new} --ros-args --params-file {file}",
    "view --ros-args --params-file {none}",
    "points --depth-topic /a//b",
    "points --cloud-topic a-b",
    "points --camera-info-topic /a/1b",
    "points --input sonar",
    "points --extrinsics 1,b",
    "points --extrinsics 1",
    "points --input depth --cloud-topic /lidar/points",
    "points --input cloud --depth-topic /camera/depth",
    "points --depth-topic /camera/depth --cloud-topic /lidar/points",
    "points --ros-args --params-file {none}",
    "points --ros-args --params-file {flat}",
    "replay {here} --namespace a//b",
    "replay {here} --ros-args --params-file {none}",
    "replay {here} --scale 20",
    "replay {here} --realtime 0",
    "replay {here} --lockstep --realtime 1",
    "demo --variant r1000",
    "demo --scale 10",
    "train --config {file} --device abacus",
    "scenes --out {new} --split tset",
    "scenes --out {new} --size 640",
    "bag make --scenes 1 --split tset --out {new}",
    "bag make --scenes 1 --size 8x16 --out {new}",
    "bag make --scenes 1 --size 99999x99999 --out {new}",
    "scenes --out {new} --size 16x8",
    "evaluate bags {here} --variant r1000",
    "evaluate bags {here} --cluster slurm",
    "evaluate dataset cityscape --root {here}",
    "evaluate dataset scenes --split tset",
    "evaluate dataset scenes --precision fp64",
    "bench stages --variant r1000",
    "evaluate dataset scenes --scale 20",
    "evaluate dataset scenes --device cpu --precision fp16",
    "evaluate dataset scenes --label-map coco_to_cityscapes",
    "evaluate dataset coco --root {here}",
    "evaluate dataset cityscapes --root {here} --variant coco-r50",
    "evaluate bags {here} --label-map coco_to_cityscapes",
    "evaluate bags {here} --cluster local --label-map {file}",
    "bench stages --device cpu --precision fp16",
    "bench goals --device cpu --precision fp16",
    "bench node --device cpu --precision fp16",
    "bench stages --size 16x64",
    "bench goals --only race,tea",
    "bench node --rates ten",
    "bench node --size 16x64",
    "bench node --device abacus",
    "doctor --device cpu",
)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Run command lines and check that each ends with one line and imports nothing heavy."""
    names = ("here", "full", "file", "empty", "short", "flat", "none", "new")
    paths = {name: tmp_path / name for name in names}
    for name in ("here", "full"):
        paths[name].mkdir()
    for path in (paths["full"] / "notes.txt", paths["file"]):
        path.write_text("mine")
    paths["empty"].touch()
    paths["short"].write_bytes(safetensors(TENSOR, b"abc"))
    paths["flat"].write_text("/panoptic/upsnet:\n  scale: 320\n")

    def check(commands: tuple[str, ...], *, code: int, heavy: Sequence[str] = HEAVY) -> None:
        lines = [command.format(**paths).split() for command in commands]
        done = subprocess.run(
            [sys.executable, "-c", RUN, json.dumps(heavy)],
            input=json.dumps(lines),
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        results = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(results) == len(lines)
        for arguments, found, stderr, imported in results:
            assert (found, imported) == (code, []), (arguments, stderr)
            if code == 1:
                assert stderr.startswith("error: ") and stderr.count("\n") == 1, arguments
        assert not paths["new"].exists() and not paths["none"].exists()
        assert (paths["full"] / "notes.txt").read_text() == paths["file"].read_text() == "mine"

    return check


def test_an_unknown_option(run: Any) -> None:
    run(tuple(f"{name} --no-such-option" for name in LEAVES), code=2)


def test_only_close_options_are_suggested() -> None:
    said = CliRunner().invoke(app, ["node", "--scael", "3"], env={"COLUMNS": "200"}).output
    assert "--scale" in said
    assert "--cameras" not in said
    assert "--help)" not in said


@pytest.mark.parametrize(
    ("option", "kind"), [("--scale", "an integer"), ("--overlay-alpha", "a number")]
)
def test_a_word_in_place_of_a_number(option: str, kind: str) -> None:
    done = CliRunner().invoke(app, ["node", option, "abc"], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert f"'{option}'" in done.output
    assert kind in done.output
    assert "parse string" not in done.output


def test_a_missing_file(run: Any) -> None:
    run(MISSING, code=1)


def test_an_output_in_the_way(run: Any) -> None:
    run(BLOCKED, code=1)


def test_an_impossible_value(run: Any) -> None:
    run(IMPOSSIBLE, code=1)


def test_every_command_with_inputs_is_tried() -> None:
    tried = {name for name in LEAVES for line in MISSING if line.startswith(f"{name} ")}
    # These read no file.
    assert tried == LEAVES.keys() - {"points", "record", "view", "scenes", "doctor", "weights list"}


#: Command lines that need OpenCV to see that something is wrong, but no torch.
WITHOUT_TORCH = (
    "scenes --split val --out {full}",
    "scenes --split val --out /proc/none",
    "evaluate dataset cityscapes --root {here}",
    "evaluate dataset coco --root {here} --variant coco-r50",
    "evaluate dataset coco --root {coco} --variant coco-r50",
    "evaluate bags {bag}",
    "evaluate bags {bag} --variant cityscapes-r18",
    "evaluate bags {street} --variant coco-r50",
    "replay {drive} --topic /ground_truth/labels --out {new}",
    "replay {drive} --start 9 --out {new}",
    "replay {drive} --truth /no/such --out {new}",
    "replay {drive} --start 0.5 --duration 0.25 --out {new}",
    "replay {drive} --start -1 --out {new}",
    "replay {drive} --duration nan --out {new}",
    "bench stages --image {file}",
    "bench goals --image {file}",
    "bench node --image {file}",
)


def test_bad_data_is_told_before_a_model_is_loaded(run: Any, tmp_path: Path) -> None:
    coco, bag, drive, street = (tmp_path / name for name in ("coco", "bag", "drive", "street"))
    (coco / "annotations").mkdir(parents=True)
    (coco / "val2017").mkdir()
    (coco / "annotations" / "panoptic_val2017.json").write_text("{")
    with BagWriter(path=bag):
        pass
    drive_bag.write_drive(drive, 1)
    scenes = ScenesDrive(split="val", seed=7, sequences=1, first=0, frames=1, size=(32, 64))
    list(make_bag(scenes, BagJob(path=street)))
    names = {path.name: path for path in (coco, bag, drive, street)}
    lines = tuple(
        re.sub(r"{(coco|bag|drive|street)}", lambda found: str(names[found[1]]), line)
        for line in WITHOUT_TORCH
    )
    run(lines, code=1, heavy=("torch", "rclpy", "ray"))


@pytest.mark.parametrize("found", [True, False])
def test_a_gpu_is_missed_only_where_there_is_certainly_none(
    monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    monkeypatch.setattr("upsnet_ros.cli.options._gpu_devices", lambda: [Path("/dev/nvmap")] * found)
    check_device("auto")
    check_device("cpu")
    for device in ("cuda", "cuda:1"):
        with nullcontext() if found else pytest.raises(SettingsError, match="no GPU; use cpu"):
            check_device(device)


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


#: An archive of nothing.
ZIP = b"PK\x05\x06" + bytes(18)
TENSOR = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04" + ZIP, b"\x80\x02}", safetensors(b"{}"), safetensors(TENSOR, b"abcd")]
)
def test_what_may_be_a_checkpoint_is_left_to_its_reader(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights"
    path.write_bytes(content)
    require_weights(str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04..",
        safetensors(b"{}")[:-1],
        safetensors(b'{"a"'),
        safetensors(b'{"a":4}'),
        safetensors(b"{" * 99_999),
        safetensors(TENSOR, b"abc"),
        safetensors(TENSOR, b"abcde"),
        b"\xff" * 8 + b"{}",
    ],
)
def test_weights_that_are_cut_off(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="weights is damaged"):
        require_weights(str(path))


@pytest.mark.parametrize(("device", "works"), [("cuda", True), ("auto", True), ("cpu", False)])
def test_half_precision_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str, works: bool
) -> None:
    found = [Path("/dev/nvmap")]
    monkeypatch.setattr("upsnet_ros.cli.options._gpu_devices", lambda: found)
    check_precision("bf16", device=device)
    with nullcontext() if works else pytest.raises(SettingsError, match="fp16 needs a CUDA"):
        check_precision("fp16", device=device)
    found.clear()
    check_precision("bf16", device=device)
    with nullcontext() if device == "cuda" else pytest.raises(SettingsError, match="fp16"):
        check_precision("fp16", device=device)


@pytest.mark.parametrize("topic", ["image", "/image", "~/image", "/Front_2/image_raw/compressed"])
def test_names_of_topics(topic: str) -> None:
    check_topic("--image-topic", topic)
    with pytest.raises(SettingsError, match=r"--image-topic .* is not the name of a topic"):
        check_topic("--image-topic", f"{topic}/2nd")


@pytest.mark.parametrize("namespace", ["", "/", "front", "/front/eye", "front/eye/"])
def test_names_of_namespaces(namespace: str) -> None:
    check_namespace("--namespace", namespace)
    with pytest.raises(SettingsError, match=r"--namespace .* is not the name of a namespace"):
        check_namespace("--namespace", f"{namespace} x")


@pytest.mark.parametrize(
    "topic", ["", "/", "a b", "a//b", "/a/1b", "a/", "~", "b\n", "ä", "a" * 300]
)
def test_what_is_not_the_name_of_a_topic(topic: str) -> None:
    with pytest.raises(SettingsError, match="begin no part with a digit"):
        check_topic("--image-topic", topic)


def test_sizes() -> None:
    for text, size in {"512x1024": (512, 1024), "height=9,width=6": (9, 6), "6X6": (6, 6)}.items():
        assert parse_height_width(text) == size
        assert parse_height_width(text, once_width_first=True) == size
    assert parse_height_width("1024x512") == (1024, 512)
    with pytest.raises(SettingsError, match=r"write 512x1024 .* height=1024,width=512 if"):
        parse_height_width("1024x512", once_width_first=True)


@pytest.mark.parametrize("text", ["", "640", "0x9", "9x0", "9x-1", "width=9,height=6", "1x2x3"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(SettingsError, match="is not HEIGHTxWIDTH"):
        parse_height_width(text)


def test_the_largest_size_is_that_of_images() -> None:
    from upsnet_ros.datasets.images import MAX_PIXELS

    width = MAX_PIXELS // 1024
    assert parse_height_width(f"1024x{width}") == (1024, width)
    with pytest.raises(SettingsError, match=f"more than {MAX_PIXELS} pixels"):
        parse_height_width(f"1024x{width + 1}")


def test_the_splits_are_those_of_the_renderer() -> None:
    from upsnet_ros.synthetic.texture import SPLITS

    assert tuple(SPLITS) == SCENE_SPLITS


#: Lines of a screen and a half, each of 80 columns.
SCREEN = 36


def shown(*arguments: str, columns: int = 80) -> str:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("name", ["", *LEAVES])
def test_help_fits_a_screen_and_a_half(name: str) -> None:
    text = shown(*name.split(), "--help")
    lines = text.strip("\n").splitlines()
    assert len(lines) <= SCREEN
    assert max(map(len, lines)) == 80
    options = (
        [one for one in LEAVES[name].params if one.param_type_name == "option"] if name else []
    )
    for option in options:
        assert (max(option.opts, key=len) in text) != option.hidden
    rare = any(one.rich_help_panel for one in options if one.hidden)
    assert ("--help-all shows" in text) == rare


@pytest.mark.parametrize("name", ["node", "replay", "bag make", "evaluate bags"])
def test_rare_options_are_in_a_panel_of_their_own(name: str) -> None:
    text = shown(*name.split(), "--help-all", columns=200)
    assert "More options" in text
    assert "--help-all shows" not in text
    for option in LEAVES[name].params:
        if option.param_type_name == "option":
            # Those that are in no panel are between commands, such as --inside of the demo.
            of_commands = option.hidden and not option.rich_help_panel
            assert (max(option.opts, key=len) in text) != of_commands
