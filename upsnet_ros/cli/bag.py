"""`upsnet bag`: make labelled bags, and list what a bag contains."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from upsnet_ros.cli.commands import fail
from upsnet_ros.cli.options import (
    Compression,
    SceneOptions,
    SkipBad,
    Split,
    Storage,
    check_choice,
    check_split,
    command_group,
    rare,
    require_path,
    require_source,
    with_option_groups,
)
from upsnet_ros.cli.terminal import console, frame_progress
from upsnet_ros.errors import UpsnetError
from upsnet_ros.output_files import OutputFolder, bag_names

if TYPE_CHECKING:
    from upsnet_ros.bags.make import Drive
    from upsnet_ros.bags.reader import BagSummary
    from upsnet_ros.bags.sources import FrameSource

bag = command_group("bag", "Make labelled bags, and list what a bag contains.")


@bag.command("make")
@with_option_groups
def make(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the bag.")],
    scene: SceneOptions,
    source: Annotated[
        str | None,
        typer.Argument(help="A Cityscapes root, a folder of images, an image or a video."),
    ] = None,
    split: Split = "val",
    labels: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Label maps of a folder of images.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML: the classes of the label maps.")
    ] = None,
    scenes: Annotated[
        int | None,
        typer.Option(metavar="SEED", min=0, help="Render synthetic scenes instead."),
    ] = None,
    points: Annotated[
        bool,
        typer.Option("--points", help="With --scenes: depth and a simulated lidar, with truth."),
    ] = False,
    jpeg: Annotated[int | None, rare(metavar="1-100", min=1, max=100, help="JPEG quality.")] = None,
    skip_bad: SkipBad = False,
    taxonomy: Annotated[str, rare(help="Taxonomy of the names in --classes.")] = "cityscapes",
    camera: Annotated[str, rare(help="Prefix of the camera's topics.")] = "camera",
    rate: Annotated[
        float | None, rare(metavar="HZ", help="Frame rate. Default: the source's.")
    ] = None,
    storage: Annotated[str, rare(help="Format of the bag: mcap or sqlite3.")] = "mcap",
    compression: Annotated[str, rare(help="Its compression: none or zstd.")] = "none",
) -> None:
    """Make a bag with images, camera_info, and ground truth under /ground_truth.

    upsnet bag make cityscapes/ --split val --out drive

    upsnet bag make frames/ --labels maps/ --classes classes.yaml --out drive

    upsnet bag make --scenes 7 --length 100 --out drive
    """
    if (source is None) == (scenes is None):
        fail("give either SOURCE, or --scenes SEED to render one")
    if scenes is not None:
        check_split(split)
    elif points:
        fail("--points needs --scenes: only synthetic scenes know the depth of each pixel")
    size = scene.image_size()
    if (labels is None) != (classes is None):
        fail("--labels and --classes belong together: the label maps, and what their values mean")
    if labels is not None and skip_bad:
        fail("--skip-bad cannot be used with --labels")
    check_choice("storage", storage, [one.value for one in Storage])
    check_choice("compression", compression, [one.value for one in Compression])
    folder = OutputFolder(out, command="bag make", names=bag_names(out.name))
    for path in (labels, classes):
        require_path(path)
    if source is not None:
        require_source(source)
    frames = _frames(source, skip_bad=skip_bad) if source is not None and labels is None else None
    from upsnet_ros.bags.make import BagJob, ImagesDrive, ScenesDrive, make_bag

    drive: Drive
    if scenes is not None:
        drive = ScenesDrive(
            split=split,
            seed=scenes,
            sequences=scene.sequences,
            first=scene.first,
            frames=scene.length,
            size=size,
            points=points,
        )
    elif frames is not None:
        drive = ImagesDrive(frames)
    else:
        assert source is not None
        drive = _truth_drive(source, split, labels, classes, taxonomy, skip_bad=skip_bad)
    job = BagJob(
        path=out,
        camera=camera,
        jpeg=jpeg,
        rate_hz=rate,
        storage=Storage(storage).value,
        compression=Compression(compression).value,
    )
    begin, count, labelled = time.perf_counter(), 0, 0
    try:
        with folder, frame_progress() as progress:
            task = progress.add_task(f"writing {out.name}", total=drive.length)
            for frame in make_bag(drive, job):
                count += 1
                labelled += frame.truth is not None
                progress.advance(task)
    except (UpsnetError, OSError, KeyboardInterrupt) as error:
        if count:
            kept = f"{out} holds {_frames_text(count)} so far"
            if isinstance(error, UpsnetError):
                error.details = f"{error.details}\n{kept}".strip()
            else:
                typer.echo(kept, err=True)
        raise
    pace = count / (time.perf_counter() - begin)
    skipped = drive.skipped.summary() if isinstance(drive, ImagesDrive) else ""
    typer.echo(
        f"{_frames_text(count)}, {labelled} with ground truth, in {out}"
        f" ({pace:.1f} frames per second){skipped}"
    )


@bag.command("info")
def info(
    path: Annotated[Path, typer.Argument(metavar="BAG", help="A folder or a file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print topics, types, counts, rates and times of a bag, and what cannot be read.

    Times are receive times in seconds from the first message; the gap is the longest time without a
    message.
    """
    require_path(path, "bag")
    from upsnet_ros.bags.reader import summarise_bag

    summary = summarise_bag(path)
    if as_json:
        typer.echo(json.dumps(summary.to_json(), indent=1))
    else:
        _show(summary)


def _frames_text(count: int) -> str:
    return f"{count} frame{'' if count == 1 else 's'}"


def _frames(source: str, *, skip_bad: bool) -> FrameSource | None:
    """Return the source of images without ground truth; None for a Cityscapes root."""
    if (Path(source) / "gtFine").is_dir():
        return None
    from upsnet_ros.bags.sources import open_source

    never_ends = "never ends: record it with `upsnet play` and `ros2 bag record`"
    if source.isdecimal():
        fail(f"a webcam {never_ends}")
    frames = open_source(source, skip_bad=skip_bad)
    if frames.live:
        fail(f"{frames.name} {never_ends}")
    return frames


def _truth_drive(
    source: str,
    split: str,
    labels: Path | None,
    classes: Path | None,
    taxonomy: str,
    *,
    skip_bad: bool,
) -> Drive:
    from upsnet_ros.bags.make import CityscapesDrive, FolderDrive, read_classes

    if labels is None or classes is None:
        return CityscapesDrive(Path(source), split, skip_bad=skip_bad)
    return FolderDrive(Path(source), labels, taxonomy=taxonomy, classes=read_classes(classes))


def _show(summary: BagSummary) -> None:
    out = console()
    table = _table(summary)
    wide = out.measure(table, options=out.options.update(max_width=10_000)).maximum
    if not out.is_terminal:
        out.width = max(out.width, wide)  # a line a topic, for those who search in it
    elif wide > out.width:
        table = _table(summary, stacked=True)
    out.print(table)
    seconds = (summary.end_ns - summary.start_ns) / 1e9
    out.print(
        f"{summary.messages} messages in {seconds:.3f} s from {summary.begin}, "
        f"{summary.size_bytes / 1e6:.1f} MB"
    )
    for loss in summary.losses:
        out.print(f"lost: {loss}", style="yellow")


def _table(summary: BagSummary, *, stacked: bool = False) -> Table:
    """Return the table of topics.

    Args:
        summary: Of the bag.
        stacked: Print each type below its topic rather than beside it, for narrow terminals.
    """
    table = Table(
        title=str(summary.path), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("topic", overflow="fold")
    if not stacked:
        table.add_column("type", overflow="fold")
    for column in ("count", "Hz", "gap s", "seconds"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in summary.topics:
        moments = [one for one in (row.first_ns, row.last_ns) if one is not None]
        name = row.name + (" (latched)" if row.latched else "")
        kind = row.msgtype.replace("/msg/", "/") + ("" if row.known else " (unknown)")
        table.add_row(
            *([f"{name}\n  {kind}"] if stacked else [name, kind]),
            str(row.count),
            "" if row.rate_hz is None else f"{row.rate_hz:.2f}",
            "" if row.longest_gap_s is None else f"{row.longest_gap_s:.2f}",
            " - ".join(f"{(moment - summary.start_ns) / 1e9:.2f}" for moment in moments),
        )
    return table
