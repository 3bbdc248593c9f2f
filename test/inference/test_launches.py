"""What benchmarks/launches.py counts, and that a frame launches no more than docs say."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import typer
from benchmark_script import load
from torch import Tensor, nn
from typer.testing import CliRunner

from upsnet_ros.ops.boxes import batched_nms
from upsnet_ros.ops.conv_relu import conv_relu

pytest.importorskip("triton")

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

#: Launches of each stage; docs/kernels.md lists them.
LIMITS = {
    "inputs": 2,
    "preprocess": 1,
    "backbone": 86,
    "fpn_rpn": 77,
    "box": 42,
    "mask": 17,
    "semantic": 30,
    "panoptic": 40,
}


@pytest.fixture(scope="module")
def launches() -> ModuleType:
    return load("launches")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x.permute(0, 2, 3, 1)[:, 1:].flatten(1, 2)[None].unbind(1), {}),
        (lambda x: x.permute(0, 2, 3, 1).contiguous(), {"clone": 1}),
        (lambda x: (x.new_empty(3), torch.zeros_like(x)), {"zeros_like": 1}),
        (lambda x: x.mul_(2).float(), {"mul_": 1, "_to_copy": 1}),
        (lambda x: torch.ones(3) + 1, {}),
        (lambda x: F.pad(x, (0, 1)).softmax(dim=1), {"constant_pad_nd": 1, "_softmax": 1}),
        (
            lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
            {"upsample_bilinear2d": 1},
        ),
        (
            lambda x: batched_nms(x[:, 0].float(), x[:, 0, 0, 0].int(), 0.5, limit=3),
            {"_to_copy": 2, "zeros": 1, "_overlap_kernel": 1, "_suppress_kernel": 1},
        ),
    ],
    ids=["views", "copy", "memory", "in place", "host", "padding", "upsampling", "kernels"],
)
def test_counts_what_computes_on_the_gpu(
    launches: ModuleType, function: Callable[[Tensor], Any], expected: dict[str, int]
) -> None:
    counting = launches.Launches()
    with launches.pretended_gpu(counting.as_one):
        x = torch.empty(2, 4, 5, 4, dtype=torch.float16, device="cuda")
        with counting, torch.inference_mode(), counting.stage("box"):
            function(x)
    assert counting.counts == {("box", name): number for name, number in expected.items()}


def test_a_fused_convolution_is_one_launch_and_torchs_has_a_bias(launches: ModuleType) -> None:
    counting = launches.Launches()
    with launches.pretended_gpu(counting.as_one):
        x = torch.empty(2, 4, 5, 4, dtype=torch.float16, device="cuda")
        x = x.contiguous(memory_format=torch.channels_last)
        options = {"device": "cuda", "dtype": torch.float16}
        convs = [nn.Conv2d(4, 8, 3, bias=bias, **options) for bias in (True, False)]
        with counting, torch.inference_mode():
            for conv in convs:
                conv_relu(conv, x, add=torch.empty_like(conv(x)))
                conv_relu(conv, x)
    assert counting.counts == {
        ("inputs", "cudnn_convolution_add_relu"): 2,
        ("inputs", "convolution"): 4,
        ("inputs", "bias of a convolution"): 1,
        ("inputs", "_bias_relu_kernel"): 2,
    }


def test_a_frame_launches_no_more_than_the_docs_say(launches: ModuleType) -> None:
    app = typer.Typer()
    app.command()(launches.main)
    result = CliRunner().invoke(app, ["--json"])
    assert result.exit_code == 0, result.output
    stages = json.loads(result.stdout)
    numbers = {name: sum(launched.values()) for name, launched in stages.items()}
    assert numbers.keys() == LIMITS.keys()
    assert {name for name, number in numbers.items() if number > LIMITS[name]} == set(), numbers
    assert stages["preprocess"] == {"_camera_kernel": 1}
    assert stages["semantic"]["_deform_conv_kernel"] == 8


@pytest.mark.parametrize(("merge", "most"), [("heuristic", 334), ("upsnet", 349)])
def test_photographs_launch_no_more_than_the_docs_say(
    launches: ModuleType, merge: str, most: int
) -> None:
    counts = launches.launches_of_frame("coco-fpn-r50", (1080, 1920), merge=merge)
    preprocess = {name: number for (stage, name), number in counts.items() if stage == "preprocess"}
    assert preprocess == {"_resize_kernel": 2, "_camera_kernel": 1}
    assert counts.total() <= most


def test_a_batch_launches_hardly_more_than_a_frame(launches: ModuleType) -> None:
    one, four = (
        launches.launches_of_frame("cityscapes-r18", (512, 1024), batch=batch) for batch in (1, 4)
    )
    more = {name: number for (_, name), number in (four - one).items()}
    assert more == {"stack": 1, "repeat": 1}
