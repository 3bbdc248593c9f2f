"""Weights of other networks under UPSNet's names: Caffe's ResNets, torchvision's models, COCO's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from upsnet_ros.datasets.taxonomy import COCO
from upsnet_ros.inference.preprocess import PIXEL_MEANS

#: For each Cityscapes class of the box and mask heads the COCO class it takes; 0 is background.
COCO_THING_OF_CITYSCAPES = (0, 1, None, 3, 8, 6, 7, 4, 2)
#: For each Cityscapes class of the semantic head the COCO class it takes. None: none fits.
COCO_SEMANTIC_OF_CITYSCAPES = (
    20, 43, 49, 51, 37, None, 62, None, 36, None, 39, 53, None, 55, 60, 58, 59, 56, 54,
)  # fmt: skip

_INSTANCE_ROWS = ("rcnn.cls_score", "rcnn.bbox_pred", "mask_branch.mask_score")
_SEMANTIC_ROWS = ("fcn_head.score",)

#: torchvision's normalisation of RGB in [0, 1].
_TORCHVISION_MEAN = (0.485, 0.456, 0.406)
_TORCHVISION_STD = (0.229, 0.224, 0.225)
_EPS = 1e-5


def take_rows(
    source: Tensor, rows: Sequence[int | None], *, generator: torch.Generator, group: int = 1
) -> Tensor:
    """Return rows of a tensor in another order.

    Args:
        source: (R * group, ...).
        rows: Which row to take for each row of the result; None draws one from a normal
            distribution with mean and deviation of the whole source.
        generator: Of those draws.
        group: Consecutive entries that make up a row: 4 for boxes.
    """
    grouped = source.unflatten(0, (-1, group))
    drawn = torch.randn((len(rows), *grouped.shape[1:]), generator=generator)
    taken = drawn * source.std() + source.mean()
    for row, from_row in enumerate(rows):
        if from_row is not None:
            taken[row] = grouped[from_row]
    return taken.flatten(0, 1).to(source.dtype)


def coco_to_cityscapes(tensors: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Turn a UPSNet trained on COCO into one with Cityscapes' classes.

    Classes that COCO has too keep their weights; the others are drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    result = dict(tensors)
    for kind in ("weight", "bias"):
        for name in _INSTANCE_ROWS:
            group = 4 if name == "rcnn.bbox_pred" else 1
            key = f"{name}.{kind}"
            result[key] = take_rows(
                tensors[key], COCO_THING_OF_CITYSCAPES, generator=generator, group=group
            )
        for name in _SEMANTIC_ROWS:
            key = f"{name}.{kind}"
            result[key] = take_rows(tensors[key], COCO_SEMANTIC_OF_CITYSCAPES, generator=generator)
    return result


def is_coco(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are those of a UPSNet with COCO's classes."""
    things, pixels = tensors.get("rcnn.cls_score.bias"), tensors.get("fcn_head.score.bias")
    return (
        things is not None
        and pixels is not None
        and len(things) == COCO.num_things + 1
        and len(pixels) == COCO.num_classes
    )


def backbone_of_resnet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a classification ResNet's tensors; its classifier is left out.

    torchvision's bottlenecks have their stride in the 3x3 convolution and UPSNet's in the first
    1x1: the shapes agree, and fine-tuning makes up for the shift.
    """
    renamed = {}
    for name, tensor in tensors.items():
        stage, _, rest = name.partition(".")
        if stage in ("conv1", "bn1"):
            renamed[f"resnet_backbone.conv1.{name}"] = tensor
        elif stage.startswith("layer"):
            renamed[f"resnet_backbone.res{int(stage[5:]) + 1}.layers.{rest}"] = tensor
    return renamed


def with_our_pixels(backbone: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make a backbone for torchvision's pixels take ours: BGR, 0 to 255, other means, no division.

    The first convolution takes in the deviations and the order of channels; the difference of the
    means becomes a constant of its outputs, which the norm's mean takes in. Only the zero padding
    at the image's border, a grey of other lightness, is not quite the same.
    """
    conv, mean = "resnet_backbone.conv1.conv1.weight", "resnet_backbone.conv1.bn1.running_mean"
    deviation = 255 * torch.tensor(_TORCHVISION_STD).view(1, 3, 1, 1)
    weight = (backbone[conv] / deviation).flip(1)
    theirs = 255 * torch.tensor(_TORCHVISION_MEAN).flip(0)
    shift = torch.from_numpy(PIXEL_MEANS).float() - theirs
    constant = (weight.sum(dim=(2, 3)) * shift).sum(dim=1)
    return dict(backbone) | {conv: weight, mean: backbone[mean] - constant}


def without_epsilon(backbone: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Correct frozen norms that were trained with epsilon 0 for one of 1e-5.

    torchvision's COCO detectors run their backbone's norms that way.
    """
    result = dict(backbone)
    for name, variance in backbone.items():
        if name.endswith("running_var"):
            weight = name.removesuffix("running_var") + "weight"
            safe = variance.clamp(min=1e-12)
            result[weight] = backbone[weight] * torch.sqrt((variance + _EPS) / safe)
    return result


def upsnet_of_mask_rcnn(
    tensors: Mapping[str, Tensor], *, coco_ids: Sequence[int | None], generator: torch.Generator
) -> dict[str, Tensor]:
    """Rename a torchvision Mask R-CNN's tensors; the semantic head stays without.

    Args:
        tensors: Of ``maskrcnn_resnet50_fpn``.
        coco_ids: For each class of the box and mask heads the COCO category id, 0 for background,
            or None where COCO has no such class.
        generator: Of the rows drawn for those.
    """
    prefix = "backbone.body."
    body = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    result = with_our_pixels(without_epsilon(backbone_of_resnet(body)))
    names = {"rpn.head.conv.0.0": "rpn.conv_proposal.0", "rpn.head.cls_logits": "rpn.cls_score"}
    names |= {"rpn.head.bbox_pred": "rpn.bbox_pred"}
    for level in range(4):
        names[f"backbone.fpn.inner_blocks.{level}.0"] = f"fpn.fpn_p{level + 2}_1x1"
        names[f"backbone.fpn.layer_blocks.{level}.0"] = f"fpn.fpn_p{level + 2}"
        names[f"roi_heads.mask_head.{level}.0"] = f"mask_branch.mask_conv{level + 1}.0"
    names["roi_heads.box_head.fc6"] = "rcnn.fc6.0"
    names["roi_heads.box_head.fc7"] = "rcnn.fc7.0"
    names["roi_heads.mask_predictor.conv5_mask"] = "mask_branch.mask_deconv1.0"
    by_class = {
        "roi_heads.box_predictor.cls_score": ("rcnn.cls_score", 1),
        "roi_heads.box_predictor.bbox_pred": ("rcnn.bbox_pred", 4),
        "roi_heads.mask_predictor.mask_fcn_logits": ("mask_branch.mask_score", 1),
    }
    for kind in ("weight", "bias"):
        for theirs, ours in names.items():
            result[f"{ours}.{kind}"] = tensors[f"{theirs}.{kind}"]
        for theirs, (ours, group) in by_class.items():
            result[f"{ours}.{kind}"] = take_rows(
                tensors[f"{theirs}.{kind}"], coco_ids, generator=generator, group=group
            )
    return result
