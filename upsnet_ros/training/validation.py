"""Losses on the validation set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from upsnet_ros.datasets.base import Dataset
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.training.loading import seed_at
from upsnet_ros.training.objective import TrainingNetwork
from upsnet_ros.training.prepare import prepare
from upsnet_ros.training.run_settings import RunSettings


class LossEvaluator:
    """Judges weights by their losses on unchanged images; the score is minus the total.

    Args:
        settings: Of the run.
        dataset: The validation set.
        device: Where to compute.
    """

    def __init__(self, settings: RunSettings, *, dataset: Dataset, device: torch.device) -> None:
        self._settings = settings
        self._dataset = dataset
        self._device = device

    @torch.no_grad()
    def __call__(self, weights: Path, network: UPSNet) -> Mapping[str, float]:
        """Return the mean of every loss and the score."""
        settings = self._settings
        model = TrainingNetwork(
            network, targets=settings.targets, losses=settings.losses, quirks=settings.quirks
        )
        sums: dict[str, float] = {}
        for index in range(len(self._dataset)):
            sample = self._dataset[index]
            image = prepare(
                sample,
                Geometry.of(
                    sample.size,
                    scale=settings.evaluation_scale,
                    max_size=settings.augment.max_size,
                ),
                num_stuff=self._dataset.taxonomy.num_stuff,
                seed=seed_at(index, seed=settings.seed),
                quirks=settings.quirks,
            )
            for name, value in model([image.to(self._device)]).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        means = {name: value / len(self._dataset) for name, value in sums.items()}
        return means | {"score": -means["total"]}
