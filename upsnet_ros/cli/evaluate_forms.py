"""The forms of `upsnet evaluate`: what is judged, and against what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from upsnet_ros.cli.progress import frame_progress
from upsnet_ros.datasets.taxonomy import get_taxonomy
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.panoptic_files import PanopticFiles
from upsnet_ros.evaluation.partial import PartialResult
from upsnet_ros.evaluation.run import Judge

if TYPE_CHECKING:
    from upsnet_ros.bags.judging import BagTask
    from upsnet_ros.cli.evaluate_cluster import Cluster
    from upsnet_ros.inference.predictor import Predictor

Facts = list[tuple[str, str]]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What all forms are told.

    Attributes:
        judge: What to measure.
        pictures: How many frames a report shows; 0 without one.
        allow_missing: Whether to go on without frames that one side lacks.
        processes: How many there may be.
        limit: Only so many frames, where a model runs.
    """

    judge: Judge
    pictures: int
    allow_missing: bool
    processes: int
    limit: int | None

    def files(self, **files: Any) -> tuple[PartialResult, Facts]:
        """Two panoptic JSON files with their folders; arguments as of `PanopticFiles`."""
        frames = PanopticFiles(**files, allow_missing=self.allow_missing)
        judged = self.judge.spread(frames, self.processes)
        part = PartialResult.of(
            _shown(judged, len(frames), "evaluating"),
            frames.categories,
            pictures=self.pictures,
            notes=frames.notes,
        )
        truth, prediction = str(files["truth_json"]), str(files["prediction_json"])
        return part, [("Truth", truth), ("Prediction", prediction)]

    def dataset(
        self, kind: str, root: Path | None, split: str | None, model: Mapping[str, Any]
    ) -> tuple[PartialResult, Facts]:
        """A data set in its published layout, and a model."""
        # Only here: torch takes seconds to import, and files need none of it.
        from upsnet_ros.evaluation.datasets import ModelFrames, open_dataset

        tracking = self.judge.metrics.video
        try:
            data = open_dataset(kind, root, split)
        except ValueError as error:
            raise EvaluationError(str(error)) from error
        predictor, facts, notes = load_model(model)
        if predictor.taxonomy.name != data.taxonomy.name:
            name = predictor.variant.name
            raise EvaluationError(f"{name} has other classes than {kind}: choose another --variant")
        count = min(self.limit or len(data), len(data))
        # Spread over the data set, or in a row where things are tracked from frame to frame.
        indices = [index if tracking else index * len(data) // count for index in range(count)]
        frames = ModelFrames(
            data,
            predictor,
            indices=indices,
            allow_missing=self.allow_missing,
            tracking=tracking,
        )
        frames.notes += notes
        part = PartialResult.of(
            _shown(self.judge.stream(frames, frames.categories), len(frames), "evaluating"),
            frames.categories,
            pictures=self.pictures,
            notes=frames.notes,
        )
        named = ", ".join(str(part) for part in (kind, root, split) if part)
        return part, [("Data set", named), *facts]

    def bags(
        self,
        bags: Sequence[Path],
        truths: Sequence[Path],
        *,
        outputs: str | None,
        image: str | None,
        kind: str | None,
        model: Mapping[str, Any],
        use_model: bool,
        cluster: Cluster | None = None,
    ) -> tuple[PartialResult, Facts]:
        """Bags of outputs, or of images for a model.

        Args:
            bags: What is judged.
            truths: The bag with the truth of each; empty: they hold it themselves.
            outputs: Namespace of the outputs.
            image: Topic of the images.
            kind: Name of the classes, for bags that do not tell.
            model: Options of the model.
            use_model: Whether it shall run though the bags may hold outputs.
            cluster: Whose workers judge the bags; None: this machine.
        """
        from upsnet_ros.bags.judging import BagTask

        if truths and len(truths) != len(bags):
            raise EvaluationError(
                f"there are {len(bags)} --bag, but {len(truths)} --gt-bag: name one for each"
            )
        try:
            taxonomy = get_taxonomy(kind) if kind else None
        except ValueError as error:
            raise EvaluationError(str(error)) from error
        paired: Sequence[Path | None] = truths or [None] * len(bags)
        tasks = [
            BagTask(
                bag=bag,
                truth=truth,
                metrics=self.judge.metrics,
                pictures=self.pictures,
                allow_missing=self.allow_missing,
                prefix=str(bag) if len(bags) > 1 else "",
                outputs=outputs,
                image=image,
                taxonomy=taxonomy,
            )
            for bag, truth in zip(bags, paired, strict=True)
        ]
        facts = [("Truth", _listed(truths or bags)), ("Bags", _listed(bags))]
        recorded = not use_model and _has_outputs(tasks[0])
        if not recorded:
            tasks = [replace(task, limit=self.limit) for task in tasks]
        if cluster is not None:
            options = None if recorded else model
            part, more = cluster.judge(tasks, options, allow_missing=self.allow_missing)
            return part, [*facts, *more]
        if recorded:
            return self._recorded(tasks), facts
        predictor, more, notes = load_model(model)
        parts = [self._bag(task, predictor) for task in tasks]
        part = PartialResult.merged(parts)
        return replace(part, notes=(*part.notes, *notes)), [*facts, *more]

    def _recorded(self, tasks: Sequence[BagTask]) -> PartialResult:
        from upsnet_ros.bags.many import judge_bags

        if len(tasks) == 1:
            return self._bag(tasks[0], None)
        parts = judge_bags(tasks, processes=self.processes)
        return PartialResult.merged(_shown(parts, len(tasks), "evaluating bags"))

    def _bag(self, task: BagTask, predictor: Predictor | None) -> PartialResult:
        from upsnet_ros.bags.judging import BagFrames

        frames = BagFrames(task, predictor)
        judged = self.judge.stream(frames, frames.categories)
        return PartialResult.of(
            _shown(judged, len(frames), f"evaluating {task.bag.name}"),
            frames.categories,
            pictures=self.pictures,
            notes=frames.notes,
            series=frames.series,
        )


def load_model(options: Mapping[str, Any]) -> tuple[Predictor, Facts, list[str]]:
    """A `Predictor` of these options, what to say of it, and what to warn of.

    Raises:
        EvaluationError: An option or the checkpoint is not possible.
    """
    from upsnet_ros.inference.predictor import Predictor

    try:
        predictor = Predictor(unknown_score=True, semantic=True, max_logit=True, **options)
    except ValueError as error:  # of checkpoint or settings
        raise EvaluationError(str(error)) from error
    facts = [
        ("Model", f"{predictor.variant.name}, {predictor.weights or 'random weights'}"),
        ("Short side", f"{predictor.scale} px"),
        ("Device", f"{predictor.device}, {predictor.precision}"),
    ]
    random = ["random weights: these figures mean nothing"] if predictor.random_weights else []
    return predictor, facts, random


def _has_outputs(task: BagTask) -> bool:
    from upsnet_ros.bags.errors import BagError
    from upsnet_ros.bags.reader import open_bag
    from upsnet_ros.bags.roles import Role, sort_topics

    try:
        with open_bag(task.bag) as bag:
            roles = sort_topics(bag.topics, outputs=task.outputs, image=task.image)
    except BagError as error:
        raise EvaluationError(str(error)) from error
    return Role.LABELS in roles.values()


def _shown(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """The items as they come, under a progress bar."""
    with frame_progress() as progress:
        task = progress.add_task(what, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(str(path) for path in paths[:3]) + more
