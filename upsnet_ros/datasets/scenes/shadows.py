"""Shadows on the ground: of the sun, and the dark under vehicles whatever the weather."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.scenes.camera import Array
from upsnet_ros.datasets.scenes.markings import Mask, fill
from upsnet_ros.datasets.scenes.stage import Item, Stage

_LONGEST = 3.5  # a shadow's length over its object's height
_THIN = {"lamp", "mast", "sign", "signal", "bollard"}
_ROUND = np.linspace(0, 2 * np.pi, 12, endpoint=False)
_WHEELED = {"car", "truck", "bus", "train", "motorcycle", "motorcyclist", "bicycle", "cyclist"}


def sun_shadows(stage: Stage, items: Sequence[Item]) -> Mask:
    """How much of the sun is hidden from each pixel of the ground: uint8 (rows, columns)."""
    mask = np.zeros((stage.camera.rows, stage.camera.columns), np.uint8)
    if max(stage.weather.sun) <= 0:
        return mask
    sun = np.array(stage.sun)
    drift = -sun / sun[1]
    drift[1] = 0.0
    size = float(np.linalg.norm(drift))
    if size > _LONGEST:
        drift *= _LONGEST / size
    for item in items:
        if item.kind == "tree":
            _crown(stage, mask, item, drift)
        elif item.kind != "fence":
            foot = _footprint(stage, item)
            ring = np.vstack([foot, foot + drift * item.height])
            fill(mask, stage.camera.outline(_hull(ring)), 255)
    return np.asarray(cv2.GaussianBlur(mask, (5, 5), 1.1), np.uint8)


def _crown(stage: Stage, mask: Mask, item: Item, drift: Array) -> None:
    foot = stage.pose(item).origin
    side = np.array([0.12, 0.0, 0.0])
    top = foot + drift * item.height * 0.6
    fill(
        mask,
        stage.camera.outline(np.array([foot - side, foot + side, top + side, top - side])),
        255,
    )
    flat = np.stack([np.cos(_ROUND), np.zeros(12), np.sin(_ROUND)], axis=1)
    # A crown is made of a few heaps of leaves.
    for share, shift in ((0.36, (0.0, 0.0)), (0.26, (0.22, 0.1)), (0.26, (-0.2, 0.16))):
        middle = foot + drift * item.height * 0.65
        middle = middle + item.width * np.array([shift[0], 0.0, shift[1]])
        fill(mask, stage.camera.outline(flat * item.width * share + middle), 225)


def _footprint(stage: Stage, item: Item) -> Array:
    if item.kind in _THIN:
        return stage.pose(item).world(
            np.array([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1.0]]) * item.width / 2
        )
    if item.kind in ("house", "wall", "hedge"):
        s0, s1, d0, d1 = item.bounds
        return stage.path.place(np.array([s0, s1, s1, s0]), np.array([d0, d0, d1, d1]), np.zeros(4))
    half, long = item.width / 2, item.length / 2
    if item.kind == "person":
        half = long = 0.17
    elif item.kind in ("bicycle", "cyclist"):
        half = 0.12
    elif item.kind in ("motorcycle", "motorcyclist"):
        half = 0.22
    corners = np.array([[-half, 0, -long], [half, 0, -long], [half, 0, long], [-half, 0, long]])
    return stage.pose(item).world(corners)


def _hull(points: Array) -> Array:
    flat = points[:, [0, 2]].astype(np.float32)
    ring = cv2.convexHull(flat, returnPoints=True)[:, 0].astype(np.float64)
    return np.stack([ring[:, 0], np.zeros(len(ring)), ring[:, 1]], axis=1)


def contact_shadows(stage: Stage, items: Sequence[Item]) -> Mask:
    """How much of the sky is hidden from each pixel of the ground: uint8 (rows, columns)."""
    mask = np.zeros((stage.camera.rows, stage.camera.columns), np.uint8)
    for item in items:
        if item.kind in _WHEELED or item.kind in ("person", "oddity"):
            foot = _footprint(stage, item)
            middle = foot.mean(axis=0)
            grow = 1.06 if item.kind in _WHEELED else 1.3
            dark = 190 if item.kind in _WHEELED else 130
            fill(mask, stage.camera.outline(middle + (foot - middle) * grow), dark)
        elif item.kind in ("house", "wall", "hedge"):
            foot = _footprint(stage, item)
            middle = foot.mean(axis=0)
            edge = foot + (foot - middle) / np.linalg.norm(foot - middle, axis=1)[:, None] * 0.5
            fill(mask, stage.camera.outline(edge), 90)
    return np.asarray(cv2.GaussianBlur(mask, (7, 7), 2.0), np.uint8)


def in_shade(stage: Stage, mask: npt.NDArray[np.uint8], item: Item) -> bool:
    """Whether the ground where an item stands lies in the shadow of something else."""
    ahead = np.array([0.0, 0.0, -(item.length / 2 + 0.3)])
    uv, depth = stage.camera.project(stage.pose(item).origin[None] + ahead)
    (u, v), (distance,) = uv[0].tolist(), depth.tolist()
    if distance < 1 or not (0 <= u < mask.shape[1] - 1 and 0 <= v < mask.shape[0] - 1):
        return False
    return bool(mask[round(v), round(u)] > 128)
