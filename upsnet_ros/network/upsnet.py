"""The whole network: one backbone, two heads, and the panoptic head that joins them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from upsnet_ros.errors import SettingsError
from upsnet_ros.network.instance_head import BoxHead, Detections, MaskHead, panoptic_detections
from upsnet_ros.network.panoptic_head import (
    Grid,
    HeadOptions,
    PanopticHead,
    PanopticMaps,
    remove_hidden_masks,
)
from upsnet_ros.network.resnet import ResNet
from upsnet_ros.network.rpn import RPN, select_proposals
from upsnet_ros.network.semantic_head import FPN, STRIDES, GroupNormHead, SemanticHead
from upsnet_ros.network.variants import Variant

#: The stages `UPSNet.forward` announces, in order.
STAGES = ("backbone", "fpn_rpn", "box", "mask", "semantic", "panoptic")

Stage = Callable[[str], AbstractContextManager[object]]


def unmeasured(_: str) -> AbstractContextManager[object]:
    """Measure nothing: a `Stage`."""
    return nullcontext()


@dataclass(frozen=True, slots=True)
class PanopticResult:
    """What the network says about one image.

    Attributes:
        maps: Per-pixel ids and scores, on the grid that was asked for.
        detections: The instances that `maps.panoptic` counts, in its order; N >= 1. Their boxes
            are in pixels of the network's input.
    """

    maps: PanopticMaps
    detections: Detections


class _NoRandomWeights(TorchFunctionMode):
    """Within it, new parameters keep the values that happen to be in their memory."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """See `TorchFunctionMode`; functions of `nn.init` pass all arguments by name."""
        kwargs = kwargs or {}
        if func.__name__ in ("kaiming_uniform_", "kaiming_normal_", "uniform_", "normal_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class UPSNet(nn.Module):
    """UPSNet (Xiong et al., CVPR 2019) under the official parameter names."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        channels, classes = variant.fpn_channels, variant.num_classes
        self.resnet_backbone = ResNet(variant)
        self.fpn = FPN(
            self.resnet_backbone.out_channels, channels=channels, global_average=variant.fpn_gap
        )
        self.rpn = RPN(channels)
        self.rcnn = BoxHead(channels, hidden=variant.box_channels, num_classes=classes)
        self.mask_branch = MaskHead(channels, num_classes=classes)
        self.fcn_head: SemanticHead | GroupNormHead = (
            SemanticHead(
                channels,
                channels=variant.semantic_channels,
                num_layers=variant.semantic_layers,
                num_classes=variant.num_seg_classes,
            )
            if variant.family == "upsnet"
            else GroupNormHead(
                channels, channels=variant.semantic_channels, num_classes=variant.num_seg_classes
            )
        )
        self.eval()

    @classmethod
    def uninitialised(cls, variant: Variant) -> UPSNet:
        """Return a network whose weights have no values yet, for those that are then loaded.

        Random ones take longer than reading a file, and on the device ``meta`` they import all of
        torch's Python decompositions.
        """
        with _NoRandomWeights():
            return cls(variant)

    def propose(self, pyramid: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return proposals (K, 4) and their scores (K,) for an image of unpadded size (h, w)."""
        return select_proposals(
            self.rpn(pyramid),
            STRIDES,
            size=size,
            top_n=self.variant.rpn_top_n,
            nms_threshold=self.variant.rpn_nms_threshold,
        )

    def forward(
        self,
        image: Tensor,
        size: tuple[int, int],
        *,
        score_threshold: float | None = None,
        grid: Grid | None = None,
        options: HeadOptions | None = None,
        stage: Stage = unmeasured,
    ) -> PanopticResult:
        """Segment one image.

        Args:
            image: (1, 3, H, W), BGR less its mean, zero-padded at the bottom and on the right to
                multiples of 32, in the network's dtype and on its device.
            size: Height and width of the unpadded image.
            score_threshold: Class probability an instance must exceed; by default the variant's.
            grid: Pixels on which the panoptic head works; by default those of the unpadded image.
            options: What is asked of the panoptic head.
            stage: Entered with the name of each of `STAGES` while it runs, to measure it.

        Raises:
            SettingsError: The variant has other conventions than UPSNet's.
        """
        variant = self.variant
        if variant.family != "upsnet":
            raise SettingsError(f"{variant.name} has no reference form: run it with a Predictor")
        with stage("backbone"):
            features = self.resnet_backbone(image)
        with stage("fpn_rpn"):
            pyramid = self.fpn(features)
            proposals, _ = self.propose(pyramid, size)
        with stage("box"):
            logits, deltas = self.rcnn(pyramid, proposals)
            detections = panoptic_detections(
                proposals,
                logits,
                deltas,
                size=size,
                score_threshold=(
                    variant.panoptic_score_threshold if score_threshold is None else score_threshold
                ),
                nms_threshold=variant.nms_threshold,
                limit=variant.max_detections,
            )
        with stage("mask"):
            masks = self.mask_branch(pyramid, detections.boxes, detections.classes)
        with stage("semantic"):
            semantic = self.fcn_head(pyramid)[0]
        with stage("panoptic"):
            kept, masks = remove_hidden_masks(
                detections, masks, size=size, threshold=variant.mask_overlap_threshold
            )
            detections = detections[kept]
            head = PanopticHead(
                semantic=semantic,
                detections=detections,
                mask_logits=masks,
                grid=grid or Grid(size),
                num_stuff=variant.num_stuff,
            )
            maps = head.maps(options)
        return PanopticResult(maps, detections)
