from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from upsnet_ros.errors import OutputError
from upsnet_ros.output_files import (
    MARKER,
    OutputFolder,
    check_distinct,
    check_file,
    replacing,
    write_file,
    write_whole,
)

NAMES = ("labels/[0-9]*.png", "report.html", "bag/*.mcap")


def folder(path: Path, **options) -> OutputFolder:
    return OutputFolder(path, **{"command": "demo", "names": NAMES, **options})


def fill(path: Path, *, files: tuple[str, ...] = ("report.html", "labels/0.png"), **options):
    with folder(path, **options):
        for name in files:
            (path / name).parent.mkdir(exist_ok=True)
            write_whole(path / name, b"ours")


def content(path: Path) -> dict[str, bytes]:
    return {
        one.relative_to(path).as_posix(): one.read_bytes()
        for one in path.rglob("*")
        if one.is_file() and one.name != MARKER
    }


@pytest.mark.parametrize("again", ["replace", "refuse", "update"])
@pytest.mark.parametrize("there", [False, True])
def test_new_and_empty_folders_are_taken(tmp_path: Path, again: str, there: bool):
    out = tmp_path / "a" / "b"
    if there:
        out.mkdir(parents=True)
    fill(out, again=again)
    assert content(out) == {"report.html": b"ours", "labels/0.png": b"ours"}


@pytest.mark.parametrize("again", ["replace", "refuse", "update"])
@pytest.mark.parametrize("name", ["notes.txt", "report.html", "labels/7.png", ".hidden", "empty/"])
def test_anything_of_the_users_is_in_the_way(tmp_path: Path, again: str, name: str):
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(OutputError, match=name.rstrip("/").split("/")[0]):
        folder(tmp_path, again=again)
    assert content(tmp_path) == before
    assert not (tmp_path / MARKER).exists()


def test_replacing_earlier_output_is_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    fill(tmp_path)
    fill(tmp_path, again="update")
    assert caplog.messages == []
    (tmp_path / "labels/0.png").unlink()
    fill(tmp_path, files=())
    assert caplog.messages == [f"replacing 1 file of an earlier `upsnet demo` in {tmp_path}"]
    fill(tmp_path)  # the earlier run left nothing to replace
    assert len(caplog.messages) == 1


def test_the_same_command_replaces_exactly_what_it_wrote(tmp_path: Path):
    fill(tmp_path, files=("report.html", "labels/0.png", "labels/1.png", "bag/a.mcap"))
    for name in ("notes.txt", "labels/mine.png", "bag/mine.txt"):
        (tmp_path / name).write_text("mine")
    fill(tmp_path, files=("labels/0.png",))
    assert content(tmp_path) == {
        "labels/0.png": b"ours", "notes.txt": b"mine", "labels/mine.png": b"mine",
        "bag/mine.txt": b"mine",
    }  # fmt: skip
    fill(tmp_path, files=())
    assert not (tmp_path / "labels/0.png").exists()


def edit(path: Path) -> None:
    path.write_text("mine")


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


def link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def turn_into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("again", ["replace", "update"])
@pytest.mark.parametrize("change", [edit, touch, link, turn_into_a_folder])
@pytest.mark.parametrize("name", ["report.html", "labels/0.png"])
def test_what_was_changed_since_is_in_the_way(tmp_path: Path, again: str, change, name: str):
    out = tmp_path / "out"
    fill(out)
    change(out / name)
    with pytest.raises(OutputError, match=name):
        folder(out, again=again)
    assert os.path.lexists(out / name)


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_what_bears_a_name_of_ours_but_is_not_listed_is_in_the_way(tmp_path: Path, kind: str):
    out, path = tmp_path / "out", tmp_path / "out/labels/5.png"
    fill(out)
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / kind)
        if kind == "link":
            (tmp_path / kind).write_text("mine")
    with pytest.raises(OutputError, match=r"labels/5.png is in the way"):
        folder(out)


@pytest.mark.parametrize("kind", ["link", "file"])
@pytest.mark.parametrize("inner", ["labels", "bag"])
def test_folders_on_the_way_are_folders(tmp_path: Path, kind: str, inner: str):
    out = tmp_path / "out"
    fill(out)
    if (out / inner).exists():
        (out / inner).rename(tmp_path / "elsewhere")
    else:
        (tmp_path / "elsewhere").mkdir()
    if kind == "link":
        (out / inner).symlink_to(tmp_path / "elsewhere")
    else:
        (out / inner).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(OutputError, match=f"out/{inner} is in the way"):
        folder(out)
    assert content(tmp_path) == before


def test_the_output_of_another_command_is_in_the_way(tmp_path: Path):
    fill(tmp_path)
    with pytest.raises(OutputError, match="upsnet demo"):
        folder(tmp_path, command="replay")


def test_an_output_may_be_kept_from_being_replaced(tmp_path: Path):
    fill(tmp_path, again="refuse")
    with pytest.raises(OutputError, match="--overwrite"):
        folder(tmp_path, again="refuse")
    fill(tmp_path, again="replace")


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_writes_nothing_leaves_no_trace(tmp_path: Path, there: bool):
    out = tmp_path / "out"
    if there:
        out.mkdir()
    fill(out, files=())
    assert out.exists() == there
    assert not list(tmp_path.rglob(MARKER))


def test_a_run_that_fails_lists_what_it_wrote(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), folder(tmp_path):
        write_whole(tmp_path / "report.html", b"ours")
        raise ZeroDivisionError
    fill(tmp_path, files=())
    assert content(tmp_path) == {}


def test_what_a_killed_run_left_is_in_the_way_but_for_one_that_resumes(tmp_path: Path):
    fill(tmp_path, files=("bag/a.mcap",))
    killed = folder(tmp_path, again="update")
    killed.__enter__()
    write_whole(tmp_path / "report.html", b"ours")
    write_whole(tmp_path / "bag/a.mcap", b"newer")
    for again in ("replace", "update"):
        with pytest.raises(OutputError):
            folder(tmp_path, again=again)
    fill(tmp_path, files=(), again="update", resume=True)
    assert content(tmp_path) == {"report.html": b"ours", "bag/a.mcap": b"newer"}
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(OutputError, match=r"report.html was changed"):
        folder(tmp_path, again="update", resume=True)


def test_updates_add_and_replace_only_their_own(tmp_path: Path):
    def run(*names: str) -> None:
        with folder(tmp_path, names=frozenset(names), again="update"):
            for name in names:
                (tmp_path / name).parent.mkdir(exist_ok=True)
                write_whole(tmp_path / name, b"ours")

    run("a/1.png", "list.json")
    (tmp_path / "a/mine.png").write_text("mine")
    run("a/2.png", "list.json")
    (tmp_path / "a/1.png").write_text("edited")
    run("a/2.png", "list.json")
    with pytest.raises(OutputError, match=r"a/1.png was changed"):
        run("a/1.png")
    (tmp_path / "list.json").write_text("edited")
    with pytest.raises(OutputError, match=r"list.json was changed"):
        run("a/2.png", "list.json")


def test_two_updates_at_once_list_all_files(tmp_path: Path):
    first = folder(tmp_path, names=frozenset({"1"}), again="update")
    with first:
        with folder(tmp_path, names=frozenset({"2"}), again="update"):
            write_whole(tmp_path / "2", b"ours")
        write_whole(tmp_path / "1", b"ours")
    assert json.loads((tmp_path / MARKER).read_text())["files"].keys() == {"1", "2"}


@pytest.mark.parametrize(
    "names", [["../victim"], ["/victim"], ["a/../../victim"], [""], ["a//b"], [5], "x", None]
)
def test_a_forged_marker_reaches_nothing_outside(tmp_path: Path, names):
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_text("mine")
    fill(out)
    status = victim.stat()
    marker = json.loads((out / MARKER).read_text())
    if isinstance(names, list):
        signature = [status.st_size, status.st_mtime_ns]
        names = {
            (str(victim) if name == "/victim" else name): signature
            for name in names
            if isinstance(name, str)
        } or {"a": 5}
    marker["files"] = names
    (out / MARKER).write_text(json.dumps(marker))
    with suppress(OutputError):
        fill(out, files=())
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("marker", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff"])
def test_a_damaged_marker_makes_the_folder_a_strangers(tmp_path: Path, marker: bytes):
    fill(tmp_path)
    (tmp_path / MARKER).write_bytes(marker)
    with pytest.raises(OutputError, match="not empty"):
        folder(tmp_path)


def test_folders_of_earlier_versions_can_be_adopted(tmp_path: Path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/0.png").write_text("ours")
    folder(tmp_path, again="update", adopt=NAMES)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes.txt"):
        folder(tmp_path, again="update", adopt=NAMES)


@pytest.mark.parametrize(
    "place", ["/dev/null/x", "/proc/version/x", "{file}", "{file}/x", "/proc/x"]
)
def test_places_where_nothing_can_be_written(tmp_path: Path, place: str):
    (tmp_path / "file").write_text("mine")
    path = Path(place.format(file=tmp_path / "file"))
    with pytest.raises(OutputError, match=str(path.parent if path.name == "x" else path)):
        fill(path)
    if place != "{file}":
        with pytest.raises(OutputError):
            write_file(path, "ours", overwrite=True)
    assert content(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_a_file_that_exists_needs_overwrite(tmp_path: Path, kind: str):
    target, path = tmp_path / "target", tmp_path / "result.json"
    if kind != "dangling":
        target.write_text("mine")
    if kind == "file":
        target.rename(path)
    else:
        path.symlink_to(target)
    for call in (check_file, lambda path, overwrite: write_file(path, "x", overwrite=overwrite)):
        with pytest.raises(OutputError, match="--overwrite"):
            call(path, overwrite=False)
    check_file(path, overwrite=True)
    write_file(path, "ours", overwrite=True)
    assert path.read_text() == "ours"
    assert path.is_symlink() == (kind != "file")
    assert sorted(os.listdir(tmp_path)) == sorted({"result.json", "target"} - ({"target"} if kind == "file" else set()))  # fmt: skip # noqa: E501, PTH208


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_folder_of_a_file_is_not_made(tmp_path: Path, overwrite: bool):
    path = tmp_path / "new" / "result.json"
    link = tmp_path / "link"
    link.symlink_to(path)
    for name, again in ((path, overwrite), (link, True)):
        with pytest.raises(OutputError, match=r"cannot write .*: there is no folder .*new"):
            check_file(name, overwrite=again)
        with pytest.raises(OutputError, match=r"cannot write .*: there is no folder .*new"):
            write_file(name, "x", overwrite=again)
    assert list(tmp_path.iterdir()) == [link]


def test_a_folder_is_no_file(tmp_path: Path):
    with pytest.raises(OutputError, match="folder"):
        check_file(tmp_path, overwrite=True)


@pytest.mark.parametrize("device", ["/dev/null", "pipe"])
def test_devices_and_pipes_are_written_to_and_stay(tmp_path: Path, device: str):
    path = Path(device) if device.startswith("/") else tmp_path / device
    reader = None
    if device == "pipe":
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    kind = stat.S_IFMT(path.stat().st_mode)
    check_file(path, overwrite=False)
    write_file(path, "ours", overwrite=False)
    assert stat.S_IFMT(path.stat().st_mode) == kind
    if reader is not None:
        assert os.read(reader, 10) == b"ours"
        os.close(reader)


def test_a_full_disk_is_told_in_one_line():
    with pytest.raises(OutputError, match="cannot write /dev/full: No space left"):
        write_file(Path("/dev/full"), "ours", overwrite=False)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("private", [False, True])
def test_files_follow_the_umask_whatever_library_writes_them(tmp_path, umask: int, private: bool):
    old = os.umask(umask)
    try:
        with replacing(tmp_path / "weights") as new:
            if private:  # as safetensors does: a file of its own, for its owner alone
                (tmp_path / "own").write_bytes(b"ours")
                (tmp_path / "own").chmod(0o600)
                (tmp_path / "own").replace(new)
            else:
                new.write_bytes(b"ours")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "weights").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path, durable: bool):
    path = tmp_path / "a"
    write_whole(path, b"old", durable=durable)
    with pytest.raises(ZeroDivisionError), replacing(path, durable=durable) as new:
        new.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        raise ZeroDivisionError
    assert content(tmp_path) == {"a": b"old"}


def test_links_in_the_place_of_files_and_of_temporary_ones_are_not_followed(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("a", ".a.new", "a.part", ".a.part"):
        (tmp_path / name).symlink_to(victim)
    write_whole(tmp_path / "a", b"ours")
    assert (tmp_path / "a").read_bytes() == b"ours"
    assert victim.read_text() == "mine"


def test_an_old_hard_link_keeps_the_old_content(tmp_path: Path):
    write_whole(tmp_path / "a", b"old")
    os.link(tmp_path / "a", tmp_path / "kept")
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "kept").read_bytes() == b"old"


def test_two_options_with_the_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("a")
    for other in ("a", "./a", tmp_path / "a", "link"):
        with pytest.raises(OutputError, match="--json and --report name the same file"):
            check_distinct({"--json": Path("a"), "--report": Path(other)})
    check_distinct({"--json": Path("a"), "--report": Path("b"), "--csv": None})
    check_distinct({"--json": Path("/dev/null"), "--report": Path("/dev/null")})
