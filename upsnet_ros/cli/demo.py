"""`upsnet demo`: run player, node and recorder as processes over DDS, then write a report."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich import filesize
from rich.table import Table

from upsnet_ros.cli.node import check_parameters, ros_arguments
from upsnet_ros.cli.options import SkipBad, rare, require_source, require_weights
from upsnet_ros.cli.points import points_node
from upsnet_ros.cli.replay import BAG, METRICS
from upsnet_ros.cli.terminal import console, frame_progress
from upsnet_ros.node.parameter_info import Value
from upsnet_ros.output_files import OutputFolder, bag_names, write_whole
from upsnet_ros.processes.child_processes import ProcessGroup
from upsnet_ros.processes.transport import (
    PROFILE_VARIABLES,
    private_environment,
    shared_memory_profile,
)
from upsnet_ros.weights import SHIPPED_VARIANT, find_weights, shipped_weights

REPORT = "report.html"
#: Folder of the bag of the street.
STREET = "street"
_FORMS = {
    "cityscapes_instance_ids": "16-bit, stuff: id, things: id * 1000 + k (k from 1)",
    "coco_panoptic_rgb": "COCO panoptic, id = R + 256 G + 65536 B",
}


def recorded_classes(out: Path) -> str:
    """Return the name of the taxonomy of the recorded labels."""
    return str(_index(out)["dataset"])


def write_report(out: Path, *, facts: Sequence[tuple[str, str]]) -> None:
    """Evaluate the bag in ``out``, which holds the results and their ground truth.

    Raises:
        EvaluationError: If the results and the ground truth do not match.
    """
    from upsnet_ros.bag_evaluation.scoring import BagFrames, BagTask
    from upsnet_ros.evaluation.metrics import Metrics, summarise
    from upsnet_ros.evaluation.report import Page, headline_lines
    from upsnet_ros.evaluation.run import Evaluator

    frames = BagFrames(BagTask(bag=out / BAG, pictures=1))
    measures, snapshots = [], []
    with frame_progress() as progress:
        task = progress.add_task("evaluating", total=len(frames))
        evaluator = Evaluator(metrics=Metrics(), snapshots=True)
        for evaluated in evaluator.stream(frames, frames.categories):
            measures.append(evaluated.measures)
            if evaluated.snapshot is not None:
                snapshots.append(evaluated.snapshot)
            progress.advance(task)
    result = summarise(measures, frames.categories)
    page = Page(
        title="upsnet demo: a synthetic street, segmented over DDS",
        result=result,
        snapshots=snapshots,
        facts=facts,
        notes=frames.notes,
        series=frames.series,
    )
    write_whole(out / REPORT, page.html().encode())
    terminal = console()
    for line in headline_lines(result):
        terminal.print(line)


def list_files(out: Path, *, model: str) -> None:
    """Print what was written, and the latency."""
    from upsnet_ros.drawing.result_folder import INDEX, TABLE, VIDEO

    index = _index(out)
    table = Table("file", "what", "size", title=f"{out}/")
    rows = [
        (REPORT, "frame, ground truth, prediction, unknown and points side by side; metrics"),
        (VIDEO, "overlay video (VP9), for players and browsers"),
        ("overlay/*.png", "overlays"),
        ("labels/*.png", f"label images, {_FORMS[index['labels_form']]}"),
        ("unknown/*.png", "unknown masks"),
        ("scenes/**/*.png", "frames and ground truth of the street, a Cityscapes folder"),
        ("scenes/**/*.tiff", "depth of the street, float32 metres"),
        (f"{STREET}/*", "the street as a bag: images, lidar, ground truth; for upsnet replay"),
        (f"{BAG}/*", "images and results as a bag (MCAP)"),
        (TABLE, "one row per frame: stamp, counts, latency"),
        (INDEX, "classes, formats, lost frames"),
        (METRICS, "counts and latency of the replay of the street"),
        ("logs/*.log", "logs of the processes"),
    ]
    for pattern, what in rows:
        files = list(out.glob(pattern))
        if not files:
            continue
        number = f"{len(files)} " if pattern.endswith((".png", ".tiff")) else ""
        size = sum(path.stat().st_size for path in files)
        table.add_row(pattern, number + what, filesize.decimal(size))
    terminal = console()
    terminal.print(table)
    latency = index["latency_ms"]
    terminal.print(
        f"{index['frames']} frames; image to result: p50 {latency['p50']:.0f} ms, "
        f"p99 {latency['p99']:.0f} ms ({model}); {index['incomplete']} lost"
    )


def _index(out: Path) -> dict[str, Any]:
    from upsnet_ros.drawing.result_folder import INDEX

    content: dict[str, Any] = json.loads((out / INDEX).read_text(encoding="utf-8"))
    return content


_POLL_SECONDS = 0.2
_CAMERA = "/camera/image_raw"  # of the street's bag
_SPLIT = "test"  # never used for training
_SEQUENCE = 8  # has furniture on the road
#: The files that the demo writes, in addition to those of its recorder.
_NAMES = (
    *bag_names(BAG, folder=f"{BAG}/"),
    *bag_names(STREET, folder=f"{STREET}/"),
    METRICS,
    "scenes/leftImg8bit*/test/drawn0/drawn0_*.png",
    "scenes/camera/test/drawn0/drawn0_*.json",
    "scenes/gtFine/test/drawn0/drawn0_*.png",
    "scenes/gtFine/test/drawn0/drawn0_*.tiff",
    "scenes/gtFine/cityscapes_panoptic_test/drawn0_*.png",
    "scenes/gtFine/cityscapes_panoptic_test.json",
    "logs/*.log",
    REPORT,
)


def demo(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="Video, folder of images or Cityscapes folder. Default: a synthetic street.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Output folder; an earlier demo in it is replaced.",
        ),
    ] = Path("demo_output"),
    frames: Annotated[int, typer.Option(metavar="N", min=1, help="Number of frames.")] = 30,
    variant: Annotated[
        str | None, typer.Option(help="Network variant. Default: that of the weights.")
    ] = None,
    scale: Annotated[
        int,
        typer.Option(metavar="PX", help="Short side of the network input; 0: the variant's."),
    ] = 384,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="File or name of weights. Default: the bundled ones of the variant, or random.",
        ),
    ] = None,
    skip_bad: SkipBad = False,
    timeout: Annotated[
        float, rare(metavar="S", help="Seconds to wait for the node, and for each frame.")
    ] = 180.0,
) -> None:
    """Play frames to the node over DDS, record the results, and list what was written."""
    # Leaving the `with` below ends the other processes, also on SIGTERM.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    terminal = console(stderr=True)
    named, path = weights, None if weights is None else find_weights(weights)
    require_weights(weights, variant=variant)
    check_parameters(_node_parameters(variant or "auto", scale, path))
    if source is not None:
        require_source(source)
    from upsnet_ros.bags.sources import CITYSCAPES_RATE_HZ, count_frames, open_source
    from upsnet_ros.drawing.result_folder import NAMES, VIDEO

    folder = OutputFolder(out, command="demo", names=(*NAMES, *_NAMES))
    taken = open_source(source, skip_bad=skip_bad) if source is not None else None
    count = frames if taken is None else count_frames(taken, at_most=frames)
    if named is None:
        variant = variant or SHIPPED_VARIANT
        path = shipped_weights(variant)
    if path is None:
        terminal.print(
            f"There are no bundled weights for {variant}, so random ones are used: the labels"
            " below mean nothing. For trained weights, pass --weights FILE.",
            style="yellow",
        )
    elif named is None:
        terminal.print(
            "Using the bundled weights, trained on synthetic street scenes"
            + (" like this one" if source is None else " that may not resemble yours")
            + ". For photographs: upsnet weights get coco-fpn-r50, then --weights coco-fpn-r50."
        )
    network = variant or str(named)
    model = f"{network}, short side {scale or 'of the variant'}"
    try:
        with folder:
            if taken is None:
                _render_street(out / "scenes", frames)
            _run(
                source=source,
                out=out,
                count=count,
                rate_hz=CITYSCAPES_RATE_HZ if taken is None else taken.rate_hz,
                timeout=timeout,
                skip_bad=skip_bad,
                node=_node_parameters(variant or "auto", scale, path),
            )
            reported = taken is None and recorded_classes(out) == "cityscapes"
            if reported:
                used = "random" if path is None else str(named or "bundled")
                write_report(out, facts=[("Model", model), ("Weights", used)])
    except KeyboardInterrupt:
        typer.echo(f"stopped; what was recorded is in {out}", err=True)
        raise typer.Exit(130) from None
    list_files(out, model=model)
    if not reported:
        has_none = (
            "These frames have no ground truth"
            if taken is not None
            else ("The street's ground truth has other classes than the weights")
        )
        terminal.print(f"{has_none}, so there is no report.")
    terminal.print(f"Open this: {(out / (REPORT if reported else VIDEO)).resolve()}")
    if path is None:
        terminal.print("Random weights: these labels mean nothing.", style="yellow")


def _node_parameters(variant: str, scale: int, path: Path | None) -> dict[str, Value]:
    return {
        "variant": variant,
        "scale": scale,
        # Smooth outlines if the network input is smaller than the image.
        "label_resize": "bilinear",
        "image_reliability": "reliable",  # lockstep needs every frame
        **({"allow_random_weights": True} if path is None else {"weights": str(path.absolute())}),
    }


def _render_street(folder: Path, count: int) -> None:
    """Render ``count`` frames with ground truth and depth as a Cityscapes root ``folder``."""
    from upsnet_ros.synthetic.dataset import SceneJob, write_scenes

    job = SceneJob(
        out=folder,
        split=_SPLIT,
        seed=0,
        first=_SEQUENCE,
        sequences=1,
        length=count,
        size=(512, 1024),
        depth=True,
    )
    with frame_progress() as progress:
        task = progress.add_task("rendering a street", total=count)
        for _ in write_scenes(job, workers=2):
            progress.advance(task)


def _run(
    *,
    source: str | None,
    out: Path,
    count: int,
    rate_hz: float,
    timeout: float,
    skip_bad: bool,
    node: Mapping[str, Value],
) -> None:
    """Run node, recorder and player until ``count`` frames are recorded.

    The street, which is played if there is no source, has a lidar: a points node labels its clouds.

    Raises:
        ProcessError: If one of them fails.
    """
    profile = str(shared_memory_profile())
    environment = {**private_environment(), **dict.fromkeys(PROFILE_VARIABLES, profile)}
    limits = ["--count", str(count), "--timeout", str(timeout)]
    with ProcessGroup(out / "logs", environment) as group, frame_progress() as progress:
        task = progress.add_task("starting the node", total=count)
        recorder = ["record", "--out", str(out), "--inside", "--image-reliability", "reliable"]
        recorder += ["--codec", "vp09", "--video-rate", str(rate_hz), *limits]
        if source is None:
            nodes, player = ["node", "points"], "replay"
            group.start("node", ["node", *ros_arguments(node, remappings={"image": _CAMERA})])
            group.start("points", _street_with_points(out))  # while the node loads its weights
            replay = ["--out", str(out), "--inside", "--no-node", "--timeout", str(timeout)]
            outputs = ("labels", "instances", "unknown_mask", "points")
            replay += [word for name in outputs for word in ("--record", name)]
            replay += ["--wait-for-subscribers", "2"]
            group.start("record", recorder)
            group.start("replay", ["replay", str(out / STREET), *replay])
        else:
            nodes, player = ["node"], "play"
            group.start("node", ["node", *ros_arguments(node)])
            group.start("record", [*recorder, "--bag", str(out / BAG)])
            play = ["--lockstep", "--wait-for-subscribers", "2", *limits]
            play += ["--skip-bad"] if skip_bad else []
            group.start("play", ["play", source, *play])
        # A replay has a bag of results to finish.
        while group.running("record") or (player == "replay" and group.running("replay")):
            for name in nodes:
                group.require(name)
            group.running(player)
            recorded = _recorded(out)
            progress.update(
                task,
                completed=recorded,
                description="finishing the video"
                if recorded == count
                else "segmenting"
                if recorded is not None
                else "starting the node",
            )
            time.sleep(_POLL_SECONDS)
        progress.update(task, completed=_recorded(out))
        for name in (player, *reversed(nodes)):
            group.end(name)


def _street_with_points(out: Path) -> list[str]:
    """Write the street in ``out`` as a bag with a lidar; return the command line of a points node.

    Raises:
        UpsnetError: If a file cannot be read or written.
    """
    from upsnet_ros.bags.make import BagJob, LidarDrive, make_bag
    from upsnet_ros.bags.replay_topics import topics_of
    from upsnet_ros.playback.settings import ReplaySettings

    bag = out / STREET
    for _ in make_bag(LidarDrive(out / "scenes", _SPLIT), BagJob(path=bag)):
        pass
    return points_node(bag, topics_of(bag), ReplaySettings(), namespace="/panoptic")


def _recorded(out: Path) -> int | None:
    """Return the number of frames recorded so far; None before the recorder has started."""
    from upsnet_ros.drawing.result_folder import TABLE

    try:
        return max(0, (out / TABLE).read_text(encoding="utf-8").count("\n") - 1)
    except FileNotFoundError:
        return None


def _exit_on_signal(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)
