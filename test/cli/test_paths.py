"""Every command with paths that cannot be read, and with outputs that are in somebody's way."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from upsnet_ros.cli.commands import COMMANDS, app
from upsnet_ros.output_files import MARKER

#: Commands that fill a folder; {out} is the folder, {here} one with the inputs.
FOLDERS = {
    "demo": "demo --out {out} --frames 1",
    "demo of a source": "demo {here}/frames --out {out}",
    "record": "record --out {out} --count 1 --timeout 0.1",
    "record again": "record --out {out} --overwrite --count 1 --timeout 0.1",
    "record a bag": "record --out {here}/new --bag {out} --count 1 --timeout 0.1",
    "record a bag again": "record --out {here}/new --bag {out} --overwrite --timeout 0.1",
    "replay": "replay {here}/none --out {out}",
    "replay again": "replay {here}/none --out {out} --overwrite",
    "scenes": "scenes --out {out} --length 1 --size 16x32 --workers 1",
    "bag make": "bag make --scenes 7 --length 1 --size 16x32 --out {out}",
    "bag make of a source": "bag make {here}/frames --out {out} --storage sqlite3",
    "train": "train --config {here}/train.yaml --out {out}",
    "train on": "train --config {here}/train.yaml --out {out} --resume",
    "evaluate with a state": "evaluate bags --cluster local --state {out} {here}/none",
}
_FILES = "evaluate files --gt-json {here}/none --pred-json {here}/none"
#: Commands that write a file.
FILES = {
    "compare": "compare {here}/a.json {here}/a.json --json {out}",
    "evaluate figures": f"{_FILES} --json {{out}}",
    "evaluate report": f"{_FILES} --report {{out}}",
    "bench": "bench stages --json {out} --size 32x64",
    "bench goals": "bench goals --markdown {out} --size 32x64",
    "bench node": "bench node --json {out} --size 32x64 --timeout 1",
}
#: Commands that read something; {path} is what.
READERS = {
    "play": "play {path}",
    "demo": "demo {path} --out {here}/new",
    "demo weights": "demo {here}/frames --weights {path} --out {here}/new",
    "replay": "replay {path} --out {here}/new",
    "bag info": "bag info {path}",
    "bag make": "bag make {path} --out {here}/new",
    "bag make labels": "bag make {here}/frames --labels {path} --classes {path} --out {here}/new",
    "train": "train --config {path} --out {here}/new",
    "compare": "compare {path} {here}/a.json",
    "evaluate bag": "evaluate bags {path}",
    "evaluate files": "evaluate files --gt-json {path} --pred-json {path}",
    "evaluate data set": "evaluate dataset cityscapes --root {path} --allow-random-weights",
    "evaluate weights": "evaluate dataset scenes --weights {path}",
    "bench weights": "bench stages --weights {path} --size 32x64",
    "bench image": "bench stages --image {path} --size 32x64",
    "weights": "weights get coco-fpn-r50 --yes --file {path}",
    "node weights": "node --weights {path}",
    "replay weights": "replay {here}/frames --weights {path} --out {here}/new",
}
MINE = (
    "notes.txt", "bag/precious.mcap", "bag/metadata.yaml", "scenes/mine.png", "labels/000000.png",
    "labels/mine.png", "report.html", "frames.csv", "index.json", "overlay.mp4", "replay.json",
    "logs/node.log", "metadata.yaml", "out.mcap", "checkpoint.pt", "settings.yaml", "curve.jsonl",
    "gtFine/cityscapes_panoptic_val.json", "mine-0123456789abcdef.result",
)  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with inputs, apart from outputs."""
    folder = tmp_path / "here"
    (folder / "frames").mkdir(parents=True)
    png = b"\x89PNG\r\n\x1a\n"
    (folder / "frames/0.png").write_bytes(png)
    (folder / "a.json").write_text(json.dumps({"PQ": 1.0, "classes": [], "frames": []}))
    (folder / "train.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return folder


def fill(folder: Path) -> None:
    for name in MINE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"my {name}")


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(command: str, **paths: object) -> str:
    """The one line with which a command ends."""
    done = CliRunner().invoke(app, command.format(**paths).split())
    assert done.exit_code == 1, (done.output, done.exception)
    assert isinstance(done.exception, SystemExit)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.output
    return lines[0]


def test_every_command_that_takes_a_path_is_tried():
    tried = {text.split()[0] for table in (FOLDERS, FILES, READERS) for text in table.values()}
    assert tried == COMMANDS.keys() - {"doctor", "points", "view"}


@pytest.mark.parametrize("command", FOLDERS.values(), ids=FOLDERS)
@pytest.mark.parametrize("place", ["full", "link to full", "."])
def test_a_folder_full_of_the_users_files_loses_none(
    here: Path, tmp_path: Path, command: str, place: str, monkeypatch: pytest.MonkeyPatch
):
    full = tmp_path / "full"
    fill(full)
    out = full
    if place == "link to full":
        out = tmp_path / "link"
        out.symlink_to(full)
    elif place == ".":
        monkeypatch.chdir(full)
        out = Path()
    before = content(tmp_path)
    line = refused(command, out=out, here=here)
    assert str(out) in line
    assert content(tmp_path) == before


@pytest.mark.parametrize("command", FOLDERS.values(), ids=FOLDERS)
@pytest.mark.parametrize("place", ["file", "file/below", "/dev/null/x", "/proc/x"])
def test_a_place_where_no_folder_can_be(here: Path, tmp_path: Path, command: str, place: str):
    (tmp_path / "file").write_text("mine")
    before = content(tmp_path)
    line = refused(command, out=place, here=here)
    assert place.removesuffix("/below").removesuffix("/x") in line
    assert content(tmp_path) == before


@pytest.mark.parametrize("command", FILES.values(), ids=FILES)
@pytest.mark.parametrize("place", ["mine.json", "link.json", "folder", "mine.json/x", "/proc/x"])
def test_a_file_of_the_users_stays(here: Path, tmp_path: Path, command: str, place: str):
    (tmp_path / "mine.json").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "mine.json")
    before = content(tmp_path)
    line = refused(command, out=place, here=here)
    assert place.removesuffix("/x") in line
    assert ("--overwrite" in line) == (place in ("mine.json", "link.json"))
    assert content(tmp_path) == before


@pytest.mark.parametrize("command", READERS.values(), ids=READERS)
@pytest.mark.parametrize("kind", ["missing", "empty folder", "/dev/null", "text", "below a file"])
def test_what_cannot_be_read_is_told_in_one_line(
    here: Path, tmp_path: Path, command: str, kind: str
):
    if kind in ("/dev/null", "text") and command.startswith(("node", "demo {here}")):
        pytest.skip("the node's process tells that, after it has loaded torch: see its own tests")
    path = tmp_path / "thing"
    if kind == "empty folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("[red]\x1b[31mno such thing[/]")
    elif kind == "below a file":
        (tmp_path / "file").write_text("")
        path = tmp_path / "file/thing"
    elif kind == "/dev/null":
        path = Path(kind)
    refused(command, path=path, here=here)
    assert not (here / "new").exists() or not content(here / "new").keys() - {MARKER}


def test_scenes_are_added_and_drawn_again(tmp_path: Path):
    def run(seed: int) -> int:
        options = f"--out {tmp_path} --seed {seed} --length 2 --size 16x32 --workers 1"
        return CliRunner().invoke(app, f"scenes {options}".split()).exit_code

    assert [run(0), run(1), run(0)] == [0, 0, 0]
    annotations = tmp_path / "gtFine/cityscapes_panoptic_val.json"
    assert len(json.loads(annotations.read_text())["images"]) == 4
    (tmp_path / "notes.txt").write_text("mine")
    picture = tmp_path / "leftImg8bit/val/drawn1/drawn1_000000_000001_leftImg8bit.png"
    picture.unlink()
    picture.write_text("edited")
    assert [run(0), run(1)] == [0, 1]
    assert picture.read_text() == "edited"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_bag_is_made_again_unless_it_was_changed(tmp_path: Path):
    out = tmp_path / "drive"

    def run(*options: str) -> int:
        command = f"bag make --scenes 7 --length 1 --size 16x32 --out {out}"
        return CliRunner().invoke(app, [*command.split(), *options]).exit_code

    assert run() == 0
    (out / "notes.txt").write_text("mine")
    assert run("--storage", "sqlite3") == 0
    assert {path.name for path in out.iterdir()} == {
        "drive.db3", "metadata.yaml", "notes.txt", MARKER,
    }  # fmt: skip
    with (out / "metadata.yaml").open("a") as file:
        file.write("# mine")
    assert run() == 1
    assert (out / "metadata.yaml").read_text().endswith("# mine")


def test_a_single_file_is_replaced_when_asked(here: Path, tmp_path: Path):
    command = f"compare {here}/a.json {here}/a.json --json {tmp_path}/new/d.json"
    assert "there is no folder" in refused(command)
    (tmp_path / "new").mkdir()
    assert CliRunner().invoke(app, command.split()).exit_code == 0
    refused(command)
    assert CliRunner().invoke(app, [*command.split(), "--overwrite"]).exit_code == 0
    assert os.listdir(tmp_path / "new") == ["d.json"]  # noqa: PTH208


@pytest.mark.parametrize("name", ["scenes", "bag make", "compare"])
def test_a_full_disk_is_told_in_one_line(here: Path, tmp_path: Path, name: str):
    # A limit on the size of files fails as a full disk does, wherever a byte is written.
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, old[1]))
    try:
        line = refused({**FOLDERS, **FILES}[name], out=tmp_path / "new", here=here)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert "too large" in line
