"""The losses of one image: from features and labels to scalars, target by target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.datasets.base import VOID
from upsnet_ros.kernels.roi_align import roi_align
from upsnet_ros.network.fpn import STRIDES
from upsnet_ros.network.panoptic_logits import mask_term, panoptic_logits
from upsnet_ros.network.rpn import select_proposals
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.training.choices import Chooser
from upsnet_ros.training.features import Features
from upsnet_ros.training.losses import (
    IGNORED_PIXEL,
    mask_loss,
    pixel_loss,
    region_losses,
    rpn_losses,
)
from upsnet_ros.training.panoptic_targets import keep_objects, panoptic_target
from upsnet_ros.training.prepare import MASK_SIZE, QUARTER, Prepared
from upsnet_ros.training.roi_targets import RegionTargets, mask_targets, sample_regions
from upsnet_ros.training.rpn_targets import RPNTargets, all_anchors, assign_rpn_targets
from upsnet_ros.training.settings import LossSettings, Quirks, TargetSettings


class ImageLosses:
    """The losses of one image, target by target.

    Args:
        network: Gives the heads.
        features: Of this image.
        image: Its labels.
        targets: How anchors and proposals become examples.
        losses: What they count.
        quirks: Habits of the original to keep.
        chooser: Who makes the random choices.
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
        self.network = network
        self.features = features
        self.image = image
        self.targets = targets
        self.losses = losses
        self.quirks = quirks
        self.chooser = chooser
        self.scale = image.geometry.scale
        self.device = features.semantic.device
        self.objects = ~image.crowd

    @torch.no_grad()
    def propose(self) -> Tensor:
        """Return the proposals (K, 4) on the network's grid."""
        proposals, _ = select_proposals(
            self.features.rpn,
            STRIDES,
            size=self.image.geometry.size,
            top_n=self.targets.rpn_top_n,
            nms_threshold=self.network.variant.rpn_nms_threshold,
        )
        return proposals

    def rpn_targets(self) -> RPNTargets:
        """Label the anchors."""
        sizes = [(logits.shape[2], logits.shape[3]) for logits, _ in self.features.rpn]
        return assign_rpn_targets(
            all_anchors(sizes, STRIDES, self.device),
            boxes=self.image.boxes[self.objects] * self.scale,
            crowds=self.image.boxes[self.image.crowd] * self.scale,
            size=self.image.geometry.size,
            settings=self.targets,
            quirks=self.quirks,
            chooser=self.chooser,
        )

    def rpn(self) -> dict[str, Tensor]:
        """Return the losses of the region proposal network."""
        logits = [x[0].permute(1, 2, 0).reshape(-1) for x, _ in self.features.rpn]
        deltas = [x[0].permute(1, 2, 0).reshape(-1, 4) for _, x in self.features.rpn]
        objectness, box = rpn_losses(
            torch.cat(logits),
            torch.cat(deltas),
            self.rpn_targets(),
            rpn_anchors=self.targets.rpn_anchors,
        )
        return {"rpn_class": objectness, "rpn_box": box}

    def regions(self, proposals: Tensor) -> RegionTargets:
        """Choose the regions the box head learns from."""
        return sample_regions(
            proposals / self.scale,
            boxes=self.image.boxes,
            classes=self.image.classes,
            crowd=self.image.crowd,
            settings=self.targets,
            quirks=self.quirks,
            chooser=self.chooser,
        )

    def box(self, regions: RegionTargets) -> dict[str, Tensor]:
        """Return losses and accuracy of the box head."""
        logits, deltas = self.network.rcnn(self.features.pyramid, regions.boxes * self.scale)
        box_class, box = region_losses(logits, deltas, regions)
        accuracy = (logits.detach().argmax(dim=1) == regions.classes).float().mean()
        return {"box_class": box_class, "box": box, "box_accuracy": accuracy}

    def mask(self, regions: RegionTargets) -> dict[str, Tensor]:
        """Return the loss of the mask head."""
        # Without an object one region stands in, with nothing to learn: every weight of the
        # network then has a gradient in every step, which is what DistributedDataParallel wants.
        count = max(len(regions.objects), 1)
        boxes, classes = regions.boxes[:count], regions.classes[:count]
        if len(regions.objects):
            targets = mask_targets(
                regions,
                shapes=self.image.shapes,
                crowd=self.image.crowd,
                resolution=MASK_SIZE,
                quirks=self.quirks,
            )
        else:
            targets = boxes.new_full((1, MASK_SIZE, MASK_SIZE), -1.0)
        logits = self.network.mask_branch(self.features.pyramid, boxes * self.scale, classes)
        return {"mask": mask_loss(logits, targets)}

    def semantic(self) -> dict[str, Tensor]:
        """Return the losses of the semantic head, pixel by pixel and box by box."""
        full = F.interpolate(
            self.features.semantic,
            scale_factor=float(QUARTER),
            mode="bilinear",
            align_corners=False,
        )
        losses = {"semantic": pixel_loss(full, _pixel_target(self.image.semantic)[None])}
        if self.losses.semantic_roi > 0:
            target = _pixel_target(self.image.roi_semantic)
            losses["semantic_roi"] = pixel_loss(
                self.roi_scores(), target, diluted=self.quirks.diluted_losses
            )
        return losses

    def roi_scores(self) -> Tensor:
        """Return semantic logits (M, S, 28, 28) inside the boxes of the objects."""
        # The score convolution is linear and every sample lies on the map, so that pooling scores
        # is pooling features and scoring them.
        boxes = self.image.boxes[self.objects] * self.scale
        rois = torch.cat((boxes.new_zeros(len(boxes), 1), boxes), dim=1)
        return roi_align(self.features.semantic, rois, MASK_SIZE, 1 / QUARTER)

    def panoptic_target(self, kept: Tensor) -> Tensor:
        """Return the ground truth of the panoptic head shown the objects kept."""
        use_unknown = self.losses.unknown_pixels == "unknown"
        return panoptic_target(
            self.image.semantic_quarter,
            self.image.masks_quarter[kept],
            num_stuff=self.network.variant.num_stuff,
            unknown=self.image.unknown_quarter if use_unknown else None,
            ignored=None if self.quirks.crowds_as_objects else self.image.crowd_quarter,
        )

    def panoptic_logits(self, kept: Tensor) -> Tensor:
        """Return the panoptic head's logits (stuff + kept + unknown, H / 4, W / 4)."""
        semantic, num_stuff = self.features.semantic[0], self.network.variant.num_stuff
        if len(kept) == 0:
            return torch.cat((semantic[:num_stuff], semantic[num_stuff:].amax(dim=0)[None]))
        boxes = self.image.boxes[self.objects][kept] * self.scale
        classes = self.image.classes[self.objects][kept]
        masks = self.network.mask_branch(self.features.pyramid, boxes, classes)
        quarter = boxes / QUARTER
        pasted = mask_term(quarter, masks, (semantic.shape[1], semantic.shape[2]))
        return panoptic_logits(semantic, quarter, classes, pasted, num_stuff)

    def panoptic(self) -> dict[str, Tensor]:
        """Return loss and accuracy of the panoptic head."""
        kept = keep_objects(
            int(self.objects.sum()),
            fraction=self.targets.kept_objects,
            chooser=self.chooser,
            device=self.device,
        )
        logits, target = self.panoptic_logits(kept), self.panoptic_target(kept)
        loss = pixel_loss(logits[None], target[None], diluted=self.quirks.diluted_losses)
        known = target != IGNORED_PIXEL
        right = (logits.detach().argmax(dim=0) == target).sum()
        return {"panoptic": loss, "panoptic_accuracy": right / known.sum().clamp(min=1)}

    def all(self, *, proposals: Tensor | None = None) -> dict[str, Tensor]:
        """Return every loss, unweighted, and the accuracies.

        Args:
            proposals: (K, 4) on the network's grid to sample regions from, instead of the RPN's.
        """
        results = self.rpn()
        regions = self.regions(self.propose() if proposals is None else proposals)
        return results | self.box(regions) | self.mask(regions) | self.semantic() | self.panoptic()


def _pixel_target(semantic: Tensor) -> Tensor:
    return semantic.long().masked_fill(semantic == VOID, IGNORED_PIXEL)
