"""What ``weights`` may be: a name, or a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from upsnet_ros.errors import CheckpointError
from upsnet_ros.weights import cache_folder, find_weights, name_of, shipped_weights

NAME = "coco-fpn-r50"


@pytest.fixture
def here(cache: Path) -> Path:
    """A file in the cache folder under the name."""
    cache.mkdir()
    path = cache / f"{NAME}.safetensors"
    path.touch()
    return path


@pytest.mark.parametrize("name", [NAME, "coco_fpn_r50", Path(NAME)])
def test_a_name_is_found_in_the_cache_folder(here: Path, name: str | Path):
    assert find_weights(name) == here


def test_bundled_weights_have_a_name_too(cache: Path):
    assert find_weights("cityscapes-r18") == shipped_weights("cityscapes-r18")


def test_a_name_that_is_not_here_yet_tells_the_command(cache: Path):
    with pytest.raises(CheckpointError, match=r"not here yet.*`upsnet weights get coco-fpn-r101`"):
        find_weights("coco-fpn-r101")
    assert not cache.exists(), "nothing is made, nothing is fetched"


def test_a_file_that_is_called_like_a_name_wins(here: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_weights(NAME) == here
    (tmp_path / NAME).mkdir()  # a folder, say of a training run, is in nobody's way
    assert find_weights(NAME) == here
    (tmp_path / NAME).rmdir()
    (tmp_path / NAME).touch()
    assert find_weights(NAME) == Path(NAME)
    assert name_of(NAME) is None


@pytest.mark.parametrize("text", [f"./{NAME}", f"{NAME}.safetensors", f"{NAME}/", f"x/{NAME}"])
def test_a_separator_or_a_suffix_makes_a_path(here: Path, tmp_path: Path, monkeypatch, text: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="there is no weights file"):
        find_weights(text)


def test_paths_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.pth").touch()
    assert find_weights("~/x.pth") == tmp_path / "x.pth"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/no/x.pth", "there is no weights file /no/x.pth"),
        ("coco-fpn-50", "did you mean coco-fpn-r50"),
        ("nope", "upsnet weights list"),
        ("./cityscapes-r18", "there is no weights file ./cityscapes-r18"),
        ("/", "/ is a folder"),
        ("", "folder"),
        ("x" * 5000, "too long"),
        ("a\0b.pth", ""),
        ("~nobody-of-that-name/x.pth", "home"),
    ],
)
def test_what_is_neither_ends_in_one_line(cache: Path, text: str, told: str):
    with pytest.raises(CheckpointError) as caught:
        find_weights(text)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_cache_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("UPSNET_WEIGHTS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache/upsnet_ros/weights"
    for value, base in (("relative", tmp_path / ".cache"), (str(tmp_path / "c"), tmp_path / "c")):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == base / "upsnet_ros/weights"
    monkeypatch.setenv("UPSNET_WEIGHTS", "~/mine")
    assert cache_folder() == tmp_path / "mine"
