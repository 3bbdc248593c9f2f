"""The steps of `BatchLosses` for one image, without the batch dimension.

To compare training with the recorded results of the original, which had one image per process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from upsnet_ros.network.batched_selection import ProposalLists
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.training import targets
from upsnet_ros.training.loading import Batch
from upsnet_ros.training.objective import BatchLosses, Features
from upsnet_ros.training.settings import LossSettings, Quirks, TargetSettings
from upsnet_ros.training.targets import Kept, Positions, Purpose, RegionTargets, RPNTargets


def panoptic_target(semantic: Tensor, masks: Tensor, *, num_stuff: int) -> Tensor:
    """Return the panoptic target int64 (H, W) of one image.

    Args:
        semantic: (H, W), class in UPSNet's order or `VOID`.
        masks: (K, H, W), 1 where a pixel belongs to the object.
        num_stuff: Number of stuff classes.
    """
    return targets.panoptic_target(
        semantic[None], masks, kept=_kept(torch.arange(len(masks)), len(masks)), num_stuff=num_stuff
    )[0]


class Chooser(Protocol):
    """Samples without replacement."""

    def choose(self, purpose: Purpose, candidates: Tensor, count: int) -> Tensor:
        """Return ``count`` of the candidates int64 (N,), which ascend, in random order."""


class _ByPosition:
    """Asks a chooser of values for positions."""

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser

    def choose(self, purpose: Purpose, candidates: Tensor, count: int) -> Positions:
        chosen = self._chooser.choose(purpose, candidates, count)
        return torch.searchsorted(candidates, chosen).cpu().numpy()


class ImageLosses:
    """Computes the targets and losses of one image.

    Args:
        network: The network, whose heads are run.
        features: Features of this image.
        image: This image, a batch of one.
        targets: Sampling of anchors, regions and objects.
        losses: Weights of the losses.
        quirks: Faults of the original to reproduce.
        chooser: Makes the random choices.
    """

    def __init__(
        self,
        network: UPSNet,
        features: Features,
        image: Batch,
        *,
        targets: TargetSettings,
        losses: LossSettings,
        quirks: Quirks,
        chooser: Chooser,
    ) -> None:
        self.chooser = chooser
        self._batch = BatchLosses(
            network,
            features,
            image,
            targets=targets,
            losses=losses,
            quirks=quirks,
            choosers=[_ByPosition(chooser)],
        )

    def propose(self) -> Tensor:
        """Return the proposals (K, 4) in pixels of the network input."""
        proposals = self._batch.propose()
        return proposals.boxes[0, : int(proposals.counts)]

    def rpn_targets(self) -> RPNTargets:
        """Return the targets of the anchors; its labels are int8 (A,)."""
        found = self._batch.rpn_targets()
        return replace(found, labels=found.labels[0])

    def regions(self, proposals: Tensor) -> RegionTargets:
        """Sample the regions for the box head from proposals (K, 4)."""
        return self._batch.regions(_lists(proposals))

    def roi_scores(self) -> Tensor:
        """Return semantic logits (M, S, 28, 28) inside the boxes of the objects."""
        return self._batch.roi_scores()

    def panoptic_target(self, kept: Tensor) -> Tensor:
        """Return the target (H / 4, W / 4) of the panoptic head for the objects ``kept``."""
        return self._batch.panoptic_target(self._kept(kept))[0]

    def panoptic_logits(self, kept: Tensor) -> Tensor:
        """Return the panoptic head's logits (stuff + kept + unknown, H / 4, W / 4)."""
        losses, rows = self._batch, self._kept(kept)
        masks = losses.network.mask_branch(
            losses.features.pyramid,
            losses.member_boxes[rows.rows],
            losses.member_classes[rows.rows],
        )
        return losses.panoptic_logits(rows, masks)[0]

    def all(self, *, proposals: Tensor | None = None) -> dict[str, Tensor]:
        """Return all losses, unweighted, and the accuracies.

        Args:
            proposals: (K, 4) in pixels of the network input, to use instead of the RPN's.
        """
        return self._batch.all(proposals=None if proposals is None else _lists(proposals))

    def _kept(self, kept: Tensor) -> Kept:
        return _kept(kept, len(self._batch.member_images))


def _kept(kept: Tensor, count: int) -> Kept:
    return Kept.of([kept.cpu().numpy()], [count], device=kept.device)


def _lists(proposals: Tensor) -> ProposalLists:
    count = torch.tensor([len(proposals)], dtype=torch.int32, device=proposals.device)
    return ProposalLists(proposals[None], count)
