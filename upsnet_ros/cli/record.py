"""`upsnet record`: write the node's results as pictures, a video and label images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from upsnet_ros.cli.commands import errors_as_one_line, fail
from upsnet_ros.cli.options import (
    Overwrite,
    check_namespace,
    check_ros_arguments,
    check_topic,
    rare,
)
from upsnet_ros.cli.terminal import frame_progress
from upsnet_ros.output_files import OutputFolder, bag_names
from upsnet_ros.playback.settings import RecorderSettings

if TYPE_CHECKING:
    from upsnet_ros.playback.recorder import Keep


class Codec(str, Enum):
    """See `upsnet_ros.drawing.result_folder.CODECS`."""

    mp4v = "mp4v"
    vp09 = "vp09"


class Reliability(str, Enum):
    """Reliability requested from the camera's publisher."""

    best_effort = "best_effort"
    reliable = "reliable"


def record(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder.")],
    count: Annotated[int | None, typer.Option(metavar="N", help="Stop after N frames.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Stop after S seconds without a frame; an error if --count is not reached or"
            " nothing was received.",
        ),
    ] = None,
    video: Annotated[bool, typer.Option(help="Write overlay.mp4.")] = True,
    png: Annotated[bool, typer.Option(help="Write overlay/*.png.")] = True,
    bag: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write all received messages to a bag."),
    ] = None,
    image_topic: Annotated[
        str | None,
        typer.Option(help="Camera topic. Default: the topic that the node subscribes to."),
    ] = None,
    namespace: Annotated[
        str, typer.Option(help="Of the results; /panoptic/NAME with several cameras.")
    ] = "/panoptic",
    overwrite: Overwrite = False,
    video_rate: Annotated[float, rare(metavar="HZ", help="Frame rate of the video.")] = 10.0,
    codec: Annotated[
        Codec, rare(help="mp4v is fast; vp09 is slow and also plays in browsers.")
    ] = Codec.mp4v,
    compressed: Annotated[
        bool,
        rare("--compressed", help="Subscribe to CompressedImage on IMAGE_TOPIC/compressed."),
    ] = False,
    image_reliability: Annotated[
        Reliability, rare(help="best_effort matches every camera but may lose frames.")
    ] = Reliability.best_effort,
    queue: Annotated[
        int,
        rare(
            metavar="N",
            help="Incomplete frames to keep; more than arrive while the node processes one.",
        ),
    ] = 100,
    inside: Annotated[bool, typer.Option("--inside", hidden=True)] = False,
) -> None:
    """Write the node's results as pictures, a video and label images.

    Joins image, labels, instances and unknown_mask by exact stamp. DIR/labels holds 16-bit PNGs in
    Cityscapes' instanceIds format (COCO: panoptic RGB PNGs), DIR/frames.csv a row per frame.
    Recorded files stay readable however the recording ends.
    """
    check_topic("--image-topic", image_topic)
    check_namespace("--namespace", namespace)
    check_ros_arguments(ctx.obj or ())
    settings = RecorderSettings(
        image_topic=image_topic,
        compressed=compressed,
        image_reliability=image_reliability.value,
        count=count,
        timeout=timeout,
        queue=queue,
    )
    if bag is not None and bag.resolve() == out.resolve():
        fail(f"--out and --bag are the same folder, {out}: name two")
    from upsnet_ros.drawing.result_folder import RecordingSettings, check_folder

    recording = RecordingSettings(
        pictures=png,
        video=video,
        video_rate_hz=video_rate,
        codec=codec.value,
        overwrite=overwrite,
        inside=inside,  # set by `upsnet demo`, which manages the folder
    )
    folder = check_folder(out, recording) or nullcontext()
    kept = _bag_folder(bag, overwrite=overwrite, inside=inside)
    from upsnet_ros.node.process import RosProcess
    from upsnet_ros.playback.recorder import Recorder

    with (
        RosProcess(ctx.obj) as ros,
        errors_as_one_line("record"),
        folder,
        kept,
        _bag(bag, namespace=namespace) as keep,
    ):
        recorder = ros.own(
            Recorder(
                out,
                settings=settings,
                recording=replace(recording, inside=True),  # the folder entered above
                namespace=namespace,
                keep=keep,
            )
        )
        try:
            with frame_progress() as progress:
                task = progress.add_task(f"recording to {out}", total=count)
                for written in recorder.record(stopped=ros.stop.done):
                    progress.update(task, completed=written)
        finally:
            _report(out, recorder.summary())


def _bag_folder(
    path: Path | None, *, overwrite: bool, inside: bool
) -> AbstractContextManager[object]:
    """Return the output folder of the bag; an empty context if there is none to manage."""
    if path is None or inside:
        return nullcontext()
    again: Literal["replace", "refuse"] = "replace" if overwrite else "refuse"
    return OutputFolder(
        path, command="record --bag", names=bag_names(path.name), again=again, what="bag"
    )


@contextmanager
def _bag(path: Path | None, *, namespace: str) -> Iterator[Keep | None]:
    """Yield the function that writes to the requested bag; None without one."""
    if path is None:
        yield None
        return
    # Imported here because pictures can be recorded without rosbags.
    from upsnet_ros.bags.writer import BagThread
    from upsnet_ros.messages.results import full_name

    with BagThread(path, latched=[full_name("label_info", namespace=namespace)]) as bag:
        yield bag.write


def _report(out: Path, summary: dict[str, Any]) -> None:
    """Print what was recorded and what was lost, and why, on stderr."""
    count = summary["frames"]
    lines = [f"recorded {count} frames in {out}" if count else "recorded no frames"]
    latency = summary["latency_ms"]
    if latency["p50"] is not None:
        lines.append(f"image to result: p50 {latency['p50']:.0f} ms, p99 {latency['p99']:.0f} ms")
    if summary["unanswered"]:
        lines.append(
            f"{summary['unanswered']} frames without a result: the node did not receive them, or"
            " dropped them while busy (/diagnostics counts total_dropped_frames)"
        )
    if summary["incomplete"]:
        missing = ", ".join(f"{topic} {count}x" for topic, count in summary["missing"].items())
        lines.append(f"{summary['incomplete']} frames incomplete; missing: {missing}")
    if summary["overrun"]:
        lines.append(f"{summary['overrun']} frames lost: writing was too slow")
    if summary["malformed"]:
        lines.append(f"{summary['malformed']} frames malformed: {summary['last_malformed']}")
    for what, count in summary["refused"].items():
        lines.append(f"{what} refused {count}x")
    for line in lines:
        typer.echo(line, err=True)
