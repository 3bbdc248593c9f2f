"""Weights drawn at random under which frames still show segments, for demos and benchmarks.

Fresh initialisation makes every pixel one class and every box background. These draws keep
activations near 1 through the whole network, so that all stages have their usual work to do.
The segments mean nothing.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn

#: Gain over He initialisation of weights whose names match; the first match counts.
_GAINS = (
    (r"resnet_backbone\.conv1\.", 0.02),  # images are not divided by their deviation
    (r"conv2_offset\.weight", 1.6),
    (r"fpn_gap\.", 0.3),
    (r"fpn_p5_1x1\.", 2.0),
    (r"fpn_p3_1x1\.", 0.6),
    (r"fpn_p2_1x1\.", 0.5),
    (r"fpn_p\d\.", 0.7),
    (r"rpn\.cls_score\.", 0.8),
    (r"rpn\.bbox_pred\.", 0.15),
    (r"rcnn\.fc\d\.", 1.3),
    (r"rcnn\.cls_score\.", 1.6),
    (r"rcnn\.bbox_pred\.", 0.6),
    (r"mask_score\.", 4.0),
    (r"conv_offset\.", 0.6),
    (r"fcn_head\.score\.", 1.5),
)


#: Mean and deviation of biases whose names match; the first match counts.
_BIASES = (
    (r"rpn\.cls_score\.", -2.5, 0.1),
    (r"mask_score\.", 0.6, 0.3),
    (r"(offset|rcnn\.cls_score|fcn_head\.score)\.", 0.0, 0.3),
    (r"", 0.0, 0.05),
)
#: Lead of the background class: most proposals are background, some dozens are not.
_BACKGROUND = 10.0
_BATCH_NORM_SCALE = 0.8


def _gain(name: str) -> float:
    return next((gain for pattern, gain in _GAINS if re.search(pattern, name)), 1.0)


def _fan_in(name: str, weight: Tensor) -> int:
    # Every output of the 2x2 deconvolution with stride 2 sees one tap.
    return weight.shape[0] if "deconv" in name else math.prod(weight.shape[1:])


def _draw(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    normal = torch.randn(tensor.shape, generator=generator)
    if re.search(r"(bn\d|downsample\.1)\.", name):
        kind = name.rpartition(".")[2]
        if kind == "running_var":
            return torch.ones_like(tensor)
        if kind == "weight":
            return torch.full_like(tensor, _BATCH_NORM_SCALE)
        return 0.1 * normal
    if tensor.dim() > 1:
        normal *= _gain(name) * math.sqrt(2 / _fan_in(name, tensor))
        inputs = (0,) if "deconv" in name else tuple(range(1, tensor.dim()))
        # Behind a ReLU all inputs are positive: a row with a mean would have one sign everywhere.
        return normal - normal.mean(dim=inputs, keepdim=True)
    mean, std = next((m, s) for pattern, m, s in _BIASES if re.search(pattern, name))
    normal = mean + std * normal
    if name.endswith("rcnn.cls_score.bias"):
        normal[0] += _BACKGROUND
    return normal


@torch.no_grad()
def draw_weights_(model: nn.Module, *, seed: int) -> None:
    """Fill all parameters and buffers in place, reproducibly from the seed.

    Args:
        model: A UPSNet or a part of one.
        seed: Of the draws, which also depend on the order of the tensors.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(_draw(name, tensor, generator))
