"""A recorded run as frames to judge: what the node answered, beside what was there."""

from __future__ import annotations

import csv
from pathlib import Path

from upsnet_ros.datasets.base import Dataset, DatasetError
from upsnet_ros.datasets.images import read_labels
from upsnet_ros.evaluation.categories import Categories
from upsnet_ros.evaluation.datasets import map_of_sample
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.maps import map_of_labels
from upsnet_ros.evaluation.measures import EvaluationFrame
from upsnet_ros.evaluation.naming import frame_name, place_in_sequence
from upsnet_ros.evaluation.report.page import Series
from upsnet_ros.inference.recording import TABLE


class RecordedFrames:
    """The frames of a `Recording` that played a data set from its beginning, none lost.

    Args:
        folder: Of the recording; its label images must be of Cityscapes' form.
        dataset: What was played.

    Raises:
        EvaluationError: The recording has no table, or more frames than the data set.
    """

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self.categories = Categories.of(dataset.taxonomy)
        self._folder, self._dataset = folder, dataset
        try:
            with (folder / TABLE).open(newline="", encoding="utf-8") as table:
                self._rows = list(csv.DictReader(table))
        except OSError as error:
            raise EvaluationError(f"cannot read {folder / TABLE}: {error.strerror}") from error
        if len(self._rows) > len(dataset):
            raise EvaluationError(
                f"{folder} holds {len(self._rows)} frames, but only {len(dataset)} were played"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> EvaluationFrame:
        """Read frame number ``index``.

        Raises:
            EvaluationError: A file cannot be read.
        """
        file = f"{int(self._rows[index]['index']):06d}.png"
        try:
            sample = self._dataset[index]
            labels = read_labels(self._folder / "labels" / file, size=sample.size)
            unknown = read_labels(self._folder / "unknown" / file, size=sample.size) > 0
        except DatasetError as error:
            raise EvaluationError(str(error)) from error
        name = frame_name(sample.name)
        sequence, number = place_in_sequence(name)
        return EvaluationFrame(
            name=name,
            sequence=sequence,
            number=number,
            truth=map_of_sample(sample, self._dataset.taxonomy),
            prediction=map_of_labels(labels, self._dataset.taxonomy),
            image=sample.image,
            truth_unknown=sample.unknown,
            prediction_unknown=unknown,
        )

    def latency(self) -> Series:
        """How long the answers took, along the run."""
        stamps = [float(row["stamp"]) for row in self._rows]
        return Series(
            title="Image to answer, ms",
            times=[stamp - stamps[0] for stamp in stamps],
            values=[float(row["latency_ms"]) for row in self._rows],
        )
