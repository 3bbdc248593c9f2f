"""Panoptic quality on the validation set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from upsnet_ros.datasets.base import Dataset
from upsnet_ros.evaluation.datasets import evaluate_dataset
from upsnet_ros.evaluation.figures import headline
from upsnet_ros.inference.predictor import Predictor
from upsnet_ros.training.run_settings import RunSettings


class PanopticEvaluator:
    """Judges weights as they would be used: through a `Predictor`. The score is PQ.

    Args:
        settings: Of the run.
        dataset: The validation set.
        device: Where to compute.
    """

    def __init__(self, settings: RunSettings, *, dataset: Dataset, device: torch.device) -> None:
        self._settings = settings
        self._dataset = dataset
        self._device = device

    def __call__(self, weights: Path) -> Mapping[str, float]:
        """Return the headline figures as fractions, and ``score``."""
        settings = self._settings
        predictor = Predictor(
            weights,
            variant=settings.variant,
            device=str(self._device),
            scale=settings.evaluation_scale,
        )
        count = min(len(self._dataset), settings.evaluate_images or len(self._dataset))
        result = evaluate_dataset(self._dataset, predictor, indices=range(count))
        figures = headline(result)
        # Not defined where no image has a segment; then no weights are better than others.
        return figures | {"score": figures.get("PQ", 0.0)}
