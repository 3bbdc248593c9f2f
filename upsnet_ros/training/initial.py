"""The weights a run starts from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torchvision
from torch import Tensor, nn

from upsnet_ros.datasets.taxonomy import COCO, get_taxonomy
from upsnet_ros.network.checkpoint import CheckpointError, load_state_dict, read_state_dict
from upsnet_ros.network.deform import DeformConv2d
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import Variant
from upsnet_ros.training.run_settings import StartSettings
from upsnet_ros.training.transfer import (
    COCO_THING_OF_CITYSCAPES,
    backbone_of_resnet,
    coco_to_cityscapes,
    is_coco,
    upsnet_of_mask_rcnn,
    with_our_pixels,
)

#: Output layers begin near zero, so that the first losses are those of not knowing.
_OUTPUT_DEVIATIONS = {
    "rpn.cls_score": 0.01,
    "rpn.bbox_pred": 0.01,
    "rcnn.cls_score": 0.01,
    "rcnn.bbox_pred": 0.001,
    "mask_branch.mask_score": 0.01,
    "fcn_head.score": 0.01,
}


@torch.no_grad()
def draw_initial_weights_(network: UPSNet, *, seed: int) -> None:
    """Draw weights to train from nothing, in place (He et al., ICCV 2015).

    Norms start as the identity, offsets of deformable convolutions at zero.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            module.reset_running_stats()
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | DeformConv2d):
            if name in _OUTPUT_DEVIATIONS:
                deviation = _OUTPUT_DEVIATIONS[name]
                module.weight.normal_(0, deviation, generator=generator)
            elif name.endswith("_offset"):
                module.weight.zero_()
            else:
                # Without a ReLU behind it, the pyramid keeps variances with half of He's.
                gain = 1.0 if name.startswith("fpn.") else 2.0
                fan_in = module.weight[0].numel()
                if isinstance(module, nn.ConvTranspose2d):
                    fan_in = module.weight.shape[0]  # stride is the kernel's size: one tap each
                module.weight.normal_(0, (gain / fan_in) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.zero_()


def load_start_(network: UPSNet, start: StartSettings, *, seed: int) -> None:
    """Give a network the weights a run starts from, in place.

    Raises:
        CheckpointError: The weights are missing or do not fit.
    """
    draw_initial_weights_(network, seed=seed)
    if start.kind == "nothing":
        return
    assert start.weights is not None  # StartSettings sees to it
    if start.kind == "torchvision":
        assert start.model is not None
        tensors = _read_torchvision(start.model, start.weights)
        load_torchvision_(network, tensors, source=f"torchvision's {start.model}", seed=seed)
        return
    tensors = read_state_dict(start.weights)
    if start.kind == "caffe":
        _load_part_(network, backbone_of_resnet(tensors), source=start.weights)
        return
    if network.variant.dataset == "cityscapes" and is_coco(tensors):
        tensors = coco_to_cityscapes(tensors, seed=seed)
    load_state_dict(network, tensors, source=start.weights)


def load_torchvision_(
    network: UPSNet, tensors: Mapping[str, Tensor], *, source: str, seed: int
) -> None:
    """Give a network what it can use of a torchvision ResNet or Mask R-CNN, in place.

    Raises:
        CheckpointError: The backbones differ.
    """
    if any(name.startswith("roi_heads.") for name in tensors):
        generator = torch.Generator().manual_seed(seed)
        part = upsnet_of_mask_rcnn(
            tensors, coco_ids=_coco_ids(network.variant), generator=generator
        )
    else:
        part = with_our_pixels(backbone_of_resnet(tensors))
    _load_part_(network, part, source=source)


def _coco_ids(variant: Variant) -> tuple[int | None, ...]:
    """Return the COCO category id of each class of the box head."""
    things = [info.id for info in COCO.classes[COCO.num_stuff :]]
    if variant.dataset == "coco":
        return (0, *things)
    assert get_taxonomy(variant.dataset).num_things + 1 == len(COCO_THING_OF_CITYSCAPES)
    return tuple(things[c - 1] if c else c for c in COCO_THING_OF_CITYSCAPES)


def _read_torchvision(model: str, weights: str) -> Mapping[str, Tensor]:
    try:
        builder = torchvision.models.get_model_builder(model)
        chosen = torchvision.models.get_model_weights(builder)[weights]
    except (KeyError, ValueError):
        raise CheckpointError(
            f"torchvision has no model {model!r} with weights {weights!r}"
        ) from None
    return chosen.get_state_dict(progress=True, check_hash=True)


def _load_part_(network: UPSNet, part: Mapping[str, Tensor], *, source: str) -> None:
    """Load tensors for some of the modules; the backbone must be whole."""
    own = network.state_dict()
    # Offsets of deformable stages and tensors of older or newer norms have no counterpart.
    needed = {
        name
        for name in own
        if name.startswith("resnet_backbone.")
        and "_offset" not in name
        and not name.endswith("num_batches_tracked")
    }
    known = {name: t for name, t in part.items() if not name.endswith("num_batches_tracked")}
    wrong = sorted(
        {*(needed - known.keys()), *(known.keys() - own.keys())}
        | {name for name in known.keys() & own.keys() if known[name].shape != own[name].shape}
    )
    if wrong:
        raise CheckpointError(
            f"{source} does not fit {network.variant.name}: {wrong[0]} and {len(wrong) - 1} more"
            " tensors are missing, surplus or of another shape"
        )
    network.load_state_dict(known, strict=False)
