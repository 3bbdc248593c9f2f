"""Time panoptic quality beside the official tool: python benchmarks/panoptic_quality.py --help.

Both read the same PNGs of driving scenes and evaluate them in one thread, in turns, timed by the
processor's clock, so that a busy machine favours neither. cityscapesscripts took its loop over
images from panopticapi, which is on no package index; --panopticapi FOLDER times a checkout of it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from cityscapesscripts.evaluation import evalPanopticSemanticLabeling
from rich.console import Console
from rich.table import Table

from upsnet_ros.benchmark.measure import describe_machine
from upsnet_ros.datasets.coco_format import rgb_ids
from upsnet_ros.evaluation.maps import Categories, Overlaps
from upsnet_ros.evaluation.metrics import EvaluationFrame
from upsnet_ros.evaluation.panoptic_files import PanopticFiles
from upsnet_ros.evaluation.panoptic_quality import PanopticCounts
from upsnet_ros.synthetic.dataset import scene_frame
from upsnet_ros.synthetic.labels import categories, segments


def write_frames(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write scenes as truth, and as the prediction what a frame a tenth of a second later shows."""
    for side, later in (("truth", 0), ("prediction", 1)):
        (folder / side).mkdir()
        rows = []
        for street in range(count):
            ids = scene_frame("val", street, later, size).instances
            name = f"{street}.png"
            assert cv2.imwrite(str(folder / side / name), rgb_ids(ids)[..., ::-1])
            row = {"image_id": str(street), "file_name": name, "segments_info": segments(ids)}
            rows.append(row)
        content = {"annotations": rows, "categories": categories()}
        (folder / f"{side}.json").write_text(json.dumps(content))


def official_run(tool: Any, folder: Path) -> Callable[[], Any]:
    """A run of an official tool's loop over the images; it returns the tool's sums."""
    truth, prediction = (
        json.loads((folder / f"{side}.json").read_text()) for side in ("truth", "prediction")
    )
    pairs = list(zip(truth["annotations"], prediction["annotations"], strict=True))
    names = {row["id"]: row for row in truth["categories"]}

    def run() -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return tool.pq_compute_single_core(
                0, pairs, str(folder / "truth"), str(folder / "prediction"), names
            )

    return run


def summed(frames: Iterable[EvaluationFrame], of: Categories) -> PanopticCounts:
    """Our counterpart of that loop."""
    counts = (
        PanopticCounts.from_overlaps(Overlaps.from_maps(f.truth, f.prediction), of) for f in frames
    )
    return sum(counts, PanopticCounts.zero(len(of)))


def time_turn_about(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds of processor time of each run."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main(
    images: Annotated[int, typer.Option(help="Frames, each of another street.")] = 6,
    repeats: Annotated[int, typer.Option(help="Times that all are evaluated.")] = 5,
    height: Annotated[int, typer.Option()] = 1024,
    width: Annotated[int, typer.Option()] = 2048,
    panopticapi: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where a checkout of panopticapi lies.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE")] = None,
) -> None:
    """Print milliseconds a frame, and how many times faster ours is."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_frames(folder, images, (height, width))
        frames = PanopticFiles(
            truth_json=folder / "truth.json",
            truth_folder=folder / "truth",
            prediction_json=folder / "prediction.json",
            prediction_folder=folder / "prediction",
        )
        read = [frames[index] for index in range(images)]
        runs: dict[str, Callable[[], Any]] = {
            "cityscapesscripts": official_run(evalPanopticSemanticLabeling, folder)
        }
        if panopticapi:
            sys.path.insert(0, str(panopticapi.resolve()))
            runs["panopticapi"] = official_run(
                importlib.import_module("panopticapi.evaluation"), folder
            )
        runs["ours"] = lambda: summed((frames[index] for index in range(images)), frames.categories)
        runs["ours, maps in memory"] = lambda: summed(read, frames.categories)
        expected = runs["cityscapesscripts"]().pq_average(
            {info.id: {"isthing": info.is_thing} for info in frames.categories.classes}, None
        )
        np.testing.assert_allclose(
            runs["ours"]().quality(frames.categories).all[0], expected[0]["pq"], atol=1e-9
        )
        times = {name: total / images for name, total in time_turn_about(runs, repeats).items()}

    table = Table(
        "what", "ms a frame", "ours is faster", title=f"{images} frames, {height}x{width}"
    )
    for name, value in times.items():
        ratio = "" if name.startswith("ours") else f"{value / times['ours']:.1f} x"
        table.add_row(name, f"{value:.1f}", ratio)
    Console().print(table)
    if json_file:
        machine = describe_machine(torch.device("cpu"))
        json_file.write_text(json.dumps({"ms_a_frame": times, "machine": machine}, indent=1))


if __name__ == "__main__":
    typer.run(main)
