"""What a frame needs of a GPU, stage by stage: FLOPs, bytes, and the least time for them.

Everything is worked out from shapes; nothing runs, and nothing is measured. FLOPs are those of
convolutions and matrix products (two a multiplication). Bytes are those that a stage must move if
every layer reads its input and weights once and writes its output once, with batch norm, ReLU and
additions inside the layer. The least time is the larger of FLOPs over what the chip reaches in
matrix products and bytes over its bandwidth, layer by layer.

    python benchmarks/roofline.py --help
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from upsnet_ros.network.instance_head import BOX_POOL, MASK_POOL
from upsnet_ros.network.semantic_head import STRIDES, DeformConv2d
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import Variant, get_variant

UNMEASURED = "not measured: no GPU"
#: Of half precision.
_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """What a GPU reaches.

    Attributes:
        flops: In half-precision matrix products, per second.
        bandwidth: Of its memory, bytes per second.
        link: To the host from pinned memory, bytes per second.
    """

    flops: float
    bandwidth: float
    link: float


#: H200: what issue 7 says it reaches in bf16, and its data sheet's bandwidth. H100 (SXM): the same
#: multiprocessors, slower memory. The link is PCIe 5 x16 less a tenth for its protocol.
CHIPS = {
    "H200": Chip(flops=790e12, bandwidth=4.8e12, link=57e9),
    "H100": Chip(flops=790e12, bandwidth=3.35e12, link=57e9),
}


@dataclass(slots=True)
class Stage:
    """A stage's layers: FLOPs and bytes of each."""

    name: str
    layers: list[tuple[float, float]] = field(default_factory=list)
    over_link: bool = False

    def add(self, flops: float, moved: float) -> Stage:
        """Add a layer, and return the stage."""
        self.layers.append((flops, moved))
        return self

    def row(self, chip: Chip) -> tuple[str, str, str, str, str, str]:
        """Return name, GFLOP, MB, least microseconds, what bounds it, and the measured time."""
        flops, moved = (sum(column) for column in zip(*self.layers, strict=True))
        width = chip.link if self.over_link else chip.bandwidth
        seconds = sum(max(f / chip.flops, b / width) for f, b in self.layers)
        bound = "link" if self.over_link else "memory"
        if flops / chip.flops > moved / width:
            bound = "products"
        figures = (f"{flops / 1e9:.1f}", f"{moved / 1e6:.1f}", f"{seconds * 1e6:.0f}")
        return (self.name, *figures, bound, UNMEASURED)


def _watch(network: nn.Module, stage: list[Stage]) -> None:
    """Let each layer with weights add itself to the stage that is last in the list."""

    def count(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = layer.weight.numel()
        if isinstance(layer, nn.ConvTranspose2d):
            products = inputs[0].numel() * layer.weight[0].numel()
        else:
            products = output.numel() * layer.weight[0].numel()
        moved = sum(x.numel() for x in inputs) + weight + output.numel()
        stage[-1].add(2.0 * products, float(moved * _BYTES))

    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, DeformConv2d)):
            layer.register_forward_hook(count)


def _deformable(self: DeformConv2d, x: Tensor, offset: Tensor, *, relu: bool) -> Tensor:
    """The shape that a deformable layer returns."""
    return x.new_empty(x.shape[0], self.weight.shape[0], *offset.shape[2:])


def stages_of(variant: Variant, size: tuple[int, int], *, instances: int) -> list[Stage]:
    """Work out all stages of a frame, from the camera's bytes to labels on the host."""
    pixels, proposals = size[0] * size[1], variant.rpn_top_n
    channels, cells = variant.fpn_channels, pixels // STRIDES[0] ** 2
    stages = [
        Stage("upload", over_link=True).add(0, 3 * pixels),
        Stage("camera bytes to input (kernel)").add(0, 3 * pixels * (1 + _BYTES)),
        Stage("backbone"),
    ]
    with torch.device("meta"), torch.inference_mode():
        network = UPSNet(variant)
        DeformConv2d.forward = _deformable  # type: ignore[method-assign]
        _watch(network, stages)
        features = network.resnet_backbone(torch.empty(1, 3, *size))
        stages.append(Stage("FPN"))
        pyramid = network.fpn(features)
        stages.append(Stage("RPN"))
        network.rpn(pyramid)
        anchors = sum(level[0, 0].numel() * 3 for level in pyramid)
        # Scores are read for the best of each level; their overlaps are bits.
        stages.append(
            Stage("proposals and suppression (kernel)").add(
                0, anchors * 4 + len(pyramid) * proposals * (8 * 4 + 2 * proposals / 8)
            )
        )
        features_read = sum(level.numel() for level in pyramid[:4])
        for name, count, bins in (("box", proposals, BOX_POOL), ("mask", instances, MASK_POOL)):
            pooled = count * channels * bins**2
            read = min(features_read, pooled * 16) * _BYTES
            # Eight operations a corner and channel: on the ordinary units, not counted here.
            stages.append(Stage(f"{name} RoIAlign (kernel)").add(0, read + pooled * _BYTES))
            stages.append(Stage(f"{name} head"))
            x = torch.empty(count, channels, bins, bins)
            if name == "box":
                hidden = network.rcnn.fc7(network.rcnn.fc6(x.flatten(1)))
                network.rcnn.cls_score(hidden)
                network.rcnn.bbox_pred(hidden)
            else:
                branch = network.mask_branch
                for conv in (branch.mask_conv1, branch.mask_conv2, branch.mask_conv3):
                    x = conv(x)
                x = branch.mask_deconv1(branch.mask_conv4(x))
                # Each box reads the weights of its own class alone.
                stages[-1].add(2.0 * x.numel(), (x.numel() + count * 28**2) * _BYTES)
        stages.append(Stage("semantic head (kernel, and offsets' convolutions)"))
        network.fcn_head(pyramid)
    classes, masks = variant.num_seg_classes, instances * 28**2 * 4
    semantic = classes * cells * 4
    table = (variant.num_stuff + instances) * 7 * 4
    stages += [
        # Two rounds that count; from the cache, so that only masks and counters are moved.
        Stage("mask removal (kernel)").add(0, 3 * masks),
        Stage("panoptic head (kernel)").add(0, semantic + masks + 2 * 2 * pixels),
        # Both maps twice; labels and the unknown mask.
        Stage("segments and labels (kernels)").add(0, pixels * (2 * 2 * 2 + 4 + 1) + table),
        Stage("download", over_link=True).add(0, pixels * (4 + 1) + table),
    ]
    return stages


def main(
    variant: Annotated[str, typer.Option(help="Network.")] = "cityscapes-r50",
    height: Annotated[int, typer.Option(help="Rows of the input, a multiple of 32.")] = 1024,
    width: Annotated[int, typer.Option(help="Columns of the input, a multiple of 32.")] = 2048,
    instances: Annotated[int, typer.Option(help="Instances in the mask and panoptic heads.")] = 100,
    chip: Annotated[str, typer.Option(help=f"One of {', '.join(CHIPS)}.")] = "H200",
) -> None:
    """Print the table, as Markdown."""
    if chip not in CHIPS:
        raise typer.BadParameter(f"{chip} is not one of {', '.join(CHIPS)}")
    if height % 32 or width % 32:
        raise typer.BadParameter(f"{height}x{width} is no multiple of 32")
    stages = stages_of(get_variant(variant), (height, width), instances=instances)
    total = Stage("**all, but upload and download**")
    for stage in stages:
        total.layers += [] if stage.over_link else stage.layers
    typer.echo(f"| stage | GFLOP | MB | least time on {chip} (µs) | bound by | measured |")
    typer.echo("|---|---|---|---|---|---|")
    for stage in (*stages, total):
        typer.echo(f"| {' | '.join(stage.row(CHIPS[chip]))} |")


if __name__ == "__main__":
    typer.run(main)
