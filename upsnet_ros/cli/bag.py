"""`upsnet bag`: make bags of labelled drives, and look into any bag."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from upsnet_ros.bags.errors import BagError
from upsnet_ros.bags.summary import BagSummary, summarise_bag
from upsnet_ros.cli import fail
from upsnet_ros.cli.progress import frame_progress
from upsnet_ros.cli.sizes import parse_rows_columns
from upsnet_ros.datasets.scenes.seeds import SPLITS

if TYPE_CHECKING:
    from upsnet_ros.bags.drives import Drive

bag = typer.Typer(
    name="upsnet bag",
    help="Make bags of labelled drives, and look into any bag.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_SOURCE = "Where frames and truth come from"
_SCENES = "Driving scenes, drawn on the spot"
_BAG = "The bag"


@bag.command("make")
def make(
    out: Annotated[Path, typer.Option(help="Folder of the bag.", rich_help_panel=_BAG)],
    source: Annotated[
        Path | None,
        typer.Argument(help="A Cityscapes root, a folder of images, an image or a video."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(help="Of the Cityscapes root or the scenes.", rich_help_panel=_SOURCE),
    ] = "val",
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Label maps of a folder of images, under their names.", rich_help_panel=_SOURCE
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="YAML: what each value of the label maps means (0: sky), null for void.",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    taxonomy: Annotated[
        str, typer.Option(help="Whose classes those are.", rich_help_panel=_SOURCE)
    ] = "cityscapes",
    scenes: Annotated[
        int | None,
        typer.Option(min=0, help="Draw the streets of this seed.", rich_help_panel=_SCENES),
    ] = None,
    sequences: Annotated[
        int, typer.Option(min=1, help="Streets, a sequence each.", rich_help_panel=_SCENES)
    ] = 1,
    first: Annotated[
        int, typer.Option(min=0, help="Number of the first street.", rich_help_panel=_SCENES)
    ] = 0,
    length: Annotated[
        int, typer.Option(min=1, help="Frames of a sequence.", rich_help_panel=_SCENES)
    ] = 30,
    size: Annotated[
        str, typer.Option(help="Rows x columns of a frame.", rich_help_panel=_SCENES)
    ] = "512x1024",
    camera: Annotated[
        str, typer.Option(help="Its topics begin with this.", rich_help_panel=_BAG)
    ] = "camera",
    jpeg: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Write JPEGs of this quality.", rich_help_panel=_BAG),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Frames a second; default: the source's own.", rich_help_panel=_BAG),
    ] = None,
    storage: Annotated[str, typer.Option(help="mcap or sqlite3.", rich_help_panel=_BAG)] = "mcap",
    compression: Annotated[str, typer.Option(help="none or zstd.", rich_help_panel=_BAG)] = "none",
) -> None:
    """Make a bag: images, camera_info, and the truth under /ground_truth.

    upsnet bag make cityscapes/ --split val --out drive

    upsnet bag make frames/ --labels maps/ --classes classes.yaml --out drive

    upsnet bag make --scenes 7 --length 100 --out drive
    """
    # Only here: readers of data sets import torch, which takes seconds.
    from upsnet_ros.bags.drives import ScenesDrive
    from upsnet_ros.bags.make import BagJob, make_bag

    if (source is None) == (scenes is None):
        fail("name a SOURCE, or --scenes SEED to draw one")
    try:
        drive: Drive
        if scenes is not None:
            if split not in SPLITS:
                fail(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
            drive = ScenesDrive(
                split=split,
                seed=scenes,
                sequences=sequences,
                first=first,
                frames=length,
                size=parse_rows_columns(size),
            )
        else:
            assert source is not None
            drive = _open(source, split, labels, classes, taxonomy)
        job = BagJob(
            path=out,
            camera=camera,
            jpeg=jpeg,
            rate_hz=rate,
            storage=cast(Literal["mcap", "sqlite3"], storage),
            compression=cast(Literal["none", "zstd"], compression),
        )
        begin, count, labelled = time.perf_counter(), 0, 0
        with frame_progress() as progress:
            task = progress.add_task(f"writing {out.name}", total=drive.length)
            for frame in make_bag(drive, job):
                count += 1
                labelled += frame.truth is not None
                progress.advance(task)
    except ValueError as error:  # of bag, data set and source
        fail(str(error))
    pace = count / (time.perf_counter() - begin)
    typer.echo(f"{count} frames, {labelled} with truth, in {out} ({pace:.1f} frames a second)")


@bag.command("info")
def info(
    path: Annotated[Path, typer.Argument(metavar="BAG", help="A folder, or a single file.")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines, on stdout.")] = False,
) -> None:
    """Print what a bag holds: topics, types, counts, rates, times, and what cannot be read.

    Times are the recorder's, in seconds from the first message; the gap is the longest time
    without a message.
    """
    try:
        summary = summarise_bag(path)
    except BagError as error:
        fail(str(error))
    if as_json:
        typer.echo(json.dumps(summary.to_json(), indent=1))
    else:
        _show(summary)


def _open(
    source: Path, split: str, labels: Path | None, classes: Path | None, taxonomy: str
) -> Drive:
    from upsnet_ros.bags.drives import CityscapesDrive, ImagesDrive
    from upsnet_ros.bags.folder_drive import FolderDrive, read_classes
    from upsnet_ros.ros.sources import open_source

    if (labels is None) != (classes is None):
        fail("--labels and --classes go together: the maps, and what their values mean")
    if labels is not None and classes is not None:
        return FolderDrive(source, labels, taxonomy=taxonomy, classes=read_classes(classes))
    if (source / "gtFine").is_dir():
        return CityscapesDrive(source, split)
    if str(source).isdecimal():
        fail("a webcam never ends: record it with a player and `ros2 bag record`")
    return ImagesDrive(open_source(source))


def _show(summary: BagSummary) -> None:
    table = Table(
        title=str(summary.path), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("topic", overflow="fold")
    table.add_column("type", overflow="fold")
    for column in ("count", "Hz", "gap s", "seconds"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in summary.topics:
        moments = [one for one in (row.first_ns, row.last_ns) if one is not None]
        table.add_row(
            row.name + (" (latched)" if row.latched else ""),
            row.msgtype.replace("/msg/", "/") + ("" if row.known else " (unknown)"),
            str(row.count),
            "" if row.rate_hz is None else f"{row.rate_hz:.2f}",
            "" if row.longest_gap_s is None else f"{row.longest_gap_s:.2f}",
            " - ".join(f"{(moment - summary.start_ns) / 1e9:.2f}" for moment in moments),
        )
    console = Console()
    console.print(table)
    seconds = (summary.end_ns - summary.start_ns) / 1e9
    console.print(
        f"{summary.messages} messages in {seconds:.3f} s from {summary.begin}, "
        f"{summary.size_bytes / 1e6:.1f} MB",
        highlight=False,
    )
    for loss in summary.losses:
        console.print(f"lost: {loss}", style="yellow", highlight=False, markup=False)
