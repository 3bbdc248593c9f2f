"""What `upsnet demo` shows at its end: the files it wrote, and how good the labels are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import filesize
from rich.console import Console
from rich.table import Table

from upsnet_ros.cli.progress import frame_progress
from upsnet_ros.inference.recording import INDEX, TABLE, VIDEO

REPORT = "report.html"
BAG = "bag"
_FORMS = {
    "cityscapes_instance_ids": "16-bit, stuff: id, things: id * 1000 + k (k from 1)",
    "coco_panoptic_rgb": "COCO panoptic, id = R + 256 G + 65536 B",
}


def recorded_classes(out: Path) -> str:
    """Name of the taxonomy whose ids the recording's labels carry."""
    return str(_index(out)["dataset"])


def write_report(out: Path, *, root: Path, split: str, facts: Sequence[tuple[str, str]]) -> None:
    """Judge the recording ``out`` by the truth in the Cityscapes folder ``root``.

    Raises:
        EvaluationError: The recording and the truth do not fit each other.
    """
    # Only here: torch takes seconds to import.
    from upsnet_ros.evaluation.datasets import open_dataset
    from upsnet_ros.evaluation.evaluation import summarise
    from upsnet_ros.evaluation.measures import Metrics
    from upsnet_ros.evaluation.recordings import RecordedFrames
    from upsnet_ros.evaluation.report.page import Page
    from upsnet_ros.evaluation.run import Judge
    from upsnet_ros.evaluation.tables import headline_lines

    frames = RecordedFrames(out, open_dataset("cityscapes", root, split))
    measures, snapshots = [], []
    with frame_progress() as progress:
        task = progress.add_task("comparing with the truth", total=len(frames))
        judge = Judge(metrics=Metrics(), snapshots=True)
        for judged in judge.stream(map(frames.__getitem__, range(len(frames))), frames.categories):
            measures.append(judged.measures)
            if judged.snapshot is not None:
                snapshots.append(judged.snapshot)
            progress.advance(task)
    result = summarise(measures, frames.categories)
    page = Page(
        title="upsnet demo: a drawn street, segmented over DDS",
        result=result,
        snapshots=snapshots,
        facts=facts,
        series=[frames.latency()],
    )
    (out / REPORT).write_text(page.html(), encoding="utf-8")
    console = Console()
    for line in headline_lines(result):
        console.print(line, highlight=False, markup=False)


def list_files(out: Path, *, model: str) -> None:
    """Say what was written, and how long answers took."""
    index = _index(out)
    table = Table("file", "what", "size", title=f"{out}/")
    rows = [
        (REPORT, "frame, truth, prediction and unknown side by side; figures"),
        (VIDEO, "overlay video (VP9), plays in players and browsers"),
        ("overlay/*.png", "overlays"),
        ("labels/*.png", f"label images, {_FORMS[index['labels_form']]}"),
        ("unknown/*.png", "masks of what is unknown"),
        (f"{BAG}/*", "the camera and the answers as a bag (MCAP)"),
        (TABLE, "a row for each frame: stamp, counts, latency"),
        (INDEX, "classes, forms, what was lost"),
        ("logs/*.log", "what the processes said"),
    ]
    for pattern, what in rows:
        files = list(out.glob(pattern))
        if not files:
            continue
        number = f"{len(files)} " if pattern.endswith("*.png") else ""
        size = sum(path.stat().st_size for path in files)
        table.add_row(pattern, number + what, filesize.decimal(size))
    console = Console()
    console.print(table)
    latency = index["latency_ms"]
    console.print(
        f"{index['frames']} frames; image to answer: p50 {latency['p50']:.0f} ms, "
        f"p99 {latency['p99']:.0f} ms ({model}); {index['incomplete']} lost"
    )


def _index(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / INDEX).read_text(encoding="utf-8"))
    return content
