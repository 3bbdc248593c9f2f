"""One replay from the first process to the last file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions

from upsnet_ros.bags import Bag, Record, open_bag
from upsnet_ros.bags.writer import Compression, Storage
from upsnet_ros.cli.processes import ProcessGroup
from upsnet_ros.cli.progress import frame_progress
from upsnet_ros.ros.bag_thread import BagThread
from upsnet_ros.ros.names import full_name
from upsnet_ros.ros.replay_settings import ReplaySettings
from upsnet_ros.ros.replay_topics import ReplayTopics
from upsnet_ros.ros.replayer import Replayer, ReplayError
from upsnet_ros.ros.signals import stop_on_signals
from upsnet_ros.ros.transport import private_environment, use_shared_memory_profile

__all__ = ["BAG", "FIGURES", "ReplayJob", "make_room", "run"]

#: Of the folder of a replay: the bag of results, and its figures.
BAG = "bag"
FIGURES = "replay.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayJob:
    """What to replay, and where to.

    Attributes:
        bag: Folder or file of the bag.
        start: Seconds into it at which to begin.
        duration: Seconds of it to play.
        topics: The part of each topic.
        settings: How to play.
        out: Folder for the results.
        storage: See `BagThread`.
        compression: See `BagThread`.
        images: Whether to copy the images beside the answers.
        namespace: Of the node that answers.
        node: Command line of the node to start; None where one runs.
        ros_args: ROS's own command line, for the replaying node.
    """

    bag: Path
    start: float | None
    duration: float | None
    topics: ReplayTopics
    settings: ReplaySettings
    out: Path
    storage: Storage
    compression: Compression
    images: bool
    namespace: str
    node: Sequence[str] | None
    ros_args: Sequence[str]


def make_room(out: Path, *, overwrite: bool) -> None:
    """See that ``out`` holds no replay, or remove the one that it holds.

    Raises:
        ValueError: If it holds one, and that is to stay.
        OSError: If it cannot be removed.
    """
    old = [path for path in (out / BAG, out / FIGURES) if path.exists()]
    if old and not overwrite:
        raise ValueError(f"{out} already holds a replay: --overwrite replaces it")
    for path in old:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def run(job: ReplayJob) -> dict[str, Any]:
    """Replay, write the results, and return the figures that went into replay.json.

    SIGINT and SIGTERM end it early from now on (``interrupted`` in the figures tells); whatever
    ends it leaves the bag whole.

    Raises:
        ReplayError: If the node or an answer does not come in time.
        ProcessError: If the node that was started ends.
        BagError: If a bag cannot be read or written.
    """
    use_shared_memory_profile()
    if job.node is not None:
        # Whatever else runs in the user's domain must neither hear this nor answer.
        os.environ.update(private_environment())
    rclpy.init(args=list(job.ros_args), signal_handler_options=SignalHandlerOptions.NO)
    stop = stop_on_signals()
    with ExitStack() as stack:
        stack.callback(rclpy.try_shutdown)
        source = stack.enter_context(
            open_bag(job.bag, topics=job.topics.played, start=job.start, duration=job.duration)
        )
        results = stack.enter_context(
            BagThread(
                job.out / BAG,
                storage=job.storage,
                compression=job.compression,
                types=source.types,
                latched=[full_name("label_info", namespace=job.namespace), *job.topics.latched],
            )
        )
        group = stack.enter_context(ProcessGroup(job.out / "logs", {})) if job.node else None
        if group is not None and job.node is not None:
            group.start("node", job.node)

        def stopped() -> bool:
            if group is not None:
                group.require("node")
            return bool(stop.done())

        def record(topic: str, raw: bytes, time_ns: int, msgtype: str) -> None:
            if job.images or topic != job.topics.camera:
                results.write(topic, raw, time_ns, msgtype)

        replayer = Replayer(
            job.topics, settings=job.settings, record=record, namespace=job.namespace
        )
        stack.callback(replayer.destroy_node)
        with frame_progress() as progress:
            task = progress.add_task("waiting for the node", total=_total(source, job))
            try:
                for sent in replayer.replay(_Stretch(source, job), stopped=stopped):
                    progress.update(task, completed=sent, description=f"replaying {job.bag.name}")
            except ReplayError as error:
                # The node knows why: an image that it cannot read, for one.
                raise ReplayError(
                    f"{error}; {group.last_words('node')}" if group is not None else str(error)
                ) from error
        if group is not None:
            group.end("node")
        losses = source.losses
    figures = {
        "bag": str(job.bag),
        "camera": job.topics.camera,
        "mode": "lockstep" if job.settings.rate is None else "realtime",
        "rate": job.settings.rate,
        "outputs": list(job.settings.outputs),
        "node": list(job.node) if job.node else None,
        "interrupted": bool(stop.done()),
        **replayer.tally.report(),
        "late_ms": round(replayer.late_ms, 1),
        "truth": sorted(job.topics.truth),
        "left_out": dict(job.topics.left_out),
        "losses": losses,
    }
    (job.out / FIGURES).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


class _Stretch:
    """What is played: first, what was said once and for all before it, then the stretch itself."""

    def __init__(self, source: Bag, job: ReplayJob) -> None:
        self._source = source
        self._before: list[Record] = []
        if job.start and job.topics.latched:
            with open_bag(job.bag, topics=sorted(job.topics.latched), duration=job.start) as bag:
                latest = {record.topic: record for record in bag}
                begin_ns = bag.start_time + round(job.start * 1e9)
            for record in latest.values():
                record.time_ns = begin_ns
            self._before = list(latest.values())

    def __iter__(self) -> Iterator[Record]:
        yield from self._before
        yield from self._source


def _total(source: Bag, job: ReplayJob) -> int | None:
    """Images to come, where that is known."""
    if job.settings.loop or job.start is not None or job.duration is not None:
        return None
    return next(topic.count for topic in source.topics if topic.name == job.topics.camera)
