"""Small pictures of a judged frame, for reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.maps import PanopticMap
from upsnet_ros.evaluation.measures import EvaluationFrame

#: Longest side, in pixels.
SIZE = 640
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 82]
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 6]  # 9 takes five times as long for 7 % fewer bytes

TRUTH_BIT, PREDICTION_BIT = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Files in memory, all of the same size.

    Attributes:
        name: The frame's.
        width: Pixels.
        height: Pixels.
        image: JPEG, or None where the frame came without its image.
        truth: PNG whose red and green are the low and high byte of 1 + place of the class (0 void),
            and whose blue is 255 along the outlines of segments.
        prediction: The same of the prediction.
        unknown: Gray PNG: `TRUTH_BIT` where an unknown object is, plus `PREDICTION_BIT` where
            pixels were called unknown; None where neither is told.
    """

    name: str
    width: int
    height: int
    image: bytes | None
    truth: bytes
    prediction: bytes
    unknown: bytes | None


def take_snapshot(frame: EvaluationFrame, categories: Categories) -> Snapshot:
    """Reduce a frame's pictures."""
    height, width = frame.truth.pixels.shape
    scale = min(1.0, SIZE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = None
    if frame.image is not None:
        image = _encoded(".jpg", cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA), _JPEG)
    return Snapshot(
        name=frame.name,
        width=size[0],
        height=size[1],
        image=image,
        truth=_encoded(".png", _class_image(frame.truth, size, categories), _PNG),
        prediction=_encoded(".png", _class_image(frame.prediction, size, categories), _PNG),
        unknown=_unknown(frame, size),
    )


def _class_image(
    side: PanopticMap, size: tuple[int, int], categories: Categories
) -> npt.NDArray[np.uint8]:
    """BGR, as OpenCV writes it."""
    ids = _reduced(side.pixels.astype(np.int32), size)
    order = np.argsort(side.segments.ids)
    known = side.segments.ids[order]
    ranks = categories.places(side.segments.classes)[order] + 1
    places = np.zeros(ids.shape, np.int64)
    if len(known):
        nearest = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        places = np.where(known[nearest] == ids, ranks[nearest], 0)
    outline = np.zeros(ids.shape, bool)
    outline[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    outline[1:] |= ids[1:] != ids[:-1]
    return np.stack((outline * 255, places >> 8, places & 255), axis=-1).astype(np.uint8)


def _unknown(frame: EvaluationFrame, size: tuple[int, int]) -> bytes | None:
    bits = np.zeros((size[1], size[0]), np.uint8)
    sides = ((frame.truth_unknown, TRUTH_BIT), (frame.prediction_unknown, PREDICTION_BIT))
    for mask, bit in sides:
        if mask is not None:
            bits |= _reduced(mask.astype(np.uint8), size) * np.uint8(bit)
    if frame.truth_unknown is None and frame.prediction_unknown is None:
        return None
    return _encoded(".png", bits, _PNG)


def _reduced(pixels: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    return cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST)


def _encoded(ending: str, pixels: npt.NDArray[Any], options: list[int]) -> bytes:
    encoded, data = cv2.imencode(ending, pixels, options)
    if not encoded:
        raise RuntimeError(f"cannot encode a {ending} picture of {pixels.shape}")
    return data.tobytes()
