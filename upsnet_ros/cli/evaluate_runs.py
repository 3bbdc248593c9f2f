"""The work of `upsnet evaluate`: read, evaluate on one machine or a cluster, and report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from upsnet_ros.cli.evaluate import check_same_classes, state_folder
from upsnet_ros.cli.terminal import console, frame_progress, with_progress, write_report
from upsnet_ros.errors import EvaluationError, listed
from upsnet_ros.evaluation.metrics import Metrics
from upsnet_ros.evaluation.report import (
    class_table,
    headline_lines,
    points_table,
    to_json,
    unknown_table,
)
from upsnet_ros.evaluation.run import Evaluator, PartialResult

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from upsnet_ros.bag_evaluation.scoring import BagTask
    from upsnet_ros.bag_evaluation.tasks import ModelSettings
    from upsnet_ros.bag_evaluation.workers import Found, Outcome
    from upsnet_ros.cli.evaluate import ClusterOptions, ReportOptions
    from upsnet_ros.datasets.taxonomy import Taxonomy
    from upsnet_ros.evaluation.metrics import EvaluationResult
    from upsnet_ros.inference.predictor import Predictor

#: Names and values that a report lists, such as the model and its device.
Facts = list[tuple[str, str]]

#: Exit code of a command that Ctrl-C ended.
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class BagInputs:
    """Bags to evaluate.

    Attributes:
        bags: Bags with results of the node, or with images.
        truths: The bag with the ground truth of each; empty if they contain it.
        outputs: Namespace of the results; None finds it.
        image: Topic of the images; None finds it.
        taxonomy: Name of the taxonomy of bags without label_info; None for none.
    """

    bags: Sequence[Path]
    truths: Sequence[Path]
    outputs: str | None
    image: str | None
    taxonomy: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One evaluation.

    Attributes:
        report: What to measure, and where to write it.
        processes: Maximum number of worker processes.
        limit: Maximum number of frames, if a model runs; None for all.
    """

    report: ReportOptions
    processes: int = 1
    limit: int | None = None

    @property
    def evaluator(self) -> Evaluator:
        """The evaluator for these options."""
        asked = self.report
        metrics = Metrics(boundary=asked.boundary, instances=asked.instances, video=asked.video)
        return Evaluator(metrics=metrics, snapshots=asked.report is not None)

    @property
    def pictures(self) -> int:
        """Number of frames that the report shows; 0 without a report."""
        return self.report.report_frames if self.report.report else 0

    def files(self, **files: Any) -> tuple[PartialResult, Facts]:
        """Evaluate panoptic JSON files.

        Args:
            **files: Arguments of `PanopticFiles`.

        Returns:
            The result, and facts for the report.
        """
        from upsnet_ros.evaluation.panoptic_files import PanopticFiles

        frames = PanopticFiles(
            **files, allow_missing=self.report.allow_missing, video=self.report.video
        )
        evaluated = self.evaluator.spread(frames, self.processes)
        part = PartialResult.from_frames(
            with_progress(evaluated, len(frames), "evaluating"),
            frames.categories,
            pictures=self.pictures,
            notes=frames.notes,
        )
        truth, prediction = str(files["truth_json"]), str(files["prediction_json"])
        return part, [("Truth", truth), ("Prediction", prediction)]

    def dataset(
        self, kind: str, root: Path | None, split: str | None, model: Mapping[str, Any]
    ) -> tuple[PartialResult, Facts]:
        """Evaluate a model on a dataset in its published layout.

        Args:
            kind: Name of the dataset; see `open_dataset`.
            root: Its folder.
            split: Its split; None for the default.
            model: Arguments of `Predictor`.

        Returns:
            The result, and facts for the report.

        Raises:
            EvaluationError: If the model has other classes than the dataset.
        """
        from upsnet_ros.evaluation.datasets import ModelFrames, open_dataset

        tracking = self.report.video
        data = open_dataset(kind, root, split)
        predictor, facts, notes = load_model(model)
        check_same_classes(kind, data.taxonomy, of_model=predictor.taxonomy)
        count = min(self.limit or len(data), len(data))
        # Evenly spaced, or consecutive for tracking.
        indices = [index if tracking else index * len(data) // count for index in range(count)]
        frames = ModelFrames(
            data,
            predictor,
            indices=indices,
            allow_missing=self.report.allow_missing,
            tracking=tracking,
        )
        frames.notes += notes
        part = PartialResult.from_frames(
            with_progress(
                self.evaluator.stream(frames, frames.categories), len(frames), "evaluating"
            ),
            frames.categories,
            pictures=self.pictures,
            notes=frames.notes,
        )
        named = ", ".join(str(part) for part in (kind, root, split) if part)
        return part, [("Data set", named), *facts]

    def bags(
        self,
        inputs: BagInputs,
        *,
        model: Mapping[str, Any],
        classes: Taxonomy | None,
        use_model: bool,
        cluster: ClusterOptions,
    ) -> tuple[PartialResult, Facts]:
        """Evaluate bags of results, or a model on bags of images.

        Args:
            inputs: The bags.
            model: Arguments of `Predictor`.
            classes: Those of its results; None if they are not known yet.
            use_model: Whether to run the model even if the bags contain results.
            cluster: Where to evaluate them.

        Returns:
            The result, and facts for the report.
        """
        from upsnet_ros.bag_evaluation.scoring import BagTask, without_truth
        from upsnet_ros.bags.index import recorded_classes
        from upsnet_ros.datasets.taxonomy import get_taxonomy

        bags, truths = inputs.bags, inputs.truths
        paired: Sequence[Path | None] = truths or [None] * len(bags)
        tasks = [
            BagTask(
                bag=bag,
                truth=truth,
                metrics=self.evaluator.metrics,
                pictures=self.pictures,
                allow_missing=self.report.allow_missing,
                prefix=str(bag) if len(bags) > 1 else "",
                outputs=inputs.outputs,
                image=inputs.image,
                taxonomy=get_taxonomy(inputs.taxonomy) if inputs.taxonomy else None,
            )
            for bag, truth in zip(bags, paired, strict=True)
        ]
        facts = [("Truth", listed(truths or bags, most=3)), ("Bags", listed(bags, most=3))]
        recorded = not use_model and "LABELS" in _roles(tasks[0], tasks[0].bag)
        if not recorded:
            if inputs.outputs is not None and not use_model:
                raise EvaluationError(_without_outputs(tasks[0]))
            tasks = [replace(task, limit=self.limit) for task in tasks]
        unasked = f"{bags[0]} holds no results: segmented with the bundled weights"
        if cluster.cluster is not None:
            if not recorded and not use_model:
                typer.echo(unasked, err=True)
            try:
                part, more = self._on_workers(tasks, None if recorded else model, cluster)
            except KeyboardInterrupt:
                typer.echo(
                    f"stopped; finished bags are kept in {cluster.state}: run the same command"
                    " again to continue",
                    err=True,
                )
                raise typer.Exit(_INTERRUPTED) from None
            return part, [*facts, *more]
        if recorded:
            return self._recorded(tasks), facts
        for task in tasks:
            truth = task.truth or task.bag
            if "TRUTH" not in _roles(task, truth):
                raise EvaluationError(without_truth(truth))
            if classes is not None and (found := recorded_classes(truth)) is not None:
                check_same_classes(str(truth), found, of_model=classes)
        predictor, more, notes = load_model(model)
        if not use_model:
            typer.echo(unasked, err=True)
        part = PartialResult.merged([self._bag(task, predictor) for task in tasks])
        return replace(part, notes=(*part.notes, *notes)), [*facts, *more]

    def finish(self, part: PartialResult, facts: Facts) -> None:
        """Print the metrics and write the files that were asked for.

        Args:
            part: The result.
            facts: Facts for the report.
        """
        asked = self.report
        result = part.result()
        notes = (*part.notes, *result.notes)
        show(result, notes)
        if asked.json_file:
            content = {**to_json(result), "facts": dict(facts), "notes": notes}
            text = json.dumps(content, indent=1)
            write_report(asked.json_file, text, overwrite=asked.overwrite)
        if asked.report:
            from upsnet_ros.evaluation.report import Page

            page = Page(
                title="Panoptic evaluation",
                result=result,
                snapshots=part.snapshots(asked.report_frames),
                facts=facts,
                notes=notes,
                series=part.series,
            )
            write_report(asked.report, page.html(), overwrite=asked.overwrite)

    def _on_workers(
        self, tasks: Sequence[BagTask], options: Mapping[str, Any] | None, cluster: ClusterOptions
    ) -> tuple[PartialResult, Facts]:
        """Evaluate bags on workers of this machine or of a Ray cluster.

        Args:
            tasks: The bags.
            options: Arguments of `Predictor`; None if the bags contain results.
            cluster: Which workers, and the folder for results.

        Returns:
            The result, and facts for the report.
        """
        from upsnet_ros.bag_evaluation.tasks import ModelSettings, State
        from upsnet_ros.bag_evaluation.workers import (
            Failed,
            Retried,
            evaluate_locally,
            evaluate_on_ray,
            gather,
        )

        model = None if options is None else ModelSettings(**options)
        facts, notes = _describe(model)
        evaluate_all: Callable[[Sequence[BagTask]], Generator[Outcome, None, None]]
        if cluster.cluster == "local":
            processes = cluster.workers or os.cpu_count() or 1
            evaluate_all = partial(evaluate_locally, processes=processes, model=model)
        else:
            evaluate_all = partial(
                evaluate_on_ray,
                workers=cluster.workers,
                model=model,
                address=cluster.cluster_address,
            )
        with state_folder(cluster.state), frame_progress() as progress:
            bar = progress.add_task("evaluating bags", total=len(tasks))

            def watch(outcome: Found | Outcome) -> None:
                if isinstance(outcome, Retried):
                    progress.console.print(f"{outcome.task.bag}: {outcome.reason}; trying again")
                    return
                if isinstance(outcome, Failed):
                    progress.console.print(f"failed: {outcome.task.bag}: {outcome.reason}")
                progress.advance(bar)

            part = gather(
                tasks,
                state=State(cluster.state, model),
                evaluate_all=evaluate_all,
                allow_missing=self.report.allow_missing,
                watch=watch,
            )
        return replace(part, notes=(*part.notes, *notes)), facts

    def _recorded(self, tasks: Sequence[BagTask]) -> PartialResult:
        from upsnet_ros.bag_evaluation.workers import evaluate_bags

        if len(tasks) == 1:
            return self._bag(tasks[0], None)
        parts = evaluate_bags(tasks, processes=self.processes)
        return PartialResult.merged(with_progress(parts, len(tasks), "evaluating bags"))

    def _bag(self, task: BagTask, predictor: Predictor | None) -> PartialResult:
        from upsnet_ros.bag_evaluation.scoring import BagFrames

        frames = BagFrames(task, predictor)
        evaluated = self.evaluator.stream(frames, frames.categories)
        return PartialResult.from_frames(
            with_progress(evaluated, len(frames), f"evaluating {task.bag.name}"),
            frames.categories,
            pictures=self.pictures,
            notes=frames.notes,
            series=frames.series,
        )


def show(result: EvaluationResult, notes: Sequence[str]) -> None:
    """Print the metrics by class and overall, and notes."""
    out = console()
    out.print(class_table(result))
    for line in headline_lines(result):
        out.print(line)
    for table in (unknown_table(result), points_table(result)):
        if table is not None:
            out.print(table)
    if result.intervals:
        out.print("in brackets: 95 % intervals, bootstrap over sequences", style="dim")
    for note in notes:
        out.print(f"note: {note}", style="yellow")


def load_model(options: Mapping[str, Any]) -> tuple[Predictor, Facts, list[str]]:
    """Return a `Predictor` with these options, facts for the report, and warnings.

    Raises:
        SettingsError: If an option is not possible.
        CheckpointError: If the weights cannot be used.
    """
    from upsnet_ros.inference.predictor import Predictor

    predictor = Predictor(unknown_score=True, semantic=True, max_logit=True, **options)
    facts = [
        ("Model", f"{predictor.variant.name}, {predictor.weights or 'random weights'}"),
        ("Short side", f"{predictor.scale} px"),
        ("Device", f"{predictor.device}, {predictor.precision}"),
    ]
    if predictor.label_map is not None:
        facts.append(("Label map", predictor.label_map.name))
    return predictor, facts, [_RANDOM] if predictor.random_weights else []


_RANDOM = "random weights: these metrics mean nothing"


def _without_outputs(task: BagTask) -> str:
    """Return the message for a bag without labels in the namespace that was asked for."""
    there = [
        namespace
        for namespace in _namespaces(task.bag)
        if "LABELS" in _roles(replace(task, outputs=namespace), task.bag)
    ]
    found = f"there are labels in {listed(there)}" if there else "there are none in any other"
    return f"{task.bag} has no labels in the namespace {task.outputs}: {found}"


def _namespaces(bag: Path) -> list[str]:
    """Return the namespaces of topics named labels."""
    from upsnet_ros.bags.reader import open_bag

    with open_bag(bag) as opened:
        names = [topic.name for topic in opened.topics]
    return sorted(name.removesuffix("/labels") for name in names if name.endswith("/labels"))


def _roles(task: BagTask, path: Path) -> set[str]:
    """Return the names of the roles that the topics of one of the task's bags have."""
    from upsnet_ros.bags.index import topic_roles
    from upsnet_ros.bags.reader import open_bag

    with open_bag(path) as bag:
        roles = topic_roles(bag.topics, outputs=task.outputs, image=task.image)
    return {role.name for role in roles.values()}


def _describe(model: ModelSettings | None) -> tuple[Facts, list[str]]:
    """Return facts about the model and warnings; an error if it cannot be loaded."""
    if model is None:
        return [], []
    loaded = model.model()
    facts = [
        ("Model", f"{loaded.variant.name}, {loaded.path or 'random weights'}"),
        ("Short side", f"{model.scale or loaded.variant.scale} px"),
        ("Device", f"{model.device}, {model.precision}"),
    ]
    if model.label_map is not None:
        facts.append(("Label map", model.label_map))
    return facts, [] if loaded.path else [_RANDOM]
