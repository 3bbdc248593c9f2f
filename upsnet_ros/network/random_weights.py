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


def _gain(name: str) -> float:
    return next((gain for pattern, gain in _GAINS if re.search(pattern, name)), 1.0)


def _fan_in(name: str, weight: Tensor) -> int:
    # Every output of the 2x2 deconvolution with stride 2 sees one tap.
    return weight.shape[0] if "deconv" in name else math.prod(weight.shape[1:])


@torch.no_grad()
def draw_weights_(model: nn.Module, *, seed: int) -> None:
    """Fill all parameters and buffers of a UPSNet in place, reproducibly from the seed."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size, std: float) -> Tensor:
        return torch.randn(shape, generator=generator) * std

    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if re.search(r"(bn\d|downsample\.1)\.", name):
            if name.endswith("running_var"):
                tensor.fill_(1)
            elif name.endswith("weight"):
                residual = "bn3" in name or ("bn2" in name and f"{name[:-10]}bn3" not in name)
                tensor.fill_(0.4 if residual else 0.8)
            else:
                tensor.copy_(normal(tensor.shape, 0.1))
        elif tensor.dim() > 1:
            draw = normal(tensor.shape, _gain(name) * math.sqrt(2 / _fan_in(name, tensor)))
            over = (0,) if "deconv" in name else tuple(range(1, tensor.dim()))
            # Without a common mean the sign of a channel does not dominate after ReLU.
            tensor.copy_(draw - draw.mean(dim=over, keepdim=True))
        else:
            tensor.copy_(normal(tensor.shape, 0.3))
    state = model.state_dict()
    state["rpn.cls_score.bias"].sub_(2.5)
    state["mask_branch.mask_score.bias"].add_(0.6)
    # Most proposals are background, some dozens are not.
    state["rcnn.cls_score.bias"][0] += 10.0
