"""`upsnet play`: a video, images or a webcam as a camera topic."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import rclpy
import typer
from rclpy.signals import SignalHandlerOptions

from upsnet_ros.cli import fail
from upsnet_ros.cli.progress import frame_progress
from upsnet_ros.ros.player import Player, PlayerError, PlayerSettings, Stamps
from upsnet_ros.ros.signals import stop_on_signals
from upsnet_ros.ros.sources import SourceError, open_source
from upsnet_ros.ros.transport import use_shared_memory_profile


def play(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A video file, an image, a folder of images, a Cityscapes folder, a bag, or a"
            " webcam's index.",
        ),
    ],
    topic: Annotated[
        str, typer.Option(help="Topic to publish, relative to /panoptic unless it begins with /.")
    ] = "image",
    rate: Annotated[
        float | None, typer.Option(help="Frames a second. Not given: the source's own.")
    ] = None,
    frame_id: Annotated[str, typer.Option(help="frame_id of the headers.")] = "camera",
    stamps: Annotated[
        Stamps,
        typer.Option(
            help="Stamp frames with the time at which they are published, or with the source's own"
            " time (Cityscapes: 17 frames a second by frame number) from the moment playing begins."
        ),
    ] = Stamps.NOW,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Scale frames, as in 1024x512.")
    ] = None,
    compressed: Annotated[
        bool, typer.Option("--compressed", help="Publish JPEG on TOPIC/compressed.")
    ] = False,
    loop: Annotated[bool, typer.Option("--loop", help="Begin anew at the end.")] = False,
    count: Annotated[int | None, typer.Option(help="Stop after so many frames.")] = None,
    wait_for_subscribers: Annotated[
        int, typer.Option(metavar="N", help="Wait for N subscribers before the first frame.")
    ] = 0,
    lockstep: Annotated[
        bool,
        typer.Option("--lockstep", help="Wait for the answer to each frame before the next one."),
    ] = False,
    answer_topic: Annotated[
        str, typer.Option(help="Image topic on which answers come, with the frame's stamp.")
    ] = "labels",
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for subscribers, and for each answer.")
    ] = 30.0,
) -> None:
    """Publish a video, images or a webcam as a camera.

    Topics can be remapped too: upsnet play drive.mp4 --ros-args -r image:=/front/image_raw
    """
    try:
        settings = PlayerSettings(
            topic=topic,
            rate_hz=rate,
            frame_id=frame_id,
            stamps=stamps,
            size=_parse_size(size) if size else None,
            compressed=compressed,
            loop=loop,
            count=count,
            subscribers=wait_for_subscribers,
            lockstep=lockstep,
            answer_topic=answer_topic,
            timeout=timeout,
        )
        frames = open_source(source)
    except ValueError as error:  # SourceError is one
        fail(str(error))

    use_shared_memory_profile()
    rclpy.init(args=ctx.obj, signal_handler_options=SignalHandlerOptions.NO)
    stop = stop_on_signals()
    player = Player(settings)
    length = None if loop else frames.length
    total = min((n for n in (length, count) if n is not None), default=None)
    published = 0
    try:
        with frame_progress() as progress:
            task = progress.add_task(f"{Path(frames.name).name} -> {player.topic}", total=total)
            for _ in player.play(frames, stopped=stop.done):
                published += 1
                progress.advance(task)
    except (PlayerError, SourceError) as error:
        fail(f"{error} ({published} frames published)")
    finally:
        player.destroy_node()
        rclpy.try_shutdown()
    typer.echo(f"{'stopped after' if stop.done() else 'published'} {published} frames", err=True)


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"size must look like 1024x512, not {text!r}")
    return int(match[1]), int(match[2])
