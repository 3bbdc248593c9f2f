"""`upsnet record`: the node's answers as pictures, a video and label images."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import rclpy
import typer
from rclpy.signals import SignalHandlerOptions

from upsnet_ros.cli import fail
from upsnet_ros.cli.progress import frame_progress
from upsnet_ros.inference.recording import RecordingError, RecordingSettings
from upsnet_ros.inference.video import VideoError
from upsnet_ros.ros.names import full_name
from upsnet_ros.ros.recorder import Keep, Recorder, RecorderError, RecorderSettings
from upsnet_ros.ros.signals import stop_on_signals
from upsnet_ros.ros.transport import use_shared_memory_profile


class Codec(str, Enum):
    """See `upsnet_ros.inference.video.CODECS`."""

    mp4v = "mp4v"
    vp09 = "vp09"


class Reliability(str, Enum):
    """Reliability asked of the camera."""

    best_effort = "best_effort"
    reliable = "reliable"


def record(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write into.")],
    count: Annotated[int | None, typer.Option(help="Stop after so many frames.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Stop after so many seconds without a complete frame; an error if --count is not"
            " reached, or nothing came at all. Not given: wait for ever."
        ),
    ] = None,
    video: Annotated[bool, typer.Option(help="Write overlay.mp4.")] = True,
    png: Annotated[bool, typer.Option(help="Write overlay/*.png.")] = True,
    video_rate: Annotated[float, typer.Option(help="Frames a second of the video.")] = 10.0,
    codec: Annotated[
        Codec,
        typer.Option(help="mp4v is quick; vp09 is slow, and plays in browsers too."),
    ] = Codec.mp4v,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a recording that DIR holds.")
    ] = False,
    bag: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write every message that comes into a bag too."),
    ] = None,
    image_topic: Annotated[
        str, typer.Option(help="The camera, relative to the namespace unless it begins with /.")
    ] = "image",
    compressed: Annotated[
        bool, typer.Option("--compressed", help="Read CompressedImage from IMAGE_TOPIC/compressed.")
    ] = False,
    image_reliability: Annotated[
        Reliability, typer.Option(help="best_effort hears every camera, but may miss frames.")
    ] = Reliability.best_effort,
    queue: Annotated[
        int,
        typer.Option(
            help="Frames kept while something of them is missing: more than come while the node"
            " answers one."
        ),
    ] = 100,
    namespace: Annotated[
        str, typer.Option(help="Where the answers are; with several cameras /panoptic/NAME.")
    ] = "/panoptic",
) -> None:
    """Write the node's answers as pictures, a video and label images.

    Joins image, labels, instances and unknown_mask by exact stamp. DIR/labels holds 16-bit PNGs in
    Cityscapes' instanceIds form (for COCO: RGB PNGs in its panoptic form), DIR/frames.csv a row
    for each frame. Whatever ends the recording, what was written stays readable.
    """
    try:
        settings = RecorderSettings(
            image_topic=image_topic,
            compressed=compressed,
            image_reliability=image_reliability.value,
            count=count,
            timeout=timeout,
            queue=queue,
        )
        recording = RecordingSettings(
            pictures=png,
            video=video,
            video_rate_hz=video_rate,
            codec=codec.value,
            overwrite=overwrite,
        )
    except ValueError as error:
        fail(str(error))
    use_shared_memory_profile()
    rclpy.init(args=ctx.obj, signal_handler_options=SignalHandlerOptions.NO)
    stop = stop_on_signals()
    try:
        with _bag(bag, namespace=namespace, overwrite=overwrite) as keep:
            recorder = Recorder(
                out, settings=settings, recording=recording, namespace=namespace, keep=keep
            )
            try:
                with frame_progress() as progress:
                    task = progress.add_task(f"recording to {out}", total=count)
                    for written in recorder.record(stopped=stop.done):
                        progress.update(task, completed=written)
            finally:
                _report(out, recorder.summary())
                recorder.destroy_node()
    except (RecorderError, RecordingError, VideoError) as error:
        fail(str(error))
    finally:
        rclpy.try_shutdown()


@contextmanager
def _bag(path: Path | None, *, namespace: str, overwrite: bool) -> Iterator[Keep | None]:
    """What writes into the bag that was asked for; None where none was."""
    if path is None:
        yield None
        return
    # Only here: pictures are recorded without rosbags too.
    from upsnet_ros.bags import BagError
    from upsnet_ros.ros.bag_thread import BagThread

    try:
        if overwrite and (path / "metadata.yaml").exists():
            shutil.rmtree(path)
        with BagThread(path, latched=[full_name("label_info", namespace=namespace)]) as bag:
            yield bag.write
    except BagError as error:
        fail(str(error))


def _report(out: Path, summary: dict[str, Any]) -> None:
    """What was recorded, and what was not and why, in a few lines on stderr."""
    lines = [f"recorded {summary['frames']} frames in {out}"]
    latency = summary["latency_ms"]
    if latency["p50"] is not None:
        lines.append(f"image to answer: p50 {latency['p50']:.0f} ms, p99 {latency['p99']:.0f} ms")
    if summary["incomplete"]:
        missing = ", ".join(f"{topic} {count}x" for topic, count in summary["missing"].items())
        lines.append(f"{summary['incomplete']} stamps never complete; missing: {missing}")
    if summary["overrun"]:
        lines.append(f"{summary['overrun']} frames lost: writing was slower than they came")
    if summary["malformed"]:
        lines.append(f"{summary['malformed']} frames malformed: {summary['last_malformed']}")
    for line in lines:
        typer.echo(line, err=True)
