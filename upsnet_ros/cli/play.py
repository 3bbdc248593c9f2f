"""`upsnet play`: publish a video, images, a bag or a webcam as a camera."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upsnet_ros.cli.commands import errors_as_one_line
from upsnet_ros.cli.options import (
    SkipBad,
    check_ros_arguments,
    check_topic,
    parse_height_width,
    rare,
    require_source,
)
from upsnet_ros.cli.terminal import frame_progress
from upsnet_ros.playback.settings import PlayerSettings, Stamps


def play(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Video, image, folder of images, Cityscapes folder, bag, camera (0, /dev/video0)"
            " or address (rtsp://, http://, ...).",
        ),
    ],
    image_topic: Annotated[
        str, typer.Option(help="Topic, relative to /panoptic unless it starts with /.")
    ] = "image",
    rate: Annotated[
        float | None, typer.Option(metavar="HZ", help="Frame rate. Default: the source's.")
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Start again at the end.")] = False,
    count: Annotated[int | None, typer.Option(metavar="N", help="Stop after N frames.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Resize frames to height x width.")
    ] = None,
    compressed: Annotated[
        bool, typer.Option("--compressed", help="Publish JPEG on TOPIC/compressed.")
    ] = False,
    skip_bad: SkipBad = False,
    frame_id: Annotated[str, rare(help="frame_id of the headers.")] = "camera",
    stamps: Annotated[
        Stamps,
        rare(
            help="Stamps: the time of publishing, or the source's own time (Cityscapes: 17 frames"
            " per second by frame number), counted from the start of playing."
        ),
    ] = Stamps.NOW,
    wait_for_subscribers: Annotated[
        int, rare(metavar="N", help="Wait for N subscribers before the first frame.")
    ] = 0,
    lockstep: Annotated[
        bool, rare("--lockstep", help="Wait for the result of each frame before the next one.")
    ] = False,
    answer_topic: Annotated[
        str, rare(help="Image topic with the results, which have the stamps of the frames.")
    ] = "labels",
    timeout: Annotated[
        float, rare(metavar="S", help="Seconds to wait for subscribers, and for each result.")
    ] = 30.0,
) -> None:
    """Publish a video, images, a bag or a webcam as a camera.

    Topics can also be remapped: upsnet play drive.mp4 --ros-args -r image:=/front/image_raw
    """
    settings = PlayerSettings(
        topic=image_topic,
        rate_hz=rate,
        frame_id=frame_id,
        stamps=stamps,
        size=parse_height_width(size, once_width_first=True) if size is not None else None,
        compressed=compressed,
        loop=loop,
        count=count,
        subscribers=wait_for_subscribers,
        lockstep=lockstep,
        answer_topic=answer_topic,
        timeout=timeout,
    )
    check_topic("--image-topic", image_topic)
    check_topic("--answer-topic", answer_topic)
    check_ros_arguments(ctx.obj or ())
    require_source(source)
    from upsnet_ros.bags.sources import open_source

    frames = open_source(source, skip_bad=skip_bad)
    from upsnet_ros.node.process import RosProcess
    from upsnet_ros.playback.player import Player

    if settings.size is not None:  # the order was another one in the last release
        height, width = settings.size
        typer.echo(f"publishing {height}x{width} (height x width)", err=True)
    with RosProcess(ctx.obj) as ros, errors_as_one_line("play"):
        player = ros.own(Player(settings))
        length = None if loop else frames.length
        total = min((n for n in (length, count) if n is not None), default=None)
        published = 0
        try:
            with frame_progress() as progress:
                task = progress.add_task(f"{Path(frames.name).name} -> {player.topic}", total=total)
                for _ in player.play(frames, stopped=ros.stop.done):
                    published += 1
                    progress.advance(task)
        finally:
            count_text = f"{published} frame{'' if published == 1 else 's'}"
            done = "stopped after" if ros.stop.done() else "published"
            typer.echo(f"{done} {count_text}{frames.skipped.summary()}", err=True)
