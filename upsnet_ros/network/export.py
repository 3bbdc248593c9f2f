"""The network's dense parts as `torch.export` programs, for TensorRT, ONNX and others.

Everything that is of fixed shape and made of plain operators: backbone, FPN, RPN and semantic head
of an image, and the box and mask heads of pooled regions. What is between them (proposals,
RoIAlign, suppression, panoptic head) is in `network.batched_path`.
"""

from __future__ import annotations

from typing import Any

import torch
import torchvision  # noqa: F401  # which tells torch.export the shapes of its operators' results
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from upsnet_ros.errors import SettingsError
from upsnet_ros.network.instance_head import BOX_POOL, MASK_POOL, BoxHead, MaskHead
from upsnet_ros.network.upsnet import UPSNet

#: The network's input is padded to multiples of this.
_MULTIPLE = 32


class DensePart(nn.Module):
    """From the padded image to pyramid, proposals' logits and semantic logits."""

    def __init__(self, network: UPSNet) -> None:
        super().__init__()
        self.resnet_backbone, self.fpn = network.resnet_backbone, network.fpn
        self.rpn, self.fcn_head = network.rpn, network.fcn_head

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return all outputs by name.

        Args:
            image: (B, 3, H, W) as `UPSNet.forward` takes it.

        Returns:
            ``p2`` .. ``p6``: (B, C, H / 4, W / 4) .. (B, C, H / 64, W / 64);
            ``rpn_logits_p2`` ..: (B, 3, h, w), and ``rpn_deltas_p2`` ..: (B, 12, h, w), of each
            level; ``semantic``: (B, S, H / 4, W / 4).
        """
        pyramid = self.fpn(self.resnet_backbone(image))
        outputs = {f"p{level}": x for level, x in enumerate(pyramid, start=2)}
        for level, (logits, deltas) in enumerate(self.rpn(pyramid), start=2):
            outputs[f"rpn_logits_p{level}"] = logits
            outputs[f"rpn_deltas_p{level}"] = deltas
        outputs["semantic"] = self.fcn_head(pyramid)
        return outputs


class BoxPart(nn.Module):
    """The box head."""

    def __init__(self, head: BoxHead) -> None:
        super().__init__()
        self.rcnn = head

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        """Return ``logits`` (K, C) and ``deltas`` (K, 4 C) of regions (K, channels, 7, 7)."""
        logits, deltas = self.rcnn.classify(pooled)
        return {"logits": logits, "deltas": deltas}


class MaskPart(nn.Module):
    """The mask head."""

    def __init__(self, head: MaskHead) -> None:
        super().__init__()
        self.mask_branch = head

    def forward(self, pooled: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Return ``masks``: logits (K, 28, 28) of each region's own class, int64 (K,)."""
        return {"masks": self.mask_branch.logits(pooled, classes)}


def export_parts(
    network: UPSNet, *, size: tuple[int, int], batch: int = 1
) -> dict[str, ExportedProgram]:
    """Return the parts ``dense``, ``box_head`` and ``mask_head`` as exported programs.

    They hold plain operators only, and deformable convolution as ``torchvision::deform_conv2d``.
    The number of regions is dynamic. Batch norms are best folded before
    (`resnet.fold_batch_norm_`).

    Args:
        network: In evaluation mode.
        size: Height and width of the padded image, multiples of 32.
        batch: Images at once.

    Raises:
        SettingsError: The size is not possible.
    """
    if any(side < _MULTIPLE or side % _MULTIPLE for side in size):
        raise SettingsError(f"size {size} must be multiples of {_MULTIPLE}")
    weight = network.rpn.cls_score.weight
    channels = weight.shape[1]

    def tensor(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=weight.dtype, device=weight.device)

    classes = torch.ones(2, dtype=torch.int64, device=weight.device)
    regions = {0: Dim("regions", min=1)}
    parts: dict[str, tuple[nn.Module, tuple[Tensor, ...], Any]] = {
        "dense": (DensePart(network), (tensor(batch, 3, *size),), None),
        "box_head": (
            BoxPart(network.rcnn),
            (tensor(2, channels, BOX_POOL, BOX_POOL),),
            {"pooled": regions},
        ),
        "mask_head": (
            MaskPart(network.mask_branch),
            (tensor(2, channels, MASK_POOL, MASK_POOL), classes),
            {"pooled": regions, "classes": regions},
        ),
    }
    with torch.no_grad():
        return {
            name: torch.export.export(module.eval(), inputs, dynamic_shapes=shapes, strict=False)
            for name, (module, inputs, shapes) in parts.items()
        }
