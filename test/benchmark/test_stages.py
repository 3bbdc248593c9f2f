"""Stages of a frame, as they are timed inside its graph."""

from __future__ import annotations

import pytest
import torch

from upsnet_ros.benchmark.settings import BenchSettings
from upsnet_ros.benchmark.stages import frames, graph_stages
from upsnet_ros.network.upsnet import STAGES


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
def test_stages_add_up_to_the_graph(device: str) -> None:
    settings = BenchSettings(
        variant="cityscapes-r18",
        height=64,
        width=64,
        device=device,
        precision="fp32",
        threads=None,
        iterations=3,
        warmup=1,
        weights=None,
        image=None,
    )
    stages, graph = graph_stages(settings, frames(None, height=64, width=64)[0])
    assert list(stages) == ["preprocess", *STAGES]
    assert sum(stage.p100 for stage in stages.values()) > 0.5 * graph.p0
