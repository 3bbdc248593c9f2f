"""A tiny labelled folder, and settings that train on it in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

#: Values of the label maps: 0 sky, 1 road, 2 car, 3 person, 4 void.
CLASSES = {0: "sky", 1: "road", 2: "car", 3: "person", 4: None}


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Return a folder with ``images`` and ``labels``: sky, road, cars, persons, a void strip."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / "frames" / name).mkdir(parents=True)
    for index in range(6):
        labels = np.zeros((64, 96), np.uint8)
        labels[30:] = 1
        for value in (2, 3, 2):
            x, y = int(rng.integers(2, 70)), int(rng.integers(20, 38))
            labels[y : y + 20, x : x + (24 if value == 2 else 8)] = value
        labels[62:] = 4
        colours = np.array([[230, 160, 90], [90, 90, 90], [30, 30, 200], [60, 200, 60], [0, 0, 0]])
        image = colours[labels] + rng.normal(0, 12, (64, 96, 3))
        path = tmp_path / "frames"
        cv2.imwrite(str(path / "images" / f"{index}.png"), image.clip(0, 255).astype(np.uint8))
        cv2.imwrite(str(path / "labels" / f"{index}.png"), labels)
    return tmp_path / "frames"


@pytest.fixture
def content(frames: Path) -> dict[str, Any]:
    """Return settings, as a file would hold them, of a run of a few steps."""
    return {
        "variant": "cityscapes-r18",
        "train": {
            "kind": "folder",
            "images": str(frames / "images"),
            "labels": str(frames / "labels"),
            "taxonomy": "cityscapes",
            "classes": CLASSES,
        },
        "augment": {"scales": [64], "max_size": 96, "flip": 0.5, "color": 0.2},
        "schedule": {"iterations": 4},
        "targets": {"rpn_top_n": 50, "rois": 16, "roi_positives": 8},
        "optimizer": {"kind": "sgd", "learning_rate": 0.001, "clip_norm": 5.0},
        "losses": {"semantic_roi": 0.2},
        "batch_size": 2,
        "batch_norm": "trained",
        "frozen_stages": 0,
        "workers": 0,
        "checkpoint_every": 2,
        "log_every": 1,
        "seed": 3,
    }
