"""The pipeline against direct calls; with a GPU also its streams (never run so far: no GPU)."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from upsnet_ros import Predictor
from upsnet_ros import ops as kernels
from upsnet_ros.errors import SettingsError, UpsnetError
from upsnet_ros.inference.assemble import Assembly
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.pipeline import Pipeline, in_order
from upsnet_ros.inference.predictor import PREDICTOR_STAGES

#: No test waits that long unless it fails.
LONG = 120
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def _image(seed: int, height: int = 60, width: int = 100) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((10, 10, 1), np.uint8))[:height, :width].copy()


@pytest.fixture(
    scope="module", params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]
)
def predictor(request: pytest.FixtureRequest) -> Predictor:
    return Predictor(
        variant="cityscapes-r18",
        device=request.param,
        scale=64,
        score_threshold=0.3,
        allow_random_weights=True,
        unknown_score=True,
        semantic=True,
    )


@pytest.fixture
def pipeline(predictor: Predictor) -> Iterator[Pipeline]:
    with Pipeline(predictor) as pipeline:
        yield pipeline


Direct = Callable[[int], PanopticFrame]


@pytest.fixture(scope="module")
def direct(predictor: Predictor) -> Direct:
    """What the predictor itself says of `_image(seed)`."""
    return cache(lambda seed: predictor(_image(seed)))


class Gate:
    """Holds every computation up until it is opened, and counts those that came to it."""

    count = 0

    def __init__(self, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
        self._opened = threading.Event()
        self._reached = threading.Semaphore(0)
        self._compute = predictor.compute_batch
        monkeypatch.setattr(predictor, "compute_batch", self)

    def __call__(self, *args: Any, **options: Any) -> list[Assembly]:
        self.count += 1
        self._reached.release()
        assert self._opened.wait(LONG)
        return self._compute(*args, **options)

    def open(self) -> None:
        self._opened.set()

    def wait_for_a_computation(self) -> None:
        assert self._reached.acquire(timeout=LONG)


@pytest.fixture
def gate(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(predictor, monkeypatch)
    yield gate
    gate.open()


def _together(predictor: Predictor, *seeds: int) -> list[PanopticFrame]:
    """What the predictor itself says of a batch; it sums in another order than for each alone."""
    images = [torch.from_numpy(_image(seed)).to(predictor.device) for seed in seeds]
    assemblies = predictor.compute_batch(images, predictor.settings())
    return [predictor.frame(assembly.to_host()) for assembly in assemblies]


def _assert_same(got: PanopticFrame, want: PanopticFrame) -> None:
    for field in fields(PanopticFrame):
        if field.name != "timings":
            np.testing.assert_equal(getattr(got, field.name), getattr(want, field.name))


def _fail_on(seeds: set[int], predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the computation of some images raise."""
    bad = {_image(seed).tobytes() for seed in seeds}
    compute_batch = predictor.compute_batch

    def failing(images: list[Tensor], *args: Any, **options: Any) -> list[Assembly]:
        if any(pixels.cpu().numpy().tobytes() in bad for pixels in images):
            raise ArithmeticError("of this frame")
        return compute_batch(images, *args, **options)

    monkeypatch.setattr(predictor, "compute_batch", failing)


def test_frames_are_those_of_direct_calls(
    predictor: Predictor, pipeline: Pipeline, direct: Direct
) -> None:
    images = [_image(0), _image(3, 40, 90), _image(1)[::-1]]
    frames = [answer.result(LONG) for answer in [pipeline.submit(image) for image in images]]
    _assert_same(frames[0], direct(0))
    for image, frame in zip(images[1:], frames[1:], strict=True):
        _assert_same(frame, predictor(image))
    assert any(frame.instances for frame in frames)


def test_an_image_may_change_once_it_is_submitted(
    direct: Direct, pipeline: Pipeline, request: pytest.FixtureRequest
) -> None:
    want, image = direct(0), _image(0)
    gate = request.getfixturevalue("gate")
    answer = pipeline.submit(image)
    image[:] = 0
    gate.open()
    _assert_same(answer.result(LONG), want)


def test_answers_come_in_order_in_the_pipelines_thread(predictor: Predictor, gate: Gate) -> None:
    order: list[tuple[int, threading.Thread]] = []

    def note(number: int, _: Future[PanopticFrame]) -> None:
        order.append((number, threading.current_thread()))

    with Pipeline(predictor, depth=4) as pipeline:
        for number in range(4):
            pipeline.submit(_image(number)).add_done_callback(partial(note, number))
        gate.open()
    assert [number for number, _ in order] == list(range(4))
    (thread,) = {thread for _, thread in order}
    assert thread is not threading.current_thread()


def test_no_more_frames_than_its_depth_are_in_flight(pipeline: Pipeline, gate: Gate) -> None:
    first, second = pipeline.submit(_image(0)), pipeline.submit(_image(1))
    with pytest.raises(TimeoutError, match="no room"):
        pipeline.submit(_image(2), timeout=0)
    later: list[Future[PanopticFrame]] = []
    thread = threading.Thread(target=lambda: later.append(pipeline.submit(_image(2))))
    thread.start()
    assert not first.done() and not second.done()
    gate.open()
    thread.join(LONG)
    assert later[0].result(LONG).labels.shape == (60, 100)


def test_what_a_frame_raises_is_its_own(
    predictor: Predictor, pipeline: Pipeline, direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = [direct(0), direct(2)]
    _fail_on({1}, predictor, monkeypatch)
    answers = [pipeline.submit(_image(seed)) for seed in range(3)]
    with pytest.raises(ArithmeticError, match="of this frame"):
        answers[1].result(LONG)
    for answer, frame in zip(answers[::2], want, strict=True):
        _assert_same(answer.result(LONG), frame)


def test_other_arrays_are_refused_and_take_no_room(pipeline: Pipeline, gate: Gate) -> None:
    for _ in range(3):
        with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\)"):
            pipeline.submit(np.zeros((4, 4), np.uint8))
    for wrong in ("nope.png", None, 3):
        with pytest.raises(UpsnetError, match=r"nope\.png|image"):
            pipeline.submit(wrong)
    for seed in range(2):
        pipeline.submit(_image(seed), timeout=0)


def test_closing_answers_what_was_submitted(predictor: Predictor) -> None:
    with Pipeline(predictor) as pipeline:
        answers = [pipeline.submit(_image(seed)) for seed in range(2)]
    assert all(answer.result(0).labels.any() for answer in answers)
    with pytest.raises(RuntimeError, match="closed"):
        pipeline.submit(_image(0))
    pipeline.close()


def test_an_error_in_its_block_drops_what_has_not_started(predictor: Predictor, gate: Gate) -> None:
    answers: list[Future[PanopticFrame]] = []

    def use() -> None:
        with Pipeline(predictor, depth=3) as pipeline:
            answers.extend(pipeline.submit(_image(seed)) for seed in range(3))
            gate.wait_for_a_computation()
            answers[-1].add_done_callback(lambda _: gate.open())  # the last that is cancelled
            raise InterruptedError

    with pytest.raises(InterruptedError):
        use()
    assert answers[0].result(0).labels.any()
    for answer in answers[1:]:
        with pytest.raises(CancelledError):
            answer.result(0)


def test_closing_ends_a_call_that_waits_for_room(predictor: Predictor, gate: Gate) -> None:
    pipeline = Pipeline(predictor, depth=1)
    answer = pipeline.submit(_image(0))
    raised: list[str] = []

    def submit() -> None:
        try:
            pipeline.submit(_image(1))
        except RuntimeError as error:
            raised.append(str(error))
        gate.open()

    thread = threading.Thread(target=submit)
    thread.start()
    pipeline.close()
    thread.join(LONG)
    assert raised == ["the pipeline is closed"]
    assert answer.result(0).labels.any()


def test_a_cancelled_frame_is_skipped(predictor: Predictor, gate: Gate) -> None:
    with Pipeline(predictor, depth=3) as pipeline:
        answers = [pipeline.submit(_image(seed)) for seed in range(3)]
        gate.wait_for_a_computation()
        assert answers[1].cancel() and not answers[0].cancel()
        gate.open()
        assert answers[2].result(LONG).labels.any()
    assert gate.count == 2


def test_a_callback_may_close_but_not_submit(predictor: Predictor, gate: Gate) -> None:
    pipeline = Pipeline(predictor)
    answer = pipeline.submit(_image(0))
    said: list[str] = []
    closed = threading.Event()

    def callback(_: Future[PanopticFrame]) -> None:
        try:
            pipeline.submit(_image(1))
        except RuntimeError as error:
            said.append(str(error))
        pipeline.close()
        closed.set()

    answer.add_done_callback(callback)
    gate.open()
    assert closed.wait(LONG)
    pipeline.close()
    assert "a pipeline's callback cannot submit" in said[0]


def test_thresholds_are_those_of_the_submission(
    predictor: Predictor, pipeline: Pipeline, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "score_threshold", 0.3)
    before = pipeline.submit(_image(0))
    predictor.set_score_threshold(0.999999)
    after = pipeline.submit(_image(0))
    gate.open()
    assert len(before.result(LONG).instances) > 0 == len(after.result(LONG).instances)


def test_several_threads_share_it(pipeline: Pipeline, direct: Direct) -> None:
    frames: dict[int, PanopticFrame] = {}

    def camera(seed: int) -> None:
        frames[seed] = pipeline.submit(_image(seed)).result(LONG)

    threads = [threading.Thread(target=camera, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    for seed in range(4):
        _assert_same(frames[seed], direct(seed))


def test_a_batch_is_what_waits(
    predictor: Predictor, direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = [direct(0), *_together(predictor, 1, 2, 3), direct(4)]
    gate = Gate(predictor, monkeypatch)
    batches: list[int] = []
    compute_batch = predictor.compute_batch

    def counting(images: list[Tensor], *args: Any, **options: Any) -> list[Assembly]:
        batches.append(len(images))
        return compute_batch(images, *args, **options)

    monkeypatch.setattr(predictor, "compute_batch", counting)
    images = [_image(seed) for seed in range(5)] + [_image(5, 40, 90)]
    with Pipeline(predictor, depth=2, batch=3) as pipeline:
        answers = [pipeline.submit(images[0])]
        gate.wait_for_a_computation()  # a lone frame does not wait for others
        answers += [pipeline.submit(image) for image in images[1:]]
        gate.open()
        frames = [answer.result(LONG) for answer in answers]
    assert batches == [1, 3, 1, 1]  # three of four that wait; the last one has another size
    for frame, same in zip(frames[:5], want, strict=True):
        # A batch is multiplied in other blocks: a pixel on an outline may differ.
        assert (frame.labels == same.labels).mean() > 0.99
    assert frames[5].labels.shape == (40, 90)


def test_images_submitted_together_are_computed_together(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = _together(predictor, 0, 1, 2)
    batches: list[int] = []
    compute_batch = predictor.compute_batch

    def counting(images: list[Tensor], *args: Any, **options: Any) -> list[Assembly]:
        batches.append(len(images))
        return compute_batch(images, *args, **options)

    with Pipeline(predictor, depth=1, batch=3) as pipeline:
        monkeypatch.setattr(predictor, "compute_batch", counting)
        answers = pipeline.submit_together([_image(seed) for seed in range(3)])
        for answer, frame in zip(answers, want, strict=True):
            _assert_same(answer.result(LONG), frame)
        assert batches == [3]  # nothing else had started
        assert pipeline.submit_together([]) == []
        with pytest.raises(ValueError, match=r"4 images .*holds 3"):
            pipeline.submit_together([_image(0)] * 4)
        with pytest.raises(ValueError, match="need an image"):
            pipeline.submit_together([_image(0), np.zeros((4, 4), np.uint8)])
        assert len(pipeline.submit_together([_image(0)] * 3, timeout=0)) == 3


def test_a_frame_of_a_batch_does_not_wait_for_the_others(
    predictor: Predictor, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = threading.Event()
    with Pipeline(predictor, depth=1, batch=2) as pipeline:
        first, second = pipeline.submit_together([_image(0), _image(1)])
        gate.wait_for_a_computation()
        slot = pipeline._ring.slots[0]  # taken last
        collect = slot.collect

        def late() -> Assembly:
            assert here.wait(LONG)
            return collect()

        monkeypatch.setattr(slot, "collect", late)
        gate.open()
        assert first.result(LONG).labels.any()
        assert not second.done()
        pipeline.submit(_image(2))  # there is room again
        here.set()
        assert second.result(LONG).labels.any()


def test_a_batch_is_a_computation(predictor: Predictor, gate: Gate) -> None:
    with Pipeline(predictor, depth=2, batch=2) as pipeline:
        answers = pipeline.submit_together([_image(0)] * 4)
        gate.wait_for_a_computation()
        with pytest.raises(TimeoutError, match="no room"):
            pipeline.submit(_image(0), timeout=0)
        gate.open()
        assert all(answer.result(LONG).labels.any() for answer in answers)
    assert gate.count == 2


def _as_encoded(seed: int, encoding: str) -> np.ndarray:
    """Some bytes in the shape of that encoding; not contiguous where it has less than three."""
    image = _image(seed)
    return {"yuyv": image[..., :2], "bayer_rggb8": image[..., 0]}.get(encoding, image)


@pytest.mark.parametrize("encoding", ["rgb8", "yuyv", "bayer_rggb8"])
def test_it_takes_what_cameras_send(
    predictor: Predictor, pipeline: Pipeline, encoding: str
) -> None:
    image = _as_encoded(0, encoding)
    frame = pipeline.submit(image, encoding=encoding).result(LONG)
    _assert_same(frame, predictor(image, encoding))


def test_frames_of_another_encoding_are_another_computation(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    encodings = ["bgr8", "bgr8", "rgb8", "yuyv"]
    images = [_as_encoded(0, encoding) for encoding in encodings]
    want = [predictor(image, encoding) for image, encoding in zip(images, encodings, strict=True)]
    batches: list[tuple[int, str]] = []
    compute_batch = predictor.compute_batch

    def noting(images: list[Tensor], *args: Any, encoding: str, **options: Any) -> list[Assembly]:
        batches.append((len(images), encoding))
        return compute_batch(images, *args, encoding=encoding, **options)

    monkeypatch.setattr(predictor, "compute_batch", noting)
    with Pipeline(predictor, depth=2, batch=4) as pipeline:
        frames = [
            answer.result(LONG) for answer in pipeline.submit_together(images, encodings=encodings)
        ]
    assert batches == [(2, "bgr8"), (1, "rgb8"), (1, "yuyv")]
    for frame, same in zip(frames[2:], want[2:], strict=True):
        _assert_same(frame, same)
    assert (frames[0].labels == want[0].labels).mean() > 0.9


def test_bytes_that_are_not_of_the_encoding_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(ValueError, match=r"uint8 \(H, W\), got"):
        pipeline.submit(_image(0), encoding="mono8")
    with pytest.raises(ValueError, match="unknown encoding 'jpeg'"):
        pipeline.submit(_image(0), encoding="jpeg")


def test_closing_need_not_wait(predictor: Predictor, gate: Gate) -> None:
    pipeline = Pipeline(predictor)
    answer = pipeline.submit(_image(0))
    pipeline.close(wait=False)
    assert not answer.done()
    gate.open()
    assert answer.result(LONG).labels.any()
    pipeline.close()


def test_a_batch_that_fails_is_computed_frame_by_frame(
    predictor: Predictor, direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = [direct(1), direct(3)]
    _fail_on({2}, predictor, monkeypatch)
    gate = Gate(predictor, monkeypatch)
    with Pipeline(predictor, depth=2, batch=3) as pipeline:
        lone = pipeline.submit(_image(0))
        gate.wait_for_a_computation()
        answers = [pipeline.submit(_image(seed)) for seed in (1, 2, 3)]
        gate.open()
        with pytest.raises(ArithmeticError):
            answers[1].result(LONG)
        for answer, frame in zip(answers[::2], want, strict=True):
            _assert_same(answer.result(LONG), frame)
        assert lone.exception(LONG) is None


@pytest.mark.parametrize("options", [{"depth": 0}, {"batch": 0}, {"batch": "x"}, {"depth": 1.5}])
def test_impossible_options(predictor: Predictor, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="of a pipeline"):
        Pipeline(predictor, **options)


def test_timings_name_every_stage(
    predictor: Predictor, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "_measure", True)
    frame = pipeline.submit(_image(0)).result(LONG)
    on_gpu = predictor.device.type == "cuda"
    assert tuple(frame.timings) == (("upload", "graph", "download") if on_gpu else PREDICTOR_STAGES)
    assert all(span > 0 for span in frame.timings.values())


def test_a_stream_through_it(predictor: Predictor, direct: Direct) -> None:
    frames = in_order(predictor, map(_image, range(3)))
    for seed, frame in zip(range(3), frames, strict=True):
        _assert_same(frame, direct(seed))
    assert list(in_order(predictor, [])) == []


def test_a_stream_ends_where_its_source_fails(predictor: Predictor) -> None:
    def source() -> Iterator[np.ndarray]:
        yield _image(0)
        raise OSError("no such file")

    frames = in_order(predictor, source())
    assert next(frames).labels.any()
    with pytest.raises(OSError, match="no such file"):
        next(frames)


def test_a_stream_may_be_left(predictor: Predictor) -> None:
    before = set(threading.enumerate())  # of which some may end in between
    frames = in_order(predictor, (_image(seed) for seed in range(1000)))
    next(frames)
    frames.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]
)
def test_the_interpreter_ends_with_an_open_pipeline(device: str) -> None:
    code = """
import numpy as np
from upsnet_ros import Predictor
from upsnet_ros.inference.pipeline import Pipeline
import sys
predictor = Predictor(
    variant="cityscapes-r18", device=sys.argv[1], scale=64, allow_random_weights=True
)
pipeline = Pipeline(predictor)
answer = pipeline.submit(np.zeros((60, 100, 3), np.uint8))
answer.add_done_callback(lambda answer: print(answer.result().labels.shape, flush=True))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, device], capture_output=True, text=True, timeout=250
    )
    assert (done.returncode, done.stdout) == (0, "(60, 100)\n"), done.stderr


@pytest.fixture
def no_sync() -> Iterator[Any]:
    """Turns any wait of the host for the GPU into an error, from when it is called."""
    yield partial(torch.cuda.set_sync_debug_mode, "error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_gpu
def test_the_steady_state_does_not_wait_for_the_gpu(
    monkeypatch: pytest.MonkeyPatch, no_sync: Any
) -> None:
    """The pipeline itself, around a computation of static shapes."""
    predictor = Predictor(variant="cityscapes-r18", device="cuda", allow_random_weights=True)

    def static(images: list[Tensor], *args: Any, **options: Any) -> list[Assembly]:
        (pixels,) = images
        table = torch.ones((1, 7), dtype=torch.int32, device="cuda")
        details = torch.zeros((1, 5), device="cuda")
        labels, unknown = pixels[..., 0].int().contiguous(), pixels[..., 1] > 128
        finite = torch.ones(1, dtype=torch.bool, device="cuda")
        return [Assembly(labels, unknown, table, details, finite, None, None, None, None)]

    monkeypatch.setattr(predictor, "compute_batch", static)
    images = [_image(seed, 512, 1024) for seed in range(8)]
    with Pipeline(predictor) as pipeline:
        for image in images[:3]:
            pipeline.submit(image).result(LONG)
        no_sync()
        answers = [pipeline.submit(image) for image in images]
        for image, answer in zip(images, answers, strict=True):
            np.testing.assert_array_equal(answer.result(LONG).labels, image[..., 0])


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("batch", [1, 4])
def test_four_cameras_do_not_wait_for_the_gpu(batch: int, no_sync: Any) -> None:
    predictor = Predictor(
        variant="cityscapes-r18",
        device="cuda",
        scale=128,
        score_threshold=0.3,
        allow_random_weights=True,
    )
    images = [_image(seed, 128, 256) for seed in range(30)]
    wanted = [predictor(image) for image in images]
    predictor.prepare(images[0].shape, batches=range(1, batch + 1))
    frames: dict[int, PanopticFrame] = {}
    with Pipeline(predictor, depth=2, batch=batch) as pipeline:
        for answer in pipeline.submit_together(images[: 2 * batch]):  # through every slot
            answer.result(LONG)
        no_sync()

        def camera(number: int) -> None:
            places = range(number, len(images), 4)
            answers = [(place, pipeline.submit(images[place])) for place in places]
            frames.update((place, answer.result(LONG)) for place, answer in answers)

        threads = [threading.Thread(target=camera, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
    assert kernels.failures() == {}
    for place, want in enumerate(wanted):
        if batch == 1:
            _assert_same(frames[place], want)
        else:  # sums in another order
            assert (frames[place].labels == want.labels).mean() > 0.99


def test_paths_and_what_is_no_image(pipeline: Pipeline, direct: Direct, tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), _image(0))
    frame = pipeline.submit(tmp_path / "a.png").result(LONG)
    np.testing.assert_array_equal(frame.labels, direct(0).labels)
    for bad in (None, 3, str(tmp_path / "none.png")):
        with pytest.raises(UpsnetError):
            pipeline.submit(bad)
