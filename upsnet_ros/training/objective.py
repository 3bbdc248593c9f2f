"""Training losses: `TrainingNetwork` maps a batch of prepared images to losses and accuracies.

Everything is computed on the padded batch at once: features (`compute_features`), targets and
losses (`BatchLosses`). A loss is the mean over the images of what it is for each alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upsnet_ros.datasets.base import VOID
from upsnet_ros.network.batched_operators import KernelOperators, Operators
from upsnet_ros.network.batched_selection import ProposalLists, select_proposals
from upsnet_ros.network.instance_head import BOX_POOL, MASK_POOL, pool_rois
from upsnet_ros.network.panoptic_logits import mask_term, segment_term
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.ops.boxes import LARGEST_LIST
from upsnet_ros.ops.roi_align import roi_align
from upsnet_ros.training.loading import MASK_SIZE, QUARTER, Batch
from upsnet_ros.training.settings import LossSettings, Quirks, TargetSettings
from upsnet_ros.training.targets import (
    IGNORED,
    IGNORED_PIXEL,
    Chooser,
    Kept,
    RegionTargets,
    RPNTargets,
    SeededChooser,
    assign_rpn_targets,
    batch_anchors,
    keep_objects,
    mask_targets,
    panoptic_target,
    sample_regions,
)

#: Beta of the RPN's smooth L1 loss: 1 / sigma^2 with sigma 3.
RPN_BETA = 1 / 9
#: Names of the losses, which are also the names of their weights in `LossSettings`.
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


def rpn_losses(
    logits: Tensor, deltas: Tensor, targets: RPNTargets, *, rpn_anchors: int
) -> tuple[Tensor, Tensor]:
    """Return the objectness and box losses of the RPN, means over the images.

    Args:
        logits: (B, A), objectness logits of all anchors.
        deltas: (B, A, 4), box deltas of all anchors.
        targets: Targets of the same anchors.
        rpn_anchors: Number of anchors sampled per image, which normalises the objectness loss.
    """
    batch, count = logits.shape
    labels = targets.labels.flatten()[targets.labelled].to(logits.dtype)
    objectness = F.binary_cross_entropy_with_logits(
        logits.flatten()[targets.labelled], labels, reduction="sum"
    )
    own = deltas.flatten(0, 1)[targets.positives]
    each = F.smooth_l1_loss(own, targets.deltas, beta=RPN_BETA, reduction="none").sum(dim=1)
    labelled = (targets.labels != IGNORED).sum(dim=1).clamp(min=1)
    box = (each / labelled[targets.positives // count]).sum()
    return objectness / (rpn_anchors * batch), box / batch


def region_losses(logits: Tensor, deltas: Tensor, regions: RegionTargets) -> tuple[Tensor, Tensor]:
    """Return the classification and box losses of K regions, means over the images.

    Args:
        logits: (K, C), class logits.
        deltas: (K, 4 C), box deltas for each class.
        regions: Targets of the K regions.
    """
    positives = len(regions.objects)
    rows = torch.arange(positives, device=logits.device)
    own = deltas.view(len(deltas), -1, 4)[rows, regions.classes[:positives]]
    box = F.smooth_l1_loss(own, regions.deltas, beta=1.0, reduction="none").sum(dim=1)
    each = F.cross_entropy(logits, regions.classes, reduction="none")
    # Not as products of vectors, which autocast would compute in half precision.
    return (each * regions.weights).sum(), (box * regions.weights[:positives]).sum()


def _mean_of_images(sums: Tensor, counts: Tensor, images: Tensor, *, batch: int) -> Tensor:
    """Return the mean over images of what parts of them sum up to, divided by their counts.

    Args:
        sums: float32 (R,), of each part.
        counts: float32 (R,), of what was summed.
        images: int64 (R,), image of each part.
        batch: Number of images; those without a part count as zero.
    """
    parts = torch.stack((sums, counts), dim=1)
    total, count = parts.new_zeros((batch, 2)).index_add(0, images, parts).unbind(1)
    return (total / count.clamp(min=1)).mean()


def mask_loss(logits: Tensor, targets: Tensor, *, images: Tensor, batch: int) -> Tensor:
    """Return the loss of mask logits (P, M, M), a mean over images; targets below 0 are ignored.

    Args:
        logits: (P, M, M).
        targets: float32 (P, M, M).
        images: int64 (P,), image of each mask.
        batch: Number of images.
    """
    valid = (targets >= 0).float()
    each = F.binary_cross_entropy_with_logits(logits, targets, weight=valid, reduction="none")
    return _mean_of_images(each.sum(dim=(1, 2)), valid.sum(dim=(1, 2)), images, batch=batch)


def pixel_loss(logits: Tensor, target: Tensor, *, areas: Tensor | None = None) -> Tensor:
    """Return the mean over images of the mean cross-entropy of their pixels.

    Args:
        logits: (B, C, H, W).
        target: int64 (B, H, W), channel index or `IGNORED_PIXEL`.
        areas: (B,), number of pixels of each image. If given, ignored pixels count in its mean,
            with a loss of zero.
    """
    total = _cross_entropy(logits, target)
    if areas is None:
        areas = (target != IGNORED_PIXEL).sum(dim=(1, 2)).clamp(min=1)
    return (total / areas).mean()


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the sums over pixels, (B,)."""
    each = F.cross_entropy(logits, target, ignore_index=IGNORED_PIXEL, reduction="none")
    return each.sum(dim=(1, 2))


@dataclass(frozen=True, slots=True)
class Features:
    """Outputs of the convolutional part of the network, float32.

    Attributes:
        pyramid: P2 to P6, (B, C, H_l, W_l).
        rpn: Objectness logits and box deltas of each level.
        semantic: Semantic logits at a quarter of the input size, (B, S, H / 4, W / 4).
    """

    pyramid: tuple[Tensor, ...]
    rpn: tuple[tuple[Tensor, Tensor], ...]
    semantic: Tensor


def compute_features(network: UPSNet, images: Tensor) -> Features:
    """Run the convolutions on images (B, 3, H, W)."""
    pyramid = network.fpn(network.resnet_backbone(images))
    rpn = network.rpn(pyramid)
    return Features(
        tuple(level.float() for level in pyramid),
        tuple((logits.float(), deltas.float()) for logits, deltas in rpn),
        network.fcn_head(pyramid).float(),
    )


class BatchLosses:
    """Computes the targets and losses of a batch.

    On a GPU every operator costs its launch, so each works on all images at once.

    Args:
        network: The network, whose heads are run.
        features: Features of the images.
        batch: The images and their ground truth.
        targets: Sampling of anchors, regions and objects.
        losses: Weights of the losses.
        quirks: Faults of the original to reproduce.
        choosers: One for each image, to make the random choices.
    """

    def __init__(
        self,
        network: UPSNet,
        features: Features,
        batch: Batch,
        *,
        targets: TargetSettings,
        losses: LossSettings,
        quirks: Quirks,
        choosers: Sequence[Chooser],
    ) -> None:
        self.network = network
        self.features = features
        self.batch = batch
        self.targets = targets
        self.losses = losses
        self.quirks = quirks
        self.choosers = choosers
        self.device = features.semantic.device
        #: Of all objects, in pixels of the network input.
        self.boxes = batch.boxes * batch.scales
        self.member_images, members = batch.members
        self.member_boxes = self.boxes[self.member_images, members]
        self.member_classes = batch.classes[self.member_images, members]
        self.has_crowds = any(crowds.any() for crowds in batch.crowds)
        height, width = batch.data.shape[2:]
        self.anchors = batch_anchors((height, width), top_n=targets.rpn_top_n, device=self.device)

    @torch.no_grad()
    def propose(self) -> ProposalLists:
        """Return the proposals of each image in pixels of the network input."""
        sizes = [geometry.size for geometry in self.batch.geometries]
        height, width = (max(sides) for sides in zip(*sizes, strict=True))
        top_n = self.targets.rpn_top_n
        by_kernels = self.device.type == "cuda" and top_n <= LARGEST_LIST
        return select_proposals(
            self.features.rpn,
            self.anchors,
            size=(height, width),
            top_n=top_n,
            nms_threshold=self.network.variant.rpn_nms_threshold,
            operators=KernelOperators() if by_kernels else Operators(),
            sizes=None if len(set(sizes)) == 1 else self.batch.sizes,
        )

    @torch.no_grad()
    def rpn_targets(self) -> RPNTargets:
        """Return the targets of the anchors."""
        crowd = self.batch.crowd
        return assign_rpn_targets(
            self.anchors.boxes[0],
            sizes=self.batch.sizes,
            boxes=self.boxes,
            objects=(self.batch.classes > 0) & ~crowd,
            crowd=crowd if self.has_crowds else None,
            settings=self.targets,
            quirks=self.quirks,
            choosers=self.choosers,
        )

    def rpn(self) -> dict[str, Tensor]:
        """Return the losses of the region proposal network."""
        count = len(self.batch)
        logits, deltas = (
            torch.cat([x.permute(0, 2, 3, 1).reshape(count, -1, last) for x in levels], dim=1)
            for levels, last in zip(zip(*self.features.rpn, strict=True), (1, 4), strict=True)
        )
        objectness, box = rpn_losses(
            logits.squeeze(2), deltas, self.rpn_targets(), rpn_anchors=self.targets.rpn_anchors
        )
        return {"rpn_class": objectness, "rpn_box": box}

    @torch.no_grad()
    def regions(self, proposals: ProposalLists) -> RegionTargets:
        """Sample the regions for the box head."""
        return sample_regions(
            proposals.boxes / self.batch.scales,
            numbers=proposals.counts,
            boxes=self.batch.boxes,
            classes=self.batch.classes,
            crowd=self.batch.crowd,
            has_crowds=self.has_crowds,
            settings=self.targets,
            quirks=self.quirks,
            choosers=self.choosers,
        )

    def box(self, regions: RegionTargets) -> dict[str, Tensor]:
        """Return losses and accuracy of the box head."""
        boxes = regions.boxes * self.batch.scales[regions.images, 0]
        pooled = self._pooled(boxes, regions.images, BOX_POOL)
        logits, deltas = self.network.rcnn.classify(pooled)
        box_class, box = region_losses(logits, deltas, regions)
        right = logits.detach().argmax(dim=1) == regions.classes
        accuracy = (right * regions.weights).sum()
        return {"box_class": box_class, "box": box, "box_accuracy": accuracy}

    def _pooled(self, boxes: Tensor, images: Tensor, size: int) -> Tensor:
        return pool_rois(self.features.pyramid, boxes, output_size=size, images=images)

    def masks(self, regions: RegionTargets, kept: Kept) -> tuple[Tensor, Tensor]:
        """Return mask logits of the positive regions and of the kept objects, (..., 28, 28).

        Without positive regions there is one of the first image, or of nothing:
        DistributedDataParallel requires that every weight has a gradient in every step.
        """
        count = max(len(regions.objects), 1)
        images = regions.images[:count]
        boxes = regions.boxes[:count] * self.batch.scales[images, 0]
        classes = regions.classes[:count]
        pooled = self._pooled(
            torch.cat((boxes, self.member_boxes[kept.rows])),
            torch.cat((images, kept.images)),
            MASK_POOL,
        )
        classes = torch.cat((classes, self.member_classes[kept.rows]))
        logits = self.network.mask_branch.logits(pooled, classes)
        return logits[: len(boxes)], logits[len(boxes) :]

    def mask(self, regions: RegionTargets, logits: Tensor) -> dict[str, Tensor]:
        """Return the loss of the mask head for its logits of the positive regions."""
        if len(regions.objects):
            targets = mask_targets(
                regions,
                shapes=self.batch.shapes,
                crowds=self.batch.crowds,
                resolution=MASK_SIZE,
                quirks=self.quirks,
            )
        else:
            targets = torch.full_like(logits, -1.0)
        images = regions.images[: len(logits)]
        return {"mask": mask_loss(logits, targets, images=images, batch=len(self.batch))}

    def semantic(self) -> dict[str, Tensor]:
        """Return the pixel-wise and region-wise losses of the semantic head."""
        full = F.interpolate(
            self.features.semantic,
            scale_factor=float(QUARTER),
            mode="bilinear",
            align_corners=False,
        )
        losses = {"semantic": pixel_loss(full, _pixel_target(self.batch.semantic))}
        if self.losses.semantic_roi > 0:
            target = _pixel_target(self.batch.roi_semantic)
            total = _cross_entropy(self.roi_scores(), target)
            counted = target != IGNORED_PIXEL
            if self.quirks.diluted_losses:
                counted = torch.ones_like(counted)
            losses["semantic_roi"] = _mean_of_images(
                total, counted.sum(dim=(1, 2)), self.member_images, batch=len(self.batch)
            )
        return losses

    def roi_scores(self) -> Tensor:
        """Return semantic logits (M, S, 28, 28) inside the boxes of the objects."""
        # The score convolution is linear and all samples lie inside the map, so pooling the scores
        # equals pooling the features and scoring them.
        rois = torch.cat((self.member_images[:, None].to(self.boxes), self.member_boxes), dim=1)
        return roi_align(self.features.semantic, rois, MASK_SIZE, 1 / QUARTER)

    def keep(self) -> Kept:
        """Sample the objects that the panoptic head is given."""
        counts = [len(crowds) - int(crowds.sum()) for crowds in self.batch.crowds]
        chosen = [
            keep_objects(count, fraction=self.targets.kept_objects, chooser=chooser)
            for count, chooser in zip(counts, self.choosers, strict=True)
        ]
        return Kept.of(chosen, counts, device=self.device)

    def panoptic_target(self, kept: Kept) -> Tensor:
        """Return the targets of the panoptic head for the kept objects."""
        use_unknown = self.losses.unknown_pixels == "unknown"
        return panoptic_target(
            self.batch.semantic_quarter,
            self.batch.masks_quarter[kept.rows],
            kept=kept,
            num_stuff=self.network.variant.num_stuff,
            unknown=self.batch.unknown_quarter if use_unknown else None,
            ignored=None if self.quirks.crowds_as_objects else self.batch.crowd_quarter,
        )

    def panoptic_logits(self, kept: Kept, masks: Tensor) -> Tensor:
        """Return the panoptic head's logits (B, stuff + most kept + unknown, H / 4, W / 4).

        Channels of objects that an image lacks are -inf.

        Args:
            kept: K objects.
            masks: Their mask logits (K, 28, 28).
        """
        semantic, num_stuff = self.features.semantic, self.network.variant.num_stuff
        unknown = semantic[:, num_stuff:].amax(dim=1, keepdim=True)
        if kept.most == 0:
            return torch.cat((semantic[:, :num_stuff], unknown), dim=1)
        batch, channels, height, width = semantic.shape
        boxes = self.member_boxes[kept.rows] / QUARTER
        # Each image has its own channels; class c reads channel num_stuff - 1 + c of its image.
        classes = self.member_classes[kept.rows] + kept.images * channels
        own = segment_term(boxes, classes, semantic.flatten(0, 1), num_stuff)
        pasted = mask_term(boxes, masks, (height, width))
        segments = kept.laid_out(own, -torch.inf, batch=batch)
        objects = kept.laid_out(own + pasted, -torch.inf, batch=batch)
        best = segments.amax(dim=1, keepdim=True)
        best = torch.where(best == -torch.inf, 0.0, best)  # of images without an object
        return torch.cat((semantic[:, :num_stuff], objects, unknown - best), dim=1)

    def panoptic(self, kept: Kept, masks: Tensor) -> dict[str, Tensor]:
        """Return loss and accuracy of the panoptic head."""
        logits, target = self.panoptic_logits(kept, masks), self.panoptic_target(kept)
        areas = None
        if self.quirks.diluted_losses:
            sides = [geometry.padded for geometry in self.batch.geometries]
            areas = torch.tensor([float(h * w // QUARTER**2) for h, w in sides]).to(self.device)
        loss = pixel_loss(logits, target, areas=areas)
        right = (logits.detach().argmax(dim=1) == target).sum(dim=(1, 2))
        known = (target != IGNORED_PIXEL).sum(dim=(1, 2)).clamp(min=1)
        return {"panoptic": loss, "panoptic_accuracy": (right / known).mean()}

    def all(self, *, proposals: ProposalLists | None = None) -> dict[str, Tensor]:
        """Return all losses, unweighted, and the accuracies; means over the images.

        Args:
            proposals: In pixels of the network input, to use instead of the RPN's.
        """
        results = self.rpn()
        regions = self.regions(self.propose() if proposals is None else proposals)
        kept = self.keep()
        of_regions, of_kept = self.masks(regions, kept)
        results |= self.box(regions) | self.mask(regions, of_regions)
        return results | self.semantic() | self.panoptic(kept, of_kept)


def _pixel_target(semantic: Tensor) -> Tensor:
    return semantic.long().masked_fill(semantic == VOID, IGNORED_PIXEL)


def total_loss(results: Mapping[str, Tensor], weights: LossSettings) -> Tensor:
    """Return the weighted sum of the losses among the results."""
    return torch.stack(
        [getattr(weights, name) * results[name] for name in LOSSES if name in results]
    ).sum()


class TrainingNetwork(nn.Module):
    """UPSNet with its losses as one module, which DistributedDataParallel can wrap."""

    def __init__(
        self, network: UPSNet, *, targets: TargetSettings, losses: LossSettings, quirks: Quirks
    ) -> None:
        super().__init__()
        self.network = network
        self.targets = targets
        self.losses = losses
        self.quirks = quirks

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return losses and accuracies averaged over the images, and ``total``."""
        results = BatchLosses(
            self.network,
            compute_features(self.network, batch.data),
            batch,
            targets=self.targets,
            losses=self.losses,
            quirks=self.quirks,
            choosers=[SeededChooser(seed) for seed in batch.seeds],
        ).all()
        return results | {"total": total_loss(results, self.losses)}
