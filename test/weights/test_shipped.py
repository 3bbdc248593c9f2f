from __future__ import annotations

import numpy as np
import pytest

from upsnet_ros import Predictor
from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.synthetic.dataset import scene_frame
from upsnet_ros.weights import shipped_weights


def test_no_weights_for_others() -> None:
    assert shipped_weights("cityscapes-r50") is None


def test_size_is_what_a_repository_bears() -> None:
    path = shipped_weights("cityscapes-r18")
    assert path is not None
    assert path.stat().st_size <= 32e6


@pytest.mark.parametrize("street", [0, 8])
def test_a_drawn_street_is_recognised(street: int) -> None:
    """On streets of the test split, which no training sees."""
    predictor = Predictor(
        shipped_weights("cityscapes-r18"), variant="cityscapes-r18", scale=256, device="cpu"
    )
    scene = scene_frame("test", street, 0, (512, 1024))
    frame = predictor(scene.image)
    classes = np.where(frame.labels < 1000, frame.labels, frame.labels // 1000)
    ids = {info.name: info.id for info in CITYSCAPES.classes}
    for name in ("road", "sky"):
        truth, found = scene.semantic == ids[name], classes == ids[name]
        assert (truth & found).sum() / (truth | found).sum() > 0.6, name
    assert any(one.class_name == "car" for one in frame.instances)
