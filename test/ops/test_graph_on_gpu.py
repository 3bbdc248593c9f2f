"""Every kernel in one CUDA graph: none may wait for the host, and replays see new inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from upsnet_ros import ops as kernels
from upsnet_ros.network.panoptic_head import Grid
from upsnet_ros.ops import dispatch
from upsnet_ros.ops.boxes import batched_nms
from upsnet_ros.ops.camera_input import camera_input
from upsnet_ros.ops.deform_conv import deform_conv2d
from upsnet_ros.ops.mask_removal import accept_masks
from upsnet_ros.ops.panoptic import MapOptions, panoptic_maps
from upsnet_ros.ops.roi_align import fpn_roi_align
from upsnet_ros.ops.segments import segment_table

BATCH, STUFF, CLASSES, THINGS, SIZE = 2, 3, 6, 8, (32, 64)

Operator = Callable[[], Any]


def operators(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Operator]]:
    """Inputs by name, and what is computed from them."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    corner, extent = rand(BATCH, THINGS, 2) * 20, rand(BATCH, THINGS, 2) * 11
    inputs = {
        "image": (rand(BATCH, *SIZE, 3) * 255).to(torch.uint8),
        "boxes": torch.cat((corner, corner + extent), dim=2),
        "classes": torch.arange(THINGS, device=device).repeat(BATCH, 1) % (CLASSES - STUFF) + 1,
        "masks": rand(BATCH, THINGS, 4, 4) - 0.4,
        "numbers": THINGS - 2 + torch.arange(BATCH, dtype=torch.int32, device=device),
        "margin": torch.full((1,), -0.25, device=device),
        "semantic": rand(BATCH, CLASSES, 8, 16).contiguous(memory_format=torch.channels_last),
        "feature": rand(BATCH, 16, 8, 16).contiguous(memory_format=torch.channels_last),
        "offset": rand(BATCH, 18, 8, 16),
        "weight": rand(16, 16, 3, 3),
        "public": torch.arange(1, CLASSES + 1, device=device),
        "rows": torch.arange(SIZE[0], device=device),
        "columns": torch.arange(SIZE[1], device=device),
    }
    at = inputs.__getitem__
    tables = Grid(SIZE).tables((8, 16), device)
    pyramid = [inputs["feature"]] * 4

    def head() -> Any:
        return panoptic_maps(
            at("semantic"), at("boxes"), at("classes"), at("masks"), at("numbers"), at("margin"),
            tables, options=MapOptions(STUFF),
        )  # fmt: skip

    def segments() -> Any:
        maps = head()
        return segment_table(
            maps.panoptic, maps.semantic, at("classes"), at("public"), at("rows"), at("columns"),
            num_stuff=STUFF, stuff_area_limit=10,
        )[:4:3]  # fmt: skip

    return inputs, {
        "camera": lambda: camera_input(
            at("image"), "bgr8", scale=1.0, size=SIZE, padded=SIZE, means=(1.0, 2.0, 3.0),
            dtype=torch.float16,
        ),
        "nms": lambda: batched_nms(at("boxes"), at("numbers"), 0.3, limit=THINGS),
        "fpn_roi_align": lambda: fpn_roi_align(pyramid, at("boxes"), 2, counts=at("numbers")),
        "deform_conv": lambda: deform_conv2d(at("feature"), at("offset"), at("weight")),
        "hidden_masks": lambda: accept_masks(
            at("boxes"), at("classes"), at("masks"), at("numbers"), size=SIZE, threshold=0.3
        ),
        "panoptic": lambda: head()[:2],
        "segments": segments,
    }  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", list(operators(torch.device("cpu"))[1]))
def test_kernels_can_be_captured_and_replayed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(dispatch, "_failures", {})
    inputs, all_operators = operators(torch.device("cuda"))
    run = all_operators[name]
    with torch.inference_mode():
        run()  # compiles
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            run()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        inputs["numbers"].sub_(3)
        inputs["margin"].add_(0.5)
        inputs["image"].add_(1)
        inputs["feature"].mul_(-1)
        graph.replay()
        torch.cuda.synchronize()
        for got, want in zip(captured, run(), strict=True):
            torch.testing.assert_close(got, want)
    assert kernels.failures() == {}, "a reference would have passed too"
