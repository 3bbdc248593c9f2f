"""The thread that writes what the recorder has joined, so that arrivals are timed well."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from upsnet_ros.inference.recording import RecordedFrame, Recording
from upsnet_ros.ros.from_messages import frame_from_messages
from upsnet_ros.ros.image_codec import to_bgr
from upsnet_ros.ros.stamp_join import JoinedSet

__all__ = ["RecordingThread"]

# Sets that wait for the disk: enough for a hiccup, few enough for the memory.
_QUEUE_FRAMES = 16


class RecordingThread:
    """Turns joined messages into files while the executor's thread takes the next ones.

    Args:
        image: Topic of the camera's images in each set.
        answers: Topics of labels, instances and unknown mask, in this order.
    """

    def __init__(self, *, image: str, answers: tuple[str, str, str]) -> None:
        self._image, self._answers = image, answers
        self._joined: queue.Queue[JoinedSet | None] = queue.Queue(_QUEUE_FRAMES)
        self._recording: Recording | None = None
        self._thread = threading.Thread(target=self._run, name="upsnet_recording", daemon=True)
        self._failure: Exception | None = None
        self.latencies_ms: list[float] = []
        self.malformed = 0
        self.last_malformed = ""

    @property
    def written(self) -> int:
        """Number of frames written."""
        return self._recording.count if self._recording else 0

    def start(self, recording: Recording) -> None:
        """Begin to write into ``recording``."""
        self._recording = recording
        self._thread.start()

    def offer(self, joined: JoinedSet) -> bool:
        """Let a set wait to be written; False where too many wait already."""
        try:
            self._joined.put_nowait(joined)
        except queue.Full:
            return False
        return True

    def finish(self, summary: Callable[[], dict[str, Any]]) -> None:
        """Write what still waits, close the recording with its ``summary``, raise what failed."""
        if self._recording is None:
            return
        self._joined.put(None)
        self._thread.join()
        self._recording.close(summary())
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise what ended the writing, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (joined := self._joined.get()) is not None:
            if self._failure is not None:
                continue  # so that the other thread never waits for room
            try:
                self._write(joined)
            except ValueError as error:  # ImageError is one; unknown classes and sizes are others
                self.malformed += 1
                self.last_malformed = str(error)
            except Exception as error:  # noqa: BLE001 - raised again in the main thread
                self._failure = error

    def _write(self, joined: JoinedSet) -> None:
        assert self._recording is not None
        messages, received = joined.messages, joined.received
        labels, instances, unknown_mask = (messages[name] for name in self._answers)
        latency_ms = 1e3 * (max(received[name] for name in self._answers) - received[self._image])
        self._recording.write(
            RecordedFrame(
                image_bgr=to_bgr(messages[self._image]),
                panoptic=frame_from_messages(labels, instances, unknown_mask),
                stamp_ns=joined.stamp_ns,
                frame_id=messages[self._image].header.frame_id,
                unknown_regions=len(instances.unknown_regions),
                latency_ms=latency_ms,
            )
        )
        self.latencies_ms.append(latency_ms)
