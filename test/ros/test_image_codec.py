from __future__ import annotations

import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upsnet_ros.inference.preprocess import check_image
from upsnet_ros.kernels import camera
from upsnet_ros.ros import image_codec
from upsnet_ros.ros.image_codec import ImageError, check, read_pixels, to_bgr

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
    result = to_bgr(message(colour, "rgb16", padding=padding, big_endian=big_endian))
    np.testing.assert_array_equal(result, BGR)


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
        ({"encoding": "16UC1"}, "encoding '16UC1' is not known"),
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
        (b"GIF89a...", "is no JPEG or PNG: it begins with b'GIF8'"),
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


@given(st.integers(0, len(JPEG) - 1), st.binary(max_size=12), st.sampled_from([JPEG, PNG]))
def test_any_damage_to_a_file_gives_pixels_or_an_image_error(at, patch, data):
    try:
        pixels = to_bgr(compressed(data[:at] + patch + data[at + len(patch) :]))
    except ImageError:
        return
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
