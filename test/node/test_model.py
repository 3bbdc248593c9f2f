from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from upsnet_ros.errors import PipelineClosedError
from upsnet_ros.inference import predictor as predictor_module
from upsnet_ros.inference.predictor import Predictor
from upsnet_ros.node.camera_image import CameraImage, ImageKind
from upsnet_ros.node.model import Model, batch_size
from upsnet_ros.node.parameters import NodeSettings
from upsnet_ros.weights import SHIPPED_VARIANT

SETTINGS = NodeSettings(device="cpu", scale=64, warm_up="none")


def test_nothing_named_runs_what_ships():
    model = Model()
    assert model.describe() == {}
    predictor = model.load(SETTINGS, kinds=[])
    told = model.describe()
    assert (told["variant"], told["weights"]) == (SHIPPED_VARIANT, "shipped weights")
    assert model.predictor is predictor and model.warm_up_seconds is None
    model.release()
    assert model.predictor is None


def test_weights_of_other_classes_do_not_take_the_place_of_those_that_run():
    model = Model()
    before = model.load(SETTINGS, kinds=[])
    with pytest.raises(RuntimeError, match="coco's classes"):
        model.reload(replace(SETTINGS, variant="coco-r50", allow_random_weights=True), kinds=[])
    assert model.predictor is before


def picture() -> CameraImage:
    pixels = np.zeros((48, 64, 3), np.uint8)
    return CameraImage(
        message=None, pixels=pixels, encoding="bgr8", arrived=0.0, started=0.0, decoded=0.0
    )


def test_a_frame_that_meets_a_reload_goes_to_the_new_weights(monkeypatch: pytest.MonkeyPatch):
    model = Model()
    model.load(SETTINGS, kinds=[])
    old = model.pipeline
    assert old is not None
    submit = old.submit_together

    def reload_and_submit(*images: Any, **options: Any) -> Any:
        model.reload(SETTINGS, kinds=[])
        return submit(*images, **options)

    monkeypatch.setattr(old, "submit_together", reload_and_submit)
    (answer,) = model.submit([picture()], unknown_score=False, semantic=False)
    assert answer.result(60).labels.shape == (48, 64)
    assert model.pipeline is not old
    model.release()


def pipelines() -> int:
    """Number of pipelines whose thread runs."""
    return sum(thread.name == "upsnet_compute_all" for thread in threading.enumerate())


def test_neither_reload_nor_release_keeps_a_network_or_a_thread():
    before = pipelines()
    model = Model()
    gone = [weakref.ref(model.load(SETTINGS, kinds=[]))]
    for _ in range(2):
        model.reload(SETTINGS, kinds=[])
        gc.collect()
        assert [one() for one in gone] == [None] * len(gone)
        assert pipelines() == before + 1
        assert model.predictor is not None
        gone.append(weakref.ref(model.predictor))
    with pytest.raises(RuntimeError, match="coco's classes"):
        model.reload(replace(SETTINGS, variant="coco-r50", allow_random_weights=True), kinds=[])
    assert pipelines() == before + 1
    model.release()
    gc.collect()
    assert gone[-1]() is None
    assert pipelines() == before


def test_without_a_network_or_past_its_end_a_frame_is_refused():
    model = Model()
    with pytest.raises(RuntimeError, match="no network is loaded"):
        model.submit([picture()], unknown_score=False, semantic=False)
    model.load(SETTINGS, kinds=[])
    assert model.pipeline is not None
    model.pipeline.close()
    with pytest.raises(PipelineClosedError):
        model.submit([picture()], unknown_score=False, semantic=False)
    model.release()


@pytest.mark.parametrize(
    ("size", "kinds", "expected"),
    [
        ("auto", [], {(64, 128, 3): [1, 2, 3]}),
        ("80x48", [], {(48, 80, 3): [1, 2, 3]}),
        ("auto", [(48, 64, 3)] * 2 + [(40, 64, 3)], {(48, 64, 3): [1, 2], (40, 64, 3): [1]}),
    ],
)
def test_what_is_computed_for_nobody_is_what_cameras_may_send(
    size: str,
    kinds: list[tuple[int, ...]],
    expected: dict[tuple[int, ...], list[int]],
    monkeypatch: pytest.MonkeyPatch,
):
    prepared: dict[tuple[int, ...], list[int]] = {}
    prepare = Predictor.prepare

    def note(predictor: Predictor, shape: Any, *, encoding: str, batches: Any) -> None:
        prepared[tuple(shape)] = list(batches)
        prepare(predictor, shape, encoding=encoding, batches=batches)

    monkeypatch.setattr(Predictor, "prepare", note)
    model = Model()
    settings = replace(SETTINGS, warm_up=size, scale=64, batch=3, cameras=("a", "b", "c"))
    model.load(settings, kinds=[ImageKind(shape) for shape in kinds])
    assert model.warm_up_seconds is not None and model.warm_up_seconds > 0
    model.release()
    assert prepared == expected and model.warm_up_seconds is None


@pytest.mark.parametrize(
    ("wished", "cameras", "device", "expected"),
    [
        (0, "ab", "cpu", 1),
        (0, "ab", "cuda", 2),
        (0, "abcdef", "cuda", 4),
        (1, "ab", "cuda", 1),
        (5, "ab", "cpu", 5),
    ],
)
def test_cameras_computed_together(wished: int, cameras: str, device: str, expected: int):
    settings = replace(SETTINGS, batch=wished, cameras=tuple(cameras))
    assert batch_size(settings, torch.device(device)) == expected


@pytest.mark.parametrize(
    ("settings", "kinds", "size"),
    [
        ({"warm_up": "640x480"}, [ImageKind((48, 64, 3))], (480, 640)),
        ({"warm_up": "auto"}, [ImageKind((48, 64), "bayer_rggb8")], (48, 64)),
        ({"warm_up": "none"}, [], None),
    ],
)
def test_the_self_test_is_of_the_size_that_is_expected(
    settings: dict[str, str],
    kinds: list[ImageKind],
    size: tuple[int, int] | None,
    monkeypatch: pytest.MonkeyPatch,
):
    class MadeError(Exception):
        pass

    def make(*weights: object, **options: object) -> None:
        raise MadeError(options["self_test"], options["expected_size"])

    monkeypatch.setattr(predictor_module, "Predictor", make)
    for wanted in (True, False):
        with pytest.raises(MadeError) as made:
            Model().load(replace(SETTINGS, self_test=wanted, **settings), kinds=kinds)
        assert made.value.args == (wanted, size)
