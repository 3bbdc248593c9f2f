from __future__ import annotations

import array
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upsnet_ros.errors import ImageError
from upsnet_ros.inference.preprocess import check_image
from upsnet_ros.messages import images as image_codec
from upsnet_ros.messages.images import check, read_pixels, to_bgr
from upsnet_ros.ops import camera_input as camera

# Two rows of three colours, BGR: blue, green, red / white, black, a mixture.
BGR = np.array(
    [
        [[255, 0, 0], [0, 255, 0], [0, 0, 255]],
        [[255, 255, 255], [0, 0, 0], [10, 120, 200]],
    ],
    np.uint8,
)


def message(pixels, coding, *, padding=0, big_endian=False, **changes):
    """A sensor_msgs/Image by hand; ``pixels`` (rows, W, C) in the machine's byte order."""
    rows, width = pixels.shape[:2]
    wire = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    lines = wire.reshape(rows, -1).view(np.uint8)
    lines = np.pad(lines, ((0, 0), (0, padding)), constant_values=0xA5)
    fields = {
        "height": rows,
        "width": width,
        "encoding": coding,
        "is_bigendian": int(big_endian),
        "step": lines.shape[1],
        "data": array.array("B", lines.tobytes()),
    }
    return SimpleNamespace(**{**fields, **changes})


def compressed(data: bytes, image_format: str = "jpeg"):
    return SimpleNamespace(format=image_format, data=array.array("B", data))


def encode(extension: str, pixels) -> bytes:
    return cv2.imencode(extension, pixels)[1].tobytes()


ALPHA = np.full((2, 3, 1), 77, np.uint8)


@pytest.mark.parametrize("padding", [0, 1, 5, 64])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("bgr8", BGR),
        ("8UC3", BGR),
        ("rgb8", BGR[:, :, ::-1]),
        ("bgra8", np.concatenate([BGR, ALPHA], 2)),
        ("8UC4", np.concatenate([BGR, ALPHA], 2)),
        ("rgba8", np.concatenate([BGR[:, :, ::-1], ALPHA], 2)),
    ],
)
def test_colour_encodings(encoding, pixels, padding):
    result = to_bgr(message(pixels, encoding, padding=padding))
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, BGR)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_gray_goes_into_every_channel(encoding):
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4, 1) * 20
    result = to_bgr(message(gray, encoding, padding=3))
    np.testing.assert_array_equal(result, np.repeat(gray, 3, axis=2))


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 6])
def test_sixteen_bits_in_either_byte_order(big_endian, padding):
    values = np.array([[[0], [257], [258]], [[65535], [32768], [0x0102]]], np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    result = to_bgr(message(values, "mono16", padding=padding, big_endian=big_endian))
    np.testing.assert_array_equal(result, np.repeat(expected, 3, axis=2))
    colour = BGR[:, :, ::-1].astype(np.uint16) * 257
    for encoding, pixels in {
        "rgb16": colour,
        "16UC3": colour[:, :, ::-1],
        "16UC4": np.concatenate([colour[:, :, ::-1], ALPHA], 2),
    }.items():
        result = to_bgr(message(pixels, encoding, padding=padding, big_endian=big_endian))
        np.testing.assert_array_equal(result, BGR)


def test_sixteen_bits_go_to_the_nearest_of_256_levels():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    result = to_bgr(message(values, "mono16"))
    np.testing.assert_array_equal(result[:, :, :1], np.rint(values / 257))


def test_the_byte_order_flag_means_nothing_for_bytes():
    np.testing.assert_array_equal(to_bgr(message(BGR, "bgr8", big_endian=True)), BGR)
    swapped = message(BGR[:, :, ::-1], "rgb8", big_endian=True)
    np.testing.assert_array_equal(to_bgr(swapped), BGR)


# Which colour (index in BGR) each pattern has at even/odd rows and columns.
@pytest.mark.parametrize(
    ("encoding", "tile"),
    [
        ("bayer_rggb8", [[2, 1], [1, 0]]),
        ("bayer_bggr8", [[0, 1], [1, 2]]),
        ("bayer_gbrg8", [[1, 0], [2, 1]]),
        ("bayer_grbg8", [[1, 2], [0, 1]]),
    ],
)
@pytest.mark.parametrize("padding", [0, 7])
def test_bayer_mosaics_of_one_colour(encoding, tile, padding):
    colour = np.array([30, 90, 220], np.uint8)
    mosaic = np.tile(colour[np.array(tile)], (4, 5))[:, :, None]
    result = to_bgr(message(mosaic, encoding, padding=padding))
    np.testing.assert_array_equal(result, np.broadcast_to(colour, (8, 10, 3)))
    png = compressed(encode(".png", mosaic), f"{encoding}; png compressed ")
    np.testing.assert_array_equal(to_bgr(png), np.broadcast_to(colour, (8, 10, 3)))


# Full red in BT.601 studio range.
Y, U, V = 81, 90, 240
RED = np.array([0, 0, 255])


@pytest.mark.parametrize(
    ("encoding", "pair"),
    [
        ("yuv422", [[U, Y], [V, Y]]),
        ("uyvy", [[U, Y], [V, Y]]),
        ("yuv422_yuy2", [[Y, U], [Y, V]]),
        ("yuyv", [[Y, U], [Y, V]]),
    ],
)
@pytest.mark.parametrize("padding", [0, 3])
def test_yuv422(encoding, pair, padding):
    pixels = np.tile(np.array(pair, np.uint8), (3, 4, 1))
    result = to_bgr(message(pixels, encoding, padding=padding))
    assert result.shape == (3, 8, 3)
    assert np.abs(result.astype(int) - RED).max() <= 2


@pytest.mark.parametrize(("encoding", "chroma"), [("nv12", [U, V]), ("nv21", [V, U])])
@pytest.mark.parametrize("padding", [0, 3])
def test_two_planes(encoding, chroma, padding):
    planes = np.vstack([np.full((4, 6), Y), np.tile(chroma, (2, 3))]).astype(np.uint8)[:, :, None]
    result = to_bgr(message(planes, encoding, padding=padding, height=4))
    assert result.shape == (4, 6, 3)
    assert np.abs(result.astype(int) - RED).max() <= 2


def test_bgr8_is_a_view_of_the_message():
    msg = message(BGR, "bgr8")
    view = to_bgr(msg)
    msg.data[0] = 1
    assert view[0, 0, 0] == 1


EVERY = camera.BYTES_PER_PIXEL.__contains__


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    ("encoding", "short"),
    [(name, name) for name in camera.BYTES_PER_PIXEL]
    + [("8UC1", "mono8"), ("8UC3", "bgr8"), ("yuv422", "uyvy"), ("yuv422_yuy2", "yuyv")],
)
def test_the_cameras_own_bytes(encoding, short, padding):
    depth = camera.BYTES_PER_PIXEL[short]
    values = np.random.default_rng(0).integers(0, 256, (4, 6, depth), np.uint8)
    msg = message(values, encoding, padding=padding)
    pixels, own = read_pixels(msg, takes=EVERY)
    assert own == short
    check_image(pixels, own)
    np.testing.assert_array_equal(pixels, values if depth > 1 else values[:, :, 0])
    # What the network makes of them is what it would be given else.
    ours = camera.to_bgr(torch.from_numpy(pixels.copy()), own).numpy()
    if not encoding.startswith("bayer"):  # of which OpenCV interpolates the edges otherwise
        assert np.abs(ours.astype(int) - to_bgr(msg)).max() <= 1


@pytest.mark.parametrize(
    ("pixels", "encoding"),
    [
        (np.zeros((2, 3, 4), np.uint8), "bgra8"),
        (np.zeros((2, 3, 1), np.uint16), "mono16"),
        (np.zeros((1, 6, 1), np.uint8), "bayer_rggb8"),
    ],
)
def test_what_no_network_takes_is_made_bgr(pixels, encoding):
    converted, own = read_pixels(message(pixels, encoding), takes=EVERY)
    assert own == "bgr8"
    assert converted.shape == (*pixels.shape[:2], 3)


def test_a_reader_that_takes_none_of_it_gets_bgr():
    msg = message(BGR[:, :, ::-1], "rgb8")
    pixels, own = read_pixels(msg, takes="bgr8".__eq__)
    assert own == "bgr8"
    np.testing.assert_array_equal(pixels, BGR)
    packed = compressed(encode(".png", BGR), "rgb8; png compressed bgr8")
    np.testing.assert_array_equal(read_pixels(packed, takes=EVERY)[0], BGR)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "nonsense"])
def test_own_bytes_are_checked_like_any(encoding):
    with pytest.raises(ImageError):
        read_pixels(message(BGR, encoding, step=1), takes=EVERY)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_compressed_images(extension):
    smooth = cv2.resize(BGR, (48, 32), interpolation=cv2.INTER_LINEAR)
    result = to_bgr(compressed(encode(extension, smooth), f"bgr8; {extension[1:]} compressed bgr8"))
    assert result.shape == smooth.shape
    assert np.abs(result.astype(int) - smooth).mean() < (1 if extension == ".png" else 8)


# What image_transport's plugin hands to the codec: (encoding of the image, file ending, target in
# `format`, encoding of what is encoded). Colour is made bgr8. In ROS 2 all else is made mono8
# for JPEG, but for a mosaic with `jpeg_compress_bayer`; ROS 1 leaves it as it is.
def plugin_formats():
    for name, layout in image_codec._LAYOUTS.items():
        colour = name.startswith(("bgr", "rgb"))
        bits = layout.bits
        if colour:
            yield name, ".jpg", "bgr8", "bgr8"
            yield name, ".png", f"bgr{bits}", f"bgr{bits}"
            if "a" in name:
                yield name, ".png", f"bgra{bits}", f"bgra{bits}"
        else:
            yield name, ".jpg", "mono8", "mono8"
        if not colour and layout.channels == 1 and not layout.half_planes:
            yield name, ".png", "", name
            if bits == 8:
                yield name, ".jpg", "", name
        if name.startswith("bayer_") and bits == 8:
            yield name, ".jpg", name, name
        if layout.channels != 2 and not layout.half_planes:  # which OpenCV does not write
            yield name, ".tiff", "", name


CODECS = {".jpg": "jpeg", ".png": "png", ".tiff": "tiff"}


@pytest.mark.parametrize(("source", "extension", "target", "stored"), list(plugin_formats()))
def test_a_compressed_image_is_read_as_the_plugin_wrote_it(source, extension, target, stored):
    layout = image_codec._LAYOUTS[stored]
    dtype = np.uint16 if layout.bits == 16 else np.uint8
    values = np.random.default_rng(0).integers(
        0, np.iinfo(dtype).max, (6, 8, layout.channels), dtype
    )
    file = encode(extension, values)
    # JPEG loses something, so it counts what the file holds.
    values = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED).reshape(values.shape)
    expected = to_bgr(message(values, stored))
    for ending in ("", " "):
        image_format = f"{source}; {CODECS[extension]} compressed {target}{ending}"
        np.testing.assert_array_equal(to_bgr(compressed(file, image_format)), expected)


@pytest.mark.parametrize("source", ["bayer_rggb8", "bayer_gbrg16", "mono8", "yuv422"])
def test_what_became_gray_before_it_was_compressed_stays_gray(source):
    gray = np.random.default_rng(0).integers(0, 256, (6, 8), np.uint8)
    result = to_bgr(compressed(encode(".png", gray), f"{source}; jpeg compressed mono8"))
    np.testing.assert_array_equal(result, np.repeat(gray[:, :, None], 3, axis=2))


@pytest.mark.parametrize("extension", CODECS)
@pytest.mark.parametrize(
    "image_format", ["", "jpeg", "png", "tiff", "rgb8", "nonsense; a b c", ";"]
)
def test_a_format_that_says_nothing_is_a_picture(extension, image_format):
    for pixels in (BGR, BGR[:, :, 0], np.concatenate([BGR, ALPHA], 2)):
        if extension == ".jpg" and pixels.shape[2:] == (4,):
            continue
        file = encode(extension, pixels)
        values = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
        expected = np.repeat(values[:, :, None], 3, 2) if values.ndim == 2 else values[:, :, :3]
        np.testing.assert_array_equal(to_bgr(compressed(file, image_format)), expected)


def test_a_mosaic_has_one_channel():
    """A driver that names its sensor's encoding, but sends a colour JPEG, sends a picture."""
    file = encode(".png", BGR)
    np.testing.assert_array_equal(to_bgr(compressed(file, "bayer_rggb8; png compressed ")), BGR)


@pytest.mark.parametrize("source", ["16UC1", "32FC1"])
def test_a_compressed_depth_image_is_refused(source):
    file = encode(".png", np.zeros((4, 4), np.uint16))
    with pytest.raises(ImageError, match=f"{source}.* depth image"):
        check(compressed(file, f"{source}; png compressed "))


SMOOTH = cv2.resize(BGR, (160, 120), interpolation=cv2.INTER_LINEAR)
WHOLE = encode(".jpg", SMOOTH)


def after_segment(data: bytes, number: int) -> int:
    """Where so many segments behind the start of a JPEG end."""
    at = 2
    for _ in range(number):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


@pytest.mark.parametrize("padding", [b"\x00", b"\xff"])
@pytest.mark.parametrize("size", [2, 64, 5000])
@pytest.mark.parametrize("flat", [False, True])
def test_a_padded_jpeg_without_end_marker(padding, size, flat, capfd):
    file = encode(".jpg", SMOOTH * (not flat))
    result = to_bgr(compressed(file[:-2] + padding * size))
    np.testing.assert_array_equal(result, to_bgr(compressed(file)))
    assert capfd.readouterr().err == "", "a line for each frame"


@pytest.mark.parametrize("padding", [b"\x00", b"\xff"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_padded_jpeg_that_lacks_pixels_is_refused(padding, kept):
    cut = WHOLE[: int(kept * len(WHOLE))]
    with pytest.raises(ImageError, match=r"JPEG is cut off|damaged"):
        to_bgr(compressed(cut + padding * 100_000))


@pytest.mark.parametrize("stray", [b"\x00", b"\x00\x01\x02", b"\xff\x00", b"\xff\xff\xff"])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]])
def test_bytes_between_the_header_segments_of_a_jpeg_do_not_matter(stray, number, options, capfd):
    file = cv2.imencode(".jpg", SMOOTH, options)[1].tobytes()
    at = after_segment(file, number)
    result = to_bgr(compressed(file[:at] + stray + file[at:]))
    np.testing.assert_array_equal(result, to_bgr(compressed(file)))
    assert capfd.readouterr().err == "", "a line for each frame"


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    file = cv2.imencode(".jpg", SMOOTH, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = file.rindex(b"\xff\xda")
    return file[:last] + file[last:-2] * (count - file.count(b"\xff\xda") + 1) + file[-2:]


def test_the_limit_of_pixels_is_the_users(monkeypatch):
    monkeypatch.setenv("UPSNET_MAX_PIXELS", "6")
    check(message(BGR, "bgr8"))
    for msg in (message(np.zeros((2, 4, 3), np.uint8), "bgr8"), compressed(WHOLE)):
        with pytest.raises(ImageError, match=r"more than the 6 allowed.*UPSNET_MAX_PIXELS"):
            check(msg)
    monkeypatch.setenv("UPSNET_MAX_PIXELS", "many")
    with pytest.raises(ImageError, match="UPSNET_MAX_PIXELS is 'many'"):
        check(message(BGR, "bgr8"))


def test_the_scans_of_a_jpeg_are_limited():
    check(compressed(with_scans(32)))
    for count in (33, 300):
        with pytest.raises(ImageError, match=f"has {count} scans, more than the 32 allowed"):
            check(compressed(with_scans(count)))


def tiff_tags(*entries: tuple[int, int, int], order: str = "<") -> bytes:
    """The header of a TIFF of these tags, each (number, type, value)."""
    start = b"II*\x00" if order == "<" else b"MM\x00*"
    tags = b"".join(
        struct.pack(f"{order}HHI", number, kind, 1)
        + struct.pack(order + ("H2x" if kind == 3 else "I"), value)
        for number, kind, value in entries
    )
    return start + struct.pack(f"{order}IH", 8, len(entries)) + tags + bytes(400)


EIGHT_BITS = (258, 3, 8)
SIZE = ((256, 3, 8), (257, 3, 8), EIGHT_BITS)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ([EIGHT_BITS], "empty: 0x0"),
        ([(256, 4, 65535), (257, 4, 65535), EIGHT_BITS], "65535x65535 pixels are more"),
        ([(256, 4, 8000), (257, 4, 8000), EIGHT_BITS], "cannot hold the 8000x8000 pixels"),
        ([*SIZE, (256, 4, 2**31)], "header is damaged"),  # whose width counts?
        ([(256, 16, 8), (257, 3, 8)], "header is damaged"),
        ([*SIZE[:2], (258, 3, 32)], "bits is 32; 8, 16 can be read"),
        ([*SIZE[:2], (258, 3, 1)], "bits is 1"),
        ([*SIZE, (259, 3, 7)], "compression is 7"),  # JPEG within
        ([*SIZE, (259, 3, 4)], "compression is 4"),  # fax
        ([*SIZE, (262, 3, 3)], "photometric is 3"),  # palette
        ([*SIZE, (277, 3, 200)], "channels is 200"),
        ([*SIZE, (284, 3, 2)], "planes is 2"),
        ([*SIZE, (339, 3, 3)], "sample_format is 3"),
        ([*SIZE, (322, 4, 2**24), (323, 4, 2**24)], "tiles are larger"),
    ],
)
def test_a_tiff_of_another_kind_is_refused(tags, order, says):
    with pytest.raises(ImageError, match=says):
        check(compressed(tiff_tags(*tags, order=order)))


TIFF = encode(".tiff", np.zeros((40, 60, 3), np.uint8))


@pytest.mark.parametrize("cut", [4, 8, 20, len(TIFF) // 2, len(TIFF) - 1])
def test_a_tiff_that_is_cut_off_is_refused(cut):
    with pytest.raises(ImageError, match=r"TIFF|cannot be decoded"):
        to_bgr(compressed(TIFF[:cut]))


def test_bytes_after_the_end_of_a_jpeg_do_not_matter():
    data = encode(".jpg", BGR)
    np.testing.assert_array_equal(to_bgr(compressed(data + bytes(100))), to_bgr(compressed(data)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": array.array("B")}, "data holds 0 bytes"),
        ({"width": 0}, "empty: 0x2"),
        ({"height": 0}, "empty: 3x0"),
        ({"data": array.array("B", bytes(17))}, "data holds 17 bytes, step and height ask for 18"),
        ({"data": array.array("B", bytes(19))}, "data holds 19 bytes, step and height ask for 18"),
        ({"step": 8}, "step 8 is smaller than a row's 9 bytes"),
        ({"step": 0}, "step 0 is smaller"),
        ({"encoding": "rgb9"}, "encoding 'rgb9' is not known; known are mono8"),
        ({"encoding": ""}, "encoding '' is not known"),
        ({"encoding": "32FC3"}, "encoding '32FC3' is not known"),
        ({"encoding": "16UC1"}, "encoding '16UC1' is for depth images"),
        ({"width": 65536, "height": 65536, "step": 196608}, "65536x65536 pixels are more than"),
        ({"width": 2**32 - 1, "height": 1, "step": 2**32 - 1}, "more than"),
        ({"encoding": "yuv422"}, "3x2 pixels cannot be yuv422: odd size"),
        ({"encoding": "nv12", "width": 4, "height": 1}, "cannot be nv12: odd size"),
    ],
)
def test_malformed_images_are_refused(changes, says):
    msg = message(BGR, "rgb8", **changes)
    with pytest.raises(ImageError, match=says):
        check(msg)
    with pytest.raises(ImageError):
        to_bgr(msg)


JPEG = encode(".jpg", np.zeros((40, 60, 3), np.uint8))
PNG = encode(".png", np.zeros((40, 60, 3), np.uint8))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"GIF89a...", "is not a JPEG, PNG or TIFF: it begins with b'GIF8'"),
        (JPEG[:-2], "the JPEG is cut off"),
        (JPEG[: len(JPEG) // 2], "the JPEG"),
        (JPEG[:5], "header is damaged"),
        (PNG[:-1], "the PNG is cut off"),
        (PNG[:20], "header is damaged or cut off"),
        (PNG[:30], "the PNG is cut off"),
        (PNG[:9], "the PNG's header is damaged"),
        (PNG[:16] + b"\x00\x00\xff\xff\x00\x00\xff\xff" + PNG[24:], "65535x65535 pixels are more"),
        (PNG[:16] + b"\x00\x00\x20\x00" * 2 + PNG[24:], "cannot hold the 8192x8192 pixels"),
        (PNG[:16] + bytes(8) + PNG[24:], "empty: 0x0"),
        (PNG[:33] + b"\x7f\xff\xff\xf0" + PNG[37:], "cut off after .* or damaged"),
        (PNG[:40] + bytes(30) + PNG[-12:], "damaged"),
    ],
)
def test_malformed_compressed_images_are_refused(data, says):
    with pytest.raises(ImageError, match=says):
        to_bgr(compressed(data))


@pytest.mark.parametrize(
    ("extension", "options"),
    [
        (".png", [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 9]),
        (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1]),
        (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    ],
)
def test_the_smallest_files_of_large_pictures_are_read(extension, options):
    black = np.zeros((4000, 6000), np.uint8)
    data = cv2.imencode(extension, black, options)[1].tobytes()
    assert len(data) < 100_000
    assert to_bgr(compressed(data)).shape == (4000, 6000, 3)


@given(
    encoding=st.sampled_from([*image_codec._LAYOUTS, "32FC1", ""]),
    width=st.integers(0, 9) | st.integers(0, 2**32 - 1),
    height=st.integers(0, 9) | st.integers(0, 2**32 - 1),
    step=st.integers(0, 40) | st.integers(0, 2**32 - 1),
    big_endian=st.booleans(),
    data=st.data(),
)
def test_any_header_gives_pixels_or_an_image_error(encoding, width, height, step, big_endian, data):
    size = step * height
    exact = size if size < 2000 else 0
    length = data.draw(st.sampled_from([exact, exact * 3 // 2]) | st.integers(0, 400))
    msg = SimpleNamespace(
        encoding=encoding,
        width=width,
        height=height,
        step=step,
        is_bigendian=int(big_endian),
        data=array.array("B", bytes(length)),
    )
    try:
        pixels = to_bgr(msg)
    except ImageError:
        return
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8


@given(st.integers(0, 1000), st.binary(max_size=12), st.sampled_from([JPEG, PNG, TIFF]))
def test_any_damage_to_a_file_gives_pixels_or_an_image_error(at, patch, data):
    try:
        pixels = to_bgr(compressed(data[:at] + patch + data[at + len(patch) :]))
    except ImageError:
        return
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
