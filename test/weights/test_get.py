"""`upsnet weights get` and `list`, from arguments to files, against a real server."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pickle
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from file_server import FileServer, serve
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_disk import small_disk
from typer.testing import CliRunner
from zoo_file import ZooFile

from upsnet_ros.cli.commands import app
from upsnet_ros.network.variants import VARIANTS
from upsnet_ros.network.weights_file import from_detectron2
from upsnet_ros.weights import find_weights, shipped_weights
from upsnet_ros.weights.catalogue import CATALOGUE
from upsnet_ros.weights.install import read_metadata

NAME = "coco-fpn-r50"
BARE = Path(__file__).parents[1] / "support" / "bare_environment.py"


def run(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["weights", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def refused(*arguments: str | Path) -> str:
    """The one line with which the command ends."""
    code, _, err = run(*arguments)
    assert code == 1, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err
    assert err.rstrip().endswith(lines[0]), "the reason comes last"
    return lines[0]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def small_zoo_file(folder: Path, content: object = None) -> Path:
    """A pickle under a name with its digest, as the zoo has them, but of few arrays."""
    if content is None:
        content = {"backbone.bottom_up.stem.conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}
    data = pickle.dumps({"model": content}, protocol=2)
    path = folder / f"model_final_{hashlib.md5(data).hexdigest()[:6]}.pkl"
    path.write_bytes(data)
    return path


@pytest.fixture
def server(cache: Path) -> Iterator[FileServer]:
    with serve(b"") as state:
        yield state


def published_at(monkeypatch: pytest.MonkeyPatch, url: str, md5: str) -> None:
    """Lets the catalogue name another address, for the command to download from by itself."""
    entry = CATALOGUE[NAME]
    file = dataclasses.replace(entry.file, url=url, md5=md5[:6])
    monkeypatch.setitem(CATALOGUE, NAME, dataclasses.replace(entry, files=(file,)))


def test_a_users_file_becomes_weights_with_a_name(got, named: Path, zoo_file: ZooFile, tmp_path):
    for shown in ("CC BY-SA 3.0", "creativecommons.org", "Yuxin Wu", "Commercial use is allowed"):
        assert shown in got.err
    assert zoo_file.sha256 in got.out and zoo_file.md5 in got.out
    assert "warning" not in got.err, "its name has its digest"
    assert files(named) == [f"{NAME}.LICENSE.txt", f"{NAME}.safetensors"]

    path = find_weights(NAME)
    with safe_open(path, framework="numpy") as opened:
        metadata = opened.metadata()
    assert metadata["licence"] == "CC BY-SA 3.0" and metadata["name"] == NAME
    assert metadata["source"] == zoo_file.path.name, "not the folders of the user"
    assert metadata["source_sha256"] == zoo_file.sha256
    notice = (named / f"{NAME}.LICENSE.txt").read_text()
    for told in ("CC BY-SA 3.0", "Yuxin Wu", "Changes", zoo_file.sha256, zoo_file.path.name):
        assert told in notice

    with zoo_file.path.open("rb") as opened:
        arrays = pickle.load(opened)["model"]
    want = from_detectron2({name: torch.from_numpy(x) for name, x in arrays.items()})
    tensors = load_file(path)
    assert tensors.keys() == want.keys()
    assert all(torch.equal(tensors[name], want[name]) for name in want)

    before = path.stat().st_mtime_ns
    for again in ((), ("--file", zoo_file.path), ("--yes",)):
        code, out, err = run("get", NAME, *again)
        assert (code, err) == (0, "") and "here already" in out
    assert path.stat().st_mtime_ns == before
    assert "--overwrite" in refused("get", NAME, "--file", small_zoo_file(tmp_path), "--yes")
    assert path.stat().st_mtime_ns == before


def test_a_download_that_breaks_off_is_continued_by_the_same_command(
    server: FileServer, cache: Path, zoo_file: ZooFile, monkeypatch: pytest.MonkeyPatch
):
    server.data = zoo_file.path.read_bytes()
    published_at(monkeypatch, f"{server.url}/zoo/{zoo_file.path.name}", zoo_file.md5)
    monkeypatch.setattr("time.sleep", lambda _: None)
    server.stop_after = [100_000_000, 0, 0, 0]
    line = refused("get", NAME, "--yes")
    assert "broke off after 100.0 MB" in line and "--file" in line
    assert find_weights_fails()

    code, out, err = run("get", NAME, "--yes")
    assert code == 0, err
    assert server.requests[-1][1]["range"] == "bytes=100000000-"
    assert zoo_file.sha256 in out and "PQ 41.5" in out
    assert files(cache) == [f"{NAME}.LICENSE.txt", f"{NAME}.safetensors"]
    with safe_open(find_weights(NAME), framework="numpy") as opened:
        metadata = opened.metadata()
    assert metadata["source"] == f"{server.url}/zoo/{zoo_file.path.name}"
    assert metadata["published"] == "PQ 41.5 on COCO val2017"


def test_ctrl_c_keeps_what_has_come(server: FileServer, cache: Path, tmp_path: Path):
    server.data = small_zoo_file(tmp_path).read_bytes()
    server.hold_after = 10_000
    command = [sys.executable, "-m", "upsnet_ros.cli", "weights", "get", NAME, "--yes"]
    url = f"{server.url}/{small_zoo_file(tmp_path).name}?secret=1"
    with subprocess.Popen([*command, "--url", url], stderr=subprocess.PIPE, text=True) as process:
        while not any(path.stat().st_size >= 10_000 for path in cache.glob(".*.part*")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=240)
    server.held.set()
    assert process.returncode == 130 and "continues" in err and "Traceback" not in err
    server.hold_after = None
    refused("get", NAME, "--url", url, "--yes")  # of few tensors
    assert server.requests[-1][1]["range"] == "bytes=10000-"
    assert files(cache) == []


def find_weights_fails() -> bool:
    try:
        find_weights(NAME)
    except ValueError as error:
        return f"upsnet weights get {NAME}" in str(error)
    return False


@pytest.mark.parametrize("known_by", ["the catalogue", "its name"])
def test_a_download_with_another_digest_is_not_kept(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch, known_by: str
):
    server.data = pickle.dumps({"model": {}})
    url = f"{server.url}/model_final_c10459.pkl"
    if known_by == "the catalogue":
        published_at(monkeypatch, f"{server.url}/renamed.pkl", "c10459")
        line = refused("get", NAME, "--yes")
    else:
        line = refused("get", NAME, "--url", url, "--yes")
    assert hashlib.md5(server.data).hexdigest() in line and "c10459" in line
    assert files(cache) == []


def test_another_digest_of_a_users_file_is_a_warning(cache: Path, tmp_path: Path):
    path = small_zoo_file(tmp_path).rename(tmp_path / "model_final_c10459.pkl")
    code, out, err = run("get", NAME, "--file", path, "--yes")
    assert code == 1 and "warning" in err and "c10459" in err
    assert hashlib.sha256(path.read_bytes()).hexdigest() in out
    assert "does not fit coco-fpn-r50: missing" in err, "it went on, to what is in the file"


def test_the_other_schedule_is_known_by_its_digest():
    file = CATALOGUE[NAME].published_as("dbfeb4" + "0" * 26)
    assert file is not None and file.quality == 39.4


@pytest.mark.parametrize("source", ["file", "url"])
def test_code_in_a_pickle_is_refused_and_does_not_run(
    server: FileServer, cache: Path, tmp_path: Path, source: str
):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = small_zoo_file(tmp_path, Evil())
    server.data = path.read_bytes()
    where = path if source == "file" else f"{server.url}/{path.name}"
    line = refused("get", NAME, f"--{source}", where, "--yes")
    assert "system" in line and str(where) in line
    assert not (tmp_path / "ran").exists()
    assert files(cache) == []


@pytest.mark.parametrize("source", ["file", "url"])
def test_weights_of_something_else_are_refused(
    server: FileServer, cache: Path, tmp_path: Path, source: str
):
    path = small_zoo_file(tmp_path)
    server.data = path.read_bytes()
    where = path if source == "file" else f"{server.url}/{path.name}"
    line = refused("get", NAME, f"--{source}", where, "--yes")
    assert f"{where} does not fit {NAME}" in line
    assert files(cache) == []


def test_weights_of_another_variant_are_named(cache: Path):
    shipped = shipped_weights("cityscapes-r18")
    code, _, err = run("get", "coco-r50", "--file", str(shipped), "--yes")
    assert code == 1 and "holds weights of cityscapes-r18" in err
    assert "Uber Non-Commercial" in err and "Non-commercial use only" in err
    assert files(cache) == []


def test_values_that_are_not_finite_are_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("upsnet_ros.cli.weights.shipped_weights", lambda _: None)
    shipped = shipped_weights("cityscapes-r18")
    assert shipped is not None
    tensors = load_file(shipped)
    tensors["rpn.cls_score.bias"][0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    line = refused("get", "cityscapes-r18", "--file", tmp_path / "nan.safetensors", "--yes")
    assert "NaN in rpn.cls_score.bias" in line


def test_an_official_checkpoint_is_converted(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By the small network, which a package without its weights would get as any other."""
    monkeypatch.setattr("upsnet_ros.cli.weights.shipped_weights", lambda _: None)
    shipped = shipped_weights("cityscapes-r18")
    assert shipped is not None
    tensors = load_file(shipped)
    counters = {"resnet_backbone.conv1.bn1.num_batches_tracked": torch.tensor(5)}
    torch.save({"state_dict": {f"module.{k}": v for k, v in (tensors | counters).items()}},
               tmp_path / "x.pth")  # fmt: skip
    code, _, err = run("get", "cityscapes_r18", "--file", tmp_path / "x.pth", "--yes")
    assert code == 0, err
    assert "warning" not in err, "no digest is known"
    path = cache / "cityscapes-r18.safetensors"
    got = load_file(path)
    assert got.keys() == tensors.keys() and all(torch.equal(got[x], tensors[x]) for x in got)

    # On another machine, from the converted file: it is still known where it is from.
    before = read_metadata(path)
    copy = path.rename(tmp_path / "copy.safetensors")
    code, out, _ = run("get", "cityscapes-r18", "--file", copy, "--yes")
    assert code == 0 and "as it says from x.pth" in out
    assert read_metadata(path) == before
    code, out, _ = run("get", "cityscapes-r18", "--file", copy)
    assert code == 0 and "here already" in out

    whole = path.read_bytes()
    for damaged in (whole[:-1000] + bytes([whole[-1000] ^ 1]) + whole[-999:], whole[:-1]):
        path.write_bytes(damaged)
        code, _, err = run("get", "cityscapes-r18", "--file", tmp_path / "x.pth", "--yes")
        assert code == 0 and "damaged" in err
        again = load_file(path)
        assert all(torch.equal(again[name], tensors[name]) for name in tensors)


HTML = b"\n<!DOCTYPE html><html><body>Sign in</body></html>"


@pytest.mark.parametrize("content", [HTML, b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_files_that_are_obviously_something_else(
    server: FileServer, cache: Path, tmp_path: Path, content: bytes
):
    path = tmp_path / "model.pkl"
    path.write_bytes(content)
    line = refused("get", NAME, "--file", path)  # before anybody is asked
    assert any(told in line for told in ("web page", "empty", "git-lfs"))
    server.data = content
    line = refused("get", NAME, "--url", f"{server.url}/model.pkl", "--yes")
    assert any(told in line for told in ("web page", "empty", "git-lfs"))
    assert files(cache) == []


def test_a_web_page_in_place_of_the_file(server: FileServer, cache: Path):
    server.data, server.content_type = HTML, "text/html"
    assert "web page" in refused("get", NAME, "--url", f"{server.url}/model.pkl", "--yes")
    assert files(cache) == []


def test_a_host_that_is_gone_leaves_a_way(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "*")
    published_at(monkeypatch, "http://nowhere.invalid/model_final_c10459.pkl", "c10459")
    line = refused("get", NAME, "--yes")
    assert "nowhere.invalid" in line and "model_final_c10459.pkl" in line and "--file" in line
    assert files(cache) == []


def test_a_file_that_is_gone_leaves_a_way(server: FileServer, cache: Path, monkeypatch):
    published_at(monkeypatch, f"{server.url}/model_final_c10459.pkl", "c10459")
    server.status = [404]
    line = refused("get", NAME, "--yes")
    assert "HTTP 404" in line and "--file" in line


@pytest.mark.parametrize("folder", ["/proc/x", "/dev/null/x", "{file}", "{file}/x"])
def test_a_cache_that_cannot_be_written(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("UPSNET_WEIGHTS", folder.format(file=tmp_path / "file"))
    line = refused("get", NAME, "--url", f"{server.url}/x.pkl", "--yes")
    assert "cannot write" in line and "UPSNET_WEIGHTS" in line
    assert server.requests == [] and (tmp_path / "file").read_text() == "mine"


def test_no_home_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("UPSNET_WEIGHTS", raising=False)
    monkeypatch.setattr("upsnet_ros.weights.user_cache", lambda _: None)
    assert "UPSNET_WEIGHTS" in refused("get", NAME, "--yes")
    assert run("list")[0] == 0


def test_a_disk_that_is_full_keeps_nothing(tmp_path: Path, zoo_file: ZooFile, monkeypatch):
    with small_disk(tmp_path, 1 << 20) as disk:
        monkeypatch.setenv("UPSNET_WEIGHTS", str(disk.outside))
        line = refused("get", NAME, "--file", zoo_file.path, "--yes")
        assert "No space left" in line
        assert files(disk.outside) == [f"{NAME}.LICENSE.txt"]


@pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"hello", b"GIF89a"])
def test_a_file_of_another_kind_is_refused_by_its_first_bytes(tmp_path: Path, start: bytes):
    path = tmp_path / "picture.png"
    path.write_bytes(start + bytes(1000))
    line = refused("get", NAME, "--file", path, "--yes")
    assert str(path) in line and "not a file of weights" in line


def test_nobody_to_ask(server: FileServer, cache: Path):
    line = refused("get", NAME, "--url", f"{server.url}/x.pkl")
    assert "not a terminal" in line and "--yes" in line and "CC BY-SA" in line
    assert (server.requests == [] and not cache.exists()) or files(cache) == []


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_a_user_at_a_terminal_is_asked(server: FileServer, answer: str):
    server.status = [404]
    url = f"{server.url}/x.pkl"
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    done = subprocess.run(
        [sys.executable, "-m", "upsnet_ros.cli", "weights", "get", NAME, "--url", url],
        stdin=theirs, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    os.close(ours), os.close(theirs)
    assert done.returncode == 1
    assert "Accept the licence?" in done.stderr and done.stdout.count("Accept") == 0
    assert ("HTTP 404" if answer == "y" else "was not accepted") in done.stderr
    assert len(server.requests) == (answer == "y")


@pytest.mark.parametrize("watched", [True, False])
def test_progress_is_a_bar_in_a_terminal_and_a_line_in_a_log(server: FileServer, watched: bool):
    server.data = bytes(2_500_000)  # with another digest, so that it ends before torch is imported
    code = """
import sys
if sys.argv[1] == "True":  # take the terminal as a shell does
    import fcntl, termios
    fcntl.ioctl(2, termios.TIOCSCTTY, 0)
from upsnet_ros.cli import main
main(sys.argv[2:])
"""
    command = ["weights", "get", NAME, "--yes", "--url", f"{server.url}/model_final_c10459.pkl"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(watched), *command],
        stderr=theirs, start_new_session=True, env=os.environ | {"TERM": "xterm", "COLUMNS": "150"},
    )  # fmt: skip
    os.close(theirs)
    output = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while chunk := os.read(ours, 4096):
            output += chunk
    os.close(ours)
    assert process.wait() == 1
    text = output.decode()
    assert "downloading model_final_c10459.pkl" in text and "2.5" in text
    assert (text.count("downloading") > 1 or "\x1b[" in text) == watched
    assert ("2.5/2.5 MB" in text) == watched


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["coco-fpn-r5"], "did you mean coco-fpn-r50"),
        (["nothing"], "coco-fpn-r101"),
        ([NAME, "--file", "{path}", "--url", "http://h/x"], "exclude"),
        ([NAME, "--file", "/nowhere/x.pkl"], "/nowhere/x.pkl"),
        ([NAME, "--file", "/"], "folder"),
        ([NAME, "--url", "ftp://h/x.pkl"], "URL"),
        (["coco-r50", "--yes"], "upsnet_resnet_50_coco_90000.pth"),
        (["cityscapes-r18", "--file", "{path}"], "comes with this package"),
    ],
)
def test_arguments_that_make_no_sense(cache: Path, tmp_path: Path, arguments, told: str):
    path = small_zoo_file(tmp_path)
    assert told in refused("get", *(one.format(path=path) for one in arguments))
    assert not cache.exists()


def test_bundled_weights_need_no_download(cache: Path):
    code, out, _ = run("get", "cityscapes-r18")
    assert code == 0 and "comes with this package" in out
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"mine", b"", "safetensors"])
def test_a_file_of_the_user_in_the_cache_stays(cache: Path, content):
    cache.mkdir()
    path = cache / f"{NAME}.safetensors"
    if content == "safetensors":
        save_file({"x": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    for options in ((), ("--overwrite",)):
        assert "in the way" in refused("get", NAME, "--yes", *options)
    assert path.read_bytes() == before
    assert "blocked" in run("list")[1]


def test_list_fits_a_terminal_and_says_what_is_here(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("list")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()[0] in CATALOGUE}
    assert rows.keys() == CATALOGUE.keys()
    assert "53 + 80" in rows[NAME] and "41.5" in rows[NAME] and "CC BY-SA 3.0" in rows[NAME]
    assert rows[NAME].split()[-1] == "no" and rows["cityscapes-r18"].split()[-1] == "bundled"
    cache.mkdir()
    save_file(
        {"x": torch.zeros(2)},
        cache / f"{NAME}.safetensors",
        metadata={"written_by": "upsnet_ros", "name": NAME},
    )
    content = json.loads(run("list", "--json")[1])
    states = {row["name"]: row["state"] for row in content["weights"]}
    assert states[NAME] == "yes" and states["coco-r50"] == "no"
    assert content["folder"] == str(cache)


def test_the_catalogue_describes_every_variant():
    assert CATALOGUE.keys() == VARIANTS.keys()
    for name, entry in CATALOGUE.items():
        assert entry.dataset == VARIANTS[name].dataset
        assert (shipped_weights(name) is not None) == (entry.bundled)


@pytest.mark.parametrize("page", ["README.md", "docs/weights.md"])
def test_pages_have_the_names_figures_and_licences_of_the_catalogue(page: str):
    text = (Path(__file__).parents[2] / page).read_text()
    table = text[text.index("published PQ") :].partition("\n\n")[0]
    for entry in CATALOGUE.values():
        (row,) = [line for line in table.splitlines() if f"`{entry.name}`" in line]
        assert entry.bundled or str(entry.file.quality) in row
        assert entry.licence.commercial == ("non-commercial" not in row and "the same" not in row)


def test_sizes_are_those_of_the_tensors():
    tables = {
        **{f"coco-fpn-{d}": f"panoptic_fpn/state_dict_{d}.tsv" for d in ("r50", "r101")},
        **{
            name: f"parity/state_dict_{name.replace('-', '_')}.tsv"
            for name in ("cityscapes-r50", "cityscapes-r101-coco", "coco-r50", "coco-r101-dcn")
        },
    }
    for name, table in tables.items():
        lines = (Path(__file__).parents[1] / table).read_text().splitlines()[1:]
        shapes = [line.split("\t")[1] for line in lines]
        size = sum(4 * math.prod(map(int, filter(None, x.split(",")))) for x in shapes)
        assert CATALOGUE[name].megabytes == pytest.approx(size / 1e6, abs=1), name


@pytest.mark.parametrize("command", ["list", f"get {NAME}"])
def test_neither_torch_nor_ros_is_needed_before_there_is_a_file(tmp_path: Path, command: str):
    done = subprocess.run(
        [sys.executable, str(BARE), "numpy,typer,rich,psutil", "weights", *command.split()],
        env=os.environ | {"UPSNET_WEIGHTS": str(tmp_path / "cache")},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert (done.returncode == 0) == (command == "list"), done.stderr
    assert "Traceback" not in done.stderr
    if command != "list":
        assert "--yes" in done.stderr
