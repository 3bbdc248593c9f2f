"""The semantic head on a stream of its own in a capture; on fake tensors, without a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from benchmark_script import load
from torch import Tensor

from upsnet_ros.inference.assemble import FrameSettings
from upsnet_ros.inference.network_paths import BatchedFrames
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.network import batched_path as path
from upsnet_ros.network.panoptic_head import HeadOptions
from upsnet_ros.network.upsnet import UPSNet, unmeasured

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

SEMANTIC = {"_deform_conv_kernel", "_sum_levels_kernel"}


class Stream:
    def __init__(self, name: str, gpu: Gpu) -> None:
        self.name, self._gpu = name, gpu

    def wait_stream(self, other: Stream) -> None:
        self._gpu.log.append((self.name, f"waits for {other.name}"))
        self._gpu.alive.append(all(level() is not None for level in self._gpu.pyramid))


class Gpu:
    """Notes what happens on which of two streams, and whether the pyramid lives at each wait."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.pyramid: list[weakref.ref[Tensor]] = []
        self.alive: list[bool] = []
        self.main, self.side = Stream("main", self), Stream("side", self)
        self.current = self.main
        self.capturing = False

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def note(self, name: str) -> AbstractContextManager[None]:
        self.log.append((self.current.name, name))
        return nullcontext()

    def watch(self, network: UPSNet) -> None:
        def forward(features: Any) -> tuple[Tensor, ...]:
            pyramid: tuple[Tensor, ...] = plain(features)
            self.pyramid = [weakref.ref(level) for level in pyramid]
            return pyramid

        plain, network.fpn.forward = network.fpn.forward, forward  # type: ignore[method-assign]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    pytest.importorskip("triton")
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority: gpu.side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: gpu.current)
    monkeypatch.setattr(torch.cuda, "stream", gpu.on)
    path._side_stream.cache_clear()
    yield gpu
    path._side_stream.cache_clear()


def compute(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, *, capturing: bool) -> None:
    """Compute a frame twice: the first one fills tables, the second one is noted."""
    launches = load("launches")
    with launches.pretended_gpu(gpu.note):
        network = launches.network_on_gpu("cityscapes-r18", torch.float16)
        gpu.watch(network)
        frames = BatchedFrames(
            network,
            geometry=lambda *source: Geometry.of(source, scale=128, max_size=256),
            bilinear=False,
            public_ids=torch.arange(19, device="cuda"),
            graphs=None,
        )
        settings = FrameSettings(score_threshold=0.5, head=HeadOptions())
        images = [torch.empty(100, 200, 3, dtype=torch.uint8, device="cuda")]
        for is_capturing in (False, capturing):
            gpu.log.clear()
            monkeypatch.setattr(
                torch.cuda, "is_current_stream_capturing", lambda now=is_capturing: now
            )
            frames.compute(images, settings, encoding="bgr8", stage=unmeasured)


def test_in_a_capture_it_runs_beside_the_instance_heads(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSNET_SEMANTIC_STREAM", "1")
    compute(gpu, monkeypatch, capturing=True)

    def places(*names: str) -> list[int]:
        return [place for place, (_, name) in enumerate(gpu.log) if name in names]

    assert {name for stream, name in gpu.log if stream == "side"} == SEMANTIC | {"waits for main"}
    assert not SEMANTIC & {name for stream, name in gpu.log if stream == "main"}
    (fork,), (join,) = places("waits for main"), places("waits for side")
    assert max(places("_add_coarse_kernel")) < fork < min(places(*SEMANTIC))
    # Proposals, boxes and masks continue; the panoptic head has to wait.
    assert fork < min(places("_decode_kernel")) and max(places("_fpn_roi_align_kernel")) < join
    assert max(places(*SEMANTIC)) < join < min(places("_count_kernel", "_panoptic_kernel"))
    # What both read must not be given to others before the streams have joined.
    assert gpu.alive == [True, True]


@pytest.mark.parametrize(
    ("switch", "capturing"), [("1", False), ("0", True), (None, True), (None, False)]
)
def test_elsewhere_all_runs_on_one_stream(
    switch: str | None, capturing: bool, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UPSNET_SEMANTIC_STREAM", raising=False)
    if switch is not None:
        monkeypatch.setenv("UPSNET_SEMANTIC_STREAM", switch)
    compute(gpu, monkeypatch, capturing=capturing)
    assert {stream for stream, _ in gpu.log} == {"main"}
    assert {name for _, name in gpu.log} >= SEMANTIC
