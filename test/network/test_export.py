"""The dense part of every variant as programs of `torch.export`."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from torch.export import ExportedProgram

from upsnet_ros.errors import SettingsError
from upsnet_ros.inference.model import draw_weights_
from upsnet_ros.network.export import BoxPart, DensePart, MaskPart, export_parts
from upsnet_ros.network.resnet import fold_batch_norm_
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import VARIANTS, Variant

SIZE = (64, 96)
#: Namespaces of operators that other runtimes know.
KNOWN = {"aten", "torchvision", "builtin", "_operator"}


def _network(variant: Variant) -> UPSNet:
    network = UPSNet(variant)
    draw_weights_(network, seed=0)
    # With random offsets of many cells a deep network turns rounding into other results.
    for name, module in network.named_modules():
        if name.endswith("offset"):
            for parameter in module.parameters():
                parameter.data.mul_(0.1)
    fold_batch_norm_(network)
    return network.requires_grad_(False)


def _namespaces(program: ExportedProgram) -> set[str]:
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    return {str(getattr(node.target, "namespace", node.target.__module__)) for node in calls}


def _check(network: UPSNet) -> dict[str, ExportedProgram]:
    programs = export_parts(network, size=SIZE)
    assert all(_namespaces(program) <= KNOWN for program in programs.values())
    generator = torch.Generator().manual_seed(0)
    channels = network.variant.fpn_channels
    classes = torch.tensor([1, 3, 2])
    pooled = [torch.randn(3, channels, side, side, generator=generator) for side in (7, 14)]
    parts = {
        "dense": (DensePart(network), (100 * torch.randn(1, 3, *SIZE, generator=generator),)),
        "box_head": (BoxPart(network.rcnn), (pooled[0],)),
        "mask_head": (MaskPart(network.mask_branch), (pooled[1], classes)),
    }
    assert programs.keys() == parts.keys()
    for name, (eager, inputs) in parts.items():
        with torch.inference_mode():
            want, got = eager(*inputs), programs[name].module()(*inputs)
        assert want.keys() == got.keys()
        # Deformable convolution is summed in another order; all else is the same to the bit.
        for key, x in want.items():
            atol = 1e-3 * float(x.abs().max())
            torch.testing.assert_close(got[key], x, rtol=0, atol=atol, msg=key)
        assert all(x.abs().max() > 0 for x in want.values())
    return programs


#: One of each kind: others differ in the number of blocks.
KINDS = ("cityscapes-r18", "cityscapes-r50", "coco-r50", "coco-r101-dcn", "coco-fpn-r50")


@pytest.mark.parametrize("name", KINDS)
def test_exported_outputs_are_those_of_the_network(name: str) -> None:
    """With one block a stage, which has every kind of layer; the long test has all blocks."""
    _check(_network(replace(VARIANTS[name], depths=(1, 1, 1, 1))))


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_exported_outputs_with_all_blocks(name: str) -> None:
    _check(_network(VARIANTS[name]))


def test_programs_can_be_saved_and_batched() -> None:
    network = _network(replace(VARIANTS["cityscapes-r18"], depths=(1, 1, 1, 1)))
    program = export_parts(network, size=SIZE, batch=2)["dense"]
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    images = torch.randn(2, 3, *SIZE)
    with torch.inference_mode():
        got = torch.export.load(file).module()(images)
        torch.testing.assert_close(got, DensePart(network)(images), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [(60, 96), (0, 32), (32, 33)])
def test_impossible_sizes(size: tuple[int, int]) -> None:
    network = UPSNet(replace(VARIANTS["cityscapes-r18"], depths=(1, 1, 1, 1)))
    with pytest.raises(SettingsError, match="multiples of 32"):
        export_parts(network, size=size)
