"""Several frames on their way at once: one is computed while others come and go."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType

import numpy as np
import numpy.typing as npt

from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.job import Job, compute, outcome
from upsnet_ros.inference.preprocess import check_image
from upsnet_ros.inference.ring import CudaSlot, HostSlot, Ring
from upsnet_ros.inference.segmenter import Segmenter
from upsnet_ros.inference.stage_timer import stage_of

__all__ = ["Pipeline", "PipelineClosedError", "in_order"]


class PipelineClosedError(RuntimeError):
    """A pipeline takes no frames any more."""

    def __init__(self) -> None:
        super().__init__("the pipeline is closed")


class Pipeline:
    """Segments frames that are handed in one by one, from any thread, and answers in their order.

    `submit` copies the image and returns a `concurrent.futures.Future` of its frame: wait for
    it with ``result()``, or have ``add_done_callback`` called in the pipeline's thread. Futures are
    done in the order of `submit`. What a frame raises is its own future's; the next one goes on.

    On a GPU three streams upload, compute and download at once, over a ring of pinned memory: see
    `ring` for their order. The copy to the GPU is launched by the thread that submits; a second
    thread launches the network, and a third makes frames of what came back, the only one to wait
    for the GPU. On a CPU one thread does it all.

    As a context manager it ends with `close`, which drops what has not begun if the block raised.
    A pipeline that nobody closes is closed when the interpreter ends.

    Args:
        predictor: What segments; it may be used beside the pipeline.
        depth: Computations in flight: one runs, the others' images and answers are on their way.
        batch: Frames that a computation takes at most, of one size and encoding and under the same
            settings. It takes those that wait when it starts, and never waits for more, so a lone
            frame is not held up. Each one's future is done as soon as its own answer is here.

    Attributes:
        depth: As given.
        batch: As given.

    Raises:
        ValueError: `depth` or `batch` is less than 1.
    """

    def __init__(self, predictor: Segmenter, *, depth: int = 2, batch: int = 1) -> None:
        for name, value in (("depth", depth), ("batch", batch)):
            if value < 1:
                raise ValueError(f"{name} of a pipeline is {value}, but must be at least 1")
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
        # Daemons, since the interpreter would else wait for them before it calls what closes them.
        self._threads = [
            threading.Thread(target=t, name=f"upsnet{t.__name__}", daemon=True) for t in targets
        ]
        atexit.register(self.close)
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        image: npt.NDArray[np.uint8],
        *,
        encoding: str = "bgr8",
        timeout: float | None = None,
    ) -> Future[PanopticFrame]:
        """Hand in an image; it may change once this returns.

        Returns at once while less than ``depth * batch`` frames are in flight, and else as soon as
        one of them is answered. Thresholds and outputs are the predictor's of this moment. A future
        that is cancelled before its computation began is never computed.

        Args:
            image: uint8 (H, W, 3) in BGR order, or as the encoding has it.
            encoding: One of `kernels.camera.BYTES_PER_PIXEL`.
            timeout: Seconds to wait for room; as long as it takes by default, 0 for not at all.

        Raises:
            ValueError: The encoding is unknown, or the image has another dtype or shape, or no
                pixels.
            TimeoutError: There was no room in that time.
            PipelineClosedError: It takes no frames any more.
            RuntimeError: A future's callback, which would wait for itself, submits.
        """
        (answer,) = self.submit_together([image], encodings=[encoding], timeout=timeout)
        return answer

    def submit_together(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        *,
        encodings: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> list[Future[PanopticFrame]]:
        """Hand in several images at once, so that none is computed before the others are here.

        Those that fit each other share a computation, up to `batch` of them. Either all are taken
        or none is; see `submit`, also for what is raised.

        Args:
            images: As `submit` takes them.
            encodings: One for each image; bgr8 by default.
            timeout: Seconds to wait for room for all of them.

        Raises:
            ValueError: Besides, there are more of them than may be in flight.
        """
        encodings = ["bgr8"] * len(images) if encodings is None else encodings
        for image, encoding in zip(images, encodings, strict=True):
            check_image(image, encoding)
        if len(images) > self.depth * self.batch:
            raise ValueError(
                f"{len(images)} images at once, but this pipeline holds {self.depth * self.batch}"
            )
        if threading.current_thread() in self._threads:
            raise RuntimeError("a pipeline's callback cannot submit to it; use another thread")
        settings = self._predictor.settings()
        slots, jobs = self._take_slots(len(images), timeout), []
        try:
            for slot, image, encoding in zip(slots, images, encodings, strict=True):
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
        """Answer what was submitted, and end the threads; blocked calls of `submit` raise.

        It may be called again, and where it was interrupted it has to be. Called by a future's
        callback it does not wait.

        Args:
            cancel: Whether to cancel the frames whose computation has not begun.
            wait: Whether to wait for the answers and the threads' end.
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

    def _take_slots(self, number: int, timeout: float | None) -> list[HostSlot | CudaSlot]:
        def room() -> bool:
            return len(self._free) >= number or self._closed

        with self._changed:
            if not self._changed.wait_for(room, timeout):
                raise TimeoutError("no room in the pipeline: all its frames are in flight")
            if self._closed:
                raise PipelineClosedError
            return [self._free.pop() for _ in range(number)]

    def _drop(self, slots: Sequence[HostSlot | CudaSlot]) -> None:
        """Give back the slots of frames that will not be computed."""
        try:
            for slot in slots:
                slot.settle()
        finally:
            self._give_back(slots)

    def _give_back(self, slots: Iterable[HostSlot | CudaSlot], *, computations: int = 0) -> None:
        with self._changed:
            for slot in slots:
                slot.clear()
                self._free.append(slot)
            self._computations -= computations
            self._changed.notify_all()

    def _compute_all(self) -> None:
        """Body of the thread that computes."""
        while (jobs := self._next_jobs()) is not None:
            compute(self._predictor, self._ring, jobs)
            if self._overlaps:
                self._computed.put(jobs)
            else:
                self._answer(jobs)
            del jobs  # else the last frame is held until the next one comes
        self._computed.put(None)
        if not self._overlaps:
            self._forget()

    def _next_jobs(self) -> list[Job] | None:
        """Return the frames to compute, as soon as there are any; None where there will be none."""

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
        """Body of the thread that answers, where that overlaps with computing."""
        while (jobs := self._computed.get()) is not None:
            self._answer(jobs)
            del jobs
        self._forget()

    def _forget(self) -> None:
        """End of the last thread: nothing is left that the interpreter would have to close."""
        atexit.unregister(self.close)

    def _answer(self, jobs: list[Job]) -> None:
        over = 1  # all of a computation is over once the first of its frames is here
        for job in jobs:
            frame, error = outcome(self._predictor, job)
            # Before the callback, which may take its time.
            self._give_back([job.slot], computations=over)
            over, answer = 0, job.answer
            # An error's traceback holds the job; it must not hold itself by that.
            del job.answer, job.error
            if error is not None:
                answer.set_exception(error)
            elif frame is not None:
                answer.set_result(frame)


def in_order(
    predictor: Segmenter, images: Iterable[npt.NDArray[np.uint8]], *, depth: int = 2
) -> Iterator[PanopticFrame]:
    """Segment images through a `Pipeline`, yielding what ``map(predictor, images)`` does.

    An error ends it where that would, after the frames before it; it reads up to `depth` images
    ahead.
    """
    source = iter(images)
    answers: deque[Future[PanopticFrame]] = deque()
    ended: Exception | None = None
    with Pipeline(predictor, depth=depth) as pipeline:
        while ended is None or answers:
            while ended is None and len(answers) < depth:
                try:
                    answers.append(pipeline.submit(next(source)))
                except Exception as error:  # noqa: BLE001 - raised below, after its turn has come
                    ended = error
            if answers:
                yield answers.popleft().result()
    if not isinstance(ended, StopIteration):
        raise ended
