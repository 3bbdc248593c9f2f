"""Bags with all of an evaluation: a drawn street, its truth, and answers that are half right."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from upsnet_ros.bags.make import ScenesDrive
from upsnet_ros.bags.messages import IMAGE, LABEL_INFO, Messages
from upsnet_ros.bags.writer import BagWriter
from upsnet_ros.datasets.taxonomy import CITYSCAPES

SIZE = (64, 128)
_START_NS = 1_700_000_000 * 10**9


def write_result_bag(path: Path, street: int, *, frames: int = 2) -> Path:
    """A bag of ``frames`` frames of a street; the answers are the truth of the frame before."""
    drive = ScenesDrive(split="val", seed=5, sequences=1, first=street, frames=frames, size=SIZE)
    with BagWriter(path=path) as bag:
        messages = Messages(bag.types, "camera")
        info = messages.label_info(CITYSCAPES, _START_NS)
        bag.write("/ground_truth/label_info", info, _START_NS, LABEL_INFO)
        answer = None
        for frame in drive:
            assert frame.truth is not None
            assert frame.truth.unknown is not None
            stamp_ns = _START_NS + frame.time_ns
            masks = {
                "ground_truth": (frame.truth.labels, frame.truth.unknown),
                "panoptic": answer or (np.roll(frame.truth.labels, 5, axis=1), frame.truth.unknown),
            }
            image = messages.image(frame.image, "bgr8", stamp_ns)
            bag.write("/camera/image_raw", image, stamp_ns, IMAGE)
            for space, (labels, unknown) in masks.items():
                image = messages.image(labels, "16UC1", stamp_ns)
                bag.write(f"/{space}/labels", image, stamp_ns, IMAGE)
                image = messages.image(unknown * np.uint8(255), "mono8", stamp_ns)
                bag.write(f"/{space}/unknown_mask", image, stamp_ns, IMAGE)
            answer = masks["ground_truth"]
    return path
