"""Records camera images together with the node's results for them."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import NodeNameNonExistentError
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from upsnet_ros.datasets.taxonomy import Taxonomy
from upsnet_ros.drawing.result_folder import (
    RecordedFrame,
    Recording,
    RecordingSettings,
    check_folder,
)
from upsnet_ros.errors import OutputError, RecorderError, first_line, listed
from upsnet_ros.messages.frames import (
    JoinedSet,
    StampJoiner,
    frame_from_messages,
    taxonomy_from_message,
)
from upsnet_ros.messages.images import to_bgr
from upsnet_ros.messages.results import compressed_topic
from upsnet_ros.msg import PanopticInstanceArray, PanopticLabelInfo
from upsnet_ros.node.lifecycle import POLL_SECONDS, SpinningNode
from upsnet_ros.node.topics import COMPRESSED, IMAGE_TYPES, stamp_ns, with_arrival
from upsnet_ros.playback.settings import RecorderSettings

#: Keys of the messages of a frame: the camera image, and the results with their types.
_IMAGE = "image"
_RESULTS = {"labels": Image, "instances": PanopticInstanceArray, "unknown_mask": Image}
# Sets queued for writing: enough to bridge a slow disk, few enough to bound the memory.
_QUEUE_FRAMES = 16


class RecordingThread:
    """Writes joined messages to files while the executor's thread receives the next ones."""

    def __init__(self) -> None:
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
        """Start writing to ``recording``."""
        self._recording = recording
        self._thread.start()

    def offer(self, joined: JoinedSet) -> bool:
        """Queue a set for writing; return False if the queue is full."""
        try:
            self._joined.put_nowait(joined)
        except queue.Full:
            return False
        return True

    def finish(self, summary: Callable[[], dict[str, Any]]) -> None:
        """Write the queued sets and close the recording with ``summary``; raise any failure."""
        if self._recording is None:
            return
        self._joined.put(None)
        self._thread.join()
        self._recording.close(summary())
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise the error that stopped the writing, if any."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (joined := self._joined.get()) is not None:
            if self._failure is not None:
                continue  # keep draining, so that `finish` does not block on a full queue
            try:
                self._write(joined)
            except (OutputError, OSError) as error:  # raised again in the main thread
                self._failure = error
            except Exception as error:  # noqa: BLE001 - a malformed message must cost one frame only
                self.malformed += 1
                self.last_malformed = first_line(error)

    def _write(self, joined: JoinedSet) -> None:
        assert self._recording is not None
        messages, received = joined.messages, joined.received
        image, instances = messages[_IMAGE], messages["instances"]
        latency_ms = 1e3 * (max(received[name] for name in _RESULTS) - received[_IMAGE])
        self._recording.write(
            RecordedFrame(
                image_bgr=to_bgr(image),
                panoptic=frame_from_messages(
                    messages["labels"], instances, messages["unknown_mask"]
                ),
                stamp_ns=joined.stamp_ns,
                frame_id=image.header.frame_id,
                unknown_regions=len(instances.unknown_regions),
                latency_ms=latency_ms,
            )
        )
        self.latencies_ms.append(latency_ms)


#: Called with topic, serialised message, time of reception in nanoseconds, and message type.
Keep = Callable[[str, bytes, int, str], None]

# The node publishes label_info before it subscribes to its camera, and the graph lags behind.
_GRAPH_SECONDS = 3.0


class Recorder(SpinningNode):
    """The node ``upsnet_record``; call `record` to record.

    Args:
        folder: Output folder.
        settings: What to record.
        recording: How to write it.
        namespace: Namespace of the node whose results are recorded.
        keep: Called with every message received, for example to write a bag.

    Raises:
        RecordingError: If the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: RecorderSettings,
        recording: RecordingSettings,
        namespace: str = "panoptic",
        keep: Keep | None = None,
    ) -> None:
        check_folder(folder, recording)
        super().__init__("upsnet_record", namespace=namespace)
        self._folder, self._settings, self._recording_settings = folder, settings, recording
        self._keep = keep
        self._taxonomy: Taxonomy | None = None
        self._failure: Exception | None = None  # raised by `keep`
        self._joiner = StampJoiner([_IMAGE, *_RESULTS], limit=settings.queue)
        self._offered = self._overrun = self._images = 0
        self._writer = RecordingThread()
        latched = QoSProfile(
            depth=1,
            reliability=QoSReliabilityPolicy.RELIABLE,
            durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
        )
        self.create_subscription(PanopticLabelInfo, "label_info", self._on_label_info, latched)
        qos = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.RELIABLE)
        self._results = {
            name: self.create_subscription(
                kind, name, self._collector(name, self.resolve_topic_name(name)), qos
            )
            for name, kind in _RESULTS.items()
        }
        self._camera: Any = None
        self._lookup_started: float | None = None

    def record(self, *, stopped: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """Record; yield the number of frames written so far, several times a second.

        Ends when the requested count is reached, or as soon as ``stopped`` returns True. Frames
        that have arrived by then are still written; `summary` is final afterwards.

        Raises:
            RecorderError: If the timeout passes before the count is reached, or without a frame.
            OutputError: If a file cannot be written.
            VideoError: If the video cannot be written.
        """
        settings = self._settings
        progress_at, progress = time.monotonic(), 0
        try:
            while not stopped() and self._writer.written != settings.count:
                self._executor.spin_once(timeout_sec=POLL_SECONDS)
                self._start_when_ready()
                self._writer.raise_failure()
                if self._failure is not None:
                    raise self._failure
                if (now := self._offered + self._writer.written) > progress:
                    progress_at, progress = time.monotonic(), now
                elif settings.timeout and time.monotonic() - progress_at > settings.timeout:
                    if not self._accepted or settings.count:
                        raise RecorderError(self._timeout_message(settings.timeout))
                    break
                yield self._writer.written
        finally:
            self._joiner.finish()
            self._writer.finish(self.summary)
        yield self._writer.written

    def summary(self) -> dict[str, Any]:
        """Return the current counts of recorded and missing frames; JSON-ready."""
        latencies = self._writer.latencies_ms
        unanswered = self._joiner.dropped[frozenset(_RESULTS)]
        missing = self._joiner.missing - Counter(dict.fromkeys(_RESULTS, unanswered))
        p50, p99 = np.percentile(latencies, (50, 99)).tolist() if latencies else (None, None)
        return {
            "frames": self._writer.written,
            "unanswered": unanswered,
            "incomplete": self._joiner.given_up - unanswered,
            "missing": dict(missing),
            "malformed": self._writer.malformed,
            "last_malformed": self._writer.last_malformed,
            "refused": dict(self.refusals),
            "overrun": self._overrun,
            "latency_ms": {"p50": p50, "p99": p99},
        }

    def _on_label_info(self, label_info: PanopticLabelInfo) -> None:
        if self._taxonomy is None:
            # If it is invalid, this raises and is counted; a valid one may still follow.
            self._taxonomy = taxonomy_from_message(label_info)
            self._keep_message(self.resolve_topic_name("label_info"), label_info, time.time_ns())

    @property
    def _accepted(self) -> int:
        """Number of frames written or queued, without malformed ones."""
        return self._offered - self._writer.malformed

    def _silent(self) -> list[str]:
        """Return the result topics without a publisher."""
        topics = [subscription.topic_name for subscription in self._results.values()]
        return [topic for topic in topics if not self.count_publishers(topic)]

    def _start_when_ready(self) -> None:
        """Subscribe to the camera once all result topics have a publisher."""
        if self._camera is not None or self._taxonomy is None or self._silent():
            return
        camera = self._camera_topic()
        if camera is None:
            return
        topic, compressed = camera
        self._writer.start(
            Recording(
                self._folder,
                taxonomy=self._taxonomy,
                settings=self._recording_settings,
            )
        )
        self._camera = self.create_subscription(
            CompressedImage if compressed else Image,
            topic,
            self._collector(_IMAGE, topic),
            QoSProfile(
                depth=10,
                reliability=QoSReliabilityPolicy[self._settings.image_reliability.upper()],
            ),
        )

    def _camera_topic(self) -> tuple[str, bool] | None:
        """Return the camera topic and whether it is compressed; None while it is still unknown.

        Raises:
            RecorderError: If the node subscribes to several cameras.
        """
        settings = self._settings
        if settings.image_topic is None:
            read = self._node_subscriptions()
            mine = {self.resolve_topic_name(name) for name in (_IMAGE, compressed_topic(_IMAGE))}
            found = set(read) if len(read) == 1 else mine & set(read)
            if len(found) == 1:
                topic = found.pop()
                return topic, read[topic] == COMPRESSED
            if read:
                raise RecorderError(
                    f"the node subscribes to several cameras, {listed(sorted(read))}: select one"
                    " with --image-topic, and its results with --namespace"
                )
            self._lookup_started = self._lookup_started or time.monotonic()
            if time.monotonic() - self._lookup_started < _GRAPH_SECONDS and not any(
                map(self.count_publishers, mine)
            ):
                return None
        base = self.resolve_topic_name(settings.image_topic or _IMAGE)
        return (compressed_topic(base) if settings.compressed else base), settings.compressed

    def _node_subscriptions(self) -> dict[str, str]:
        """Return the types, by topic, of the images that the recorded node subscribes to."""
        read: dict[str, str] = {}
        for one in self.get_publishers_info_by_topic(self._results["labels"].topic_name):
            if not one.node_namespace.startswith("/"):  # not yet in the graph
                continue
            try:
                topics = self.get_subscriber_names_and_types_by_node(
                    one.node_name, one.node_namespace
                )
            except NodeNameNonExistentError:  # destroyed, or not yet in the graph
                continue
            for topic, types in topics:
                for kind in set(types) & set(IMAGE_TYPES.values()):
                    read[topic] = kind
        return read

    def _keep_message(self, name: str, message: Any, received_ns: int) -> None:
        if self._keep is not None:
            kind = type(message)
            msgtype = f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"
            try:
                self._keep(name, serialize_message(message), received_ns, msgtype)
            except Exception as error:  # noqa: BLE001 - the callback guard would only count it
                self._failure = error

    def _collector(self, topic: str, name: str) -> Callable[..., None]:
        def collect(message: Any, received_ns: int) -> None:
            self._keep_message(name, message, received_ns)
            self._images += topic == _IMAGE
            stamp = stamp_ns(message.header.stamp)
            joined = self._joiner.add(topic, stamp, message, received=received_ns / 1e9)
            if joined is None or self._accepted == self._settings.count:
                return
            if self._writer.offer(joined):
                self._offered += 1
            else:
                self._overrun += 1

        return with_arrival(collect)

    def _timeout_message(self, timeout: float) -> str:
        """Return why no frame was complete: the first missing precondition."""
        message = f"no complete frame for {timeout:g} s"
        if self._settings.count and self._accepted:
            message += f", {self._accepted} of {self._settings.count} recorded"
        if silent := self._silent():
            return f"{message}: no publisher on {', '.join(silent)}: is the node active?"
        if self._camera is None:
            refused = sum(self.refusals.values())
            return f"{message}: no {'valid ' if refused else ''}label_info received"
        if not self._images:
            publishers = self.count_publishers(self._camera.topic_name)
            return (
                f"{message}: no image on {self._camera.topic_name} ({publishers} publishers);"
                " --image-topic names another"
            )
        self._joiner.finish()
        lacking = ", ".join(f"{topic} ({count}x)" for topic, count in self._joiner.missing.items())
        return f"{message}: {self._images} images received; missing: {lacking or 'new images'}"
