"""Queue of camera frames and the threads that process them, apart from the executor's thread.

At most one frame of each camera is queued: a newer one replaces it. Cameras are served round-robin.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

Frame = TypeVar("Frame")
Frame_contra = TypeVar("Frame_contra", contravariant=True)
Image = TypeVar("Image")
Result = TypeVar("Result")
#: What is submitted together, in its order.
_Submission = deque[tuple[str, Image, Future[Result]]]


class Steps(Protocol[Frame_contra, Image, Result]):
    """A frame's way. What a step raises is given to `failed`, and ends one frame only."""

    def decode(self, camera: str, frame: Frame_contra) -> Image | None:
        """Makes of a camera's frame what is submitted; None where it was refused."""
        ...

    def submit(self, images: Sequence[Image]) -> Sequence[Future[Result]]:
        """Submit images for inference, in order; does not block."""
        ...

    def publish(self, camera: str, image: Image, result: Result) -> None:
        """Publish the result of a camera's image."""
        ...

    def failed(self, camera: str, error: Exception) -> None:
        """Report that a camera's frame has no result."""
        ...


class FrameWorker(Generic[Frame, Image, Result]):
    """Processes the cameras' frames in two threads.

    The first decodes and submits, the second waits for results and publishes, in the order of
    submission. Images are thus decoded and results published while others are computed.

    At most one frame of each camera is queued; a newer one replaces it. Frames are chosen as late
    as possible, when a computation has ended. Cameras are served round-robin, so that under
    overload each gets the same number of results, whatever the rates of the others. A frame that
    was started is always finished, even if the interpreter ends without `stop`.

    Args:
        cameras: Names of the cameras.
        steps: The steps of a frame. `decode` and `submit` are called in the first thread,
            `publish` in the second, `failed` in both.
    """

    def __init__(self, *, cameras: Sequence[str], steps: Steps[Frame, Image, Result]) -> None:
        self._steps = steps
        self._turns = list(cameras)  # least recently served first
        self._waiting: dict[str, Frame] = {}
        self._batch = self._depth = 1
        self._computations = 0  # submissions whose last result is not yet there
        self._unfinished = 0  # frames that were taken, without result or failure yet
        self._running = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._stopped: list[threading.Thread] = []

    @property
    def left_alone(self) -> bool:
        """Whether frames are still being processed for which `stop` did not wait."""
        return any(thread.is_alive() for thread in self._stopped)

    @property
    def idle(self) -> bool:
        """Whether no frame is queued or being processed."""
        with self._changed:
            return not self._unfinished and not self._waiting

    def start(self, *, batch: int = 1, depth: int = 1) -> None:
        """Start the threads.

        Args:
            batch: Maximum number of queued frames that are submitted together.
            depth: Maximum number of submissions at once: one is computed, others are prepared.

        Raises:
            RuntimeError: If the worker is running already, or has not ended yet.
        """
        if self._running or self.left_alone:
            raise RuntimeError("the worker is already running")
        self._batch, self._depth = batch, depth
        self._running = True
        submitted: SimpleQueue[_Submission[Image, Result] | None] = SimpleQueue()
        for body in (self._submit_all, self._publish_all):
            # Daemons: otherwise the interpreter waits for them before it calls `_end`.
            thread = threading.Thread(
                target=body, args=(submitted,), name=f"upsnet{body.__name__}", daemon=True
            )
            thread.start()
            self._threads.append(thread)  # one by one: starting the second may fail
        atexit.register(self._end)

    def stop(self, *, timeout: float | None = None) -> dict[str, Frame]:
        """Finish the frames that were started and end the threads; does nothing if none run.

        Args:
            timeout: Seconds to wait for those frames; by default as long as they take. Afterwards
                `left_alone` tells whether that was enough.

        Returns:
            The frames that were still queued, by camera; they get no result.
        """
        with self._changed:
            stopped, self._threads, self._running = self._threads, [], False
            left, self._waiting = self._waiting, {}
            self._changed.notify_all()
        end = None if timeout is None else time.monotonic() + timeout
        for thread in stopped:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        self._stopped = stopped or self._stopped
        return left

    def offer(self, camera: str, frame: Frame) -> Frame | None:
        """Queue a frame.

        Returns:
            The frame that gets no result: the older one that this one replaces, this one if the
            worker is not running, otherwise None.
        """
        with self._changed:
            if not self._running:
                return frame
            older = self._waiting.get(camera)
            self._waiting[camera] = frame
            self._changed.notify_all()
            return older

    def _end(self) -> None:
        """Finish all frames when the interpreter ends without `stop`."""
        self.stop()
        for thread in self._stopped:
            thread.join()

    def _submit_all(self, submitted: SimpleQueue[_Submission[Image, Result] | None]) -> None:
        """Body of the first thread."""
        while (frames := self._next()) is not None:
            submission = self._submit(frames)
            del frames  # otherwise the last images are held until the next ones arrive
            if submission:
                submitted.put(submission)
            else:
                self._computed()
            del submission
        submitted.put(None)

    def _next(self) -> list[tuple[str, Frame]] | None:
        """Wait for the next frames and return them; None if the worker stops."""

        def something_to_do() -> bool:
            return not self._running or bool(self._waiting and self._computations < self._depth)

        with self._changed:
            self._changed.wait_for(something_to_do)
            if not self._running:
                return None
            turns = [name for name in self._turns if name in self._waiting][: self._batch]
            self._turns = [name for name in self._turns if name not in turns] + turns
            self._computations += 1
            self._unfinished += len(turns)
            return [(name, self._waiting.pop(name)) for name in turns]

    def _submit(self, frames: Sequence[tuple[str, Frame]]) -> _Submission[Image, Result]:
        cameras, images = [], []
        for camera, frame in frames:
            try:
                image = self._steps.decode(camera, frame)
            except Exception as error:  # noqa: BLE001 - any error ends only this frame
                self._fail(camera, error)
                continue
            if image is None:
                self._finished()
            else:
                cameras.append(camera)
                images.append(image)
        try:
            results = self._steps.submit(images) if images else []
        except Exception as error:  # noqa: BLE001 - as above
            for camera in cameras:
                self._fail(camera, error)
            return deque()
        return deque(zip(cameras, images, results, strict=True))

    def _publish_all(self, submitted: SimpleQueue[_Submission[Image, Result] | None]) -> None:
        """Body of the second thread."""
        while (submission := submitted.get()) is not None:
            while submission:
                self._publish(*submission.popleft(), is_last=not submission)
        atexit.unregister(self._end)

    def _publish(self, camera: str, image: Image, result: Future[Result], *, is_last: bool) -> None:
        try:
            answer = result.result()
        except Exception as error:  # noqa: BLE001 - as above
            # Before the next one starts: it may need memory that has to be freed first.
            self._fail(camera, error)
            if is_last:
                self._computed()
            del result  # break the reference cycle exception -> traceback -> frame -> exception
            return
        if is_last:
            self._computed()
        try:
            self._steps.publish(camera, image, answer)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(camera, error)
        else:
            self._finished()

    def _fail(self, camera: str, error: Exception) -> None:
        self._steps.failed(camera, error)
        self._finished()

    def _computed(self) -> None:
        """The last result of a submission is there: the next one may start."""
        with self._changed:
            self._computations -= 1
            self._changed.notify_all()

    def _finished(self) -> None:
        with self._changed:
            self._unfinished -= 1
