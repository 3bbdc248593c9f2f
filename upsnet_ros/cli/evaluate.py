"""`upsnet evaluate`: judge predictions in bags or files, or a model on labelled frames."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from upsnet_ros.cli import fail
from upsnet_ros.cli.evaluate_cluster import Cluster
from upsnet_ros.cli.evaluate_forms import Form
from upsnet_ros.cli.evaluate_output import show, write
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.figures import to_json
from upsnet_ros.evaluation.measures import Metrics
from upsnet_ros.evaluation.panoptic_files import Extras
from upsnet_ros.evaluation.report.page import Page
from upsnet_ros.evaluation.run import Judge

_BAGS = "Bags"
_CLUSTER = "Many bags"
_FILES = "Two panoptic JSON files with folders of PNGs"
_MODEL = "A labelled data set and a model; the model for bags too"
_WHAT = "What to measure"
_OUT = "Output"


def evaluate(
    bags: Annotated[
        list[Path] | None, typer.Argument(metavar="BAG", help="The same as --bag.")
    ] = None,
    bag: Annotated[
        list[Path] | None,
        typer.Option(
            help="Outputs of the node, or images for a model. Several: all in one figure.",
            rich_help_panel=_BAGS,
        ),
    ] = None,
    gt_bag: Annotated[
        list[Path] | None,
        typer.Option(help="The truth of each --bag, if it is elsewhere.", rich_help_panel=_BAGS),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(help="Namespace of the outputs, such as /panoptic.", rich_help_panel=_BAGS),
    ] = None,
    image_topic: Annotated[
        str | None,
        typer.Option(help="Of the images, if there are several.", rich_help_panel=_BAGS),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Judge bags on workers, and keep what each gave: ray, or local for processes of"
            " this machine.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    cluster_address: Annotated[
        str | None,
        typer.Option(
            help="Of a Ray cluster that runs, such as head:6379. Default: start one here.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Default: as many as a Ray cluster has room for, one GPU each where a model runs;"
            " of processes one for each CPU.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    state: Annotated[
        Path,
        typer.Option(
            help="Folder of what was judged, which the next run does not judge again.",
            rich_help_panel=_CLUSTER,
        ),
    ] = Path("evaluate_state"),
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
        int,
        typer.Option(
            min=1,
            help="Processes that read and judge files, or several bags.",
            rich_help_panel=_FILES,
        ),
    ] = os.cpu_count() or 1,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="cityscapes, coco, or scenes: driving scenes drawn on the way, without --root.",
            rich_help_panel=_MODEL,
        ),
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
        str, typer.Option(help="fp32, fp16, bf16, or auto.", rich_help_panel=_MODEL)
    ] = "fp32",
    scale: Annotated[
        int | None,
        typer.Option(help="Short side the network runs at, in pixels.", rich_help_panel=_MODEL),
    ] = None,
    score_threshold: Annotated[
        float, typer.Option(help="Probability an instance must exceed.", rich_help_panel=_MODEL)
    ] = 0.6,
    unknown_threshold: Annotated[
        float,
        typer.Option(
            help="Unknown score that a pixel must exceed to be unknown.", rich_help_panel=_MODEL
        ),
    ] = 0.5,
    label_resize: Annotated[
        str,
        typer.Option(
            help="nearest, or bilinear for smooth outlines at a small --scale.",
            rich_help_panel=_MODEL,
        ),
    ] = "nearest",
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

    Name a bag of the node's outputs with the truth in it or beside it (--gt-bag), or one of images
    and truth for a model; or two panoptic JSON files with their folders of PNGs; or a data set and
    a model.
    """
    bag = [*(bags or []), *(bag or [])]
    form = Form(
        judge=Judge(
            metrics=Metrics(boundary=boundary, instances=instances, video=video),
            snapshots=report is not None,
        ),
        pictures=report_frames if report else 0,
        allow_missing=allow_missing,
        processes=processes,
        limit=limit,
    )
    model = {
        "weights": weights,
        "variant": variant,
        "device": device,
        "precision": precision,
        "scale": scale,
        "score_threshold": score_threshold,
        "unknown_threshold": unknown_threshold,
        "label_resize": label_resize,
        "allow_random_weights": allow_random_weights,
    }
    try:
        spread = None
        if cluster is not None:
            spread = Cluster(kind=cluster, address=cluster_address, workers=workers, state=state)
            if not bag:
                fail("--cluster is for bags: name some")
        if bag and not gt_json and not pred_json and not root:
            named = weights or variant or allow_random_weights
            part, facts = form.bags(
                bag, gt_bag or [], outputs=outputs, image=image_topic, kind=dataset, model=model,
                use_model=bool(named),
                cluster=spread,
            )  # fmt: skip
        elif gt_json and pred_json and not dataset and not bag:
            part, facts = form.files(
                truth_json=gt_json,
                truth_folder=gt_dir or gt_json.with_suffix(""),
                prediction_json=pred_json,
                prediction_folder=pred_dir or pred_json.with_suffix(""),
                extras=Extras(
                    images=images,
                    truth_unknown=gt_unknown_dir,
                    prediction_unknown=pred_unknown_dir,
                    unknown_score=pred_unknown_score_dir,
                ),
            )
        elif dataset and not gt_json and not pred_json and not bag:
            part, facts = form.dataset(dataset, root, split, model)
        else:
            fail("name either --bag, or --gt-json and --pred-json, or --dataset and its --root")
        result = part.result()
    except EvaluationError as error:
        fail(str(error))
    show(result, part.notes)
    if json_file:
        content = {**to_json(result), "facts": dict(facts), "notes": part.notes}
        write(json_file, json.dumps(content, indent=1))
    if report:
        page = Page(
            title="Panoptic evaluation",
            result=result,
            snapshots=part.snapshots(report_frames),
            facts=facts,
            notes=part.notes,
            series=part.series,
        )
        write(report, page.html())
