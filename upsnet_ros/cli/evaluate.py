"""`upsnet evaluate`: evaluate results in bags or files, or a model on a labelled dataset."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upsnet_ros.cli.options import (
    CPUS,
    JsonFile,
    ModelOptions,
    Overwrite,
    Processes,
    check_choice,
    check_split,
    command_group,
    rare,
    require_file,
    require_path,
    with_option_groups,
)
from upsnet_ros.cli.terminal import console
from upsnet_ros.errors import EvaluationError
from upsnet_ros.output_files import OutputFolder, check_distinct, check_file

if TYPE_CHECKING:
    from upsnet_ros.datasets.taxonomy import Taxonomy

evaluate = command_group("evaluate", "Evaluate predictions: panoptic quality and related metrics.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What to measure, and where to write it."""

    json_file: JsonFile = None
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write an HTML report with frames.")
    ] = None
    overwrite: Overwrite = False
    boundary: Annotated[bool, typer.Option("--boundary", help="Boundary PQ.")] = False
    instances: Annotated[bool, typer.Option("--ap", help="Mask AP of things.")] = False
    video: Annotated[
        bool,
        typer.Option(
            "--vpq",
            help="Video PQ, MOTSA and id switches.",
        ),
    ] = False
    report_frames: Annotated[
        int, rare(metavar="N", min=1, help="Number of frames in the HTML report.")
    ] = 60
    allow_missing: Annotated[
        bool, rare("--allow-missing", help="Leave out what only one side has.")
    ] = False

    def check(self) -> None:
        """Raise `OutputError` if an output file cannot be written, or two are the same."""
        check_distinct({"--json": self.json_file, "--report": self.report})
        for path in (self.json_file, self.report):
            check_file(path, overwrite=self.overwrite)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Where bags are evaluated: in this process, its workers, or on a Ray cluster."""

    cluster: Annotated[
        str | None,
        typer.Option(help="Spread bags over workers, keep results: ray or local."),
    ] = None
    workers: Annotated[
        int | None, rare(metavar="N", min=1, help="Workers. Default: one per GPU or CPU.")
    ] = None
    state: Annotated[
        Path, rare(metavar="DIR", help="Results of bags with --cluster, which later runs reuse.")
    ] = Path("evaluate_state")
    cluster_address: Annotated[
        str | None, rare(help="A running Ray cluster, as head:6379. Default: start one.")
    ] = None

    def check(self) -> None:
        """Check the options and the folder of results.

        Raises:
            SettingsError: If a value is not possible.
            OutputError: If the folder holds anything else.
        """
        if self.cluster is None:
            return
        check_choice("cluster", self.cluster, ("ray", "local"))
        if self.cluster == "local" and self.cluster_address:
            raise EvaluationError("--cluster-address needs --cluster ray")
        state_folder(self.state)


def state_folder(path: Path) -> OutputFolder:
    """Return the folder for results of bags; several runs may share it, and none removes anything.

    Raises:
        OutputError: If it holds anything else.
    """
    return OutputFolder(
        path, command="evaluate --state", names=(), again="update", adopt=("*.result", "*.part")
    )


def check_same_classes(name: str, taxonomy: Taxonomy, *, of_model: Taxonomy) -> None:
    """Raise `EvaluationError` if a model's results have other classes than the ground truth.

    Args:
        name: The dataset or bag, for the message.
        taxonomy: Its classes.
        of_model: Those of the model's results.
    """
    if of_model != taxonomy:
        raise EvaluationError(
            f"the model's results have the classes of {of_model.name}, which are other classes than"
            f" {name} has ({taxonomy.name}): choose other --weights, another --variant or a"
            " --label-map"
        )


@evaluate.command("bags")
@with_option_groups
def _bags(
    bags: Annotated[
        list[Path],
        typer.Argument(metavar="BAG", help="Bags with results of the node, or with images."),
    ],
    report: ReportOptions,
    model: ModelOptions,
    cluster: ClusterOptions,
    gt_bag: Annotated[
        list[Path] | None,
        typer.Option(metavar="BAG", help="Bag with the ground truth of a BAG; once for each."),
    ] = None,
    processes: Processes = CPUS,
    limit: Annotated[
        int | None, rare(metavar="N", min=1, help="Frames of each bag to run the model on.")
    ] = None,
    outputs: Annotated[
        str | None, rare(help="Namespace of the results, such as /panoptic.")
    ] = None,
    image_topic: Annotated[
        str | None, rare(help="Topic of the images, if there are several.")
    ] = None,
    taxonomy: Annotated[
        str | None, rare(help="cityscapes or coco, for bags without label_info.")
    ] = None,
) -> None:
    """Evaluate bags with ground truth, all as one dataset.

    Bags hold results of the node, or images for a model (--weights or --variant).
    """
    truths = gt_bag or []
    for group in (report, cluster):
        group.check()
    classes = model.check(here=cluster.cluster is None)
    if truths and len(truths) != len(bags):
        raise EvaluationError(f"{len(bags)} bags, but {len(truths)} --gt-bag: give one for each")
    for bag in (*bags, *truths):
        require_path(bag, "bag")
    if taxonomy is not None:
        check_choice("taxonomy", taxonomy, ("cityscapes", "coco"))
    from upsnet_ros.cli.evaluate_runs import BagInputs, Run

    inputs = BagInputs(
        bags=bags, truths=truths, outputs=outputs, image=image_topic, taxonomy=taxonomy
    )
    named = (model.weights, model.variant, model.label_map, model.allow_random_weights)
    run = Run(report=report, processes=processes, limit=limit)
    run.finish(
        *run.bags(
            inputs, model=asdict(model), classes=classes, use_model=any(named), cluster=cluster
        )
    )
    if cluster.cluster is not None:
        console(stderr=True, soft_wrap=True).print(
            f"results of each bag are kept in {cluster.state} for later runs; you may remove it"
        )


@evaluate.command("files")
@with_option_groups
def _files(
    gt_json: Annotated[
        Path, typer.Option(metavar="FILE", help="Ground truth: a panoptic JSON file.")
    ],
    pred_json: Annotated[Path, typer.Option(metavar="FILE", help="Prediction: the same format.")],
    report: ReportOptions,
    gt_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Its PNGs. Default: named like it."),
    ] = None,
    pred_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Its PNGs. Default: named like it."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images, for the HTML report.")
    ] = None,
    processes: Processes = CPUS,
    gt_unknown_dir: Annotated[
        Path | None, rare(metavar="DIR", help="Masks of objects outside the classes.")
    ] = None,
    pred_unknown_dir: Annotated[
        Path | None, rare(metavar="DIR", help="Masks of pixels predicted as unknown.")
    ] = None,
    pred_unknown_score_dir: Annotated[
        Path | None, rare(metavar="DIR", help="Gray images of unknown scores.")
    ] = None,
) -> None:
    """Evaluate a COCO panoptic JSON file and its PNGs against another one."""
    report.check()
    for path in (gt_json, pred_json):
        require_file(path)
    folders = (gt_dir, pred_dir, images, gt_unknown_dir, pred_unknown_dir, pred_unknown_score_dir)
    for folder in folders:
        require_path(folder, "folder")
    from upsnet_ros.cli.evaluate_runs import Run
    from upsnet_ros.evaluation.panoptic_files import Extras

    run = Run(report=report, processes=processes)
    run.finish(
        *run.files(
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
    )


@evaluate.command("dataset")
@with_option_groups
def _dataset(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="cityscapes, coco, or scenes (synthetic, no --root)."),
    ],
    report: ReportOptions,
    model: ModelOptions,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the dataset.")] = None,
    split: Annotated[str | None, typer.Option(help="Default: val, or val2017 for coco.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Evaluate N frames, evenly spaced; with --vpq the first."
        ),
    ] = None,
) -> None:
    """Evaluate a model on a labelled dataset."""
    report.check()
    classes = model.check()
    check_choice("dataset", name, ("cityscapes", "coco", "scenes"))
    if name == "scenes" and split is not None:
        check_split(split)
    if name != "scenes" and root is None:
        raise EvaluationError(f"dataset {name} needs its folder: pass --root")
    require_path(root, "folder")
    if classes is not None:
        from upsnet_ros.datasets.taxonomy import get_taxonomy

        of_dataset = get_taxonomy("coco" if name == "coco" else "cityscapes")
        check_same_classes(name, of_dataset, of_model=classes)
    from upsnet_ros.cli.evaluate_runs import Run

    run = Run(report=report, limit=limit)
    run.finish(*run.dataset(name, root, split, asdict(model)))
