"""Many small frames from several threads, with errors, cancellations and a close in between."""

from __future__ import annotations

import random
import threading
import weakref
from collections import Counter
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from upsnet_ros import Predictor
from upsnet_ros.inference import pipeline as module
from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.host_memory import Ring
from upsnet_ros.inference.pipeline import Pipeline

CAMERAS, FRAMES, LONG = 4, 40, 120
#: An image whose green is that cannot be computed.
BAD = 7


def _echo(images: list[Tensor], *args: Any, **options: Any) -> list[Assembly]:
    """Stands in for the network, which would take too long: the labels are the blue channel."""
    if any(pixels[0, 0, 1] == BAD for pixels in images):
        raise ArithmeticError
    table, details = torch.ones((1, 7), dtype=torch.int32), torch.zeros((1, 5))
    rest = (table, details, torch.tensor([True]), None, None, None, None)
    return [Assembly(pixels[..., 0].int(), pixels[..., 1] > 0, *rest) for pixels in images]


@pytest.fixture(scope="module")
def network() -> Predictor:
    return Predictor(variant="cityscapes-r18", device="cpu", scale=64, allow_random_weights=True)


@pytest.fixture(params=["one thread", "two threads"])
def predictor(
    network: Predictor, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Predictor:
    """Echoes; the pipeline has one thread as on a CPU, or answers in a second one as on a GPU."""
    monkeypatch.setattr(network, "compute_batch", _echo)
    if request.param == "two threads":
        cpu = network.device
        monkeypatch.setattr(module, "Ring", lambda *, device, size: Ring(device=cpu, size=size))
        monkeypatch.setattr(network, "device", torch.device("cuda"))
    return network


def _send(pipeline: Pipeline, seed: int, seen: list[str]) -> None:
    rng = random.Random(seed)
    for _ in range(FRAMES):
        blue, green = rng.randrange(256), rng.randrange(BAD + 3)
        image = np.full((4, rng.choice((5, 6)), 3), (blue, green, 0), np.uint8)
        try:
            answer = pipeline.submit(image)
        except RuntimeError:
            seen.append("refused")
            return
        image[:] = 0
        answer.add_done_callback(partial(_judge, blue=blue, green=green, seen=seen))
        if rng.random() < 0.2:
            answer.cancel()


def _judge(answer: Future[PanopticFrame], *, blue: int, green: int, seen: list[str]) -> None:
    if answer.cancelled():
        seen.append("cancelled")
    elif green == BAD:
        seen.append("failed" if isinstance(answer.exception(), ArithmeticError) else "wrong")
    else:
        seen.append("right" if (answer.result().labels == blue).all() else "wrong")


@pytest.mark.parametrize("end", ["answer", "cancel"])
@pytest.mark.parametrize(("depth", "batch"), [(1, 1), (2, 1), (2, 3)])
def test_every_frame_is_answered_once(
    predictor: Predictor, depth: int, batch: int, end: str
) -> None:
    said: list[str] = []
    pipeline = Pipeline(predictor, depth=depth, batch=batch)
    threads = [
        threading.Thread(target=_send, args=(pipeline, seed, said)) for seed in range(CAMERAS)
    ]
    for thread in threads:
        thread.start()
    if end == "cancel":
        pipeline.close(cancel=True)
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    pipeline.close()
    seen = Counter(said)
    assert seen["wrong"] == 0
    if end == "answer":
        assert seen["refused"] == 0 < min(seen["right"], seen["failed"])
        assert seen.total() == CAMERAS * FRAMES


def test_an_error_holds_memory_no_longer_than_its_future(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Features:
        pass

    held: list[weakref.ref[Features]] = []

    def fail(*args: Any, **options: Any) -> list[Assembly]:
        features = Features()
        held.append(weakref.ref(features))
        raise MemoryError

    monkeypatch.setattr(predictor, "compute_batch", fail)
    image = np.zeros((4, 4, 3), np.uint8)
    with Pipeline(predictor) as pipeline:
        answer = pipeline.submit(image)
        assert isinstance(answer.exception(LONG), MemoryError)
        del answer
    assert held[0]() is None  # without the collector of circles
