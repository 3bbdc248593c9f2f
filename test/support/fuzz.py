"""Camera messages that may be anything, drawn by hypothesis."""

from __future__ import annotations

import array
import functools
import itertools

import cv2
import numpy as np
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from upsnet_ros.messages.images import _LAYOUTS

_UINT32 = st.sampled_from([0, 1, 2, 255, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1])
_LENGTHS = st.one_of(st.integers(0, 24), st.integers(0, 24), _UINT32)
_ENCODINGS = st.one_of(
    st.sampled_from([*_LAYOUTS]),
    st.sampled_from([*_LAYOUTS]),
    st.sampled_from(
        ["", "32FC1", "64FC3", "16UC1", "8UC2", "rgb8 ", "RGB8", "bayer_rggb12", "x" * 999]
    ),
    st.text(max_size=8).filter(lambda text: "\x00" not in text),
)
_CODECS = st.sampled_from(["jpeg", "png", "tiff", ""])
_TARGETS = st.one_of(st.sampled_from(["", "bgr8", "mono8", "bayer_rggb8"]), _ENCODINGS)
_SECONDS = st.one_of(st.integers(0, 100), st.sampled_from([-(2**31), -1, 2**31 - 1]))


@st.composite
def _headers(draw, msg):
    msg.header.stamp.sec = draw(_SECONDS)
    msg.header.stamp.nanosec = draw(_UINT32)
    msg.header.frame_id = draw(st.sampled_from(["", "camera", "../../etc/passwd", "é\n" * 20]))
    return msg


def _noise(seed: int, size: int) -> array.array:
    return array.array("B", np.random.default_rng(seed).bytes(size))


@st.composite
def images(draw):
    """A sensor_msgs/Image, whole or with fields that do not fit each other."""
    encoding, width, height = draw(_ENCODINGS), draw(_LENGTHS), draw(_LENGTHS)
    layout = _LAYOUTS.get(encoding)
    row = width * (layout.channels * layout.bits // 8 if layout else 1)
    step = draw(st.one_of(st.just(row), st.just(row + 3), st.just(max(row - 1, 0)), _UINT32))
    step = min(step, 2**32 - 1)
    rows = height + height * (layout.half_planes if layout else 0) // 2
    fitting = min(step * rows, 4096)
    size = draw(st.one_of(st.just(fitting), st.just(fitting), st.integers(0, fitting + 9)))
    msg = Image(
        height=height,
        width=width,
        encoding=encoding,
        step=step,
        is_bigendian=draw(st.sampled_from([0, 1, 255])),
        data=_noise(draw(st.integers(0, 99)), size),
    )
    return draw(_headers(msg))


@functools.cache
def _files() -> tuple[bytes, ...]:
    """JPEGs, PNGs and TIFFs of several kinds."""
    noise = np.random.default_rng(0)
    colour = noise.integers(0, 256, (13, 21, 3), np.uint8)
    deep = noise.integers(0, 65536, (9, 8, 3), np.uint16)
    alpha = noise.integers(0, 256, (9, 8, 4), np.uint8)
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 1]
    drawn = [(".jpg", colour, []), (".jpg", colour, progressive), (".jpg", colour[:, :, 0], [])]
    drawn += [(".png", colour, []), (".png", deep, []), (".png", alpha, [])]
    drawn += [(".png", colour[:, :, 0] // 128 * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])]
    drawn += [
        (".tiff", pixels, [cv2.IMWRITE_TIFF_COMPRESSION, codec])
        for pixels, codec in itertools.product((colour, colour[:, :, 0], deep, alpha), (1, 5, 8))
    ]
    files = [cv2.imencode(*one)[1].tobytes() for one in drawn]
    # Without its end marker, padded, as cameras send it; and with bytes between its segments.
    files += [files[0][:-2] + bytes(40), files[0][:20] + b"\x00\x01" + files[0][20:]]
    return tuple(files)


@st.composite
def compressed_images(draw):
    """A sensor_msgs/CompressedImage, of a JPEG, PNG or TIFF, whole or damaged."""
    source, codec, target = draw(_ENCODINGS), draw(_CODECS), draw(_TARGETS)
    msg = CompressedImage(
        format=draw(st.sampled_from([f"{source}; {codec} compressed {target}", codec, source])),
        data=array.array("B", draw(damaged(draw(st.sampled_from(_files()))))),
    )
    return draw(_headers(msg))


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """The bytes, changed in up to three places: cut, flipped, overwritten, repeated."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["cut", "flip", "extreme", "insert"])):
            case "cut":
                del data[at:]
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "extreme":
                data[at : at + 4] = draw(_UINT32).to_bytes(4, "little")
            case "insert":
                data[at:at] = _noise(at, draw(st.integers(1, 16))).tobytes()
    return bytes(data)


@st.composite
def wires(draw, messages):
    """A message, its bytes, and those bytes damaged, or not."""
    msg = draw(messages)
    wire = serialize_message(msg)
    return msg, wire, draw(damaged(wire))
