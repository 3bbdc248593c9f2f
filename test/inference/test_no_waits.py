"""The path of a frame on a GPU, launched without one: nothing waits for it, all shapes are fixed.

Tensors are fake ones, which have a shape and a device but no values, and launches of kernels are
noted instead of made. What a graph of CUDA could not hold fails here too: to read a value, to let a
shape depend on values, to copy from the host's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from benchmark_script import load
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from upsnet_ros import ops as kernels
from upsnet_ros.inference.assemble import Assembly, FrameSettings
from upsnet_ros.inference.cuda_graph import GraphCache
from upsnet_ros.inference.network_paths import BatchedFrames
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.network.batched_operators import KERNELS
from upsnet_ros.network.panoptic_head import HeadOptions
from upsnet_ros.network.upsnet import unmeasured
from upsnet_ros.network.variants import Family, Merge, get_variant
from upsnet_ros.ops import dispatch

#: Of a width that makes Panoptic FPN two scales.
SHAPES = {"bgr8": (100, 206, 3), "yuyv": (100, 206, 2), "bayer_rggb8": (100, 206)}


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


class WithoutLists(TorchFunctionMode):
    """Refuses tensors of a GPU that are made of numbers on the host, which is a copy too."""

    def __torch_function__(
        self,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        makes = function in (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
        if makes and result.is_cuda:
            raise AssertionError(f"{function.__name__} copies between host and device")
        return result


@contextmanager
def nothing_copied() -> Iterator[None]:
    with WithoutLists(), OnDevice():
        yield


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


def _geometry(height: int, width: int, family: Family = "upsnet") -> Geometry:
    return Geometry.of((height, width), scale=128, max_size=256, family=family)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize(
    ("variant", "encoding", "batch", "bilinear", "merge"),
    [
        ("cityscapes-r18", "bgr8", 2, False, "upsnet"),
        ("cityscapes-r18", "yuyv", 1, True, "upsnet"),
        ("cityscapes-r18", "bayer_rggb8", 1, False, "heuristic"),
        ("coco-fpn-r50", "bgr8", 2, True, "heuristic"),
        ("coco-fpn-r50", "bayer_rggb8", 1, True, "upsnet"),
        ("coco-fpn-r50", "yuyv", 1, True, "upsnet"),
    ],
)
def test_no_frame_waits_for_the_gpu(
    launched: list[str], variant: str, encoding: str, batch: int, bilinear: bool, merge: Merge
) -> None:
    family = get_variant(variant).family
    frames = BatchedFrames(
        load("launches").network_on_gpu(variant, torch.float16),
        geometry=lambda *size: _geometry(*size, family),
        bilinear=bilinear,
        public_ids=torch.arange(133, device="cuda"),
        graphs=None,
        merge=merge,
    )
    options = HeadOptions(unknown_score=True, confidence=True, max_logit=True)
    settings = FrameSettings(score_threshold=0.5, head=options)
    shape = SHAPES[encoding]
    images = [torch.empty(shape, dtype=torch.uint8, device="cuda") for _ in range(batch)]

    def compute() -> list[Assembly]:
        return frames.compute(images, settings, encoding=encoding, stage=unmeasured)

    compute()  # fills tables
    launched.clear()
    with nothing_copied():
        assemblies = compute()
    assert kernels.failures() == {}
    assert launched[-1] == "_paint_kernel"
    first = ["_camera_kernel"]
    if family == "panoptic_fpn":  # colours, columns, rows, means
        first = [*first, "_resize_kernel", "_resize_kernel", "_camera_kernel"]
        first = first[encoding == "bgr8" :]
    assert launched[: len(first)] == first
    assert ("_panoptic_kernel" if merge == "upsnet" else "_merge_kernel") in launched
    assert len(assemblies) == batch
    for assembly in assemblies:
        assert assembly.labels.shape == shape[:2] and assembly.labels.is_cuda
        # Whether the logits are finite is known where they are, and comes with the labels.
        assert assembly.finite.shape == (1,) and assembly.finite.is_cuda


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("name", [*KERNELS, "all"])
def test_without_a_kernel_no_graph_is_tried_and_no_twin_stands_in(
    launched: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in reads how much there is, which a graph cannot hold."""

    class Recorder:
        def record(self, *_: Any) -> Any:
            raise AssertionError("a capture")

        def free(self) -> None: ...

    monkeypatch.setattr(dispatch, "_unwanted", KERNELS if name == "all" else (name,))
    frames = BatchedFrames(
        load("launches").network_on_gpu("cityscapes-r18", torch.float16),
        geometry=_geometry,
        bilinear=False,
        public_ids=torch.arange(19, device="cuda"),
        graphs=GraphCache(torch.device("cuda"), recorder=Recorder()),
    )
    settings = FrameSettings(score_threshold=0.5, head=HeadOptions())
    images = [torch.empty(SHAPES["bgr8"], dtype=torch.uint8, device="cuda")]
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        frames.compute(images, settings, encoding="bgr8", stage=unmeasured)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x: int(x.max()), DataDependentOutputException),
        (lambda x: x[x > 0], DynamicOutputShapeException),
        (lambda x: x + torch.tensor([1.0, 2.0]).to("cuda"), AssertionError),
        (lambda x: x.fill_(torch.tensor(1.0).to("cuda")), AssertionError),
        (lambda x: x / x.new_tensor((1.0, 2.0)), AssertionError),
        (lambda x: x + torch.tensor(1.0, device="cuda"), AssertionError),
        (lambda x: x.cpu(), AssertionError),
    ],
    ids=["value", "shape", "list", "number", "new list", "new number", "download"],
)
def test_what_waits_is_refused(
    launched: list[str], function: Callable[[Tensor], Any], error: type[Exception]
) -> None:
    x = torch.zeros(2, device="cuda")
    with nothing_copied(), pytest.raises(error):
        function(x)
    with nothing_copied():
        x.mul_(2).add_(torch.full((1,), 0.5, device="cuda"))
