"""Frames a second of one camera, and of several that share the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from upsnet_ros import Predictor
from upsnet_ros.benchmark.race import measure_cameras

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]
)
def test_every_frame_of_a_round_counts(device: str) -> None:
    predictor = Predictor(
        variant="cityscapes-r18",
        device=device,
        scale=64,
        score_threshold=0.99,  # or random weights segment a hundred things in noise
        allow_random_weights=True,
    )
    images = list(np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8))
    figures = measure_cameras(predictor, images, cameras=2, frames=3, rounds=1)
    assert (figures.cameras, figures.frames, figures.gain.pairs) == (2, 4, 1)
    assert figures.one_hz.p50 > 0
    assert figures.gain.median == pytest.approx(figures.all_hz.p50 / figures.one_hz.p50, rel=1e-3)
