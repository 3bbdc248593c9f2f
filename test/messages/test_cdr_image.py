"""Reading and writing serialised images, beside rclpy, which defines what is right."""

from __future__ import annotations

import array
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from upsnet_ros.errors import ImageError
from upsnet_ros.messages.cdr_image import (
    ReadCompressedImage,
    ReadImage,
    read_compressed_image,
    read_image,
    write_image,
)
from upsnet_ros.messages.images import check, to_bgr
from upsnet_ros.messages.results import image_message

U32 = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
BYTES = st.binary(max_size=40)


@st.composite
def headers(draw):
    header = Header(frame_id=draw(TEXT))
    header.stamp.sec, header.stamp.nanosec = draw(st.integers(-(2**31), 2**31 - 1)), draw(U32)
    return header


@st.composite
def images(draw):
    return Image(
        header=draw(headers()),
        height=draw(U32),
        width=draw(U32),
        encoding=draw(TEXT),
        is_bigendian=draw(st.integers(0, 255)),
        step=draw(U32),
        data=array.array("B", draw(BYTES)),
    )


@st.composite
def compressed_images(draw):
    data = array.array("B", draw(BYTES))
    return CompressedImage(header=draw(headers()), format=draw(TEXT), data=data)


def as_message(read):
    """What was read, as a message to compare."""
    values = {name: getattr(read, name) for name in read.__slots__}
    kind = Image if isinstance(read, ReadImage) else CompressedImage
    return kind(**{**values, "data": array.array("B", values["data"])})


@given(images())
def test_an_image_is_read_as_rclpy_reads_it(msg):
    serialized = serialize_message(msg)
    read = read_image(serialized)
    assert isinstance(read, ReadImage)
    assert as_message(read) == deserialize_message(serialized, Image)


@given(compressed_images())
def test_a_compressed_image_is_read_as_rclpy_reads_it(msg):
    serialized = serialize_message(msg)
    read = read_compressed_image(serialized)
    assert isinstance(read, ReadCompressedImage)
    assert as_message(read) == deserialize_message(serialized, CompressedImage)


def big_endian(msg):
    """The image as a machine of the other byte order would send it; by hand, as no rclpy does."""
    body = bytearray()

    def unsigned(value):
        body.extend(bytes(-len(body) % 4))
        body.extend(struct.pack(">I", value))

    def text(value):
        unsigned(len(value.encode()) + 1)
        body.extend(value.encode() + b"\0")

    body.extend(struct.pack(">i", msg.header.stamp.sec))
    unsigned(msg.header.stamp.nanosec)
    text(msg.header.frame_id)
    unsigned(msg.height)
    unsigned(msg.width)
    text(msg.encoding)
    body.append(msg.is_bigendian)
    unsigned(msg.step)
    unsigned(len(msg.data))
    return b"\0\0\0\0" + body + msg.data.tobytes()


def example():
    header = Header(frame_id="eye/left")
    header.stamp.sec, header.stamp.nanosec = -5, 123_456_789
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    return image_message(pixels, "rgb8", header), pixels


def test_the_other_byte_order():
    msg, _ = example()
    assert as_message(read_image(big_endian(msg))) == msg


@pytest.mark.parametrize("read", [read_image, read_compressed_image])
def test_whatever_is_cut_off_is_refused(read):
    msg, _ = example()
    if read is read_compressed_image:
        msg = CompressedImage(header=msg.header, format="jpeg", data=msg.data)
    serialized = serialize_message(msg)
    kind = type(msg)
    for length in range(len(serialized)):
        with pytest.raises(ImageError, match=r"cut off|cannot be read"):
            read(serialized[:length])
        with pytest.raises(RuntimeError):
            deserialize_message(serialized[:length], kind)
    assert as_message(read(serialized + b"behind")) == msg


@settings(max_examples=300)
@given(images(), st.data())
def test_a_damaged_message_is_read_as_rclpy_reads_it_or_refused(msg, data):
    damaged = bytearray(serialize_message(msg))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] = data.draw(st.integers(0, 255))
    try:
        wanted = deserialize_message(bytes(damaged), Image)
    except RuntimeError:
        wanted = None
    try:
        read = read_image(bytes(damaged))
    except ImageError:
        read = None
    if damaged[1] != 0:  # big endian: what rclpy makes of that is not defined
        assert (read is None) == (wanted is None)
        if read is not None:
            assert (as_message(read) if isinstance(read, ReadImage) else read) == wanted


@pytest.mark.parametrize("begins", [b"\x00\x03\x00\x00", b"\x00\x07\x00\x00"])
def test_other_encapsulations_are_left_to_rclpy(begins):
    msg, _ = example()
    serialized = begins + serialize_message(msg)[4:]
    try:
        wanted = deserialize_message(serialized, Image)
    except RuntimeError:
        with pytest.raises(ImageError, match=rf"begins with \[{begins.hex(' ')}\] cannot be read"):
            read_image(serialized)
    else:
        assert read_image(serialized) == wanted


def test_pixels_are_the_messages_own_bytes():
    msg, pixels = example()
    msg.encoding = "bgr8"
    serialized = serialize_message(msg)
    read = read_image(serialized)
    check(read)
    bgr = to_bgr(read)
    np.testing.assert_array_equal(bgr, pixels)
    assert np.shares_memory(bgr, np.frombuffer(serialized, np.uint8))


@pytest.mark.parametrize("frame_id", ["", "a", "ab", "abc", "abcd", "käfer", "cut\0off"])
@pytest.mark.parametrize(
    ("encoding", "dtype", "shape"),
    [
        ("mono8", np.uint8, (3, 5)),
        ("rgb8", np.uint8, (2, 3, 3)),
        ("16UC1", np.uint16, (4, 1)),
        ("32SC1", np.int32, (1, 7)),
    ],
)
def test_an_image_is_written_byte_for_byte_as_rclpy_writes_it(frame_id, encoding, dtype, shape):
    header = Header(frame_id=frame_id)
    header.stamp.sec, header.stamp.nanosec = -7, 999_999_999
    pixels = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
    # Every second column: not contiguous, as a picture cut out of a larger one.
    for one in (pixels, np.repeat(pixels, 2, axis=1)[:, ::2]):
        written = write_image(one, encoding, header)
        wanted = bytearray(serialize_message(image_message(one, encoding, header)))
        for gap in gaps(wanted):
            wanted[gap] = 0  # rclpy leaves there what it finds
        assert written == wanted


def gaps(serialized):
    """Where an image's bytes are that only align what follows."""
    at = 12
    for after in (8, 1):  # height and width behind frame_id; is_bigendian behind encoding
        at = at + 4 + struct.unpack_from("<I", serialized, at)[0] if after == 8 else at
        yield from range(at, at + -at % 4)
        at += -at % 4 + 8 if after == 8 else 0
    at = at + 4 + struct.unpack_from("<I", serialized, at)[0] + 1
    yield from range(at, at + -at % 4)


def test_pixels_of_another_type_are_not_written():
    with pytest.raises(TypeError, match=r"16UC1 .*uint16, not int64"):
        write_image(np.zeros((2, 2), np.int64), "16UC1", Header())
