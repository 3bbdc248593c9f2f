"""The weights a run starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from upsnet_ros.datasets.taxonomy import COCO
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


@dataclass(frozen=True, slots=True)
class Start:
    """What a network got from the weights it starts from.

    Attributes:
        drawn: Names of its tensors that were drawn at random, because the weights lack them.
        unused: Names of the weights' tensors it has no place for.
    """

    drawn: tuple[str, ...]
    unused: tuple[str, ...]


def load_start_(network: UPSNet, start: StartSettings, *, seed: int) -> Start:
    """Give a network the weights a run starts from, in place.

    Weights of the same variant must fit exactly; of those from elsewhere the backbone must.

    Raises:
        CheckpointError: The weights are missing or do not fit.
    """
    draw_initial_weights_(network, seed=seed)
    if start.kind == "nothing":
        return Start(tuple(network.state_dict()), ())
    assert start.weights is not None  # StartSettings sees to it
    if start.kind == "torchvision":
        assert start.model is not None
        tensors = _read_torchvision(start.model, start.weights)
        return load_torchvision_(network, tensors, source=start.model, seed=seed)
    tensors = read_state_dict(start.weights)
    if start.kind == "caffe":
        return _load_part_(network, backbone_of_resnet(tensors), source=start.weights)
    if network.variant.dataset == "cityscapes" and is_coco(tensors):
        # Networks for COCO have more layers in places, which the published transfer leaves behind.
        transferred = coco_to_cityscapes(tensors, seed=seed)
        return _load_part_(network, transferred, source=start.weights)
    load_state_dict(network, tensors, source=start.weights)
    return Start((), ())


def load_torchvision_(
    network: UPSNet, tensors: Mapping[str, Tensor], *, source: str, seed: int
) -> Start:
    """Give a network what it can use of a torchvision ResNet or Mask R-CNN, in place.

    Raises:
        CheckpointError: The backbones differ.
    """
    if any(name.startswith("roi_heads.") for name in tensors):
        generator = torch.Generator().manual_seed(seed)
        coco_ids = _coco_ids(network.variant)
        part = upsnet_of_mask_rcnn(tensors, coco_ids=coco_ids, generator=generator)
    else:
        part = with_our_pixels(backbone_of_resnet(tensors))
    return _load_part_(network, part, source=source)


def _coco_ids(variant: Variant) -> tuple[int | None, ...]:
    """Return the COCO category id of each class of the box head."""
    things = [info.id for info in COCO.classes[COCO.num_stuff :]]
    if variant.dataset == "coco":
        return (0, *things)
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


def _load_part_(network: UPSNet, part: Mapping[str, Tensor], *, source: str) -> Start:
    """Load the tensors that fit; those of the backbone must, but for deformable offsets."""
    own = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    fitting = {n: t for n, t in part.items() if n in own and t.shape == own[n].shape}
    drawn = tuple(n for n in own if n not in fitting)
    needed = [n for n in drawn if n.startswith("resnet_backbone.") and "_offset." not in n]
    if needed:
        raise CheckpointError(
            f"{source} has another backbone than {network.variant.name}: {needed[0]}"
            + (f" and {len(needed) - 1} more tensors" if len(needed) > 1 else "")
            + " are missing or of another shape"
        )
    network.load_state_dict(fitting, strict=False)
    surplus = (n for n in part if n not in fitting and not n.endswith("num_batches_tracked"))
    return Start(drawn, tuple(surplus))
