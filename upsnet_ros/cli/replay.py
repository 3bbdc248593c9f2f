"""`upsnet replay`: run a bag through the node and record the results in a bag."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from upsnet_ros.cli.commands import errors_as_one_line, fail
from upsnet_ros.cli.node import (
    OF_A_DRIVEN_NODE,
    check_parameters,
    given,
    ros_arguments,
    with_node_options,
)
from upsnet_ros.cli.options import (
    Compression,
    Overwrite,
    Storage,
    check_namespace,
    check_ros_arguments,
    rare,
    require_path,
)
from upsnet_ros.cli.points import points_node
from upsnet_ros.cli.terminal import console, frame_progress
from upsnet_ros.errors import ReplayError, UpsnetError
from upsnet_ros.output_files import OutputFolder, bag_names, write_whole
from upsnet_ros.playback.settings import ReplaySettings
from upsnet_ros.processes.child_processes import ProcessGroup, run_upsnet
from upsnet_ros.processes.transport import private_environment

if TYPE_CHECKING:
    from upsnet_ros.bags.reader import Bag, Record
    from upsnet_ros.bags.replay_topics import PointInput, ReplayTopics
    from upsnet_ros.node.parameter_info import Value
    from upsnet_ros.node.process import RosProcess

#: In the output folder: the bag of results, and the metrics.
BAG = "bag"
METRICS = "replay.json"
_FILES = (METRICS, "report.html", "evaluation.json", "logs/*.log")

_CLOCK_HZ = 40.0
_BAR = 40

#: The node's parameter that switches each output.
_SWITCHES = {
    "labels": "publish_labels",
    "instances": "publish_instances",
    "unknown_mask": "publish_unknown_mask",
    "unknown_score": "publish_unknown_score",
    "semantic": "publish_semantic",
    "confidence": "publish_semantic",
    "color_mask": "publish_color_mask",
    "overlay": "publish_overlay",
    "overlay/compressed": "publish_overlay",
}
_USUAL = ("labels", "instances", "unknown_mask")
#: What a points node publishes; `replay_topics.POINT_OUTPUTS`, which imports OpenCV.
_POINT_OUTPUTS = frozenset({"points", "unknown_points", "objects"})


class PointsInput(str, Enum):
    """See `upsnet_ros.bags.replay_topics.PointInput`."""

    depth = "depth"
    cloud = "cloud"


@with_node_options(leave_out=OF_A_DRIVEN_NODE, common=("weights", "device", "scale"))
def replay(
    ctx: typer.Context,
    bag: Annotated[Path, typer.Argument(metavar="BAG", help="Bag: a folder or a file.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Output: DIR/bag, DIR/replay.json.")
    ] = Path("replay_output"),
    overwrite: Overwrite = False,
    realtime: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Play at RATE times the recorded speed. Default: as fast as the node.",
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Then evaluate into DIR/report.html.")
    ] = False,
    points: Annotated[
        bool,
        typer.Option(
            "--points", help="Label the points of the bag's lidar or depth too (upsnet points)."
        ),
    ] = False,
    points_input: Annotated[
        PointsInput | None,
        rare(help="What points come from; implies --points. Default: clouds, or else depth."),
    ] = None,
    topic: Annotated[str | None, typer.Option(help="Camera topic, if there are several.")] = None,
    start: Annotated[
        float | None, typer.Option(metavar="S", help="Start S seconds into the bag.")
    ] = None,
    duration: Annotated[float | None, rare(metavar="S", help="Play S seconds.")] = None,
    node: Annotated[bool, typer.Option(help="Start a node, or use a running one.")] = True,
    record: Annotated[
        list[str] | None,
        rare(
            metavar="OUTPUT",
            help="Output of the node to record, such as labels; repeat it. Default: labels,"
            " instances, unknown_mask and what the node's options switch on.",
        ),
    ] = None,
    lockstep: Annotated[
        bool, rare("--lockstep", help="Send an image after the result of the last one (default).")
    ] = False,
    loop: Annotated[
        bool,
        rare("--loop", help="Repeat until Ctrl-C; the first round is recorded."),
    ] = False,
    clock: Annotated[
        bool,
        rare("--clock", help="Publish the bag's time on /clock; the node uses it."),
    ] = False,
    timeout: Annotated[
        float, rare(metavar="S", help="Seconds to wait for the node, and for each result.")
    ] = 120.0,
    namespace: Annotated[str, rare(help="Namespace of the node.")] = "/panoptic",
    truth: Annotated[
        list[str] | None,
        rare(
            metavar="TOPIC",
            help="Ground truth to copy: a topic, or a common prefix of several. Default:"
            " /ground_truth.",
        ),
    ] = None,
    images: Annotated[bool, rare(help="Copy the images too, for reports.")] = True,
    storage: Annotated[Storage, rare(help="Format of DIR/bag.")] = Storage.mcap,
    compression: Annotated[Compression, rare(help="Compression of DIR/bag.")] = Compression.none,
    wait_for_subscribers: Annotated[
        int, rare(metavar="N", help="Wait for N subscribers to the images before the first one.")
    ] = 1,
    inside: Annotated[bool, typer.Option("--inside", hidden=True)] = False,
    **options: Any,
) -> None:
    """Run a bag through the node over DDS and record the results with their stamps.

    Other topics of the bag are played too. After Ctrl-C, DIR/bag is readable.
    """
    if lockstep and realtime is not None:
        fail("--lockstep and --realtime exclude each other")
    values = given(options)
    points = points or points_input is not None
    if values and not node:
        name = next(iter(values)).replace("_", "-")
        fail(f"--{name} is an option of the node that --no-node does not start")
    if points and not node:
        fail("--points starts a points node: with --no-node start it yourself, and --record points")
    if node and not points and (named := _POINT_OUTPUTS.intersection(record or ())):
        fail(f"--record {min(named)} needs --points, which starts the node that publishes it")
    if realtime is None and values.get("max_rate"):
        fail("--max-rate drops images, but lockstep needs a result for each: use --realtime")
    settings = ReplaySettings(
        rate=realtime,
        loop=loop,
        clock_hz=_CLOCK_HZ if clock else None,
        outputs=_recorded(record, values, points=points),
        timeout=timeout,
        subscribers=wait_for_subscribers,
    )
    check_parameters(values)
    check_namespace("--namespace", namespace)
    check_ros_arguments(ctx.obj or ())
    # `inside` is set by `upsnet demo`, which manages the folder.
    folder: AbstractContextManager[object] = (
        nullcontext() if inside else _output_folder(out, overwrite=overwrite)
    )
    require_path(bag)
    from upsnet_ros.bags.replay_topics import TRUTH, topics_of
    from upsnet_ros.messages.results import absolute_namespace

    namespace = absolute_namespace(namespace)
    kind: PointInput | None = None
    if points_input is not None:
        kind = "depth" if points_input is PointsInput.depth else "cloud"
    topics = topics_of(bag, camera=topic, truth=truth or (TRUTH,), namespace=namespace, clock=clock)
    _check_section(bag, topics, start=start, duration=duration)
    if evaluate and not topics.truth:
        fail(f"--evaluate needs ground truth; {bag} holds none (--truth names its topics)")
    values |= {_SWITCHES[name]: True for name in record or () if name in _SWITCHES}
    commands: dict[str, list[str]] = {}
    if node:
        commands["node"] = _node(topics, settings, values=values, namespace=namespace)
    if points:
        commands["points"] = points_node(bag, topics, settings, namespace=namespace, kind=kind)
    job = _Job(
        bag=bag,
        start=start,
        duration=duration,
        topics=topics,
        settings=settings,
        out=out,
        storage=storage,
        compression=compression,
        images=images,
        namespace=namespace,
        commands=commands,
    )
    if node:
        # Other nodes in the user's domain must neither receive these images nor answer.
        os.environ.update(private_environment())
    from upsnet_ros.node.process import RosProcess

    with RosProcess(ctx.obj or ()) as ros, errors_as_one_line("replay"), folder:
        try:
            metrics = _run(job, ros)
        except UpsnetError as error:
            error.details += f"\n{out / BAG} holds the results so far"
            raise
        _report(metrics, out)
        if metrics["interrupted"] and not loop:
            raise typer.Exit(130)
        if evaluate:
            _evaluate(out)


def _check_section(
    bag: Path, topics: ReplayTopics, *, start: float | None, duration: float | None
) -> None:
    """Check that there is an image to play.

    Raises:
        BagError: If ``start`` or ``duration`` is not a number of seconds.
        ReplayError: If there is none between them.
    """
    from upsnet_ros.bags.reader import open_bag

    with open_bag(bag, topics=[topics.camera], start=start, duration=duration) as section:
        if next(iter(section), None) is None:
            given = {"--start": start, "--duration": duration}
            named = [f"{name} {value:g}" for name, value in given.items() if value is not None]
            raise ReplayError(
                f"no image on {topics.camera} with {' '.join(named)}: {bag} is"
                f" {section.seconds:.1f} s long"
            )


def _recorded(
    record: Sequence[str] | None, values: Mapping[str, Value], *, points: bool
) -> tuple[str, ...]:
    """Return the outputs to record: those named, or those that the node's options switch on.

    Overlays have to be named.
    """
    outputs = record or [
        name
        for name, switch in _SWITCHES.items()
        if not name.startswith("overlay") and values.get(switch, name in _USUAL)
    ]
    return tuple(dict.fromkeys([*outputs, *(sorted(_POINT_OUTPUTS) if points else ())]))


def _node(
    topics: ReplayTopics,
    settings: ReplaySettings,
    *,
    values: Mapping[str, Value],
    namespace: str,
) -> list[str]:
    """Return the command line of the node for this replay."""
    lockstep = settings.rate is None
    driven: dict[str, Value] = {
        **values,
        "image_transport": "compressed" if topics.compressed else "raw",
        # Lockstep needs every image.
        "image_reliability": "reliable" if lockstep else "best_effort",
    }
    arguments = ros_arguments(
        driven,
        remappings={"image": topics.base},
        namespace=namespace,
        use_sim_time=settings.clock_hz is not None,
    )
    return ["node", *arguments]


def _report(metrics: Mapping[str, Any], out: Path) -> None:
    terminal = console(soft_wrap=True)
    for line in summary_lines(metrics):
        terminal.print(line)
    if metrics["answered"]:
        terminal.print(histogram_table(metrics["histogram"]))
    terminal.print(f"recorded in {out / BAG}; metrics in {out / METRICS}")


def _evaluate(out: Path) -> None:
    # In a process of its own, as a user would call it.
    files = ["--report", str(out / "report.html"), "--json", str(out / "evaluation.json")]
    raise typer.Exit(run_upsnet("evaluate", "bags", str(out / BAG), *files, "--overwrite"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What to replay, and where to write.

    Attributes:
        bag: Folder or file of the bag.
        start: Seconds into the bag at which to start.
        duration: Seconds to play.
        topics: The role of each topic.
        settings: How to play.
        out: Output folder.
        storage: See `BagThread`.
        compression: See `BagThread`.
        images: Whether to copy the images too.
        namespace: Namespace of the node.
        commands: Command lines of the nodes to start, by name; empty uses a running node.
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
    commands: dict[str, list[str]]


def _output_folder(out: Path, *, overwrite: bool) -> OutputFolder:
    """Return the output folder; enter it around `_run`.

    Raises:
        OutputError: If it holds anything else, or a replay that must not be replaced.
    """
    names = (*bag_names(BAG, folder=f"{BAG}/"), *_FILES)
    return OutputFolder(
        out,
        command="replay",
        names=names,
        again="replace" if overwrite else "refuse",
        what="replay",
    )


def _run(job: _Job, ros: RosProcess) -> dict[str, Any]:
    """Replay, write the results, and return the content of replay.json.

    SIGINT and SIGTERM end it early, which sets ``interrupted``. The bag is always complete.

    Args:
        job: What to replay.
        ros: This process.

    Raises:
        ReplayError: If the node or a result does not arrive in time.
        ProcessError: If the node that was started ends.
        BagError: If a bag cannot be read or written.
    """
    from upsnet_ros.bags.reader import open_bag
    from upsnet_ros.bags.writer import BagThread
    from upsnet_ros.messages.results import full_name
    from upsnet_ros.playback.replayer import Replayer

    with ExitStack() as stack:
        source = stack.enter_context(
            open_bag(job.bag, topics=job.topics.played, start=job.start, duration=job.duration)
        )
        results = stack.enter_context(
            BagThread(
                job.out / BAG,
                storage=job.storage.value,
                compression=job.compression.value,
                types=source.types,
                latched=[full_name("label_info", namespace=job.namespace), *job.topics.latched],
            )
        )
        group = stack.enter_context(ProcessGroup(job.out / "logs", {}))
        for name, command in job.commands.items():
            group.start(name, command)

        def stopped() -> bool:
            for name in job.commands:
                group.require(name)
            return bool(ros.stop.done())

        def record(topic: str, raw: bytes, time_ns: int, msgtype: str) -> None:
            if job.images or topic != job.topics.camera:
                results.write(topic, raw, time_ns, msgtype)

        replayer = ros.own(
            Replayer(job.topics, settings=job.settings, record=record, namespace=job.namespace)
        )
        with frame_progress() as progress:
            task = progress.add_task("waiting for the node", total=_total(source, job))
            try:
                for sent in replayer.replay(_Section(source, job), stopped=stopped):
                    progress.update(task, completed=sent, description=f"replaying {job.bag.name}")
            except ReplayError as error:
                # The node's log has the reason, such as an image that cannot be read.
                error.details = "\n".join(map(group.log_tail, job.commands))
                raise
        for name in reversed(job.commands):
            group.end(name)
        losses = source.losses
    metrics = {
        "bag": str(job.bag),
        "camera": job.topics.camera,
        "mode": "lockstep" if job.settings.rate is None else "realtime",
        "rate": job.settings.rate,
        "outputs": list(job.settings.outputs),
        "node": job.commands.get("node"),
        "points": job.commands.get("points"),
        "interrupted": bool(ros.stop.done()),
        **replayer.tally.report(),
        "late_ms": round(replayer.late_ms, 1),
        "truth": sorted(job.topics.truth),
        "left_out": dict(job.topics.left_out),
        "losses": losses,
    }
    write_whole(job.out / METRICS, (json.dumps(metrics, indent=1) + "\n").encode())
    return metrics


class _Section:
    """The messages to play: the last latched ones before the section, then the section."""

    def __init__(self, source: Bag, job: _Job) -> None:
        self._source = source
        self._before: list[Record] = []
        if job.start and job.topics.latched:
            from upsnet_ros.bags.reader import open_bag

            with open_bag(job.bag, topics=sorted(job.topics.latched), duration=job.start) as bag:
                latest = {record.topic: record for record in bag}
            for record in latest.values():
                record.time_ns = source.begin_ns
            self._before = list(latest.values())

    def __iter__(self) -> Iterator[Record]:
        yield from self._before
        yield from self._source


def _total(source: Bag, job: _Job) -> int | None:
    """Return the number of images to send, if it is known."""
    if job.settings.loop or job.start is not None or job.duration is not None:
        return None
    return next(topic.count for topic in source.topics if topic.name == job.topics.camera)


def summary_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines with counts, latency and everything unusual; see `ReplayTally.report`."""
    latency = report["latency_ms"]
    yield (
        f"{report['sent']} images sent, {report['answered']} with results,"
        f" {report['missed']} missed ({report['missed_share']:.1%})"
    )
    if latency:
        yield (
            f"image to result: mean {latency['mean']:.1f} ms, p50 {latency['p50']:.1f},"
            f" p90 {latency['p90']:.1f}, p99 {latency['p99']:.1f}, max {latency['max']:.1f}"
        )
    if report["partly_answered"]:
        yield f"{report['partly_answered']} of the missed images have some of their results"
    if report["repeated_stamps"]:
        yield (
            f"{report['repeated_stamps']} images repeat the stamp of an image without results yet:"
            " their results cannot be told apart"
        )
    if report["late_ms"] > 100:
        yield f"playing was too slow: up to {report['late_ms']:.0f} ms late"
    posed = any(argument.startswith("extrinsics:=") for argument in report["points"] or ())
    for topic, why in report["left_out"].items():
        read = "; the pose of the points was read from it" if topic.endswith("/tf_static") else ""
        yield f"{topic} was not played: {why}{read if posed else ''}"
    for loss in report["losses"]:
        yield f"not readable: {loss}"


def histogram_table(histogram: Mapping[str, Sequence[float]]) -> Table:
    """Return a histogram of latencies as bars; see `upsnet_ros.playback.replayer.histogram`."""
    edges, counts = histogram["edges_ms"], histogram["counts"]
    table = Table("ms", "images", "", title="image to result", box=None, title_justify="left")
    table.columns[0].justify = table.columns[1].justify = "right"
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        bar = "█" * round(_BAR * count / max(counts))
        table.add_row(f"{low:g}-{high:g}", str(count), bar or ("▏" if count else ""))
    return table
