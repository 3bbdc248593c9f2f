"""The default path of frames against the plain one, by the shipped weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import product
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from upsnet_ros import Predictor
from upsnet_ros.inference import network_paths as static_frames
from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.inference.cuda_graph import Function, GraphCache, Select
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.preprocess import Geometry, network_input
from upsnet_ros.network.panoptic_head import HeadOptions, PanopticHead, PanopticMaps
from upsnet_ros.synthetic.dataset import DrivingScenes

Image = npt.NDArray[np.uint8]
EVERYTHING = {"unknown_score": True, "semantic": True, "max_logit": True}


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return [scene.image for scene in DrivingScenes("test", 0, 2, (180, 360))]


def predictors(**options: Any) -> tuple[Predictor, Predictor]:
    settings: dict[str, Any] = {"device": "cpu", "scale": 128} | EVERYTHING | options
    return Predictor(plain=True, **settings), Predictor(**settings)


def assert_same(got: PanopticFrame, want: PanopticFrame) -> None:
    for field in fields(PanopticFrame):
        if field.name != "timings":
            np.testing.assert_equal(getattr(got, field.name), getattr(want, field.name))


@pytest.mark.parametrize("label_resize", ["nearest", "bilinear"])
def test_frames_are_those_of_the_plain_path(images: list[Image], label_resize: str) -> None:
    plain, static = predictors(label_resize=label_resize)
    for image in images:
        frame = static(image)
        assert_same(frame, plain(image))
        assert frame.instances and frame.stuff


def test_thresholds_and_outputs_are_those_of_the_moment(images: list[Image]) -> None:
    plain, static = predictors()
    for predictor in (plain, static):
        predictor(images[0])  # paths of this size are there when the settings change
        predictor.set_score_threshold(0.9)
        predictor.set_unknown_threshold(0.2)
        predictor.set_outputs(unknown_score=False, semantic=False)
    frame = static(images[0])
    assert_same(frame, plain(images[0]))
    assert frame.semantic is frame.unknown_score is None
    assert all(instance.score > 0.9 for instance in frame.instances)
    assert frame.unknown.any()


class Recorder:
    """Stands in for a GPU's: what it records it calls, and takes what is selected."""

    records = 0

    def record(self, function: Function, inputs: tuple[torch.Tensor, ...]) -> Recorder:
        function(*inputs)
        self.records += 1
        self._function = function
        return self

    def replay(self, inputs: tuple[torch.Tensor, ...], select: Select) -> list[Assembly]:
        return [select(assembly) for assembly in self._function(*inputs)]

    def release(self) -> None: ...

    def free(self) -> None: ...


def captured(predictor: Predictor) -> Recorder:
    """Let a predictor on a CPU go the way of a graph."""
    recorder = Recorder()
    predictor._frames._graphs = GraphCache(predictor.device, recorder=recorder)  # type: ignore[union-attr]
    return recorder


def test_to_ask_for_another_map_captures_no_graph(images: list[Image]) -> None:
    plain, static = predictors(unknown_score=False, semantic=False, max_logit=False)
    recorder = captured(static)
    static.prepare(images[0].shape)
    for unknown_score, semantic in product((False, True), repeat=2):
        for predictor in (plain, static):
            predictor.set_outputs(unknown_score=unknown_score, semantic=semantic)
        frame = static(images[0])
        assert_same(frame, plain(images[0]))
        assert (frame.unknown_score is not None) == unknown_score
        assert (frame.semantic is not None) == (frame.confidence is not None) == semantic
    assert recorder.records == 1


def test_on_a_cpu_nobody_computes_what_is_not_asked_for(
    images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, static = predictors(unknown_score=False, semantic=False, max_logit=False)
    asked: list[HeadOptions] = []
    maps = PanopticHead.maps

    def noting(head: PanopticHead, options: HeadOptions) -> PanopticMaps:
        asked.append(options)
        return maps(head, options)

    monkeypatch.setattr(PanopticHead, "maps", noting)
    static(images[0])
    (options,) = asked
    assert not (options.unknown_score or options.confidence or options.max_logit)


def test_where_a_kernel_fails_in_its_first_run_the_frame_comes_without_a_graph(
    images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, static = predictors()
    known: list[str] = []
    compute = static_frames._Path.__call__

    def failing(*args: Any, **options: Any) -> list[Assembly]:
        result = compute(*args, **options)
        known.append("nms")  # as in the operator's first run
        return result

    class TwoRuns(Recorder):
        def record(self, function: Function, inputs: tuple[torch.Tensor, ...]) -> Recorder:
            function(*inputs)
            return super().record(function, inputs)

    monkeypatch.setattr(static_frames, "missing", lambda device: tuple(known))
    monkeypatch.setattr(static_frames._Path, "__call__", failing)
    recorder = TwoRuns()
    static._frames._graphs = GraphCache(static.device, recorder=recorder)  # type: ignore[union-attr]
    for _ in range(2):
        assert_same(static(images[0]), plain(images[0]))
    assert recorder.records == 0


def test_a_picture_of_nothing(images: list[Image]) -> None:
    plain, static = predictors(score_threshold=0.999)
    black = np.zeros((70, 90, 3), np.uint8)
    assert_same(static(black), plain(black))


def test_a_batch_holds_the_frames_of_single_calls(images: list[Image]) -> None:
    _, static = predictors()
    batch = static.compute_batch([torch.from_numpy(x) for x in images], static.settings())
    for image, assembly in zip(images, batch, strict=True):
        frame, alone = static.frame(assembly), static(image)
        assert (frame.labels == alone.labels).mean() > 0.99
        assert [i.class_id for i in frame.instances] == [i.class_id for i in alone.instances]
        np.testing.assert_allclose(
            [i.detection_box for i in frame.instances],
            [i.detection_box for i in alone.instances],
            atol=0.01,
        )


def test_a_batch_lies_in_memory_as_one_image_does() -> None:
    geometry = Geometry.of((60, 90), scale=64, max_size=128)
    images = torch.zeros(3, 60, 90, 3, dtype=torch.uint8)
    for count in (1, 3):
        data = network_input(images[:count], "bgr8", geometry, dtype=torch.float32)
        assert data.is_contiguous(memory_format=torch.channels_last)
        assert data.shape == (count, 3, *geometry.padded)


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("rgb8", lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2RGB)),
        ("mono8", lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)),
        ("uyvy", lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2YUV_UYVY)),
    ],
)
def test_camera_bytes_are_taken_as_they_are(
    images: list[Image], encoding: str, encode: Callable[[Image], Image]
) -> None:
    _, static = predictors()
    own = encode(images[0])
    decoded = {
        "rgb8": lambda: images[0],
        "mono8": lambda: cv2.cvtColor(own, cv2.COLOR_GRAY2BGR),
        "uyvy": lambda: cv2.cvtColor(own, cv2.COLOR_YUV2BGR_UYVY),
    }[encoding]()
    assert_same(static(own, encoding), static(decoded))


@pytest.mark.parametrize(
    ("shape", "encoding", "message"),
    [
        ((4, 4, 3), "mono8", r"uint8 \(H, W\)"),
        ((4, 4), "bgr8", r"uint8 \(H, W, 3\)"),
        ((4, 5, 2), "yuyv", "5x4 pixels cannot be yuyv"),
        ((1, 4), "bayer_rggb8", "4x1 pixels cannot be bayer_rggb8"),
        ((4, 4, 3), "nv12", "unknown encoding 'nv12'"),
    ],
)
def test_other_bytes_are_refused(shape: tuple[int, ...], encoding: str, message: str) -> None:
    _, static = predictors()
    with pytest.raises(ValueError, match=message):
        static(np.zeros(shape, np.uint8), encoding)


def test_prepare_computes_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    _, static = predictors(scale=64)
    batches: list[int] = []
    compute_batch = static.compute_batch

    def counting(images: list[torch.Tensor], *args: Any, **options: Any) -> Any:
        batches.append(len(images))
        return compute_batch(images, *args, **options)

    monkeypatch.setattr(static, "compute_batch", counting)
    static.prepare((64, 128), encoding="bayer_rggb8", batches=(1, 3))
    assert batches == [1, 3]
    assert not static.takes("bayer_rggb8") and static.takes("bgr8")  # on a CPU


def test_tables_of_sizes_are_kept_within_a_limit(
    images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_frames, "_PATHS", 2)
    plain, static = predictors(scale=64)
    for rows in (60, 70, 80, 60):
        image = np.ascontiguousarray(images[0][:rows])
        assert_same(static(image), plain(image))
    assert len(static._frames._paths) == 2  # type: ignore[union-attr]
