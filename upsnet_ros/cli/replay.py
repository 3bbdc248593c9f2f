"""`upsnet replay`: a bag through the running node, and its answers into a bag."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from upsnet_ros.bags import BagError
from upsnet_ros.cli import fail
from upsnet_ros.cli.node_options import OF_A_DRIVEN_NODE, given, ros_arguments, with_node_options
from upsnet_ros.cli.processes import ProcessError
from upsnet_ros.cli.replay_run import BAG, FIGURES, ReplayJob, make_room, run
from upsnet_ros.cli.replay_summary import histogram_table, summary_lines
from upsnet_ros.ros.names import absolute_namespace
from upsnet_ros.ros.replay_settings import ReplaySettings
from upsnet_ros.ros.replay_topics import TRUTH, ReplayTopics, topics_of
from upsnet_ros.ros.replayer import ReplayError
from upsnet_ros.ros.settings import Value

_PLAY = "What is played, and how"
_OUT = "What is written"
_NODE = "The node that it starts"

_CLOCK_HZ = 40.0

# The node's parameter that switches each output.
_SWITCHES = {
    "labels": "publish_labels",
    "instances": "publish_instances",
    "unknown_mask": "publish_unknown_mask",
    "unknown_score": "publish_unknown_score",
    "semantic": "publish_semantic",
    "confidence": "publish_semantic",
    "overlay": "publish_overlay",
    "overlay/compressed": "publish_overlay",
}
_USUAL = ("labels", "instances", "unknown_mask")


class Storage(str, Enum):
    """Formats of a bag."""

    mcap = "mcap"
    sqlite3 = "sqlite3"


class Compression(str, Enum):
    """Compressions of a bag."""

    none = "none"
    zstd = "zstd"


@with_node_options(leave_out=OF_A_DRIVEN_NODE, panel=_NODE)
def replay(
    ctx: typer.Context,
    bag: Annotated[Path, typer.Argument(metavar="BAG", help="Folder of a bag, or one file of it.")],
    lockstep: Annotated[
        bool,
        typer.Option(
            "--lockstep",
            help="Send an image only when the one before it was answered, as fast as that goes."
            " This is the default.",
            rich_help_panel=_PLAY,
        ),
    ] = False,
    realtime: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Send as the bag's times tell, RATE times as fast; images that the node cannot"
            " answer in time are lost and counted.",
            rich_help_panel=_PLAY,
        ),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(
            help="The camera. Not given: the only topic of Image or CompressedImage.",
            rich_help_panel=_PLAY,
        ),
    ] = None,
    start: Annotated[
        float | None,
        typer.Option(help="Begin so many seconds into the bag.", rich_help_panel=_PLAY),
    ] = None,
    duration: Annotated[
        float | None, typer.Option(help="Play so many seconds of it.", rich_help_panel=_PLAY)
    ] = None,
    loop: Annotated[
        bool,
        typer.Option(
            "--loop",
            help="Begin anew at the end, until Ctrl-C; the first round is recorded.",
            rich_help_panel=_PLAY,
        ),
    ] = False,
    clock: Annotated[
        bool,
        typer.Option(
            "--clock",
            help="Publish the bag's time on /clock, and start the node with use_sim_time.",
            rich_help_panel=_PLAY,
        ),
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds to wait for the node, and for each answer.", rich_help_panel=_PLAY
        ),
    ] = 120.0,
    node: Annotated[
        bool,
        typer.Option(
            help="Start a node, in a ROS domain of its own. With --no-node one that runs answers.",
            rich_help_panel=_PLAY,
        ),
    ] = True,
    namespace: Annotated[
        str, typer.Option(help="Of the node that answers.", rich_help_panel=_PLAY)
    ] = "/panoptic",
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Where to write: DIR/bag, DIR/replay.json, with --evaluate DIR/report.html.",
            rich_help_panel=_OUT,
        ),
    ] = Path("replay_output"),
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace a replay that DIR holds.", rich_help_panel=_OUT),
    ] = False,
    record: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUTPUT",
            help="An output of the node to wait for and to record, as labels; once for each."
            " Not given: labels, instances, unknown_mask and what the node's options ask for.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    truth: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOPIC",
            help="Ground truth to copy: a topic, or where several begin. Not given: /ground_truth.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    images: Annotated[
        bool,
        typer.Option(help="Copy the images too, for a report to show.", rich_help_panel=_OUT),
    ] = True,
    storage: Annotated[
        Storage, typer.Option(help="Format of DIR/bag.", rich_help_panel=_OUT)
    ] = Storage.mcap,
    compression: Annotated[
        Compression, typer.Option(help="Of DIR/bag.", rich_help_panel=_OUT)
    ] = Compression.none,
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate",
            help="Judge the answers by the bag's ground truth when they are there.",
            rich_help_panel=_OUT,
        ),
    ] = False,
    **options: Any,
) -> None:
    """Play a bag to the node over DDS, and record its answers with their original stamps.

    Everything else in the bag is played along. Ctrl-C at any time leaves a readable DIR/bag.
    """
    if lockstep and realtime is not None:
        fail("--lockstep and --realtime exclude each other")
    values = given(options)
    if values and not node:
        fail(f"--no-node starts none that could take --{next(iter(values)).replace('_', '-')}")
    if realtime is None and values.get("max_rate"):
        fail("--max-rate loses images, and in lockstep each has to be answered: use --realtime")
    namespace = absolute_namespace(namespace)
    try:
        settings = ReplaySettings(
            rate=realtime,
            loop=loop,
            clock_hz=_CLOCK_HZ if clock else None,
            outputs=tuple(record) if record else _outputs(values),
            timeout=timeout,
        )
        topics = topics_of(
            bag, camera=topic, truth=truth or (TRUTH,), namespace=namespace, clock=clock
        )
        if evaluate and not topics.truth:
            fail(f"--evaluate needs ground truth; {bag} holds none (--truth names its topics)")
        make_room(out, overwrite=overwrite)
    except (ValueError, OSError) as error:  # BagError, TopicError are ValueErrors
        fail(str(error))
    values |= {_SWITCHES[name]: True for name in record or ()}
    job = ReplayJob(
        bag=bag,
        start=start,
        duration=duration,
        topics=topics,
        settings=settings,
        out=out,
        storage=storage.value,
        compression=compression.value,
        images=images,
        namespace=namespace,
        node=_node(topics, settings, values=values, namespace=namespace) if node else None,
        ros_args=ctx.obj or (),
    )
    try:
        figures = run(job)
    except (ReplayError, ProcessError, BagError) as error:
        fail(f"{error}\n{out / BAG} holds what was answered before")
    _report(figures, out)
    if figures["interrupted"] and not loop:
        raise typer.Exit(130)
    if evaluate:
        _evaluate(out)


def _outputs(values: Mapping[str, Value]) -> tuple[str, ...]:
    """What the node's options ask for; overlays only where --record names them, for their size."""
    return tuple(
        name
        for name, switch in _SWITCHES.items()
        if not name.startswith("overlay") and values.get(switch, name in _USUAL)
    )


def _node(
    topics: ReplayTopics,
    settings: ReplaySettings,
    *,
    values: Mapping[str, Value],
    namespace: str,
) -> list[str]:
    """The command line of a node that answers this replay."""
    lockstep = settings.rate is None
    driven: dict[str, Value] = {
        **values,
        "image_transport": "compressed" if topics.compressed else "raw",
        # In lockstep nothing may be lost.
        "image_reliability": "reliable" if lockstep else "best_effort",
    }
    arguments = ros_arguments(
        driven,
        image_topic=topics.base,
        namespace=namespace,
        use_sim_time=settings.clock_hz is not None,
    )
    return ["node", *arguments]


def _report(figures: Mapping[str, Any], out: Path) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for line in summary_lines(figures):
        console.print(line, markup=False)
    if figures["answered"]:
        console.print(histogram_table(figures["histogram"]))
    console.print(f"recorded in {out / BAG}; figures in {out / FIGURES}", markup=False)


def _evaluate(out: Path) -> None:
    # A process of its own: it shall be what anybody would call, and needs no ROS.
    command = [sys.executable, "-m", "upsnet_ros.cli", "evaluate", "--bag", str(out / BAG)]
    command += ["--report", str(out / "report.html"), "--json", str(out / "evaluation.json")]
    raise typer.Exit(subprocess.run(command, check=False).returncode)
