"""The path of a frame on a GPU, launched without one: nothing waits for it, all shapes are fixed.

Tensors are fake ones, which have a shape and a device but no values, and launches of kernels are
noted instead of made. What a graph of CUDA could not hold fails here too: to read a value, to let a
shape depend on values, to copy from the host's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from benchmark_script import load
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from upsnet_ros import kernels
from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.inference.frame_settings import FrameSettings
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.inference.static_frames import StaticFrames
from upsnet_ros.network.panoptic_head import HeadOptions
from upsnet_ros.network.upsnet import unmeasured

SHAPES = {"bgr8": (100, 200, 3), "yuyv": (100, 200, 2), "bayer_rggb8": (100, 200)}


class OnDevice(TorchDispatchMode):
    """Refuses operators that move memory between host and device."""

    def __torch_dispatch__(
        self,
        operator: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        moved = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        # A number may come as a tensor without dimensions, which goes along with the launch.
        if "copy" not in str(operator) and ".to." not in str(operator):
            moved = [x for x in moved if x.dim() > 0]
        if len({x.device.type for x in moved}) > 1:
            raise AssertionError(f"{operator} copies between host and device")
        return result


@pytest.fixture
def launched() -> Iterator[list[str]]:
    """Names of the kernels that were launched; none of them runs."""
    pytest.importorskip("triton")
    names: list[str] = []

    def note(name: str) -> AbstractContextManager[None]:
        names.append(name)
        return nullcontext()

    with load("launches").pretended_gpu(note):
        yield names


def _geometry(height: int, width: int) -> Geometry:
    return Geometry.of((height, width), scale=128, max_size=256)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize(
    ("encoding", "batch", "bilinear"),
    [("bgr8", 2, False), ("yuyv", 1, True), ("bayer_rggb8", 1, False)],
)
def test_no_frame_waits_for_the_gpu(
    launched: list[str], encoding: str, batch: int, bilinear: bool
) -> None:
    frames = StaticFrames(
        load("launches").network_on_gpu("cityscapes-r18", torch.float16),
        geometry=_geometry,
        bilinear=bilinear,
        public_ids=torch.arange(19, device="cuda"),
        graphs=None,
    )
    options = HeadOptions(unknown_score=True, confidence=True, max_logit=True)
    settings = FrameSettings(score_threshold=0.5, head=options)
    shape = SHAPES[encoding]
    images = [torch.empty(shape, dtype=torch.uint8, device="cuda") for _ in range(batch)]

    def compute() -> list[Assembly]:
        return frames.compute(images, settings, encoding=encoding, stage=unmeasured)

    compute()  # fills tables
    launched.clear()
    with OnDevice():
        assemblies = compute()
    assert kernels.failures() == {}
    assert launched[0] == "_camera_kernel" and launched[-1] == "_paint_kernel"
    assert len(assemblies) == batch
    for assembly in assemblies:
        assert assembly.labels.shape == shape[:2] and assembly.labels.is_cuda


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x: int(x.max()), DataDependentOutputException),
        (lambda x: x[x > 0], DynamicOutputShapeException),
        (lambda x: x + torch.tensor([1.0, 2.0]).to("cuda"), AssertionError),
        (lambda x: x.fill_(torch.tensor(1.0).to("cuda")), AssertionError),
        (lambda x: x.cpu(), AssertionError),
    ],
    ids=["value", "shape", "list", "number", "download"],
)
def test_what_waits_is_refused(
    launched: list[str], function: Callable[[Tensor], Any], error: type[Exception]
) -> None:
    x = torch.zeros(2, device="cuda")
    with OnDevice(), pytest.raises(error):
        function(x)
    with OnDevice():
        x.mul_(2).add_(torch.full((1,), 0.5, device="cuda"))
