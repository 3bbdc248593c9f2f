"""Malformed images reach the node: each is told with its cause, and the next is answered."""

from __future__ import annotations

import array
import itertools
import struct
import tracemalloc
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from faults import fault
from node_bench import Bench, image
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from upsnet_ros.errors import ImageError
from upsnet_ros.messages.images import to_bgr

HUGE = 65535
_STAMPS = itertools.count(1)


def raw(**changes):
    """A good image of 64x48 pixels in rgb8, but for the changes; ``data`` as bytes."""
    msg = image(next(_STAMPS) * 1_000_000_000)
    for name, value in changes.items():
        setattr(msg, name, array.array("B", value) if isinstance(value, bytes) else value)
    return msg


def compressed(data: bytes):
    msg = CompressedImage(format="jpeg", data=array.array("B", data))
    msg.header.stamp.sec = next(_STAMPS)
    return msg


def encoded(extension: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    return cv2.imencode(extension, pixels)[1].tobytes()


def png_that_claims(width: int, height: int) -> bytes:
    png = cv2.imencode(".png", np.zeros((48, 64), np.uint8))[1].tobytes()
    return png[:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + png[24:]


def jpeg_that_claims(width: int, height: int) -> bytes:
    jpeg = encoded(".jpg")
    frame = jpeg.index(b"\xff\xc0")
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return jpeg[: frame + 5] + size + jpeg[frame + 9 :]


def jpeg_of_scans(count: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * count + jpeg[-2:]


def tiff_that_claims(width: int, height: int) -> bytes:
    tags = (256, 4, 1, width), (257, 4, 1, height), (258, 4, 1, 8)
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return struct.pack("<4sIH", b"II*\x00", 8, len(tags)) + entries + bytes(400)


FULL = 3 * 64 * 48
NAN = np.full((48, 64), np.nan, np.float32).tobytes()
RAW = {
    "nothing in it": (lambda: Image(), "encoding '' is not known"),
    "width 0": (lambda: raw(width=0), "the image is empty: 0x48 pixels"),
    "height 0": (lambda: raw(height=0, data=b""), "the image is empty: 64x0 pixels"),
    "no data": (lambda: raw(data=b""), f"data holds 0 bytes, step and height ask for {FULL}"),
    "a byte too few": (lambda: raw(data=bytes(FULL - 1)), f"data holds {FULL - 1} bytes"),
    "a byte too many": (lambda: raw(data=bytes(FULL + 1)), f"data holds {FULL + 1} bytes"),
    "step too small": (lambda: raw(step=191), "step 191 is smaller than a row's 192 bytes"),
    "step 0": (lambda: raw(step=0), "step 0 is smaller"),
    "unknown encoding": (lambda: raw(encoding="rgb7"), "encoding 'rgb7' is not known"),
    "64k x 64k, no data": (
        lambda: raw(width=HUGE, height=HUGE, step=3 * HUGE, data=b""),
        "65535x65535 pixels are more than",
    ),
    "8k x 8k, no data": (
        lambda: raw(width=8192, height=8192, step=3 * 8192, data=b""),
        "data holds 0 bytes",
    ),
    "8 bits called 16": (lambda: raw(encoding="rgb16"), "step 192 is smaller than a row's 384"),
    "16 bits called 8": (lambda: raw(data=bytes(2 * FULL)), f"data holds {2 * FULL} bytes"),
    "NaN in 32FC1": (
        lambda: raw(encoding="32FC1", step=256, data=NAN),
        "encoding '32FC1' is for depth images",
    ),
    "odd nv12": (lambda: raw(encoding="nv12", width=63), "odd size"),
    "a message cut off": (lambda: serialize_message(raw())[:5000], "the message is cut off"),
    "no message": (lambda: b"\x00\x01\x00\x00" + bytes(range(256)), "the message is cut off"),
}
COMPRESSED = {
    "empty": (b"", "the compressed image is empty"),
    "JPEG cut off in its pixels": (encoded(".jpg")[:1500], "the JPEG is cut off"),
    "JPEG cut off in its header": (encoded(".jpg")[:40], "the JPEG's header is damaged"),
    "PNG cut off in its pixels": (encoded(".png")[:5000], "the PNG is cut off"),
    "PNG cut off in its header": (encoded(".png")[:10], "the PNG's header is damaged"),
    "neither": (b"GIF89a" + bytes(100), "not a JPEG, PNG or TIFF"),
    "PNG of 64k x 64k": (png_that_claims(HUGE, HUGE), "65535x65535 pixels are more than"),
    "JPEG of 64k x 64k": (jpeg_that_claims(HUGE, HUGE), "65535x65535 pixels are more than"),
    "PNG of 8k x 8k in a few bytes": (png_that_claims(8192, 8192), "cannot hold the 8192x8192"),
    "JPEG of 8k x 8k in a few bytes": (jpeg_that_claims(8192, 8192), "cannot hold the 8192x8192"),
    "TIFF cut off": (encoded(".tiff")[:5000], "the TIFF's header is damaged"),
    "TIFF of 64k x 64k": (tiff_that_claims(HUGE, HUGE), "65535x65535 pixels are more than"),
    "JPEG of 300 scans": (jpeg_of_scans(300), "scans, more than the"),
    "PNG whose pixels are damaged": (
        encoded(".png")[:60] + bytes(2000) + encoded(".png")[2060:],
        "cannot be decoded",
    ),
}


@pytest.fixture(scope="module")
def bench(domain):
    bench = Bench(
        domain, "cameras:=[plain, packed]", "packed.image_transport:=compressed", namespace="faulty"
    )
    assert bench.node.start()
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def plain(bench):
    return bench.camera("plain/image"), bench.collect("plain/labels")


@pytest.fixture(scope="module")
def packed(bench):
    camera = bench.camera("packed/image/compressed", message=CompressedImage)
    return camera, bench.collect("packed/labels")


def status(bench, camera):
    found = [one for one in bench.statuses() if one.name.endswith(f": {camera}")]
    return found[-1] if found else DiagnosticStatus()


def is_told_and_lived_through(bench, name, ends, *, bad, good, cause):
    """Sends what is bad until diagnostics tell so, then what is good until it is answered."""
    camera, labels = ends
    bench.until(
        lambda: cause in status(bench, name).message,
        f"the cause {cause!r} in diagnostics",
        again=lambda: camera.publish(bad()),
    )
    told = status(bench, name)
    assert told.message.startswith("rejected: ")
    assert told.level == DiagnosticStatus.ERROR
    shown = []

    def show():
        shown.append(good())
        camera.publish(shown[-1])

    bench.until(
        lambda: {one.header.stamp.sec for one in labels} & {one.header.stamp.sec for one in shown},
        "an answer to the next good frame",
        again=show,
    )
    assert bench.node.state == "active"
    bench.until(lambda: status(bench, name).message.startswith("active"), "all well again")


@fault(
    "An image whose fields do not fit each other, of an encoding that is not known, or whose"
    " message is cut off",
    often="{cases} kinds",
    happens="It is rejected with its cause in the log and in diagnostics at level ERROR; the next"
    " good frame is answered",
)
@pytest.mark.dds
@pytest.mark.parametrize("kind", RAW)
def test_a_malformed_image(bench, plain, kind):
    bad, cause = RAW[kind]
    is_told_and_lived_through(bench, "plain", plain, bad=bad, good=raw, cause=cause)


@fault(
    "A JPEG, PNG or TIFF that is cut off, damaged, empty, of too many scans, or claims"
    " 65535 x 65535 pixels",
    often="{cases} kinds",
    happens="As above",
)
@pytest.mark.dds
@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_malformed_compressed_image(bench, packed, kind):
    data, cause = COMPRESSED[kind]
    is_told_and_lived_through(
        bench,
        "packed",
        packed,
        bad=lambda: compressed(data),
        good=lambda: compressed(encoded(".jpg")),
        cause=cause,
    )


@fault(
    "A header that claims far more pixels than were sent",
    often="{cases} kinds",
    happens="Refused before anything is made of its size: less than 1 MiB is allocated",
)
@pytest.mark.parametrize(
    "msg",
    [
        raw(width=HUGE, height=HUGE, step=3 * HUGE, data=b""),
        raw(width=8192, height=8192, step=3 * 8192, data=b""),
        raw(width=2**32 - 1, height=2**32 - 1, step=2**32 - 1, data=b""),
        SimpleNamespace(format="png", data=png_that_claims(HUGE, HUGE)),
        SimpleNamespace(format="jpeg", data=jpeg_that_claims(HUGE, HUGE)),
        SimpleNamespace(format="tiff", data=tiff_that_claims(HUGE, HUGE)),
    ],
    ids=["64k", "8k", "4G", "png", "jpeg", "tiff"],
)
def test_what_is_claimed_is_not_allocated(msg):
    tracemalloc.start()
    try:
        with pytest.raises(ImageError):
            to_bgr(msg)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
