"""Measures the running node under load, with the metrics of NVIDIA's ros2_benchmark."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import rclpy
import torch
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.time import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from upsnet_ros.bags.replay_topics import OUTPUTS, message_class
from upsnet_ros.benchmark.measure import ProcessUse, describe_machine
from upsnet_ros.benchmark.settings import NodeBenchSettings
from upsnet_ros.benchmark.stages import frames
from upsnet_ros.errors import LoadError
from upsnet_ros.messages.cdr_image import write_image
from upsnet_ros.node.lifecycle import SpinningNode
from upsnet_ros.node.topics import output_qos, stamp_ns, with_arrival
from upsnet_ros.playback.replayer import ReplayTally, SentImage
from upsnet_ros.processes.transport import TRANSPORT_VARIABLES

if TYPE_CHECKING:
    from upsnet_ros.node.process import RosProcess


@dataclass(frozen=True, slots=True)
class SentFrame:
    """Times of a published frame.

    Attributes:
        due_ns: Time at which it was due to be published, nanoseconds.
        sent_ns: Time at which it was published, nanoseconds.
        received_ns: Time at which the last of its outputs was received, nanoseconds; None if it was
            missed.
    """

    due_ns: int
    sent_ns: int
    received_ns: int | None


def load_figures(frames: Sequence[SentFrame]) -> dict[str, Any]:
    """Return the metrics of one run.

    ``latency_ms`` is the time from publishing a frame to receiving its last output, ``jitter_ms``
    the absolute difference between consecutive intervals of results, as defined by NVIDIA's
    ros2_benchmark. Unlike there, rates are intervals (not frames) per time.

    Args:
        frames: Frames in the order in which they were sent.

    Returns:
        ``sent``, ``missed``, ``missed_share``, ``sent_rate_hz``, ``answered_rate_hz``,
        ``latency_ms`` (mean, min, p50, p99, max, first, last), ``jitter_ms`` (mean, min, max, std)
        and ``late_ms``, the largest delay of the publisher. None if there are too few frames.
    """
    answered = [frame for frame in frames if frame.received_ns is not None]
    latencies = [(frame.received_ns - frame.sent_ns) / 1e6 for frame in answered]  # type: ignore[operator]
    received = sorted(frame.received_ns for frame in answered if frame.received_ns is not None)
    missed = len(frames) - len(answered)
    return {
        "sent": len(frames),
        "missed": missed,
        "missed_share": _rounded(missed / len(frames)) if frames else None,
        "sent_rate_hz": _rate([frame.sent_ns for frame in frames]),
        "answered_rate_hz": _rate(received),
        "latency_ms": _latency(latencies),
        "jitter_ms": _jitter(received),
        "late_ms": _rounded(
            max((frame.sent_ns - frame.due_ns for frame in frames), default=0) / 1e6
        ),
    }


def conclude(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Combine runs under equal conditions: the median of each metric.

    Runs without a value are ignored; of texts the first is used.
    """
    concluded: dict[str, Any] = {}
    for name, first in runs[0].items():
        values = [run[name] for run in runs if run[name] is not None]
        if not values:
            concluded[name] = None
        elif isinstance(values[0], dict):
            concluded[name] = conclude(values)
        elif isinstance(first, str):
            concluded[name] = first
        else:
            concluded[name] = _rounded(median(values))
    return concluded


def _rate(times_ns: Sequence[int]) -> float | None:
    if len(times_ns) < 2 or times_ns[-1] == times_ns[0]:
        return None
    return _rounded((len(times_ns) - 1) / ((times_ns[-1] - times_ns[0]) / 1e9))


def _latency(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p99 = np.percentile(values, (50, 99))
    figures = {
        "mean": float(np.mean(values)),
        "min": min(values),
        "p50": float(p50),
        "p99": float(p99),
        "max": max(values),
        "first": values[0],
        "last": values[-1],
    }
    return {name: _rounded(value) for name, value in figures.items()}


def _jitter(received_ns: Sequence[int]) -> dict[str, float] | None:
    if len(received_ns) < 3:
        return None
    jitter = np.abs(np.diff(np.asarray(received_ns, np.int64), n=2)) / 1e6
    figures = {"mean": jitter.mean(), "min": jitter.min(), "max": jitter.max(), "std": jitter.std()}
    return {name: _rounded(float(value)) for name, value in figures.items()}


def _rounded(value: float) -> float:
    return round(value, 4)


#: Outputs to wait for: those that a node publishes by default.
_OUTPUTS = ("labels", "instances", "unknown_mask")
_RETRY_SECONDS = 3.0


class LoadNode(SpinningNode):
    """Publishes frames at a given rate and records when their results arrive.

    Args:
        images: uint8 (H, W, 3), BGR; published cyclically.
        alive: Called regularly while waiting; raises if the node has ended.
        timeout: Seconds to wait for the node, and for the results of a frame.
    """

    def __init__(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        *,
        alive: Callable[[], None],
        timeout: float,
    ) -> None:
        super().__init__("upsnet_bench", namespace="/panoptic")
        # Most cameras send RGB, which the node has to convert.
        self._images = itertools.cycle([np.ascontiguousarray(image[..., ::-1]) for image in images])
        self._alive, self._timeout = alive, timeout
        self._tally = ReplayTally(_OUTPUTS)
        # Like a camera driver; frames that the node cannot take in time are lost, as intended.
        qos = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        self._camera = self.create_publisher(Image, "image", qos)
        self._results = [self._subscribe(name) for name in _OUTPUTS]

    def wait_for_node(self) -> None:
        """Wait until the node subscribes, publishes its outputs, and has processed a frame.

        Raises:
            LoadError: If that takes longer than the timeout.
        """
        until = time.monotonic() + self._timeout
        self._spin(lambda: not self._missing_peer(), self._timeout)
        if missing := self._missing_peer():
            raise LoadError(f"{missing} after {self._timeout:g} s")
        # Discovery completes on each side at a different time; until then frames are lost.
        while not self._tally.answered:
            if time.monotonic() > until:
                raise LoadError(f"no result for any frame within {self._timeout:g} s")
            image = self._send()
            self._spin(lambda: self._tally.answered > 0, _RETRY_SECONDS)
        self._spin(partial(self._answered, image), self._timeout)

    def one_by_one(self, count: int) -> list[SentFrame]:
        """Send ``count`` frames, each after the results of the previous one have arrived.

        Raises:
            LoadError: If the results of a frame do not arrive within the timeout.
        """
        frames = []
        for number in range(1, count + 1):
            image = self._send()
            self._spin(partial(self._answered, image), self._timeout)
            if missing := self._tally.missing_outputs(image):
                raise LoadError(
                    f"frame {number}: no {', '.join(missing)} within {self._timeout:g} s"
                )
            frames.append(self._frame(image, image.sent_ns))
        return frames

    def at_rate(self, rate_hz: float, *, count: int, settle: float) -> list[SentFrame]:
        """Send frames at a fixed rate, regardless of results.

        Args:
            rate_hz: Frames per second.
            count: Number of frames.
            settle: Seconds to wait for the results of the last frame, after which it is missed.
        """
        sent = []
        begin_ns = time.time_ns() + round(1e9 / rate_hz)
        for number in range(count):
            due_ns = begin_ns + round(number * 1e9 / rate_hz)
            self._spin(lambda: False, (due_ns - time.time_ns()) / 1e9)
            sent.append((self._send(), due_ns))
        last, _ = sent[-1]
        # The node never drops the newest frame, and processes it last.
        self._spin(partial(self._answered, last), settle)
        return [self._frame(image, due_ns) for image, due_ns in sent]

    def describe(self) -> dict[str, str]:
        """Return ROS distribution, middleware and transport settings, JSON-ready."""
        chosen = {name: os.environ[name] for name in TRANSPORT_VARIABLES if os.environ.get(name)}
        return {
            "distro": os.environ.get("ROS_DISTRO", ""),
            "middleware": rclpy.get_rmw_implementation_identifier(),
            # File names without their folders.
            **{name: Path(value).name for name, value in chosen.items()},
        }

    def _missing_peer(self) -> str:
        """Return which subscriber or publisher of the node is missing; empty if complete."""
        if not self._camera.get_subscription_count():
            return f"no subscriber on {self._camera.topic_name}"
        topics = [one.topic_name for one in self._results]
        silent = [topic for topic in topics if not self.count_publishers(topic)]
        return f"no publisher on {', '.join(silent)}" if silent else ""

    def _send(self) -> SentImage:
        stamp_ns = self.get_clock().now().nanoseconds
        header = Header(stamp=Time(nanoseconds=stamp_ns).to_msg(), frame_id="camera")
        message = write_image(next(self._images), "rgb8", header)
        # Start timing after serialisation, which is not part of the node's latency.
        image = self._tally.send(stamp_ns=stamp_ns, bag_ns=stamp_ns, sent_ns=time.time_ns())
        self._camera.publish(message)
        return image

    def _frame(self, image: SentImage, due_ns: int) -> SentFrame:
        received_ns = max(image.results.values()) if self._answered(image) else None
        return SentFrame(due_ns, image.sent_ns, received_ns)

    def _answered(self, image: SentImage) -> bool:
        return not self._tally.missing_outputs(image)

    def _subscribe(self, name: str) -> Any:
        def on_output(raw: bytes, received_ns: int) -> None:
            stamp = deserialize_message(raw, Header).stamp  # only the header is deserialised
            self._tally.answer(name, stamp_ns(stamp), received_ns=received_ns)

        kind = message_class(OUTPUTS[name])
        return self.create_subscription(kind, name, with_arrival(on_output), output_qos(), raw=True)

    def _spin(self, arrived: Callable[[], bool], seconds: float) -> None:
        """Spin until ``arrived`` returns True, or ``seconds`` have passed."""

        def over() -> bool:
            if arrived():
                return True
            self._alive()
            return False

        self.spin_until(over, until=time.monotonic() + seconds)


_STRIDE = 1.5
_MOST_TRIALS = 24


def highest_rate(
    works: Callable[[float], bool], *, guess: float, ratio: float = 1.05, limit: float = 1000.0
) -> float | None:
    """Search for the highest rate that works, by bisection on a logarithmic scale.

    Near the limit, whether a rate works is random, so the result is only as reliable as a single
    trial of it.

    Args:
        works: Tries a rate in Hz; returns whether it works.
        guess: First rate to try, Hz.
        ratio: Stop when the lowest failing rate divided by the highest working rate is below this.
        limit: Highest rate to try, Hz.

    Returns:
        The highest rate that worked, Hz; None if none did.
    """
    good: float | None = None
    bad: float | None = None
    rate = min(guess, limit)
    for _ in range(_MOST_TRIALS):
        if works(rate):
            good = rate
        else:
            bad = rate
        if good == limit or (good and bad and bad / good <= ratio):
            break
        if good is None:
            rate /= _STRIDE
        elif bad is None:
            rate = min(rate * _STRIDE, limit)
        else:
            rate = math.sqrt(good * bad)
    return good


#: A rate works if the fraction of missed frames is below this.
ACCEPTED_LOSS = 0.05

# Frames one by one at the beginning: for warm-up, and to measure the latency.
_WARM_UP, _ALONE = 2, 5
# Precision of the search, and step by which the rate is lowered if repeated runs do not confirm it.
_RATIO = 1.05
_MOST_STEPS_DOWN = 10


def run_node(
    settings: NodeBenchSettings,
    *,
    ros: RosProcess,
    pid: int,
    device: torch.device,
    alive: Callable[[], None],
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the node ``/panoptic/upsnet``, which must be the only node in this ROS domain.

    Args:
        settings: What to measure.
        ros: ROS context of this process, in the node's domain.
        pid: Process id of the node.
        device: Device of the node.
        alive: Called regularly; raises if the node has ended.
        progress: Called with a description of the next step.

    Returns:
        A JSON-ready report; docs/replay.md describes its keys.

    Raises:
        LoadError: If the node does not publish results.
        ValueError: If the image file cannot be read.
    """
    machine = describe_machine(device)
    images = frames(settings.image, height=settings.height, width=settings.width)
    load = ros.own(LoadNode(images, alive=alive, timeout=settings.timeout))
    progress("waiting for the node")
    load.wait_for_node()
    measure = _Measure(load, settings, pid=pid, device=device)
    progress("one frame at a time")
    alone = measure.alone()
    guess = 1000 / alone["latency_ms"]["mean"]
    tried: list[dict[str, Any]] = []

    def works(rate: float) -> bool:
        progress(f"searching the highest rate: {rate:.3g} Hz")
        figures = measure.at(rate)
        share = figures["missed_share"]
        tried.append({"rate_hz": rate, "sent": figures["sent"], "missed": figures["missed"]})
        return bool(share < ACCEPTED_LOSS)

    best = highest_rate(works, guess=guess, ratio=_RATIO, limit=settings.limit)
    maximum = None
    for step in range(_MOST_STEPS_DOWN if best else 0):
        rate = (best or 0.0) / _RATIO**step
        progress(f"highest rate again: {rate:.3g} Hz")
        maximum = {"rate_hz": rate, **measure.repeatedly(rate)}
        if maximum["missed_share"] < ACCEPTED_LOSS:
            break
    fixed = []
    for rate in settings.rates:
        progress(f"{rate:g} Hz")
        fixed.append({"rate_hz": rate, **measure.repeatedly(rate)})
    transport = load.describe()
    return {
        "settings": asdict(settings),
        "machine": {**machine, "ros": transport},
        "one_by_one": alone,
        "search": tried,
        "maximum": maximum,
        "fixed": fixed,
        "load_average_after": [round(load, 2) for load in os.getloadavg()],
    }


class _Measure:
    """Measures runs together with the resource use of the node's process."""

    def __init__(
        self, load: LoadNode, settings: NodeBenchSettings, *, pid: int, device: torch.device
    ) -> None:
        self._load, self._settings = load, settings
        self._pid, self._device = pid, device
        self._settle = settings.timeout

    def alone(self) -> dict[str, Any]:
        """Measure one frame at a time; sets how long later runs wait for their last result."""
        self._load.one_by_one(_WARM_UP)
        with ProcessUse(self._pid, self._device) as use:
            figures = load_figures(self._load.one_by_one(_ALONE))
            figures["use"] = use.figures()
        # One frame may be in progress while another is queued.
        self._settle = 1.0 + 5 * figures["latency_ms"]["max"] / 1000
        return figures

    def at(self, rate: float) -> dict[str, Any]:
        count = max(round(self._settings.duration * rate), self._settings.least_frames)
        with ProcessUse(self._pid, self._device) as use:
            sent = self._load.at_rate(rate, count=count, settle=self._settle)
            figures = load_figures(sent)
            figures["use"] = use.figures()
        return figures

    def repeatedly(self, rate: float) -> dict[str, Any]:
        runs = [self.at(rate) for _ in range(self._settings.repeats)]
        return {**conclude(runs), "runs": runs}
