"""From the network's input to labels, for a batch of images of one size."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from upsnet_ros.kernels.panoptic import HeadMaps
from upsnet_ros.kernels.segments import SegmentTable
from upsnet_ros.network.fpn import STRIDES
from upsnet_ros.network.instance_head import BOX_POOL, MASK_POOL
from upsnet_ros.network.panoptic_head import Grid, HeadOptions
from upsnet_ros.network.static.by_kernels import KernelOperators
from upsnet_ros.network.static.detections import select_detections
from upsnet_ros.network.static.lists import DetectionLists, ProposalLists, take, there
from upsnet_ros.network.static.on_cpu import CpuOperators
from upsnet_ros.network.static.operators import Operators
from upsnet_ros.network.static.proposals import Anchors, select_proposals
from upsnet_ros.network.upsnet import Stage, UPSNet, unmeasured


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What is the same for all images that one path takes.

    Attributes:
        batch: Images at once.
        padded: Height and width of the network's input.
        size: Height and width of the images in it, without the padding.
        grid: Pixels on which the panoptic head works.
    """

    batch: int
    padded: tuple[int, int]
    size: tuple[int, int]
    grid: Grid


@dataclass(frozen=True, slots=True)
class StaticResult:
    """What the network says about a batch.

    Attributes:
        segments: Labels and segments at the camera's size.
        detections: Those that the table's rows count, in its order.
        maps: The panoptic head's, on its grid.
    """

    segments: SegmentTable
    detections: DetectionLists
    maps: HeadMaps


class StaticPath:
    """UPSNet on batches of one size.

    Args:
        network: In evaluation mode, on its device.
        sizes: Of the images.
        rows: int64 (H,), which row of the grid each row of the camera's image shows; on the device.
        columns: int64 (W,), likewise.
        public_ids: int64 (S,), public id of each semantic id; on the device.
        operators: By default those for the device.
    """

    def __init__(
        self,
        network: UPSNet,
        *,
        sizes: Sizes,
        rows: Tensor,
        columns: Tensor,
        public_ids: Tensor,
        operators: Operators | None = None,
    ) -> None:
        device = rows.device
        on_device: Operators = CpuOperators() if device.type == "cpu" else KernelOperators()
        self._network, self._sizes = network, sizes
        self._operators = operators or on_device
        self._rows, self._columns, self._public_ids = rows, columns, public_ids
        # Once for all frames: they are copied from the host.
        self._anchors = Anchors.of(
            [_cells(sizes.padded, stride) for stride in STRIDES],
            STRIDES,
            top_n=network.variant.rpn_top_n,
            device=device,
        )

    def __call__(
        self,
        images: Tensor,
        *,
        score_threshold: Tensor,
        unknown_margin: Tensor,
        options: HeadOptions,
        stage: Stage = unmeasured,
    ) -> StaticResult:
        """Segment a batch.

        Args:
            images: (B, 3, H, W) as `UPSNet.forward` takes one.
            score_threshold: float32 (1,): class probability an instance must exceed.
            unknown_margin: float32 (1,): by how much the unknown channel must lead. It counts, not
                that of the options.
            options: What is asked of the panoptic head.
            stage: Entered with the name of each of `upsnet.STAGES` while it runs.
        """
        network, operators, sizes = self._network, self._operators, self._sizes
        variant = network.variant
        with stage("backbone"):
            features = network.resnet_backbone(images)
        with stage("fpn_rpn"):
            pyramid = network.fpn(features)
            proposals = self._propose(pyramid)
        with stage("box"):
            pooled = operators.pool(pyramid, proposals.boxes, proposals.numbers, BOX_POOL)
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
            )
        with stage("mask"):
            detections = operators.worth_computing(detections)
            pooled = operators.pool(pyramid, detections.boxes, detections.numbers, MASK_POOL)
            masks = network.mask_branch.logits(pooled, detections.classes.flatten())
            masks = masks.view(sizes.batch, -1, *masks.shape[1:])
        with stage("semantic"):
            semantic = network.fcn_head(pyramid)
        with stage("panoptic"):
            return self._unify(semantic, detections, masks, unknown_margin, options)

    def _propose(self, pyramid: tuple[Tensor, ...]) -> ProposalLists:
        variant = self._network.variant
        return select_proposals(
            self._network.rpn(pyramid),
            self._anchors,
            size=self._sizes.size,
            top_n=variant.rpn_top_n,
            nms_threshold=variant.rpn_nms_threshold,
            operators=self._operators,
        )

    def _unify(
        self,
        semantic: Tensor,
        detections: DetectionLists,
        masks: Tensor,
        unknown_margin: Tensor,
        options: HeadOptions,
    ) -> StaticResult:
        variant, operators = self._network.variant, self._operators
        accepted = operators.accept(
            detections,
            masks,
            size=self._sizes.size,
            share=variant.mask_overlap_threshold,
        )
        place = accepted.place.long()
        detections = detections.at(place, accepted.number)
        stays = there(accepted.number, masks.shape[1]) & ~accepted.blank[:, None]
        maps = operators.head(
            semantic,
            detections,
            take(masks, place) * stays[..., None, None],
            unknown_margin,
            grid=self._sizes.grid,
            num_stuff=variant.num_stuff,
            options=options,
        )
        segments = operators.segments(
            maps.panoptic,
            maps.semantic,
            detections.classes,
            self._public_ids,
            self._rows,
            self._columns,
            num_stuff=variant.num_stuff,
            stuff_area_limit=variant.stuff_area_limit,
            want_semantic=options.confidence,
        )
        return StaticResult(segments, detections, maps)


def _cells(padded: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the height and width of a pyramid level."""
    height, width = (-(-side // stride) for side in padded)
    return height, width
