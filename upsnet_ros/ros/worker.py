"""Threads that see to the cameras' frames, while the executor's stays free; the newest wins."""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

__all__ = ["FrameWorker", "Steps"]

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
        """Has images computed, in their order; returns at once."""
        ...

    def publish(self, camera: str, image: Image, result: Result) -> None:
        """Answers the camera with what was computed of its image."""
        ...

    def failed(self, camera: str, error: Exception) -> None:
        """Reports that a camera's frame is not answered."""
        ...


class FrameWorker(Generic[Frame, Image, Result]):
    """Sees to it that the cameras' frames are computed and answered, in two threads of its own.

    The first decodes and submits, the second waits for results and publishes, in the order of
    submission. So images are decoded and answers published while others are computed.

    At most one frame of each camera waits; a newer one takes its place. Frames are chosen as late
    as can be, when a computation has ended. Cameras take turns, so that under overload each gets
    the same number of answers, however fast another one sends. A frame once begun is always
    finished, also where nobody stops the worker before the interpreter ends.

    Args:
        cameras: The cameras' names.
        steps: What is done with a frame. `decode` and `submit` are called in the first thread,
            `publish` in the second, `failed` in both.
    """

    def __init__(self, *, cameras: Sequence[str], steps: Steps[Frame, Image, Result]) -> None:
        self._steps = steps
        self._turns = list(cameras)  # who was served longest ago comes first
        self._waiting: dict[str, Frame] = {}
        self._batch = self._depth = 1
        self._computations = 0  # submitted, the last result of which is not here
        self._unfinished = 0  # frames that were taken and are neither answered nor failed
        self._running = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._stopped: list[threading.Thread] = []

    @property
    def left_alone(self) -> bool:
        """Whether frames are still under way that `stop` did not wait for."""
        return any(thread.is_alive() for thread in self._stopped)

    @property
    def idle(self) -> bool:
        """Whether no frame is under way or waits."""
        with self._changed:
            return not self._unfinished and not self._waiting

    def start(self, *, batch: int = 1, depth: int = 1) -> None:
        """Begins to take frames.

        Args:
            batch: Cameras whose frames are submitted together at most, if they wait.
            depth: Submissions under way: one is computed, the others are prepared for their turn.

        Raises:
            RuntimeError: Where it has begun already, or has not ended yet.
        """
        if self._running or self.left_alone:
            raise RuntimeError("the worker runs already")
        self._batch, self._depth = batch, depth
        self._running = True
        begun: SimpleQueue[_Submission[Image, Result] | None] = SimpleQueue()
        for body in (self._submit_all, self._publish_all):
            # Daemons, since the interpreter would else wait for them before it calls `_end`.
            thread = threading.Thread(
                target=body, args=(begun,), name=f"upsnet{body.__name__}", daemon=True
            )
            thread.start()
            self._threads.append(thread)  # one by one: the system may have none for the second
        atexit.register(self._end)

    def stop(self, *, timeout: float | None = None) -> dict[str, Frame]:
        """Finishes the frames that were begun, and ends the threads; does nothing where none run.

        Args:
            timeout: Seconds to wait for those frames; as long as they take by default. See
                `left_alone` for whether they were enough.

        Returns:
            The frames that still waited, by camera; they will not be answered.
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
        """Lets a frame wait for its turn.

        Returns:
            The frame that will not be answered: an older one whose place this one took, this one
            where the worker does not run, else None.
        """
        with self._changed:
            if not self._running:
                return frame
            older = self._waiting.get(camera)
            self._waiting[camera] = frame
            self._changed.notify_all()
            return older

    def _end(self) -> None:
        """Finishes all at the interpreter's end, where nobody stopped the worker before."""
        self.stop()
        for thread in self._stopped:
            thread.join()

    def _submit_all(self, begun: SimpleQueue[_Submission[Image, Result] | None]) -> None:
        """Body of the first thread."""
        while (frames := self._next()) is not None:
            submission = self._submit(frames)
            del frames  # else the last images are held until the next ones come
            if submission:
                begun.put(submission)
            else:
                self._computed()
            del submission
        begun.put(None)

    def _next(self) -> list[tuple[str, Frame]] | None:
        """The frames whose turn it is, as soon as there are any; None where the worker stops."""

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
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends one frame
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

    def _publish_all(self, begun: SimpleQueue[_Submission[Image, Result] | None]) -> None:
        """Body of the second thread."""
        while (submission := begun.get()) is not None:
            while submission:
                self._publish(*submission.popleft(), is_last=not submission)
        atexit.unregister(self._end)

    def _publish(self, camera: str, image: Image, result: Future[Result], *, is_last: bool) -> None:
        try:
            answer = result.result()
        except Exception as error:  # noqa: BLE001 - as above
            # Before the next one is begun: what it needs may have to be given back first.
            self._fail(camera, error)
            if is_last:
                self._computed()
            del result  # the error's traceback holds this frame; it must not hold itself by that
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
        """The last result of a submission is here: the next one may begin."""
        with self._changed:
            self._computations -= 1
            self._changed.notify_all()

    def _finished(self) -> None:
        with self._changed:
            self._unfinished -= 1
