"""One thread that computes, while the executor's thread stays free: the newest frame wins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["FrameWorker"]

Frame = TypeVar("Frame")


class FrameWorker(Generic[Frame]):
    """Answers the cameras' frames one at a time, in a thread of its own.

    At most one frame of each camera waits; a newer one takes its place. Cameras take turns, so that
    under overload each gets the same number of answers, however fast another one sends. A frame
    once begun is always finished.

    Args:
        cameras: The cameras' names.
        answer: Called in the worker's thread with a camera's name and its frame.
        failed: Called in the worker's thread with a camera's name and what ``answer`` raised; the
            worker lives on.
    """

    def __init__(
        self,
        *,
        cameras: Sequence[str],
        answer: Callable[[str, Frame], None],
        failed: Callable[[str, Exception], None],
    ) -> None:
        self._answer = answer
        self._failed = failed
        self._turns = list(cameras)  # who was served longest ago comes first
        self._waiting: dict[str, Frame] = {}
        self._computing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._left_alone: threading.Thread | None = None

    @property
    def left_alone(self) -> bool:
        """Whether a frame is still being computed that `stop` did not wait for."""
        return self._left_alone is not None and self._left_alone.is_alive()

    @property
    def idle(self) -> bool:
        """Whether no frame is computed or waits."""
        with self._changed:
            return not self._computing and not self._waiting

    def start(self) -> None:
        """Begins to take frames.

        Raises:
            RuntimeError: Where it has begun already, or has not ended yet.
        """
        if self._thread is not None or self.left_alone:
            raise RuntimeError("the worker runs already")
        self._thread = threading.Thread(target=self._run, name="upsnet_worker")
        self._thread.start()

    def stop(self, *, timeout: float | None = None) -> dict[str, Frame]:
        """Finishes the frame that was begun, and ends the thread; does nothing where none runs.

        Args:
            timeout: Seconds to wait for that frame; as long as it takes by default. See
                `left_alone` for whether they were enough.

        Returns:
            The frames that still waited, by camera; they will not be answered.
        """
        with self._changed:
            thread, self._thread = self._thread, None
            left, self._waiting = self._waiting, {}
            self._changed.notify()
        if thread is not None:
            thread.join(timeout)
            self._left_alone = thread
        return left

    def offer(self, camera: str, frame: Frame) -> Frame | None:
        """Lets a frame wait for its turn.

        Returns:
            The frame that will not be answered: an older one whose place this one took, this one
            where the worker does not run, else None.
        """
        with self._changed:
            if self._thread is None:
                return frame
            older = self._waiting.get(camera)
            self._waiting[camera] = frame
            self._changed.notify()
            return older

    def _run(self) -> None:
        while (turn := self._next()) is not None:
            camera, frame = turn
            try:
                self._answer(camera, frame)
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends one frame, not the node
                self._failed(camera, error)
            del turn, frame  # else the last image is held until the next one comes

    def _next(self) -> tuple[str, Frame] | None:
        """The frame whose turn it is, as soon as there is one; None where the worker stops."""
        with self._changed:
            self._computing = False
            self._changed.wait_for(lambda: self._waiting or self._thread is None)
            if self._thread is None:
                return None
            camera = next(name for name in self._turns if name in self._waiting)
            self._turns.remove(camera)
            self._turns.append(camera)
            self._computing = True
            return camera, self._waiting.pop(camera)
