"""Targets and losses of one image, stage by stage: `BatchLosses` for a batch of one.

Training computes batches (`upsnet_ros.training.objective`). Here are the same steps without the
batch dimension, to look into a single image, and to compare with the recorded results of the
original, which trained with one image per process: test/training/test_parity.py. Keep names and
arguments: earlier versions of that test run against them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.datasets.base import Sample, Shape
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.network.batched_selection import ProposalLists
from upsnet_ros.network.semantic_head import STRIDES
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.training import loading, objective, targets
from upsnet_ros.training.loading import QUARTER, Batch
from upsnet_ros.training.objective import BatchLosses, Features
from upsnet_ros.training.settings import LossSettings, Quirks, TargetSettings
from upsnet_ros.training.targets import Kept, Positions, Purpose, RegionTargets, RPNTargets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """A batch of one image, and what `Batch` has of it without the batch dimension.

    Attributes:
        batch: The batch.
        geometry: Mapping from the labelled image to the network input.
        data: float32 (3, H, W), the network input; H and W are the padded size.
        boxes: float32 (N, 4) of all objects, in pixels of the labelled image.
        classes: int64 (N,), class of each object, from 1.
        crowd: bool (N,), whether the object is a crowd.
        shapes: Shapes of all N objects.
        semantic: uint8 (H, W), class of each pixel, `VOID` in the padding.
        semantic_quarter: uint8 (H / 4, W / 4), the same at a quarter of the size.
        roi_semantic: uint8 (M, 28, 28), ``semantic`` inside the boxes of the M non-crowd objects.
        masks_quarter: uint8 (M, H / 4, W / 4), 1 inside the object.
    """

    batch: Batch
    geometry: Geometry
    data: Tensor
    boxes: Tensor
    classes: Tensor
    crowd: Tensor
    shapes: tuple[Shape, ...]
    semantic: Tensor
    semantic_quarter: Tensor
    roi_semantic: Tensor
    masks_quarter: Tensor


def prepare(
    sample: Sample, geometry: Geometry, *, num_stuff: int, seed: int, quirks: Quirks
) -> Prepared:
    """Return `loading.prepare` of one image."""
    batch = loading.prepare(sample, geometry, num_stuff=num_stuff, seed=seed, quirks=quirks)
    count = len(batch.shapes[0])
    return Prepared(
        batch=batch,
        geometry=batch.geometries[0],
        data=batch.data[0],
        boxes=batch.boxes[0, :count],
        classes=batch.classes[0, :count],
        crowd=batch.crowd[0, :count],
        shapes=batch.shapes[0],
        semantic=batch.semantic[0],
        semantic_quarter=batch.semantic_quarter[0],
        roi_semantic=batch.roi_semantic,
        masks_quarter=batch.masks_quarter,
    )


@dataclass(frozen=True, slots=True)
class _FeaturesOfImages(Features):
    def of_image(self, index: int, padded: tuple[int, int]) -> Features:
        """Return the features of one image of the batch, cropped to its padded size."""

        def crop(x: Tensor, stride: int) -> Tensor:
            height, width = (-(-side // stride) for side in padded)
            return x[index : index + 1, :, :height, :width]

        return Features(
            tuple(crop(x, stride) for x, stride in zip(self.pyramid, STRIDES, strict=True)),
            tuple(
                (crop(logits, stride), crop(deltas, stride))
                for (logits, deltas), stride in zip(self.rpn, STRIDES, strict=True)
            ),
            crop(self.semantic, QUARTER),
        )


def compute_features(network: UPSNet, images: Sequence[Tensor]) -> _FeaturesOfImages:
    """Run the convolutions on images (3, H, W), padded to a common size."""
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    batch = torch.stack(
        [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images]
    )
    features = objective.compute_features(network, batch)
    return _FeaturesOfImages(features.pyramid, features.rpn, features.semantic)


def mask_targets(
    regions: RegionTargets,
    *,
    shapes: Sequence[Shape],
    crowd: Tensor,
    resolution: int,
    quirks: Quirks,
) -> Tensor:
    """Return `targets.mask_targets` of the regions of one image; ``crowd`` is bool (N,)."""
    return targets.mask_targets(
        regions,
        shapes=[shapes],
        crowds=[crowd.cpu().numpy()],
        resolution=resolution,
        quirks=quirks,
    )


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
        features: Features of this image, ``compute_features(...).of_image(...)``.
        image: Ground truth of this image.
        targets: Sampling of anchors, regions and objects.
        losses: Weights of the losses.
        quirks: Faults of the original to reproduce.
        chooser: Makes the random choices.
    """

    def __init__(
        self,
        network: UPSNet,
        features: Features,
        image: Prepared,
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
            image.batch,
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
