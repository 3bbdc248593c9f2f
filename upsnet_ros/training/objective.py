"""The network with all its losses: labelled images in, scalars out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.training.choices import SeededChooser
from upsnet_ros.training.features import compute_features
from upsnet_ros.training.image_losses import ImageLosses
from upsnet_ros.training.prepare import Prepared
from upsnet_ros.training.settings import LossSettings, Quirks, TargetSettings

#: Names of the losses, which are those of their weights in `LossSettings`.
LOSSES = (
    "rpn_class",
    "rpn_box",
    "box_class",
    "box",
    "mask",
    "semantic",
    "semantic_roi",
    "panoptic",
)


def total_loss(results: Mapping[str, Tensor], weights: LossSettings) -> Tensor:
    """Return the weighted sum of the losses among the results."""
    return torch.stack(
        [getattr(weights, name) * results[name] for name in LOSSES if name in results]
    ).sum()


class TrainingNetwork(nn.Module):
    """UPSNet and its losses as one module, as DistributedDataParallel wants it."""

    def __init__(
        self, network: UPSNet, *, targets: TargetSettings, losses: LossSettings, quirks: Quirks
    ) -> None:
        super().__init__()
        self.network = network
        self.targets = targets
        self.losses = losses
        self.quirks = quirks

    def forward(self, images: Sequence[Prepared]) -> dict[str, Tensor]:
        """Return the losses and accuracies of the images, averaged, and ``total``."""
        features = compute_features(self.network, [image.data for image in images])
        results: dict[str, list[Tensor]] = {}
        for index, image in enumerate(images):
            losses = ImageLosses(
                self.network,
                features.of_image(index, image.geometry.padded),
                image,
                targets=self.targets,
                losses=self.losses,
                quirks=self.quirks,
                chooser=SeededChooser(image.seed),
            ).all()
            for name, value in losses.items():
                results.setdefault(name, []).append(value)
        means = {name: torch.stack(values).mean() for name, values in results.items()}
        return means | {"total": total_loss(means, self.losses)}
