"""How often the tracker loses a thing: python benchmarks/tracking_quality.py --streets 3.

Driving scenes, whose truth knows every thing through its street, stand for a network that numbers
things differently in each frame: as they are, and degraded (a tenth of the things left out at
random, the others eroded or widened by a pixel or left as they are).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import cv2
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.evaluation.maps import Categories, PanopticMap, map_from_frame, map_from_labels
from upsnet_ros.evaluation.metrics import EvaluationFrame, Metrics, evaluate
from upsnet_ros.evaluation.report import headline
from upsnet_ros.inference.frame import Instance, PanopticFrame
from upsnet_ros.synthetic.dataset import scene_frame
from upsnet_ros.tracking.tracker import Tracker, TrackerSettings

_KERNEL = np.ones((3, 3), np.uint8)
_SMALLEST = 10  # pixels
_TRACKERS = {
    "masks alone": TrackerSettings(min_box_iou=1),
    "masks, then widened boxes": TrackerSettings(),
}


def answer(truth: PanopticMap, rng: np.random.Generator, *, spoilt: bool) -> PanopticFrame:
    """The things of the truth, numbered at random."""
    labels = np.zeros(truth.pixels.shape, np.int32)
    things, segments = [], truth.segments
    for number, place in enumerate(rng.permutation(len(segments)), 1):
        class_id = int(segments.classes[place])
        is_thing = CITYSCAPES.by_id[class_id].is_thing and not segments.crowd[place]
        if not is_thing or (spoilt and rng.random() < 0.1):
            continue
        mask = (truth.pixels == segments.ids[place]).view(np.uint8)
        change = (cv2.erode, cv2.dilate, None)[rng.integers(3)] if spoilt else None
        changed = mask if change is None else change(mask, _KERNEL)
        # Small things would vanish; and no pixel belongs to two.
        mask = (changed if np.count_nonzero(changed) >= _SMALLEST else mask) & (labels == 0)
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        if width == 0:
            continue
        label, box = class_id * 1000 + number, (x, y, x + width - 1, y + height - 1)
        labels[mask > 0] = label
        things.append(
            Instance(
                id=label,
                class_id=class_id,
                class_name="",
                score=1.0,
                box=box,
                detection_box=box,
                area=int(np.count_nonzero(mask)),
            )
        )
    return PanopticFrame(labels=labels, unknown=labels == 0, instances=tuple(things), stuff=())


def street(number: int, length: int, size: tuple[int, int]) -> list[PanopticMap]:
    """The truth of one street, frame by frame."""
    return [
        map_from_labels(scene_frame("val", number, n, size, seed=3).instances, CITYSCAPES)
        for n in range(length)
    ]


def evaluated(
    truths: list[list[PanopticMap]],
    answers: list[list[PanopticFrame]],
    settings: TrackerSettings,
    step: int,
) -> Iterator[EvaluationFrame]:
    """Every so many frames of all streets, tracked."""
    for name, (truth, frames) in enumerate(zip(truths, answers, strict=True)):
        tracker = Tracker(settings)
        for number in range(0, len(truth), step):
            tracked = tracker(frames[number], time=0.1 * number)
            yield EvaluationFrame(
                name=f"{name}_{number}",
                sequence=str(name),
                number=number,
                truth=truth[number],
                prediction=map_from_frame(tracked, tracks=True),
            )


def main(
    streets: Annotated[int, typer.Option(min=1, help="Streets.")] = 3,
    length: Annotated[int, typer.Option(min=16, help="Frames of each, 10 a second.")] = 60,
    height: Annotated[int, typer.Option(min=64, help="Rows; twice as many columns.")] = 320,
) -> None:
    """Track, evaluate and print."""
    cv2.setNumThreads(1)
    truths = [street(number, length, (height, 2 * height)) for number in range(streets)]
    table = Table("masks", "rate", "tracker", title=f"{streets} x {length} frames")
    for column in ("things found", "id switches", "MOTSA %", "VPQ of 15, things %"):
        table.add_column(column, justify="right")
    for spoilt in (False, True):
        rng = np.random.default_rng(0)
        answers = [[answer(truth, rng, spoilt=spoilt) for truth in one] for one in truths]
        for step in (1, 2, 5):
            for name, settings in _TRACKERS.items():
                frames = evaluated(truths, answers, settings, step)
                result = evaluate(frames, Categories.from_taxonomy(CITYSCAPES), Metrics(video=True))
                assert result.tracks is not None and result.video is not None
                found = result.counts.tp[result.categories.is_thing].sum()
                table.add_row(
                    "spoilt" if spoilt else "exact",
                    f"{10 // step} Hz",
                    name,
                    str(found),
                    str(result.tracks.switches.sum()),
                    f"{100 * headline(result)['MOTSA']:.1f}",
                    f"{100 * result.video[15].things[0]:.1f}",
                )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
