"""Targets of the RPN, box, mask and panoptic heads; sampling of anchors, regions and objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from upsnet_ros.datasets.base import VOID, Shape
from upsnet_ros.network.batched_selection import Anchors, valid_mask
from upsnet_ros.network.semantic_head import STRIDES
from upsnet_ros.ops.boxes import BOX_HEAD_WEIGHTS, RPN_WEIGHTS, encode_boxes
from upsnet_ros.training.settings import Quirks, TargetSettings

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
#: Target value of ignored pixels.
IGNORED_PIXEL = -1


class Purpose(Enum):
    """Purpose of a random choice."""

    RPN_SURPLUS_POSITIVES = "positive anchors beyond the limit, to be ignored"
    RPN_NEGATIVES = "anchors to be labelled background"
    ROI_POSITIVES = "regions to be labelled with an object's class"
    ROI_NEGATIVES = "regions to be labelled background"
    PANOPTIC_KEPT = "objects given to the panoptic head"


Positions = npt.NDArray[np.int64]


class Chooser(Protocol):
    """Samples without replacement."""

    def choose(self, purpose: Purpose, candidates: Tensor, count: int) -> Positions:
        """Return ``count`` positions in the candidates, in random order.

        Args:
            purpose: What for.
            candidates: int64 (N,) with N >= count, on any device.
            count: How many.
        """


class SeededChooser:
    """Samples with its own generator: the same seed gives the same choices on every device."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def choose(self, purpose: Purpose, candidates: Tensor, count: int) -> Positions:
        """Return ``count`` positions in the candidates, in random order."""
        # Much faster than a permutation of all candidates, where these are a hundred thousand.
        return self._generator.choice(len(candidates), count, replace=False)


class _Candidates:
    """What may be chosen of each image, for several purposes: two waits for the device in all.

    Args:
        masks: bool (Q, B, R), which of R things of B images are candidates for each of Q purposes.
    """

    def __init__(self, masks: Tensor) -> None:
        self._length = masks.shape[2]
        self.counts: list[list[int]] = masks.sum(dim=2).tolist()
        self._index = masks.nonzero()[:, 2]
        counts = np.array(self.counts)
        self._starts = (counts.cumsum() - counts.ravel()).reshape(counts.shape).tolist()

    def of(self, purpose: int, image: int) -> Tensor:
        """Return the candidates of an image, int64, ascending."""
        return self._index.narrow(0, self._starts[purpose][image], self.counts[purpose][image])

    def picked(self, purpose: int, positions: Sequence[Positions]) -> tuple[Tensor, Tensor]:
        """Return what was chosen, image by image, on the device.

        Args:
            purpose: What for.
            positions: Positions in the candidates of each image.

        Returns:
            Indices into (B * R,) and images, int64 each.
        """
        starts = self._starts[purpose]
        places = [own + start for own, start in zip(positions, starts, strict=True)]
        images = np.repeat(np.arange(len(positions)), list(map(len, positions)))
        chosen = torch.from_numpy(np.stack((np.concatenate(places), images)))
        place, image = chosen.to(self._index.device, non_blocking=True)
        return self._index[place] + image * self._length, image


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2] + 1).prod(dim=-1)


def intersections(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the pairwise intersection areas, float32 (..., N, M).

    Args:
        boxes: (..., N, 4).
        others: (..., M, 4).
    """
    near = torch.maximum(boxes[..., :, None, :2], others[..., None, :, :2])
    far = torch.minimum(boxes[..., :, None, 2:], others[..., None, :, 2:])
    width, height = (far - near + 1).clamp(min=0).unbind(-1)
    return width * height


def overlaps(boxes: Tensor, others: Tensor, common: Tensor | None = None) -> Tensor:
    """Return the pairwise IoU, float32 (..., N, M), of boxes (..., N, 4) and others (..., M, 4).

    Args:
        boxes: (..., N, 4).
        others: (..., M, 4).
        common: Their intersections, if these are known.
    """
    if common is None:
        common = intersections(boxes, others)
    return common / (_areas(boxes)[..., None] + _areas(others)[..., None, :] - common)


# Cached, because a run has few sizes of batches.
@lru_cache(maxsize=8)
def batch_anchors(padded: tuple[int, int], *, top_n: int, device: torch.device) -> Anchors:
    """Return the anchors of a batch; results are cached.

    Args:
        padded: Height and width of the network input, pixels.
        top_n: Proposals that a level gives at most.
        device: Device of the anchors.
    """
    sizes = [(-(-padded[0] // stride), -(-padded[1] // stride)) for stride in STRIDES]
    return Anchors.from_sizes(sizes, STRIDES, top_n=top_n, device=device)


@dataclass(frozen=True, slots=True)
class RPNTargets:
    """Targets of the A anchors of each image, ordered by level (P2 to P6), row, column and anchor.

    Attributes:
        labels: int8 (B, A): `POSITIVE`, `NEGATIVE` or `IGNORED`.
        labelled: int64 (L,): indices into (B * A,) of the anchors that are not ignored.
        positives: int64 (P,): indices into (B * A,) of the positive anchors.
        deltas: float32 (P, 4): target deltas of the positive anchors.
    """

    labels: Tensor
    labelled: Tensor
    positives: Tensor
    deltas: Tensor


def assign_rpn_targets(
    anchors: Tensor,
    *,
    sizes: Tensor,
    boxes: Tensor,
    objects: Tensor,
    crowd: Tensor | None,
    settings: TargetSettings,
    quirks: Quirks,
    choosers: Sequence[Chooser],
) -> RPNTargets:
    """Label a random sample of the anchors inside each image.

    Args:
        anchors: float32 (A, 4).
        sizes: float32 (B, 1, 2), height and width of the unpadded images.
        boxes: Boxes (B, N, 4), in the same pixels; N >= 1.
        objects: bool (B, N), which of the boxes anchors are to find.
        crowd: bool (B, N), which of the boxes are crowds; None if there are none. Unless
            `Quirks.crowds_as_objects`, anchors mostly inside a crowd are not labelled background.
        settings: Thresholds and counts.
        quirks: Faults of the original to reproduce.
        choosers: One for each image, to make the random choices.
    """
    batch, count = len(boxes), len(anchors)
    inside = (anchors[:, :2] >= 0).all(dim=1) & (anchors[:, 2:] < sizes.flip(2)).all(dim=2)
    common = intersections(anchors, boxes)
    learnt = inside[..., None] & objects[:, None]
    overlap = torch.where(learnt, overlaps(anchors, boxes, common), -1.0)
    best, nearest = overlap.max(dim=2)
    ties = (overlap == overlap.amax(dim=1, keepdim=True)) & learnt
    if not quirks.rpn_positives_without_overlap:
        ties &= overlap > 0
    positive = ties.any(dim=2) | (best >= settings.rpn_positive_overlap)

    free = inside & (best < settings.rpn_negative_overlap)
    if not quirks.rpn_negatives_over_positives:
        free &= ~positive
    if crowd is not None and not quirks.crowds_as_objects:
        in_crowd = (common / _areas(anchors)[:, None]).masked_fill(~crowd[:, None], 0.0)
        free &= in_crowd.amax(dim=2) <= settings.crowd_share

    candidates = _Candidates(torch.stack((positive, free)))
    kept, background = [], []
    for image, chooser in enumerate(choosers):
        found, free_ones = (counts[image] for counts in candidates.counts)
        positions = np.arange(found)
        surplus = found - settings.rpn_positives
        if surplus > 0:
            purpose = Purpose.RPN_SURPLUS_POSITIVES
            dropped = chooser.choose(purpose, candidates.of(0, image), surplus)
            positions = np.delete(positions, dropped)
        kept.append(positions)
        wanted = settings.rpn_anchors - len(positions)
        positions = np.arange(free_ones)
        if free_ones > wanted:
            positions = chooser.choose(Purpose.RPN_NEGATIVES, candidates.of(1, image), wanted)
        elif quirks.rpn_scarce_negatives_ignored:
            positions = positions[:0]
        background.append(positions)

    positives, _ = candidates.picked(0, kept)
    negatives, _ = candidates.picked(1, background)
    labels = torch.full((batch * count,), IGNORED, dtype=torch.int8, device=anchors.device)
    labels.index_fill_(0, positives, POSITIVE).index_fill_(0, negatives, NEGATIVE)
    if quirks.rpn_negatives_over_positives:  # some were positive before
        positives = torch.nonzero(labels == POSITIVE).squeeze(1)
        labelled = torch.nonzero(labels != IGNORED).squeeze(1)
    else:
        labelled = torch.cat((positives, negatives))
    own = boxes[positives // count, nearest.flatten()[positives]]
    deltas = encode_boxes(anchors[positives % count], own, RPN_WEIGHTS)
    return RPNTargets(labels.view(batch, count), labelled, positives, deltas)


@dataclass(frozen=True, slots=True)
class RegionTargets:
    """Sampled regions of B images, positive ones first, both image by image.

    Attributes:
        boxes: float32 (K, 4) in pixels of the labelled image, not of the network input.
        images: int64 (K,): image of each region.
        classes: int64 (K,): class of the object, 0 for background.
        objects: int64 (P,): object index, in its image, of each positive region (the first P).
        deltas: float32 (P, 4): target deltas of the positive regions for their class.
        weights: float32 (K,): share of each region in the mean over images of the mean over an
            image's regions.
        positives: Number of positive regions of each image.
    """

    boxes: Tensor
    images: Tensor
    classes: Tensor
    objects: Tensor
    deltas: Tensor
    weights: Tensor
    positives: tuple[int, ...]


def _choose(chooser: Chooser, purpose: Purpose, candidates: Tensor, limit: int) -> Positions:
    count = min(len(candidates), limit)
    return chooser.choose(purpose, candidates, count) if count else np.arange(0)


def sample_regions(
    proposals: Tensor,
    *,
    numbers: Tensor,
    boxes: Tensor,
    classes: Tensor,
    crowd: Tensor,
    has_crowds: bool,
    settings: TargetSettings,
    quirks: Quirks,
    choosers: Sequence[Chooser],
) -> RegionTargets:
    """Sample regions from the ground-truth boxes and the proposals.

    Args:
        proposals: (B, M, 4) in pixels of the labelled images.
        numbers: int32 (B,), how many proposals are no padding.
        boxes: Boxes (B, N, 4) of the objects, in the same pixels; N >= 1.
        classes: int64 (B, N), class of each object, from 1; 0 in the padding.
        crowd: bool (B, N), whether the object is a crowd.
        has_crowds: Whether there is a crowd.
        settings: Thresholds and counts.
        quirks: Faults of the original to reproduce.
        choosers: One for each image, to make the random choices.
    """
    batch, count = classes.shape
    device = boxes.device
    ignores_crowds = has_crowds and not quirks.crowds_as_objects
    # With `crowds_as_objects` a crowd is an object of its class for proposals.
    objects = classes > 0
    matched = objects & ~crowd if ignores_crowds else objects
    common = intersections(proposals, boxes)
    overlap = overlaps(proposals, boxes, common).masked_fill(~matched[:, None], 0.0)
    best, nearest = overlap.max(dim=2)
    if ignores_crowds:
        inside = (common / _areas(proposals)[..., None]).masked_fill(~crowd[:, None], 0.0)
        in_crowd = inside.amax(dim=2) > settings.crowd_share
        best = best.masked_fill((best < settings.roi_positive_overlap) & in_crowd, -1.0)
    best = torch.where(valid_mask(numbers, proposals.shape[1]), best, -1.0)
    own = torch.arange(count, device=device).expand(batch, -1)
    best = torch.cat((torch.where(objects & ~crowd, 1.0, -1.0).to(best), best), dim=1)
    nearest = torch.cat((own, nearest), dim=1)

    positive = best >= settings.roi_positive_overlap
    candidates = _Candidates(torch.stack((positive, (best >= 0) & ~positive)))
    positives, negatives = [], []
    for image, chooser in enumerate(choosers):
        limits = settings.roi_positives, settings.rois
        positives.append(
            _choose(chooser, Purpose.ROI_POSITIVES, candidates.of(0, image), limits[0])
        )
        rest = limits[1] - len(positives[-1])
        negatives.append(_choose(chooser, Purpose.ROI_NEGATIVES, candidates.of(1, image), rest))

    thing, thing_image = candidates.picked(0, positives)
    other, other_image = candidates.picked(1, negatives)
    chosen, images = torch.cat((thing, other)), torch.cat((thing_image, other_image))
    regions = torch.cat((boxes, proposals), dim=1).flatten(0, 1)[chosen]
    found = nearest.flatten()[thing]
    labels = torch.cat((classes[thing_image, found], torch.zeros_like(other)))
    deltas = encode_boxes(regions[: len(thing)], boxes[thing_image, found], BOX_HEAD_WEIGHTS)
    totals = [len(a) + len(b) for a, b in zip(positives, negatives, strict=True)]
    shares = torch.tensor([1 / (batch * max(total, 1)) for total in totals])
    return RegionTargets(
        regions,
        images,
        labels,
        found,
        deltas,
        shares.to(device, non_blocking=True)[images],
        tuple(map(len, positives)),
    )


def mask_targets(
    regions: RegionTargets,
    *,
    shapes: Sequence[Sequence[Shape]],
    crowds: Sequence[npt.NDArray[np.bool_]],
    resolution: int,
    quirks: Quirks,
) -> Tensor:
    """Rasterise the object of each positive region inside that region.

    Args:
        regions: Regions from `sample_regions`.
        shapes: Shapes of the objects of each image, crowds included.
        crowds: Whether each object of each image is a crowd.
        resolution: Side length of the targets, bins.
        quirks: Faults of the original to reproduce.

    Returns:
        float32 (P, resolution, resolution) of zeros and ones, on the regions' device; -1 for
        regions on a crowd, which have no mask target.
    """
    count = len(regions.objects)
    targets = np.full((count, resolution, resolution), -1.0, np.float32)
    # A single copy, since each waits for the device; float64 is exact for all values.
    columns = (regions.boxes[:count].double(), regions.objects[:, None].double())
    rows = torch.cat(columns, dim=1).cpu().numpy()
    ends = np.cumsum(regions.positives).tolist()
    for image, end in enumerate(ends):
        start = end - regions.positives[image]
        boxes, objects = rows[start:end, :4].astype(np.float32), rows[start:end, 4].astype(np.intp)
        if quirks.masks_by_bounds and end > start:
            # The object whose polygon bounds overlap most, regardless of the box's object; no
            # crowds.
            bounds = torch.tensor([shape.bounds for shape in shapes[image]])
            overlap = overlaps(torch.from_numpy(boxes), bounds).numpy()
            objects = np.where(crowds[image], -1.0, overlap).argmax(axis=1)
        own = targets[start:end]
        for index in np.unique(objects):
            selected = objects == index
            if not crowds[image][index]:
                own[selected] = shapes[image][index].rasterise(boxes[selected], resolution)
    return torch.from_numpy(targets).to(regions.boxes.device, non_blocking=True)


def keep_objects(count: int, *, fraction: float, chooser: Chooser) -> Positions:
    """Sample the objects given to the panoptic head, in random order.

    Pixels of the other objects become unknown, which trains the unknown channel. At least one
    object is kept if there is one.
    """
    kept = min(count, max(int(count * fraction), 1))
    indices = np.arange(count)
    if kept == 0:
        return indices
    return chooser.choose(Purpose.PANOPTIC_KEPT, torch.from_numpy(indices), kept)


@dataclass(frozen=True, slots=True)
class Kept:
    """The objects given to the panoptic head.

    Attributes:
        rows: int64 (K,), which of the batch's members they are, image by image.
        images: int64 (K,), image of each.
        ranks: int64 (K,), position of each among those of its image.
        most: Largest number of an image.
    """

    rows: Tensor
    images: Tensor
    ranks: Tensor
    most: int

    @classmethod
    def of(
        cls, chosen: Sequence[Positions], counts: Sequence[int], *, device: torch.device
    ) -> Kept:
        """Return them on the device.

        Args:
            chosen: Of each image, positions among its members.
            counts: Number of members of each image.
            device: Device of the tensors.
        """
        starts = np.cumsum([0, *counts[:-1]]).tolist()
        numbers = [len(own) for own in chosen]
        rows = np.concatenate([own + start for own, start in zip(chosen, starts, strict=True)])
        images = np.repeat(np.arange(len(chosen)), numbers)
        ranks = np.concatenate([np.arange(number) for number in numbers])
        host = torch.from_numpy(np.stack((rows, images, ranks)))
        moved = host.to(device, non_blocking=True)
        return cls(moved[0], moved[1], moved[2], max(numbers))

    def laid_out(self, values: Tensor, fill: float, *, batch: int) -> Tensor:
        """Return values (K, ...) of the objects as (B, most, ...), filled up."""
        size = (batch * self.most, *values.shape[1:])
        slots = self.images * self.most + self.ranks
        filled = values.new_full(size, fill).index_copy(0, slots, values)
        return filled.view(batch, self.most, *values.shape[1:])


def panoptic_target(
    semantic: Tensor,
    masks: Tensor,
    *,
    kept: Kept,
    num_stuff: int,
    unknown: Tensor | None = None,
    ignored: Tensor | None = None,
) -> Tensor:
    """Return the panoptic targets, int64 (B, H, W): the correct channels of the panoptic logits.

    Stuff pixels keep their class and void is `IGNORED_PIXEL`. Objects override both, later ones
    override earlier ones. Remaining pixels, those of things that are not given, are unknown, which
    is channel ``num_stuff + kept.most``.

    Args:
        semantic: (B, H, W), class in UPSNet's order or `VOID`.
        masks: (K, H, W), 1 where a pixel belongs to the object.
        kept: The K objects.
        num_stuff: Number of stuff classes.
        unknown: bool (B, H, W), additional unknown pixels unless covered by an object.
        ignored: bool (B, H, W), additional void pixels unless covered by an object.
    """
    target = semantic.long()
    void, last = target == VOID, num_stuff + kept.most
    target = torch.where(target < num_stuff, target, last).masked_fill(void, IGNORED_PIXEL)
    if unknown is not None:
        target = target.masked_fill(unknown, last)
    if ignored is not None:
        target = target.masked_fill(ignored, IGNORED_PIXEL)
    if kept.most:
        channels = (num_stuff + kept.ranks)[:, None, None] * (masks == 1)
        of_objects = kept.laid_out(channels, 0, batch=len(semantic)).amax(dim=1)
        target = torch.where(of_objects > 0, of_objects, target)
    return target
