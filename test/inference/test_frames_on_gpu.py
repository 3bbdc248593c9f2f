"""Whole frames on a GPU, by the weights that ship (never run so far: no GPU)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from upsnet_ros import Predictor
from upsnet_ros import ops as kernels
from upsnet_ros.errors import DivergedError
from upsnet_ros.inference.cuda_graph import GraphCache
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.model import resolve_device
from upsnet_ros.inference.pipeline import Pipeline
from upsnet_ros.network.batched_operators import KERNELS
from upsnet_ros.ops import dispatch
from upsnet_ros.synthetic.dataset import DrivingScenes

#: Every name that UPSNET_KERNELS may turn off.
EVERY = (*KERNELS, "camera", "conv_relu", "relu_pool", "merge", "decode", "deform_conv")
EVERY += ("sum_levels", "resize_bytes")

Image = npt.NDArray[np.uint8]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def no_failures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dispatch, "_failures", {})
    yield


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return [scene.image for scene in DrivingScenes("test", 0, 2, (180, 360))]


def make_predictor(**options: Any) -> Predictor:
    return Predictor(**{"device": "cuda", "scale": 128, "semantic": True} | options)


def shared(one: PanopticFrame, other: PanopticFrame) -> float:
    """Of all pixels, those with the same label."""
    return float((one.labels == other.labels).mean())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("graphs", [True, False])
def test_frames_are_those_of_the_plain_path(
    images: list[Image], precision: str, graphs: bool
) -> None:
    pytest.importorskip("triton")
    plain, fast = make_predictor(plain=True), make_predictor(precision=precision, graphs=graphs)
    for image in images:
        want = plain(image)
        assert want.instances and want.stuff
        for _ in range(2):  # captured, and replayed
            frame = fast(image)
            assert shared(frame, want) > 0.95
            assert len(frame.instances) == pytest.approx(len(want.instances), abs=2)
    assert kernels.failures() == {}


@pytest.mark.parametrize("names", [*((name,) for name in EVERY), EVERY], ids=lambda x: "-".join(x))
def test_frames_without_some_kernels(
    images: list[Image], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by UPSNET_KERNELS=-name, and as where Triton is not installed."""
    monkeypatch.setattr(dispatch, "_unwanted", names)
    plain, fast = make_predictor(plain=True), make_predictor(precision="fp16")
    for _ in range(2):
        assert shared(fast(images[0]), plain(images[0])) > 0.95
    assert len(fast._frames._graphs) == (0 if set(names) & set(KERNELS) else 1)  # type: ignore[union-attr, arg-type]
    assert kernels.failures() == {}


def test_frames_of_panoptic_fpn(images: list[Image]) -> None:
    """Resized as Pillow does, and merged by score: kernels of their own, in a graph."""
    pytest.importorskip("triton")
    options: dict[str, Any] = {"variant": "coco-fpn-r50", "allow_random_weights": True}
    slow, fast = make_predictor(graphs=False, **options), make_predictor(**options)
    for image in images:
        with dispatch.twins_only():
            want = slow(image)
        for _ in range(2):  # captured, and replayed
            assert shared(fast(image), want) > 0.95
    assert kernels.failures() == {}
    assert len(fast._frames._graphs) == 1  # type: ignore[union-attr, arg-type]


def test_logits_that_are_not_finite_are_refused(images: list[Image]) -> None:
    """The graph finds out, and its answer comes with the labels."""
    fast = make_predictor(precision="fp16")
    fast.network.fcn_head.register_forward_hook(lambda _module, _inputs, logits: logits * np.nan)
    with Pipeline(fast, depth=2) as pipeline:
        answers = [pipeline.submit(images[0]) for _ in range(3)]
        for answer in answers:
            with pytest.raises(DivergedError, match="not finite"):
                answer.result()
    with pytest.raises(DivergedError, match="not finite"):
        fast(images[0])


def test_frames_with_the_semantic_head_on_a_stream_of_its_own(
    images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    one = make_predictor(precision="fp16")
    monkeypatch.setenv("UPSNET_SEMANTIC_STREAM", "1")
    two = make_predictor(precision="fp16")
    with Pipeline(two, depth=2) as pipeline:
        for _ in range(10):
            for image in images:
                assert shared(pipeline.submit(image).result(), one(image)) > 0.99
    assert len(two._frames._graphs) == 1 and kernels.failures() == {}  # type: ignore[union-attr, arg-type]


def test_outputs_that_are_switched_on_capture_no_graph(images: list[Image]) -> None:
    pytest.importorskip("triton")
    fast = make_predictor(precision="fp16", semantic=False)
    for wanted in (False, True, False):
        fast.set_outputs(unknown_score=wanted, semantic=wanted)
        frame = fast(images[0])
        assert (frame.semantic is not None) == (frame.unknown_score is not None) == wanted
    assert len(fast._frames._graphs) == 1  # type: ignore[union-attr, arg-type]


def test_frames_of_sizes_that_take_turns(images: list[Image]) -> None:
    """More sizes than graphs: one is captured while frames of another come and go."""
    fast = make_predictor(precision="fp16")
    fast._frames._graphs = GraphCache(fast.device, limit=2)  # type: ignore[union-attr]
    stream = [np.ascontiguousarray(images[i % 2][: 180 - 40 * (i % 3)]) for i in range(12)]
    with Pipeline(fast, depth=2) as pipeline:
        answers = [pipeline.submit(image) for image in stream]
        frames = [answer.result() for answer in answers]
    plain = make_predictor(plain=True)
    for image, frame in zip(stream, frames, strict=True):
        assert shared(frame, plain(image)) > 0.95
    assert kernels.failures() == {}


def test_frames_in_flight_do_not_run_into_each_other(images: list[Image]) -> None:
    """One graph for frames of which one is downloaded while the next one is computed."""
    fast = make_predictor(precision="fp16")
    want = [fast(image) for image in images]
    with Pipeline(fast, depth=2) as pipeline:
        for _ in range(3):
            answers = [pipeline.submit(images[i % 2]) for i in range(20)]
            for i, answer in enumerate(answers):
                np.testing.assert_array_equal(answer.result().labels, want[i % 2].labels)
                np.testing.assert_array_equal(answer.result().semantic, want[i % 2].semantic)


def test_pipelines_come_and_go(images: list[Image]) -> None:
    """Each takes three streams of torch's 32, so that they come round; a size is new to each."""
    fast = make_predictor(precision="fp16")
    for i in range(12):
        image = np.ascontiguousarray(images[0][: 180 - i % 2, : 360 - 16 * (i // 6)])
        with Pipeline(fast, depth=2) as pipeline:
            answers = [pipeline.submit(image) for _ in range(3)]
            first, *others = [answer.result() for answer in answers]
        for other in others:
            np.testing.assert_array_equal(other.labels, first.labels)
    assert kernels.failures() == {}


def test_direct_calls_beside_a_pipeline(images: list[Image]) -> None:
    """Sizes new to both threads: each uploads, and fills tables, while the other one captures."""
    fast, plain = make_predictor(precision="fp16"), make_predictor(plain=True)
    parts = [np.ascontiguousarray(images[0][: 180 - 20 * i]) for i in range(4)]
    with Pipeline(fast, depth=2) as pipeline, ThreadPoolExecutor(1) as other:
        direct = [other.submit(fast, part) for part in parts for _ in range(3)]
        answers = [pipeline.submit(part) for part in parts for _ in range(3)]
        frames = [answer.result() for answer in (*answers, *direct)]
    assert len(fast._frames._graphs) == len(parts)  # type: ignore[union-attr, arg-type]
    assert kernels.failures() == {}
    for i, frame in enumerate(frames):
        assert shared(frame, plain(parts[i % len(direct) // 3])) > 0.95


def test_a_gpu_has_its_number() -> None:
    for name in ("auto", "cuda"):
        assert resolve_device(name) == torch.device("cuda", torch.cuda.current_device())
    assert resolve_device("cuda:0") == torch.device("cuda", 0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_frames_on_another_gpu_than_the_threads_own(images: list[Image]) -> None:
    here, there = (make_predictor(device=device, measure=True) for device in ("cuda:0", "cuda:1"))
    assert torch.cuda.current_device() == 0
    for image in images:
        want, frame = here(image), there(image)
        assert shared(frame, want) > 0.99
        assert list(frame.timings) == ["upload", "graph", "download"]
        # Of the other GPU's stream: its graph takes more than a launch does.
        assert frame.timings["graph"] > 0.1
    with Pipeline(there) as pipeline:
        assert shared(pipeline.submit(images[0]).result(), here(images[0])) > 0.99
    assert torch.cuda.current_device() == 0 and kernels.failures() == {}
