"""From the network's input to labels, for a batch of images of one size, in fixed shapes.

Shapes never depend on what is in a frame: lists of proposals and detections have a fixed length and
a count of valid entries. So images of one size can be batched, the host never waits for the device,
and one CUDA graph can hold everything from the network's input to labels. The reference is
`network.upsnet.UPSNet.forward`, which computes one image at a time with lists of varying length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from upsnet_ros.network.batched_operators import KernelOperators, Operators
from upsnet_ros.network.batched_selection import (
    Anchors,
    DetectionLists,
    ProposalLists,
    gather_entries,
    select_detections,
    select_proposals,
    valid_mask,
)
from upsnet_ros.network.instance_head import BOX_POOL, MASK_POOL
from upsnet_ros.network.panoptic_head import Grid, HeadOptions
from upsnet_ros.network.panoptic_logits import are_finite
from upsnet_ros.network.semantic_head import STRIDES
from upsnet_ros.network.upsnet import Stage, UPSNet, unmeasured
from upsnet_ros.network.variants import Merge
from upsnet_ros.ops.dispatch import is_interpreted, switched_on
from upsnet_ros.ops.panoptic import SEMANTIC_STRIDE, HeadMaps
from upsnet_ros.ops.segments import ClassMap, SegmentTable

#: Public id of pixels that the semantic head calls a thing but no instance covers; 0 in `labels`.
UNLABELLED = 255
#: If set to 1, CUDA graphs run the semantic head on its own stream, beside the instance heads.
SEMANTIC_STREAM = "UPSNET_SEMANTIC_STREAM"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes that all images of one path share.

    Attributes:
        batch: Number of images.
        padded: Height and width of the network's input.
        size: Height and width of the images without padding.
        grid: Pixels of the panoptic head.
    """

    batch: int
    padded: tuple[int, int]
    size: tuple[int, int]
    grid: Grid


@dataclass(frozen=True, slots=True)
class BatchedResult:
    """Results of a batch.

    Attributes:
        segments: Labels and segments at the camera's size.
        detections: Detections in the order of the table's rows.
        maps: Maps of the panoptic head, on its grid.
        finite: bool (B,), whether the logits of each image are finite; otherwise its results are
            meaningless.
    """

    segments: SegmentTable
    detections: DetectionLists
    maps: HeadMaps
    finite: Tensor


class BatchedPath:
    """UPSNet on batches of one size.

    Args:
        network: Network in evaluation mode, on its device.
        sizes: Sizes of the images.
        rows: int64 (H,), which row of the grid each row of the camera's image shows; on the device.
        columns: int64 (W,), the same for columns.
        public_ids: int64 (S,), public id of each semantic id of the result; on the device.
        class_map: Map from the network's classes to those of the result; None if they are the same.
        merge: How the heads' results are merged; by default the variant's method.
        operators: Operators; by default those for the device.
    """

    def __init__(
        self,
        network: UPSNet,
        *,
        sizes: Sizes,
        rows: Tensor,
        columns: Tensor,
        public_ids: Tensor,
        class_map: ClassMap | None = None,
        merge: Merge | None = None,
        operators: Operators | None = None,
    ) -> None:
        device = rows.device
        on_cpu = device.type == "cpu" and not is_interpreted()
        on_device: Operators = Operators() if on_cpu else KernelOperators()
        self._network, self._sizes = network, sizes
        self._merge = merge or network.variant.merge
        self._class_map = class_map
        if network.variant.merged_things or class_map is not None:
            # Things without an instance, and unmapped classes, have an id of their own.
            public_ids = torch.cat((public_ids, public_ids.new_full((1,), UNLABELLED)))
        self._operators = operators or on_device
        self._rows, self._columns, self._public_ids = rows, columns, public_ids
        self._forks = switched_on(SEMANTIC_STREAM, default=False)
        cells = _cells(sizes.padded, SEMANTIC_STRIDE)
        self._tables = sizes.grid.tables(cells, device)
        # Computed once, because they are copied from the host.
        self._anchors = Anchors.from_sizes(
            [_cells(sizes.padded, stride) for stride in STRIDES],
            STRIDES,
            top_n=network.variant.rpn_top_n,
            device=device,
            edge=network.variant.box_edge,
        )

    def __call__(
        self,
        images: Tensor,
        *,
        score_threshold: Tensor,
        unknown_margin: Tensor,
        options: HeadOptions,
        stage: Stage = unmeasured,
    ) -> BatchedResult:
        """Segment a batch.

        Args:
            images: (B, 3, H, W), as for `UPSNet.forward`.
            score_threshold: float32 (1,): class probability an instance must exceed.
            unknown_margin: float32 (1,): by how much the unknown channel must lead; replaces that
                of the options.
            options: Options of the panoptic head.
            stage: Context manager entered with the name of each of `upsnet.STAGES` while it runs.
        """
        network, operators, sizes = self._network, self._operators, self._sizes
        variant = network.variant
        with stage("backbone"):
            features = network.resnet_backbone(images)
        with stage("fpn_rpn"):
            pyramid = network.fpn(features)
            semantic_of = self._semantic(pyramid)
            proposals = self._propose(pyramid)
        with stage("box"):
            pooled = operators.pool(
                pyramid, proposals.boxes, proposals.counts, BOX_POOL, edge=variant.box_edge
            )
            logits, deltas = network.rcnn.classify(pooled)
            detections = select_detections(
                proposals,
                logits,
                deltas,
                size=sizes.size,
                score_threshold=score_threshold,
                nms_threshold=variant.nms_threshold,
                limit=variant.max_detections,
                operators=operators,
                edge=variant.box_edge,
            )
        with stage("mask"):
            detections = operators.worth_computing(detections)
            pooled = operators.pool(
                pyramid, detections.boxes, detections.counts, MASK_POOL, edge=variant.box_edge
            )
            masks = network.mask_branch.logits(pooled, detections.classes.flatten())
            masks = masks.view(sizes.batch, -1, *masks.shape[1:])
        with stage("semantic"):
            semantic = semantic_of()
        with stage("panoptic"):
            return self._unify(semantic, detections, masks, unknown_margin, options)

    def _semantic(self, pyramid: tuple[Tensor, ...]) -> Callable[[], Tensor]:
        """Return a function that returns the semantic head's logits, which may start here already.

        The semantic head is independent of proposals, boxes and masks, whose chains of small
        launches leave most of a GPU idle. They run side by side only in a CUDA graph's capture:
        otherwise the host is the bottleneck, and memory would be reused for the next frame while
        the other stream still reads it. In a capture, memory freed on one stream is reused on that
        stream only. The caller keeps what both streams use, pyramid and logits, until it has called
        the function, which joins the streams.
        """
        head, device = self._network.fcn_head, pyramid[0].device
        if not (self._forks and pyramid[0].is_cuda and torch.cuda.is_current_stream_capturing()):
            return lambda: head(pyramid)
        main, side = torch.cuda.current_stream(device), _side_stream(device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            semantic: Tensor = head(pyramid)

        def joined() -> Tensor:
            main.wait_stream(side)
            return semantic

        return joined

    def _propose(self, pyramid: tuple[Tensor, ...]) -> ProposalLists:
        variant = self._network.variant
        return select_proposals(
            self._network.rpn(pyramid),
            self._anchors,
            size=self._sizes.size,
            top_n=variant.rpn_top_n,
            nms_threshold=variant.rpn_nms_threshold,
            operators=self._operators,
            edge=variant.box_edge,
        )

    def _unify(
        self,
        semantic: Tensor,
        detections: DetectionLists,
        masks: Tensor,
        unknown_margin: Tensor,
        options: HeadOptions,
    ) -> BatchedResult:
        variant, operators, class_map = self._network.variant, self._operators, self._class_map
        # On a CPU the heads check this before they use the logits.
        finite = are_finite(semantic, masks, detections.classes)
        unify = self._by_heuristic if self._merge == "heuristic" else self._by_panoptic_head
        detections, maps = unify(semantic, detections, masks, unknown_margin, options)
        if variant.merged_things:
            unlabelled = len(self._public_ids if class_map is None else class_map.semantic) - 1
            named = _name_things(maps, detections.classes, variant.num_stuff, unlabelled)
            maps = maps._replace(semantic=named)
        num_stuff, classes = variant.num_stuff, detections.classes
        # Instances that the heuristic accepted keep their class.
        more: dict[str, Any] = {"majority": False} if self._merge == "heuristic" else {}
        if class_map is not None:
            num_stuff = class_map.num_stuff
            classes, more["relabelling"] = class_map.relabelling(classes)
        segments = operators.segments(
            maps.panoptic,
            maps.semantic,
            classes,
            self._public_ids,
            self._rows,
            self._columns,
            num_stuff=num_stuff,
            stuff_area_limit=variant.stuff_area_limit,
            want_semantic=options.confidence,
            **more,
        )
        return BatchedResult(segments, detections, maps, finite)

    def _by_panoptic_head(
        self,
        semantic: Tensor,
        detections: DetectionLists,
        masks: Tensor,
        unknown_margin: Tensor,
        options: HeadOptions,
    ) -> tuple[DetectionLists, HeadMaps]:
        variant, operators, sizes = self._network.variant, self._operators, self._sizes
        inclusive = Grid(sizes.size, edge=variant.box_edge).boxes(detections.boxes)
        accepted = operators.accept(
            replace(detections, boxes=inclusive),
            masks,
            size=sizes.size,
            share=variant.mask_overlap_threshold,
        )
        indices = accepted.indices.long()
        detections = detections.select(indices, accepted.counts)
        stays = valid_mask(accepted.counts, masks.shape[1]) & ~accepted.blank[:, None]
        # All things share one channel: that of the first class.
        merged = variant.merged_things
        placed = replace(detections, classes=detections.classes.clamp(max=1)) if merged else None
        maps = operators.head(
            semantic,
            placed or detections,
            gather_entries(masks, indices) * stays[..., None, None],
            unknown_margin,
            grid=sizes.grid,
            tables=self._tables,
            num_stuff=variant.num_stuff,
            options=options,
        )
        return detections, maps

    def _by_heuristic(
        self,
        semantic: Tensor,
        detections: DetectionLists,
        masks: Tensor,
        unknown_margin: Tensor,
        options: HeadOptions,
    ) -> tuple[DetectionLists, HeadMaps]:
        variant = self._network.variant
        accepted, maps = self._operators.merge(
            semantic,
            detections,
            masks,
            unknown_margin,
            grid=self._sizes.grid,
            tables=self._tables,
            num_stuff=variant.num_stuff,
            share=variant.mask_overlap_threshold,
            options=options,
        )
        return detections.select(accepted.indices.long(), accepted.counts), maps


def _name_things(maps: HeadMaps, classes: Tensor, num_stuff: int, unlabelled: int) -> Tensor:
    """Return the semantic map with things named by the instances they belong to.

    The semantic head has one class for all things. Pixels of things that no instance covers get the
    semantic id `unlabelled`.
    """
    index = (maps.panoptic.long() - num_stuff).clamp(min=0)
    own = num_stuff - 1 + classes.gather(1, index.flatten(1)).view_as(index)
    named = torch.where(maps.panoptic >= num_stuff, own, unlabelled)
    return torch.where(maps.semantic >= num_stuff, named.to(maps.semantic.dtype), maps.semantic)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return a device's second stream of captures; one is enough, as one capture runs at a time.

    It has the priority of the first one, so that nothing else uses it.
    """
    return torch.cuda.Stream(device, priority=-1)


def _cells(padded: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the height and width of a pyramid level."""
    height, width = (-(-side // stride) for side in padded)
    return height, width
