"""`upsnet evaluate`: judge predictions in files, or a model on a labelled data set."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from upsnet_ros.cli import fail
from upsnet_ros.cli.progress import frame_progress
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.evaluation import EvaluationResult, summarise
from upsnet_ros.evaluation.figures import to_json
from upsnet_ros.evaluation.measures import FrameMeasures, Metrics
from upsnet_ros.evaluation.panoptic_files import Extras, PanopticFiles
from upsnet_ros.evaluation.report.page import Page
from upsnet_ros.evaluation.report.shelf import Shelf
from upsnet_ros.evaluation.run import Judge, Judged
from upsnet_ros.evaluation.tables import class_table, headline_lines

if TYPE_CHECKING:
    from upsnet_ros.evaluation.datasets import ModelFrames

_FILES = "Two panoptic JSON files with folders of PNGs"
_MODEL = "A labelled data set and a model"
_WHAT = "What to measure"
_OUT = "Output"


def evaluate(
    gt_json: Annotated[
        Path | None, typer.Option(help="Annotations of the truth.", rich_help_panel=_FILES)
    ] = None,
    gt_dir: Annotated[
        Path | None,
        typer.Option(
            help="Its PNGs; by default a folder of the JSON's name.", rich_help_panel=_FILES
        ),
    ] = None,
    pred_json: Annotated[
        Path | None, typer.Option(help="Annotations of the prediction.", rich_help_panel=_FILES)
    ] = None,
    pred_dir: Annotated[
        Path | None, typer.Option(help="Its PNGs; as --gt-dir.", rich_help_panel=_FILES)
    ] = None,
    gt_unknown_dir: Annotated[
        Path | None,
        typer.Option(help="Masks of objects outside the classes.", rich_help_panel=_FILES),
    ] = None,
    pred_unknown_dir: Annotated[
        Path | None, typer.Option(help="Masks of what was called unknown.", rich_help_panel=_FILES)
    ] = None,
    pred_unknown_score_dir: Annotated[
        Path | None, typer.Option(help="Gray images of unknown scores.", rich_help_panel=_FILES)
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="The frames, for the report.", rich_help_panel=_FILES)
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that read and judge.", rich_help_panel=_FILES)
    ] = os.cpu_count() or 1,
    dataset: Annotated[
        str | None, typer.Option(help="cityscapes or coco.", rich_help_panel=_MODEL)
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data set.", rich_help_panel=_MODEL)
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Default: val, or val2017 for coco.", rich_help_panel=_MODEL),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Default: the weights that ship.", rich_help_panel=_MODEL),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="The network's.", rich_help_panel=_MODEL)
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_MODEL)
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 or bf16.", rich_help_panel=_MODEL)
    ] = "fp32",
    scale: Annotated[
        int | None,
        typer.Option(help="Short side the network runs at, in pixels.", rich_help_panel=_MODEL),
    ] = None,
    score_threshold: Annotated[
        float, typer.Option(help="Probability an instance must exceed.", rich_help_panel=_MODEL)
    ] = 0.6,
    allow_random_weights: Annotated[
        bool,
        typer.Option(
            "--allow-random-weights", help="Draw weights, to try it out.", rich_help_panel=_MODEL
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Only so many frames, evenly spread; with --vpq the first ones.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    boundary: Annotated[
        bool, typer.Option("--boundary", help="Boundary PQ.", rich_help_panel=_WHAT)
    ] = False,
    instances: Annotated[
        bool, typer.Option("--ap", help="AP of things, by mask.", rich_help_panel=_WHAT)
    ] = False,
    video: Annotated[
        bool,
        typer.Option(
            "--vpq",
            help="Video PQ and id switches. Ids in files must last along sequences; a model's"
            " things are tracked.",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing", help="Leave out frames one side lacks.", rich_help_panel=_WHAT
        ),
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures.", rich_help_panel=_OUT)
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a page with figures and frames.", rich_help_panel=_OUT),
    ] = None,
    report_frames: Annotated[
        int, typer.Option(min=1, help="Frames the page shows.", rich_help_panel=_OUT)
    ] = 60,
) -> None:
    """Judge predictions: panoptic quality and its kin.

    Either name two panoptic JSON files with their folders of PNGs, or a data set and a model.
    """
    judge = Judge(
        metrics=Metrics(boundary=boundary, instances=instances, video=video),
        snapshots=report is not None,
    )
    shelf = Shelf(report_frames)
    try:
        frames: PanopticFiles | ModelFrames
        if gt_json and pred_json and not dataset:
            extras = Extras(
                images=images,
                truth_unknown=gt_unknown_dir,
                prediction_unknown=pred_unknown_dir,
                unknown_score=pred_unknown_score_dir,
            )
            frames = PanopticFiles(
                truth_json=gt_json,
                truth_folder=gt_dir or gt_json.with_suffix(""),
                prediction_json=pred_json,
                prediction_folder=pred_dir or pred_json.with_suffix(""),
                extras=extras,
                allow_missing=allow_missing,
            )
            facts = [("Truth", str(gt_json)), ("Prediction", str(pred_json))]
            judged = judge.spread(frames, processes)
        elif dataset and root and not gt_json and not pred_json:
            frames, facts = _model_frames(
                dataset,
                root,
                split,
                limit=limit,
                allow_missing=allow_missing,
                tracking=video,
                weights=weights,
                variant=variant,
                device=device,
                precision=precision,
                scale=scale,
                score_threshold=score_threshold,
                allow_random_weights=allow_random_weights,
            )
            judged = judge.stream(frames, frames.categories)
        else:
            fail("name either --gt-json and --pred-json, or --dataset and --root")
        result = summarise(_collect(judged, len(frames), shelf), frames.categories)
    except EvaluationError as error:
        fail(str(error))
    _show(result, frames.notes)
    if json_file:
        content = {**to_json(result), "facts": dict(facts), "notes": frames.notes}
        _write(json_file, json.dumps(content, indent=1))
    if report:
        title = "Panoptic evaluation"
        page = Page(
            title=title, result=result, snapshots=shelf.snapshots(), facts=facts, notes=frames.notes
        )
        _write(report, page.html())


def _model_frames(
    kind: str,
    root: Path,
    split: str | None,
    *,
    limit: int | None,
    allow_missing: bool,
    tracking: bool,
    **options: Any,
) -> tuple[ModelFrames, list[tuple[str, str]]]:
    """The frames of a data set with a model's answers, and what was set."""
    # Only here: torch takes seconds to import, and files need none of it.
    from upsnet_ros.evaluation.datasets import ModelFrames, open_dataset
    from upsnet_ros.inference.predictor import Predictor

    try:
        data = open_dataset(kind, root, split)
        predictor = Predictor(unknown_score=True, semantic=True, max_logit=True, **options)
    except ValueError as error:  # of data set, checkpoint or settings
        raise EvaluationError(str(error)) from error
    name = predictor.variant.name
    if predictor.taxonomy.name != data.taxonomy.name:
        raise EvaluationError(f"{name} has other classes than {kind}: choose another --variant")
    count = min(limit or len(data), len(data))
    # Spread over the data set, or in a row where things are tracked from frame to frame.
    indices = [index if tracking else index * len(data) // count for index in range(count)]
    model = str(predictor.weights or "random weights")
    facts = [
        ("Data set", f"{kind}, {root}" + (f", {split}" if split else "")),
        ("Model", f"{name}, {model}"),
        ("Short side", f"{predictor.scale} px"),
        ("Device", f"{predictor.device}, {options['precision']}"),
    ]
    frames = ModelFrames(
        data, predictor, indices=indices, allow_missing=allow_missing, tracking=tracking
    )
    if predictor.random_weights:
        frames.notes.append("random weights: these figures mean nothing")
    return frames, facts


def _collect(judged: Iterable[Judged], total: int, shelf: Shelf) -> Iterator[FrameMeasures]:
    """Measures as they come, under a progress bar; pictures go to the shelf."""
    with frame_progress() as progress:
        task = progress.add_task("evaluating", total=total)
        for item in judged:
            if item.snapshot is not None:
                shelf.put(item.snapshot, item.quality)
            yield item.measures
            progress.advance(task)


def _show(result: EvaluationResult, notes: Sequence[str]) -> None:
    console = Console()
    console.print(class_table(result))
    for line in headline_lines(result):
        console.print(line, highlight=False, markup=False)
    if result.intervals:
        console.print("in brackets: 95 % intervals, bootstrap over sequences", style="dim")
    for note in notes:
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror}")
    typer.echo(f"wrote {path}", err=True)
