"""Finding and reading pictures: one listing and one reader for all that take files."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from upsnet_ros.datasets.coco_format import read_segment_ids
from upsnet_ros.datasets.images import (
    MAX_PIXELS,
    MAX_PIXELS_VARIABLE,
    as_bgr,
    image_files,
    natural_sorted,
    read_image,
    read_labels,
)
from upsnet_ros.errors import DatasetError, ImageError, SettingsError

ORIENTATION = 274
RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
GRAY = np.arange(24, dtype=np.uint8).reshape(4, 6)
#: How Pillow writes each kind, without loss where it can.
SAVED: dict[str, dict[str, Any]] = {
    "jpg": {"quality": 100, "subsampling": 0},
    "png": {},
    "webp": {"lossless": True},
    "tif": {},
    "tiff": {"compression": "tiff_lzw"},
    "bmp": {},
    "ppm": {},
}


def save(path: Path, pixels: npt.NDArray[Any], *, orientation: int | None = None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    kwargs = SAVED[path.suffix[1:].lower()]
    kwargs = kwargs if orientation is None else {**kwargs, "exif": exif}
    Image.fromarray(pixels).save(path, **kwargs)
    return path


def png(path: Path, *, bits: int, color: int, width: int, height: int, **more: bytes) -> Path:
    """A PNG whose pixels are all 0, of any size: it takes next to no room."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    row = bytes(1 + (width * bits * channels + 7) // 8)
    packer = zlib.compressobj()
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    chunks = [chunk(kind.encode(), body) for kind, body in more.items()]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunks)
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )
    return path


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def listed(root: Path, *, recursive: bool) -> list[str]:
    found = image_files(root, recursive=recursive)
    return [path.relative_to(root).as_posix() for path in found]


def test_order_is_natural_folder_by_folder() -> None:
    names = ["b/1.png", "a b/1.png", "a/10.png", "a/9.png", "A/2.png", "a/02.png", "a/2.png"]
    ordered = [path.as_posix() for path in natural_sorted(map(Path, names))]
    assert ordered == [
        "A/2.png", "a/02.png", "a/2.png", "a/9.png", "a/10.png", "a b/1.png", "b/1.png",
    ]  # fmt: skip
    assert natural_sorted(map(Path, reversed(names))) == natural_sorted(map(Path, names))


def test_listing_knows_endings_in_any_case_and_passes_over_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "10.JPG", "9.png", "1.WebP", "2.tiff", "3.Bmp", "4.jpeg", "5.PGM", "6.ppm")
    touch(tmp_path, "._9.png", ".hidden.png", "notes.txt", "png", "__MACOSX/._a.jpg", "sub/7.png")
    (tmp_path / "folder.png").mkdir()
    flat = ["1.WebP", "2.tiff", "3.Bmp", "4.jpeg", "5.PGM", "6.ppm", "9.png", "10.JPG"]
    assert listed(tmp_path, recursive=False) == flat
    assert listed(tmp_path, recursive=True) == [*flat, "sub/7.png"]


def test_linked_folders_are_as_plain_ones(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "2.png", "deep/1.png", ".git/3.png")
    root = touch(tmp_path / "root", "a/1.png", ".thumbs/9.png")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "c.png").symlink_to(tmp_path / "elsewhere/2.png")
    (tmp_path / "link").symlink_to(root)
    for folder in (root, tmp_path / "link"):
        assert listed(folder, recursive=True) == ["a/1.png", "b/2.png", "b/deep/1.png", "c.png"]
        assert listed(folder, recursive=False) == ["c.png"]


def test_links_that_go_round_end(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "m/a.png")
    (root / "m" / "up").symlink_to(root)
    (root / "a").symlink_to(root / "m")  # read under its own name, though that comes later
    (root / "z").symlink_to(root / "z")
    (root / "gone.png").symlink_to(root / "nowhere")
    assert listed(root, recursive=True) == ["gone.png", "m/a.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    for folder in (tmp_path / "none", tmp_path / "a.png"):
        with pytest.raises(DatasetError, match=rf"cannot read folder {folder}: \w+"):
            image_files(folder)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "tiff"])
def test_pixels_come_as_stored_whatever_the_orientation(
    tmp_path: Path, ending: str, orientation: int
) -> None:
    image = read_image(save(tmp_path / f"a.{ending}", RGB, orientation=orientation))
    assert image.shape == RGB.shape
    assert np.abs(image[..., ::-1].astype(int) - RGB).max() <= (8 if ending == "jpg" else 0)
    if ending not in ("jpg", "webp"):
        labels = read_labels(save(tmp_path / f"b.{ending}", GRAY, orientation=orientation))
        np.testing.assert_array_equal(labels, GRAY)


@pytest.mark.parametrize("ending", [*SAVED, "JPG", "PNG", "WebP", "TIFF"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (70, 300)])
def test_every_kind_and_size_is_read(tmp_path: Path, ending: str, shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), (250, 100, 30), np.uint8)
    image = read_image(save(tmp_path / f"a.{ending}", pixels))
    assert image.dtype == np.uint8
    assert image.shape == pixels.shape
    assert np.abs(image.astype(int) - (30, 100, 250)).max() <= 8


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_images_of_every_mode_become_bgr(tmp_path: Path, mode: str) -> None:
    full = np.full((4, 6), 65535, np.uint16)
    image = Image.fromarray(full) if mode == "I;16" else Image.new("RGB", (6, 4), "white")
    image.convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.full((4, 6, 3), 255))


def of_mode(mode: str) -> Image.Image:
    """A colourful image of that mode of PIL."""
    noise = np.random.default_rng(0)
    if mode.startswith("I"):
        return Image.fromarray(noise.integers(0, 1 << 16, (9, 14)).astype(np.uint16))
    image = Image.fromarray(noise.integers(0, 256, (9, 14, 3)).astype(np.uint8)).convert(mode)
    if mode in ("LA", "RGBA", "PA"):
        image.putalpha(Image.fromarray(noise.integers(0, 256, (9, 14)).astype(np.uint8)))
    return image


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("ending", ["png", "tif", "webp", "bmp"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_an_image_is_the_same_as_path_text_and_pil_image(
    tmp_path: Path, mode: str, ending: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = dict(SAVED[ending]) if ending == "bmp" else {**SAVED[ending], "exif": exif}
    path = tmp_path / f"a.{ending}"
    if (mode, ending) in {("I;16", "bmp"), ("I;16", "webp"), ("LA", "bmp")}:
        pytest.skip(f"there are no {ending} files of mode {mode}")
    of_mode(mode).save(path, **options)
    want = read_image(path)
    assert want.std() > 20
    np.testing.assert_array_equal(as_bgr(path), want)
    np.testing.assert_array_equal(as_bgr(str(path)), want)
    # PIL turns a TIFF upright itself, and OpenCV multiplies its alpha into the colours.
    if not (ending == "tif" and (orientation > 1 or mode in ("LA", "RGBA"))):
        with Image.open(path) as image:
            np.testing.assert_array_equal(as_bgr(image), want)
    assert as_bgr(want) is want


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_cmyk_is_the_same_as_path_and_pil_image(tmp_path: Path, ending: str) -> None:
    ink = np.random.default_rng(0).integers(0, 256, (9, 14, 4)).astype(np.uint8)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.kron(ink, np.ones((8, 8, 1), np.uint8)), "CMYK").save(path)
    want = read_image(path)
    assert want.std() > 20
    with Image.open(path) as image:
        assert image.mode == "CMYK"
        np.testing.assert_array_equal(as_bgr(image), want)


def test_pil_images_of_rare_modes() -> None:
    values = np.array([[0, 255, 256, 65535]], np.int32)
    want = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    for pixels in (values, values.astype(">u2"), values.astype("<u2")):
        np.testing.assert_array_equal(as_bgr(Image.fromarray(pixels)), want)
    for mode in ("CMYK", "YCbCr", "HSV", "LAB", "PA"):
        assert as_bgr(of_mode(mode)).shape == (9, 14, 3)
    for pixels in (values + 1, values - 1, values.astype(np.float32)):
        with pytest.raises(ImageError, match="the PIL image has"):
            as_bgr(Image.fromarray(pixels))


def test_what_is_no_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match=r"cv2\.imread returns None for a file it cannot read"):
        as_bgr(cv2.imread(str(tmp_path / "none.png")))
    for value in (3, [1, 2], b"png", object()):
        with pytest.raises(ImageError, match=f"got .*{type(value).__name__}"):
            as_bgr(value)
    with pytest.raises(DatasetError, match=r"there is no file .*none\.png"):
        as_bgr(str(tmp_path / "none.png"))
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    path = save(tmp_path / "cut.png", noise)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError, match="the PIL image cannot be read"):
        as_bgr(Image.open(path))
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "23")
    with pytest.raises(ImageError, match=f"6x4 .*{MAX_PIXELS_VARIABLE}"):
        as_bgr(Image.fromarray(RGB))


def test_passing_paths_needs_no_pil(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    code = (
        "import sys; from upsnet_ros.datasets.images import as_bgr\n"
        f"assert as_bgr({str(path)!r}).shape == (4, 6, 3)\n"
        "try: as_bgr(3)\nexcept ValueError: sys.exit('PIL' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparency", [None, 0])
def test_labels_of_a_palette_are_its_indices(
    tmp_path: Path, bits: int, transparency: int | None
) -> None:
    indices = GRAY & ((1 << bits) - 1)
    image = Image.fromarray(indices, "P")
    image.putpalette(np.random.default_rng(0).bytes(3 << bits))
    kwargs = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", bits=bits, **kwargs)
    assert (tmp_path / "a.png").read_bytes()[24:26] == bytes([bits, 3])
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), indices)


def test_labels_of_16_bits_and_beside_an_alpha_channel(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), GRAY.astype(np.uint16) * 1000)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), GRAY.astype(int) * 1000)
    Image.fromarray(np.stack((GRAY, 255 - GRAY), axis=-1), "LA").save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "b.png"), GRAY)
    cv2.imwrite(str(tmp_path / "c.tiff"), GRAY.astype(np.float32))
    with pytest.raises(DatasetError, match=r"c\.tiff holds values of float32"):
        read_labels(tmp_path / "c.tiff")


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("ending", ["png", "bmp", "ppm", "jpg", "tif", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.4])
def test_a_file_cut_short_is_named(tmp_path: Path, read: Any, ending: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    path = save(tmp_path / f"a.{ending}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    if ending == "jpg" and share > 0.1:
        return  # OpenCV fills what is missing of a JPEG with gray
    with pytest.raises(DatasetError, match=rf"a\.{ending} (is not an image|has \d channels)"):
        read(path)


def test_what_is_not_a_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "text.png").write_text("an icon, perhaps")
    for name, message in {
        "none.png": "there is no file",
        "pipe.png": r"pipe\.png is not a file",
        "folder.png": "cannot read .*folder.png: Is a directory",
        "zero.png": r"zero\.png is not a file",
        "text.png": r"text\.png is not an image, or it is damaged: it is not a PNG, JPEG",
    }.items():
        with pytest.raises(DatasetError, match=message):
            read_image(tmp_path / name)


@pytest.mark.parametrize("read", [read_image, read_labels, read_segment_ids])
@pytest.mark.parametrize("data", [None, b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_names_of_others_do_nothing_to_the_terminal(
    tmp_path: Path, read: Any, data: bytes | None
) -> None:
    path = tmp_path / "\x1b[2J\n.png"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DatasetError) as info:
        read(path)
    assert str(info.value).isprintable()


def test_names_that_are_no_text_can_be_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    path = path.rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    assert read_image(image_files(tmp_path)[0]).shape == RGB.shape


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_small_files_of_huge_pictures_are_refused_before_they_are_decoded(
    tmp_path: Path, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = png(tmp_path / "a.png", bits=1, color=0, width=20_000, height=20_000)
    assert path.stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        DatasetError, match=rf"20000x20000 .* may have {MAX_PIXELS}: .*{MAX_PIXELS_VARIABLE}=4\d+"
    ):
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    small = save(tmp_path / "b.png", GRAY)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "23")
    with pytest.raises(DatasetError, match=rf"b\.png has 6x4 .* set {MAX_PIXELS_VARIABLE}=24"):
        read(small)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "24")
    assert read(small).shape[:2] == (4, 6)
    for text in ("0", "-1", "1e9", "many", "9" * 5000):
        monkeypatch.setenv(MAX_PIXELS_VARIABLE, text)
        with pytest.raises(SettingsError, match=f"{MAX_PIXELS_VARIABLE} is '"):
            read(small)


@pytest.mark.parametrize("ending", SAVED)
def test_every_kind_tells_its_size(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / f"a.{ending}", RGB)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "23")
    with pytest.raises(DatasetError, match="has 6x4 pixels"):
        read_image(path)


def test_reading_pictures_imports_no_torch() -> None:
    code = "import sys, upsnet_ros.datasets.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_tiff_directory_beyond_all_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    path.write_bytes(struct.pack("<4sHHQ", b"II+\0", 8, 0, 2**64 - 1))
    with pytest.raises(DatasetError, match=r"a\.tiff.*header is damaged"):
        read_image(path)
