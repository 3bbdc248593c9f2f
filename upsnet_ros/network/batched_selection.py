"""Proposals and detections as padded lists, and how they are selected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.rpn import grid_anchors
from upsnet_ros.ops.boxes import BOX_HEAD_WEIGHTS, CONTINUOUS, INCLUSIVE, RPN_WEIGHTS, decode_at

if TYPE_CHECKING:
    from upsnet_ros.network.batched_operators import Operators


def valid_mask(counts: Tensor, length: int) -> Tensor:
    """Return which entries of lists are valid: bool (B, length), the first `counts` (B,)."""
    return torch.arange(length, device=counts.device) < counts[:, None]


def gather_entries(values: Tensor, indices: Tensor) -> Tensor:
    """Return the entries of lists (B, N, ...) at indices int64 (B, M): (B, M, ...)."""
    index = indices.view(*indices.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(*indices.shape, *values.shape[2:]))


@dataclass(frozen=True, slots=True)
class ProposalLists:
    """Proposals of each image, best first.

    Attributes:
        boxes: float32 (B, K, 4) in pixels of the network's input; zeros in the padding.
        counts: int32 (B,), number of valid entries.
    """

    boxes: Tensor
    counts: Tensor


@dataclass(frozen=True, slots=True)
class DetectionLists:
    """Detected things of each image, best first; zeros in the padding.

    Attributes:
        boxes: float32 (B, N, 4) in pixels of the network's input.
        scores: float32 (B, N), class probabilities.
        classes: int64 (B, N), 1 .. num_classes - 1.
        counts: int32 (B,), number of valid entries.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    counts: Tensor

    def select(self, indices: Tensor, counts: Tensor) -> DetectionLists:
        """Return lists of the entries at indices int64 (B, M), of which `counts` are valid."""
        valid = valid_mask(counts, indices.shape[1])
        fields = (self.boxes, self.scores, self.classes)
        boxes, scores, classes = (gather_entries(x, indices) for x in fields)
        return DetectionLists(boxes * valid[..., None], scores * valid, classes * valid, counts)

    def truncate(self, length: int) -> DetectionLists:
        """Return the first ``length`` entries of the lists."""
        boxes, scores, classes = (x[:, :length] for x in (self.boxes, self.scores, self.classes))
        return DetectionLists(boxes, scores, classes, self.counts)

    def of_image(self, image: int) -> Detections:
        """Return one image's list without padding, but at least one entry; on the host only."""
        count = max(1, int(self.counts[image]))
        fields = (self.boxes, self.scores, self.classes)
        return Detections(*(x[image, :count] for x in fields))


#: Images are padded to multiples of so many pixels.
PADDING = 32


@dataclass(frozen=True, slots=True)
class Anchors:
    """The anchors of all levels, and how many of each level may become proposals.

    Attributes:
        boxes: float32 (1, A, 4), level by level, as `grid_anchors` orders them.
        lengths: Anchors of each level.
        starts: int64 (levels, 1), index of the first anchor of each level.
        counts: int32 (levels,), number of proposals of each level.
    """

    boxes: Tensor
    lengths: tuple[int, ...]
    starts: Tensor
    counts: Tensor

    @classmethod
    def from_sizes(
        cls,
        sizes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        *,
        top_n: int,
        device: torch.device | str,
        edge: float = INCLUSIVE,
    ) -> Anchors:
        """Return the anchors of levels of these sizes, (height, width); copied to the device."""
        levels = [
            grid_anchors(*size, stride=stride, device=device, edge=edge)
            for size, stride in zip(sizes, strides, strict=True)
        ]
        lengths = tuple(len(level) for level in levels)
        starts = torch.tensor([sum(lengths[:level]) for level in range(len(lengths))])
        counts = torch.tensor([min(length, top_n) for length in lengths], dtype=torch.int32)
        return cls(torch.cat(levels)[None], lengths, starts[:, None].to(device), counts.to(device))


def select_proposals(
    outputs: Sequence[tuple[Tensor, Tensor]],
    anchors: Anchors,
    *,
    size: tuple[int, int],
    top_n: int,
    nms_threshold: float,
    operators: Operators,
    edge: float = INCLUSIVE,
    sizes: Tensor | None = None,
) -> ProposalLists:
    """Turn the RPN's outputs for a batch into proposals.

    Continuous boxes are ranked by logits rather than probabilities, and those without width or
    height after clipping are dropped before suppression.

    Args:
        outputs: Logits (B, 3, H, W) and deltas (B, 12, H, W) of each level.
        anchors: Anchors of the same levels and `top_n`.
        size: Height and width of the unpadded images, or of the largest.
        top_n: Proposals kept before and after suppression, and in all.
        nms_threshold: IoU above which the box with the lower score is suppressed.
        operators: Operators that suppress boxes.
        edge: Convention of anchors and boxes: see `ops.boxes`.
        sizes: float32 (B, 1, 2), where images differ: height and width of each. What lies beyond
            an image and its own padding is not proposed.
    """
    batch, levels = len(outputs[0][0]), len(outputs)
    logits, deltas = (
        torch.cat([x.permute(0, 2, 3, 1).reshape(batch, -1, last) for x in level_by_level], dim=1)
        for level_by_level, last in zip(zip(*outputs, strict=True), (1, 4), strict=True)
    )
    ranks = logits.flatten(1).float()
    if edge == INCLUSIVE:
        # The sigmoid in float32, as in the original: saturated scores tie, logits would not.
        ranks = ranks.sigmoid()
    if sizes is not None:
        centres = (anchors.boxes[..., :2] + anchors.boxes[..., 2:]) / 2
        beyond = (centres > sizes.flip(2) + PADDING).any(dim=2)
        ranks = ranks.masked_fill(beyond, -torch.inf)
    scores, indices = _best_of_levels(ranks, anchors, top_n)
    boxes = decode_at(
        anchors.boxes, deltas, indices.flatten(1), weights=RPN_WEIGHTS, size=size, edge=edge
    )
    if sizes is not None:
        boxes = torch.minimum(boxes, sizes.flip(2).repeat(1, 1, 2) - edge)
        # All alike, so that one of a level remains at most.
        boxes = boxes.masked_fill(scores.flatten(1).isneginf()[..., None], 0.0)

    length = indices.shape[2]
    lists = boxes.view(batch * levels, length, 4)
    scores = scores.view(batch * levels, length)
    counts = anchors.counts.repeat(batch) if batch > 1 else anchors.counts
    if edge == CONTINUOUS:
        lists, scores, counts = _without_empty(lists, scores, counts)
    kept = operators.suppress(lists, counts, nms_threshold, limit=length, edge=edge)
    index = kept.indices.long()
    scores = gather_entries(scores, index)
    scores = torch.where(valid_mask(kept.counts, length), scores, -torch.inf).view(batch, -1)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :top_n]
    count = kept.counts.view(batch, levels).sum(dim=1, dtype=torch.int32).clamp(max=top_n)
    boxes = gather_entries(gather_entries(lists, index).view(batch, -1, 4), order)
    return ProposalLists(boxes * valid_mask(count, boxes.shape[1])[..., None], count)


def _without_empty(boxes: Tensor, scores: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return lists (B, N, 4) and (B, N) with valid boxes that are not empty first, and counts."""
    wide, high = (boxes[..., 2 + axis] > boxes[..., axis] for axis in range(2))
    stays = wide & high & valid_mask(counts, boxes.shape[1])
    order = stays.logical_not().byte().argsort(dim=1, stable=True)
    return (
        gather_entries(boxes, order),
        gather_entries(scores, order),
        stays.sum(dim=1, dtype=torch.int32),
    )


def _best_of_levels(scores: Tensor, anchors: Anchors, top_n: int) -> tuple[Tensor, Tensor]:
    """Return scores and indices among all anchors (B, levels, K) of the best of each level.

    If a level has less than K anchors, scores are padded with -inf, indices with its first anchor.
    """
    best = [
        level.topk(min(length, top_n), dim=1)
        for level, length in zip(
            scores.split(list(anchors.lengths), dim=1), anchors.lengths, strict=True
        )
    ]
    longest = max(level.values.shape[1] for level in best)

    def stacked(lists: Sequence[Tensor], filler: float) -> Tensor:
        padding = [longest - x.shape[1] for x in lists]
        # Padding by nothing would copy.
        padded = [
            F.pad(x, (0, n), value=filler) if n else x for x, n in zip(lists, padding, strict=True)
        ]
        return torch.stack(padded, dim=1)

    indices = stacked([level.indices for level in best], 0) + anchors.starts
    return stacked([level.values for level in best], -torch.inf), indices


#: Number of pairs of proposal and class that are considered, the most probable ones. With
#: thresholds of at least 0.5, a proposal passes with one class at most: none of 1000 is left out.
CANDIDATES = 1000
#: The same for each proposal, of continuous boxes: all that can exceed 0.05, as in evaluation.
CANDIDATES_EACH = 19
#: Entries beyond the limit, for detections with the score of the last one; more are left out.
ROOM_FOR_EQUALS = 12


def select_detections(
    proposals: ProposalLists,
    logits: Tensor,
    deltas: Tensor,
    *,
    size: tuple[int, int],
    score_threshold: Tensor,
    nms_threshold: float,
    limit: int,
    operators: Operators,
    edge: float = INCLUSIVE,
) -> DetectionLists:
    """Select the detections for the panoptic head.

    Inclusive boxes are suppressed across all classes, and detections with the score of the last one
    are kept, as in the original. Continuous ones are suppressed class by class, up to the limit.

    Args:
        proposals: Proposals of each image, K entries.
        logits: Class logits (B * K, C) of the box head.
        deltas: Raw box deltas (B * K, 4 C).
        size: Height and width of the unpadded images.
        score_threshold: float32 (1,): class probability that must be exceeded.
        nms_threshold: IoU above which the box with the lower score is suppressed.
        limit: Number of detections.
        operators: Operators that suppress boxes.
        edge: Convention of the boxes: see `ops.boxes`.

    Returns:
        Lists of ``limit + ROOM_FOR_EQUALS`` entries, or of ``limit``.
    """
    batch, length = proposals.boxes.shape[:2]
    kinds = logits.shape[1]
    scores = logits.softmax(dim=1).view(batch, length, kinds)
    passes = (scores > score_threshold) & valid_mask(proposals.counts, length)[..., None]
    passes[..., 0] = False  # the background
    candidates = CANDIDATES if edge == INCLUSIVE else CANDIDATES_EACH * length
    counts = passes.flatten(1).sum(dim=1, dtype=torch.int32).clamp(max=candidates)
    scores, order = (
        torch.where(passes, scores, -1.0)
        .flatten(1)
        .sort(dim=1, descending=True, stable=True)  # ties: the earlier proposal, as in the original
    )
    scores, order = scores[:, :candidates], order[:, :candidates]
    table = deltas.view(batch, -1, 4)
    boxes = decode_at(proposals.boxes, table, order, weights=BOX_HEAD_WEIGHTS, size=size, edge=edge)
    found = DetectionLists(boxes, scores, order % kinds, counts)
    if edge == CONTINUOUS:
        kept = operators.suppress(
            boxes, counts, nms_threshold, limit=limit, groups=found.classes, edge=edge
        )
        return found.select(kept.indices.long(), kept.counts)

    length = limit + ROOM_FOR_EQUALS
    kept = operators.suppress(boxes, counts, nms_threshold, limit=length)
    index = kept.indices.long()
    # The padding's scores are zeros, which pass no threshold.
    best = gather_entries(scores, index) * valid_mask(kept.counts, length)
    equals = (best >= best[:, limit - 1 : limit]).sum(dim=1, dtype=torch.int32)
    return found.select(index, torch.minimum(kept.counts, equals))
