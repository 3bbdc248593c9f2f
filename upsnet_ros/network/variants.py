"""The published UPSNet configurations, a small one for CPUs, and Panoptic FPN's for photographs.

Figures: Xiong et al., "UPSNet: A Unified Panoptic Segmentation Network", CVPR 2019, and the
configurations published with it; Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019,
as detectron2's model zoo has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from upsnet_ros.errors import SettingsError

#: Whose conventions a network follows: see `Variant.family`.
Family = Literal["upsnet", "panoptic_fpn"]
#: How the two heads' results become one: see `Variant.merge`.
Merge = Literal["upsnet", "heuristic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Everything that shapes one UPSNet network and its inference.

    Attributes:
        name: Public name, e.g. ``cityscapes-r50``.
        dataset: Taxonomy of the classes, ``cityscapes`` or ``coco``.
        num_classes: Thing classes plus background; thing class c runs from 1 to num_classes - 1.
        num_seg_classes: Channels of the semantic head: stuff classes, then thing classes, or one
            channel of all things together (``panoptic_fpn``).
        family: The conventions that the weights were trained with. ``panoptic_fpn`` are those of
            detectron2: continuous boxes, proposals ranked by logits, boxes suppressed class by
            class, RoIAlign with the half-pixel shift and adaptive sampling, Pillow's antialiased
            resizing, results at the camera's own pixels, and a semantic head with group norm and
            one channel for all things.
        block: Residual block of the backbone.
        depths: Blocks in res2 .. res5.
        deformable_stages: Stages (3, 4, 5) whose 3x3 convolutions are deformable.
        fpn_channels: Channels of P2 .. P6 and of RPN and mask head.
        fpn_gap: Whether P5 receives the projected global mean of res5.
        box_channels: Width of the two fully connected layers of the box head.
        semantic_channels: Output channels of the semantic sub-network.
        semantic_layers: Deformable layers of the semantic sub-network.
        scale: Length in pixels to which the image's short side is resized.
        max_size: Upper limit in pixels of the resized long side.
        stuff_area_limit: Stuff segments with fewer pixels become void.
    """

    name: str
    dataset: Literal["cityscapes", "coco"]
    num_classes: int
    num_seg_classes: int
    block: Literal["basic", "bottleneck"] = "bottleneck"
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    deformable_stages: frozenset[int] = frozenset()
    fpn_channels: int = 256
    fpn_gap: bool = False
    family: Family = "upsnet"
    box_channels: int = 1024
    semantic_channels: int = 128
    semantic_layers: int = 2
    scale: int = 1024
    max_size: int = 2048
    stuff_area_limit: int = 2048

    # Common to all published configurations.
    rpn_top_n: int = 1000
    rpn_nms_threshold: float = 0.7
    instance_score_threshold: float = 0.05
    panoptic_score_threshold: float = 0.6
    nms_threshold: float = 0.5
    max_detections: int = 100
    mask_overlap_threshold: float = 0.3

    @property
    def num_stuff(self) -> int:
        """Number of stuff classes: semantic ids 0 .. num_stuff - 1."""
        things = 1 if self.merged_things else self.num_classes - 1
        return self.num_seg_classes - things

    @property
    def merged_things(self) -> bool:
        """Whether the semantic head has one channel for all things, the last one."""
        return self.family == "panoptic_fpn"

    @property
    def box_edge(self) -> float:
        """By how many pixels a box is wider than its corners lie apart: `ops.boxes`."""
        from upsnet_ros.ops.boxes import CONTINUOUS, INCLUSIVE  # and torch

        return CONTINUOUS if self.family == "panoptic_fpn" else INCLUSIVE

    @property
    def merge(self) -> Merge:
        """How the heads' results become one, by default.

        ``upsnet`` is the parameter-free panoptic head, ``heuristic`` the rule of Panoptic FPN:
        instances by descending score, then stuff.
        """
        return "heuristic" if self.family == "panoptic_fpn" else "upsnet"


_CITYSCAPES = {"dataset": "cityscapes", "num_classes": 9, "num_seg_classes": 19}
_COCO = {
    "dataset": "coco",
    "num_classes": 81,
    "num_seg_classes": 133,
    "fpn_gap": True,
    "semantic_layers": 3,
    "scale": 800,
    "max_size": 1333,
    "stuff_area_limit": 4096,
}

_COCO_FPN = {
    "dataset": "coco",
    "num_classes": 81,
    "num_seg_classes": 54,
    "family": "panoptic_fpn",
    "scale": 800,
    "max_size": 1333,
    "stuff_area_limit": 4096,
    "panoptic_score_threshold": 0.5,
    "mask_overlap_threshold": 0.5,
}

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(name="cityscapes-r50", **_CITYSCAPES),  # type: ignore[arg-type]
        Variant(name="cityscapes-r101-coco", depths=(3, 4, 23, 3), **_CITYSCAPES),  # type: ignore[arg-type]
        Variant(name="coco-r50", **_COCO),  # type: ignore[arg-type]
        Variant(
            name="coco-r101-dcn",
            depths=(3, 4, 23, 3),
            deformable_stages=frozenset({3, 4, 5}),
            **_COCO,  # type: ignore[arg-type]
        ),
        Variant(name="coco-fpn-r50", **_COCO_FPN),  # type: ignore[arg-type]
        Variant(name="coco-fpn-r101", depths=(3, 4, 23, 3), **_COCO_FPN),  # type: ignore[arg-type]
        # Ours: 13.4 M parameters, so that half-precision weights stay under 32 MB.
        Variant(
            name="cityscapes-r18",
            block="basic",
            depths=(2, 2, 2, 2),
            fpn_channels=128,
            box_channels=256,
            semantic_channels=64,
            scale=512,
            max_size=1024,
            stuff_area_limit=512,
            **_CITYSCAPES,  # type: ignore[arg-type]
        ),
    )
}


def get_variant(name: str) -> Variant:
    """Return the variant of that name (underscores count as hyphens).

    Raises:
        ValueError: There is no such variant.
    """
    try:
        return VARIANTS[name.replace("_", "-")]
    except KeyError:
        raise SettingsError(
            f"unknown variant {name!r}; choose from {', '.join(VARIANTS)}"
        ) from None


def variants() -> dict[str, Variant]:
    """Return all variants by name; see `Variant` for what each tells of itself."""
    return dict(VARIANTS)
