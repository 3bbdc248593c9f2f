"""Small videos whose frames have any times: MJPEG in Matroska and QuickTime, written by hand.

OpenCV's writer knows constant frame rates only.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

SIZE = (64, 48)  # width, height


def frames(count: int) -> list[bytes]:
    """JPEGs of gray pictures, each a little brighter than the one before it."""
    width, height = SIZE
    pictures = (np.full((height, width, 3), 2 * index % 256, np.uint8) for index in range(count))
    return [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]


def matroska(
    path: Path,
    times_ms: Sequence[int],
    *,
    claims_hz: float | None = None,
    duration_ms: float | None = None,
    live: bool = False,
) -> None:
    """Writes a Matroska file (or WebM, by its name) with a frame at each time.

    Args:
        path: The file.
        times_ms: Of the frames, from 0, below 32 s.
        claims_hz: Frame rate that the track claims, as recorders in browsers do.
        duration_ms: Of the file; None: not told, so that nobody can estimate the number of frames.
        live: Leave the sizes of segment and cluster unknown.
    """
    width, height = SIZE
    video = _element(0xB0, _number(width)) + _element(0xBA, _number(height))
    track = _element(0xD7, b"\x01") + _element(0x73C5, b"\x01") + _element(0x83, b"\x01")
    track += _element(0x86, b"V_MJPEG") + _element(0xE0, video)
    if claims_hz:
        track += _element(0x23E383, _number(round(1e9 / claims_hz)))
    info = _element(0x2AD7B1, _number(1_000_000))
    if duration_ms is not None:
        info += _element(0x4489, struct.pack(">d", duration_ms))
    blocks = _element(0xE7, b"\x00")
    for time_ms, jpeg in zip(times_ms, frames(len(times_ms)), strict=True):
        blocks += _element(0xA3, struct.pack(">BhB", 0x81, time_ms, 0x80) + jpeg)
    body = _element(0x1549A966, info) + _element(0x1654AE6B, _element(0xAE, track))
    body += _element(0x1F43B675, blocks, live=live)
    head = _element(0x4282, b"matroska") + _element(0x4287, b"\x02") + _element(0x4285, b"\x02")
    path.write_bytes(_element(0x1A45DFA3, head) + _element(0x18538067, body, live=live))


def quicktime(path: Path, times_ms: Sequence[int], *, last_ms: int = 33) -> None:
    """Writes a QuickTime file with a frame at each time, the last of which lasts ``last_ms``."""
    width, height = SIZE
    pictures = frames(len(times_ms))
    steps = [b - a for a, b in zip(times_ms, [*times_ms[1:], times_ms[-1] + last_ms], strict=True)]
    duration = sum(steps)
    matrix = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    start = _box(b"ftyp", b"qt  " + bytes(4) + b"qt  ")
    data = _box(b"mdat", b"".join(pictures))
    entry = bytes(6) + b"\0\1" + bytes(16) + struct.pack(">2H", width, height)
    entry += struct.pack(">2I", 72 << 16, 72 << 16) + bytes(4) + b"\0\1" + bytes(32) + b"\0\x18"
    table = _full(b"stsd", _list(_box(b"jpeg", entry + b"\xff\xff")))
    table += _full(b"stts", _list(*(struct.pack(">2I", 1, step) for step in steps)))
    table += _full(b"stsc", _list(struct.pack(">3I", 1, len(pictures), 1)))
    sizes = struct.pack(f">2I{len(pictures)}I", 0, len(pictures), *map(len, pictures))
    table += _full(b"stsz", sizes) + _full(b"stco", _list(struct.pack(">I", len(start) + 8)))
    media = _full(b"vmhd", bytes(8)) + _box(
        b"dinf", _full(b"dref", _list(_box(b"url ", b"\0\0\0\1")))
    )
    media = (
        _full(b"mdhd", struct.pack(">4I4x", 0, 0, 1000, duration))
        + _full(b"hdlr", b"mhlrvide" + bytes(13))
        + _box(b"minf", media + _box(b"stbl", table))
    )
    track = struct.pack(">5I", 0, 0, 1, 0, duration) + bytes(16) + matrix
    track = _box(b"tkhd", b"\0\0\0\3" + track + struct.pack(">2I", width << 16, height << 16))
    movie = struct.pack(">4I2H", 0, 0, 1000, duration, 1, 256) + bytes(12) + matrix + bytes(24)
    movie = _full(b"mvhd", movie + b"\0\0\0\2")
    path.write_bytes(
        start + data + _box(b"moov", movie + _box(b"trak", track + _box(b"mdia", media)))
    )


def _element(number: int, content: bytes, *, live: bool = False) -> bytes:
    length = b"\x01" + b"\xff" * 7 if live else struct.pack(">Q", 1 << 56 | len(content))
    return _number(number) + length + content


def _number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def _full(kind: bytes, content: bytes) -> bytes:
    return _box(kind, bytes(4) + content)


def _list(*entries: bytes) -> bytes:
    return struct.pack(">I", len(entries)) + b"".join(entries)
