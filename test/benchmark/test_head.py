"""The panoptic head on drawn inputs."""

from __future__ import annotations

import pytest
import torch

from upsnet_ros import Predictor
from upsnet_ros.benchmark.head import INSTANCES, SIZE, draw_head_inputs, measure_head
from upsnet_ros.network.panoptic_head import remove_hidden_masks
from upsnet_ros.network.variants import get_variant

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_all_of_the_drawn_masks_stay() -> None:
    variant = get_variant("cityscapes-r50")
    inputs = draw_head_inputs(
        variant,
        size=SIZE,
        instances=INSTANCES,
        seed=0,
        device=torch.device("cpu"),
    )
    assert inputs.semantic.shape == (1, 19, 256, 512)
    assert int(inputs.detections.counts) == INSTANCES
    boxes = inputs.detections.boxes[0, :INSTANCES]
    assert (boxes[:, :2] <= boxes[:, 2:]).all()
    assert (boxes >= 0).all()
    assert (boxes < torch.tensor([SIZE[1], SIZE[0]] * 2)).all()
    assert not inputs.mask_logits[0, INSTANCES:].any(), "padding is zeros"
    kept, _ = remove_hidden_masks(
        inputs.detections.of_image(0),
        inputs.mask_logits[0, :INSTANCES],
        size=SIZE,
        threshold=variant.mask_overlap_threshold,
    )
    assert len(kept) == INSTANCES


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]
)
def test_the_parts_are_the_whole(device: str) -> None:
    predictor = Predictor(
        variant="cityscapes-r18", device=device, scale=128, allow_random_weights=True
    )
    size = {"size": (128, 256), "instances": 12} if device == "cpu" else {}
    figures = measure_head(predictor, warmup=1, iterations=3, **size)
    assert 0 < figures.accepted <= figures.instances
    parts = (figures.accept_ms, figures.maps_ms, figures.segments_ms)
    assert all(part.p0 > 0 for part in parts)
    assert figures.all_ms.p100 > max(part.p0 for part in parts)
