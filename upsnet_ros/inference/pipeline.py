"""Several frames in flight: one is computed while others are uploaded and downloaded."""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from upsnet_ros.datasets.images import AnyImage
from upsnet_ros.errors import PipelineClosedError, SettingsError, check_number
from upsnet_ros.inference.assemble import Assembly, FrameSettings
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.host_memory import CudaSlot, HostSlot, Ring
from upsnet_ros.inference.preprocess import checked_pixels
from upsnet_ros.network.upsnet import Stage


class StageTimer:
    """Collects the time spent in named stages; a stage entered twice adds up.

    On CUDA it records events, on the streams on which the stages run, and only `milliseconds` waits
    for them, so measuring does not make the stages wait for each other. During a graph's
    capture, `milliseconds` returns the times of its latest replay, whose end the caller awaits.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[str, float]] = []
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the body as stage `name`."""
        if self._device.type == "cuda":
            # A graph's events can only be read if they are external, which torch 2.6 lacks.
            kind = {"external": True} if torch.cuda.is_current_stream_capturing() else {}
            start, end = (torch.cuda.Event(enable_timing=True, **kind) for _ in range(2))
            stream = torch.cuda.current_stream(self._device)  # the thread's device may be another
            start.record(stream)
            yield
            end.record(stream)
            self._events.append((name, start, end))
        else:
            begin = time.perf_counter()
            yield
            self._spans.append((name, 1e3 * (time.perf_counter() - begin)))

    def milliseconds(self) -> dict[str, float]:
        """Return the time of each stage, in the order they first ended."""
        for _, _, end in self._events:
            end.synchronize()  # not the whole device, which may compute more frames
        spans = self._spans + [(name, a.elapsed_time(b)) for name, a, b in self._events]
        totals: dict[str, float] = {}
        for name, span in spans:
            totals[name] = totals.get(name, 0.0) + span
        return totals


def stage_of(*timers: StageTimer | None) -> Stage:
    """Return a function that measures a stage with all of these timers, which may be None."""
    running = [timer for timer in timers if timer is not None]

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        with ExitStack() as stack:
            for timer in running:
                stack.enter_context(timer(name))
            yield

    return stage


class Segmenter(Protocol):
    """The steps of segmentation that a pipeline schedules; `Predictor` implements them."""

    @property
    def device(self) -> torch.device:
        """Device that computes frames."""
        ...

    def settings(self) -> FrameSettings:
        """Return the settings for an image that is submitted now."""
        ...

    def timer(self) -> StageTimer | None:
        """Return a timer for the stages of one image; None if they are not measured."""
        ...

    def compute_batch(
        self, images: Sequence[Tensor], settings: FrameSettings, *, encoding: str, stage: Stage
    ) -> list[Assembly]:
        """Segment images of one size on the device, without waiting for it."""
        ...

    def frame(self, assembly: Assembly) -> PanopticFrame:
        """Convert an assembly in host memory to a frame, without timings."""
        ...


@dataclass(slots=True, eq=False)
class Job:
    """A frame in flight.

    Attributes:
        slot: Its memory.
        shape: Shape of the image.
        encoding: Encoding of the image.
        settings: Settings of the frame.
        timer: Timer of its stages; None if they are not measured.
        answer: Future of the result.
        error: Error of its computation.
    """

    slot: HostSlot | CudaSlot
    shape: tuple[int, ...]
    encoding: str
    settings: FrameSettings
    timer: StageTimer | None
    answer: Future[PanopticFrame]
    error: Exception | None = None

    def goes_with(self, other: Job) -> bool:
        """Return whether both can be in one batch."""
        return (self.shape, self.encoding, self.settings) == (
            other.shape,
            other.encoding,
            other.settings,
        )


def compute(predictor: Segmenter, ring: Ring, jobs: list[Job]) -> None:
    """Launch the computation of these jobs, except cancelled ones, and the download of results.

    Errors are stored in their jobs. A batch that fails is computed again, frame by frame, to find
    the frame that caused it, and because a single frame needs less memory.
    """
    wanted = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
    if not wanted:
        return
    try:
        _compute_together(predictor, ring, wanted)
    except Exception as error:  # noqa: BLE001 - any error ends one frame, not the pipeline
        if len(wanted) == 1:
            wanted[0].error = error
            return
    else:
        return
    for job in wanted:
        try:
            _compute_together(predictor, ring, [job])
        except Exception as error:  # noqa: BLE001 - as above
            job.error = error


@torch.inference_mode()
def _compute_together(predictor: Segmenter, ring: Ring, jobs: list[Job]) -> None:
    stage = stage_of(*(job.timer for job in jobs))  # each frame of a batch has the batch's time
    with ring.computing():
        images = [job.slot.arrive() for job in jobs]
        first = jobs[0]
        assemblies = predictor.compute_batch(
            images, first.settings, encoding=first.encoding, stage=stage
        )
        for job, assembly in zip(jobs, assemblies, strict=True):
            job.slot.download(assembly, stage_of(job.timer))


def outcome(predictor: Segmenter, job: Job) -> tuple[PanopticFrame | None, Exception | None]:
    """Wait for a job; return its frame or its error, or neither if it was cancelled.

    Nothing uses the job's slot afterwards.
    """
    try:
        if job.error is None and not job.answer.cancelled():
            frame = predictor.frame(job.slot.collect())
            timings = {} if job.timer is None else job.timer.milliseconds()
            return replace(frame, timings=timings), None
        job.slot.settle()
    except Exception as error:  # noqa: BLE001 - as above
        # After a failure of the device this fails, too; the first error says more.
        return None, None if job.answer.cancelled() else job.error or error
    return None, job.error


class Pipeline:
    """Segments frames that any thread submits one by one, and returns results in their order.

    `submit` copies the image and returns a `concurrent.futures.Future` of its frame: wait for it
    with ``result()``, or use ``add_done_callback``, which calls in the pipeline's thread. Futures
    are done in the order of `submit`. An error of a frame is set on its future only.

    On a GPU three streams upload, compute and download concurrently, through a ring of pinned
    memory: see `host_memory` for their order. The submitting thread launches the copy to the GPU; a
    second thread launches the network, and a third one, the only one that waits for the GPU,
    converts results to frames. On a CPU one thread does everything.

    As a context manager it ends with `close`; if the block raised, frames not yet started are
    cancelled. A pipeline that is not closed is closed when the interpreter ends.

    Args:
        predictor: The predictor; it may be used outside the pipeline, too.
        depth: Computations in flight: while one runs, the others upload and download.
        batch: Maximum number of frames of a computation, which have the same size, encoding and
            settings. Only frames that are already waiting are batched, so a single frame is not
            delayed. A future is done as soon as its own result is on the host.

    Attributes:
        depth: As given.
        batch: As given.

    Raises:
        SettingsError: `depth` or `batch` is not a whole number of at least 1.
    """

    def __init__(self, predictor: Segmenter, *, depth: int = 2, batch: int = 1) -> None:
        for name, value in (("depth", depth), ("batch", batch)):
            check_number(f"{name} of a pipeline", value, whole=True)
            if value < 1:
                raise SettingsError(f"{name} of a pipeline is {value}, but must be at least 1")
        self._predictor = predictor
        self.depth, self.batch = depth, batch
        self._ring = Ring(device=predictor.device, size=depth * batch)
        self._free = list(self._ring.slots)
        self._waiting: deque[Job] = deque()
        self._computations = 0  # in flight
        self._closed = False
        self._changed = threading.Condition()
        self._computed: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._overlaps = predictor.device.type == "cuda"
        targets = [self._compute_all, self._answer_all] if self._overlaps else [self._compute_all]
        # Daemons, because the interpreter would wait for other threads before it closes the
        # pipeline.
        self._threads = [
            threading.Thread(target=t, name=f"upsnet{t.__name__}", daemon=True) for t in targets
        ]
        atexit.register(self.close)
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        image: AnyImage,
        *,
        encoding: str = "bgr8",
        timeout: float | None = None,
    ) -> Future[PanopticFrame]:
        """Submit an image; it may change after this returns.

        Returns immediately if less than ``depth * batch`` frames are in flight, otherwise as soon
        as one of them is done. Thresholds and outputs are the predictor's current ones. A future
        that is cancelled before its computation starts is not computed.

        Args:
            image: uint8 (H, W, 3) in BGR order, or as the encoding has it; or a path or PIL image.
            encoding: One of `ops.camera_input.BYTES_PER_PIXEL`, for arrays.
            timeout: Seconds to wait for a free slot; None waits without limit, 0 does not wait.

        Raises:
            DatasetError: The path cannot be read as an image.
            ImageError: The encoding is unknown, or the image is None or has another type, dtype or
                shape, or no pixels.
            TimeoutError: No slot became free in that time.
            PipelineClosedError: The pipeline is closed.
            RuntimeError: It was called by a future's callback, which would wait for itself.
        """
        (answer,) = self.submit_together([image], encodings=[encoding], timeout=timeout)
        return answer

    def submit_together(
        self,
        images: Sequence[AnyImage],
        *,
        encodings: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> list[Future[PanopticFrame]]:
        """Submit several images that must be batched together where possible.

        Those with the same size and encoding share a computation, up to `batch` of them. Either all
        or none are submitted. Raises the errors of `submit`, too.

        Args:
            images: Images as for `submit`.
            encodings: Encoding of each image; bgr8 by default.
            timeout: Seconds to wait for free slots for all of them.

        Raises:
            SettingsError: There are more images than may be in flight.
        """
        encodings = ["bgr8"] * len(images) if encodings is None else encodings
        pixels = [
            checked_pixels(image, encoding)
            for image, encoding in zip(images, encodings, strict=True)
        ]
        if len(images) > self.depth * self.batch:
            raise SettingsError(
                f"{len(images)} images at once, but this pipeline holds {self.depth * self.batch}"
            )
        if threading.current_thread() in self._threads:
            raise RuntimeError("a pipeline's callback cannot submit to it; use another thread")
        settings = self._predictor.settings()
        slots, jobs = self._take_slots(len(images), timeout), []
        try:
            for slot, image, encoding in zip(slots, pixels, encodings, strict=True):
                timer = self._predictor.timer()
                slot.upload(image, stage_of(timer))
                jobs.append(Job(slot, image.shape, encoding, settings, timer, Future()))
            with self._changed:
                if self._closed:
                    raise PipelineClosedError
                self._waiting.extend(jobs)
                self._changed.notify_all()
        except BaseException:
            self._drop(slots)
            raise
        return [job.answer for job in jobs]

    def close(self, *, cancel: bool = False, wait: bool = True) -> None:
        """Finish submitted frames and end the threads; blocked calls of `submit` raise.

        It may be called again, and must be if it was interrupted. Called by a future's callback, it
        does not wait.

        Args:
            cancel: Whether to cancel the frames whose computation has not started.
            wait: Whether to wait for results and threads.
        """
        with self._changed:
            self._closed = True
            unwanted = [job.answer for job in self._waiting] if cancel else []
            self._changed.notify_all()
        for answer in unwanted:
            answer.cancel()
        if wait and threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(cancel=kind is not None)

    def _take_slots(self, count: int, timeout: float | None) -> list[HostSlot | CudaSlot]:
        def room() -> bool:
            return len(self._free) >= count or self._closed

        with self._changed:
            if not self._changed.wait_for(room, timeout):
                raise TimeoutError("no room in the pipeline: all its frames are in flight")
            if self._closed:
                raise PipelineClosedError
            return [self._free.pop() for _ in range(count)]

    def _drop(self, slots: Sequence[HostSlot | CudaSlot]) -> None:
        """Release the slots of frames that will not be computed."""
        try:
            for slot in slots:
                slot.settle()
        finally:
            self._release(slots)

    def _release(self, slots: Iterable[HostSlot | CudaSlot], *, computations: int = 0) -> None:
        with self._changed:
            for slot in slots:
                slot.clear()
                self._free.append(slot)
            self._computations -= computations
            self._changed.notify_all()

    def _compute_all(self) -> None:
        """Run the thread that computes."""
        while (jobs := self._next_jobs()) is not None:
            compute(self._predictor, self._ring, jobs)
            if self._overlaps:
                self._computed.put(jobs)
            else:
                self._answer(jobs)
            del jobs  # else the last frame stays in memory until the next one
        self._computed.put(None)
        if not self._overlaps:
            self._forget()

    def _next_jobs(self) -> list[Job] | None:
        """Wait for frames to compute and return them; None if the pipeline is closed."""

        def something_to_do() -> bool:
            if self._waiting:
                return self._computations < self.depth
            return self._closed

        with self._changed:
            self._changed.wait_for(something_to_do)
            if not self._waiting:
                return None
            jobs = [self._waiting.popleft()]
            while self._waiting and len(jobs) < self.batch and self._waiting[0].goes_with(jobs[0]):
                jobs.append(self._waiting.popleft())
            self._computations += 1
            return jobs

    def _answer_all(self) -> None:
        """Run the thread that returns results, if that overlaps with computing."""
        while (jobs := self._computed.get()) is not None:
            self._answer(jobs)
            del jobs
        self._forget()

    def _forget(self) -> None:
        """Unregister `close` at the end of the last thread: there is nothing left to close."""
        atexit.unregister(self.close)

    def _answer(self, jobs: list[Job]) -> None:
        over = 1  # a computation is over when its first frame is on the host
        for job in jobs:
            frame, error = outcome(self._predictor, job)
            # Before the callback, which may take long.
            self._release([job.slot], computations=over)
            over, answer = 0, job.answer
            # Break the reference cycle error -> traceback -> job -> error.
            del job.answer, job.error
            if error is not None:
                answer.set_exception(error)
            elif frame is not None:
                answer.set_result(frame)


def in_order(
    predictor: Segmenter, images: Iterable[AnyImage], *, depth: int = 2
) -> Iterator[PanopticFrame]:
    """Segment images through a `Pipeline`, yielding the frames of ``map(predictor, images)``.

    An error is raised after the frames before it. Up to `depth` images are read ahead.
    """
    source = iter(images)
    answers: deque[Future[PanopticFrame]] = deque()
    ended: Exception | None = None
    with Pipeline(predictor, depth=depth) as pipeline:
        while ended is None or answers:
            while ended is None and len(answers) < depth:
                try:
                    answers.append(pipeline.submit(next(source)))
                except Exception as error:  # noqa: BLE001 - raised below, in its turn
                    ended = error
            if answers:
                yield answers.popleft().result()
    if not isinstance(ended, StopIteration):
        raise ended
