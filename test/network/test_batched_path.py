"""The static path against `UPSNet.forward`, by every form of its operators."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from upsnet_ros.inference.model import draw_weights_
from upsnet_ros.network import batched_operators as by_kernels
from upsnet_ros.network.batched_operators import KERNELS, KernelOperators, Operators
from upsnet_ros.network.batched_path import BatchedPath, BatchedResult, Sizes
from upsnet_ros.network.panoptic_head import Grid, HeadOptions
from upsnet_ros.network.resnet import fold_batch_norm_
from upsnet_ros.network.segments import segment_table
from upsnet_ros.network.upsnet import STAGES, UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.ops import dispatch
from upsnet_ros.ops.camera_input import camera_input, camera_input_reference

PADDED, SIZE, SOURCE = (64, 96), (60, 90), (90, 135)
PUBLIC_IDS = torch.arange(1, 20) * 3
EVERYTHING = HeadOptions(unknown_score=True, confidence=True, max_logit=True)


@pytest.fixture(scope="module")
def network() -> UPSNet:
    # Small in channels too, for Triton's interpreter.
    variant = replace(
        get_variant("cityscapes-r18"),
        fpn_channels=32,
        box_channels=32,
        semantic_channels=16,
        stuff_area_limit=60,
        max_detections=20,
        rpn_top_n=120,
    )
    network = UPSNet(variant)
    draw_weights_(network, seed=2)
    fold_batch_norm_(network)
    return network


def images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    data = torch.randn(count, 3, *PADDED, generator=generator) * 60
    data[:, :, SIZE[0] :] = 0
    data[:, :, :, SIZE[1] :] = 0
    return data.contiguous(memory_format=torch.channels_last)


def path_of(network: UPSNet, batch: int, operators: Operators, grid: Grid) -> BatchedPath:
    rows, columns = ((torch.arange(n) * m) // n for n, m in zip(SOURCE, grid.size, strict=True))
    return BatchedPath(
        network,
        sizes=Sizes(batch=batch, padded=PADDED, size=SIZE, grid=grid),
        rows=rows,
        columns=columns,
        public_ids=PUBLIC_IDS,
        operators=operators,
    )


@torch.inference_mode()
def run(path: BatchedPath, data: Tensor, threshold: float, **options: object) -> BatchedResult:
    return path(
        data,
        score_threshold=torch.tensor([threshold]),
        unknown_margin=torch.tensor([-0.5]),
        options=EVERYTHING,
        **options,
    )


@torch.inference_mode()
def check(
    network: UPSNet, data: Tensor, result: BatchedResult, threshold: float, grid: Grid
) -> int:
    """Compare with the plain network; returns how many instances there are in all.

    Longer lists are multiplied in other blocks, so that a logit may differ in its last bits and a
    pixel on an outline in its label.
    """
    total = 0
    for image in range(len(data)):
        plain = network(
            data[image, None],
            SIZE,
            score_threshold=threshold,
            grid=grid,
            options=replace(EVERYTHING, unknown_margin=-0.5),
        )
        for name in ("panoptic", "semantic"):
            got, want = getattr(result.maps, name)[image], getattr(plain.maps, name)
            assert (got == want).float().mean() > 0.998, name
        for name in ("unknown_score", "confidence", "max_logit"):
            got, want = getattr(result.maps, name)[image], getattr(plain.maps, name)
            close = torch.isclose(got.float(), want.float(), atol=1, rtol=1e-3)
            assert close.float().mean() > 0.998, name
        number = len(plain.detections)
        assert int(result.detections.counts[image]) == number
        classes = result.detections.classes[image]
        assert torch.equal(classes[:number], plain.detections.classes)
        assert not classes[number:].any()
        boxes = result.detections.boxes[image, :number]
        torch.testing.assert_close(boxes, plain.detections.boxes, atol=1e-2, rtol=0)
        rows, columns = ((torch.arange(n) * m) // n for n, m in zip(SOURCE, grid.size, strict=True))
        expected = segment_table(
            result.maps.panoptic[image][rows][:, columns],
            result.maps.semantic[image][rows][:, columns],
            plain.detections.classes,
            PUBLIC_IDS,
            num_stuff=network.variant.num_stuff,
            stuff_area_limit=network.variant.stuff_area_limit,
            want_semantic=True,
        )
        assert torch.equal(result.segments.labels[image], expected.labels)
        assert torch.equal(result.segments.unknown[image], expected.unknown)
        assert result.segments.semantic is not None and expected.semantic is not None
        assert torch.equal(result.segments.semantic[image], expected.semantic)
        table = result.segments.table[image]
        assert torch.equal(table[: len(expected.table)], expected.table)
        assert not table[len(expected.table) :].any()
        total += int((expected.table[network.variant.num_stuff :, 2] > 0).sum())
    return total


@pytest.mark.parametrize("operators", [Operators(), KernelOperators()])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_plain_network(network: UPSNet, operators: Operators, batch: int) -> None:
    grid, data = Grid(SIZE), images(batch)
    result = run(path_of(network, batch, operators, grid), data, 0.3)
    assert check(network, data, result, 0.3, grid) > batch


@pytest.mark.parametrize("operators", [Operators(), KernelOperators()])
def test_finds_nothing_where_the_plain_network_finds_nothing(
    network: UPSNet, operators: Operators
) -> None:
    grid, data = Grid(SIZE), images(2)
    result = run(path_of(network, 2, operators, grid), data, 1.0)
    assert check(network, data, result, 1.0, grid) == 0


@pytest.mark.parametrize("operators", [Operators(), KernelOperators()])
def test_works_on_the_cameras_own_pixels(network: UPSNet, operators: Operators) -> None:
    grid, data = Grid(SOURCE, SIZE[0] / SOURCE[0]), images(1)
    result = run(path_of(network, 1, operators, grid), data, 0.3)
    assert check(network, data, result, 0.3, grid) > 1


@pytest.mark.parametrize("names", [*((name,) for name in KERNELS), KERNELS], ids=str)
def test_equals_the_plain_network_without_some_kernels(
    network: UPSNet, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU without Triton; references, which are no way to compute there, stay out of it."""
    monkeypatch.setattr(by_kernels, "missing", lambda device: names)
    references = {
        "nms": "batched_nms",
        "fpn_roi_align": "fpn_roi_align",
        "hidden_masks": "accept_masks",
        "panoptic": "panoptic_maps",
        "heuristic_merge": "merged_maps",
        "segments": "batched_segment_table",
    }
    for name in names:
        monkeypatch.delattr(by_kernels, references[name])
    grid, data = Grid(SIZE), images(2)
    result = run(path_of(network, 2, KernelOperators(), grid), data, 0.3)
    assert check(network, data, result, 0.3, grid) > 2


def test_stages_are_announced_in_order(network: UPSNet) -> None:
    entered = []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        entered.append(name)
        yield

    run(path_of(network, 1, Operators(), Grid(SIZE)), images(1), 0.3, stage=stage)
    assert tuple(entered) == STAGES


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("head", ["fcn_head", "mask_branch.mask_score"])
def test_an_image_whose_logits_are_not_finite_is_marked(
    network: UPSNet, head: str, value: float
) -> None:
    """As on a GPU, where nothing waits to look at them; the other image is what it was."""
    path, data = path_of(network, 2, KernelOperators(), Grid(SIZE)), images(2)
    expected = run(path, data, 0.3)
    assert expected.finite.tolist() == [True, True]

    def spoil(_module: object, _inputs: object, logits: Tensor) -> Tensor:
        return torch.cat((logits[: len(logits) // 2], logits[len(logits) // 2 :] * value))

    if head == "fcn_head":
        hook = network.fcn_head.register_forward_hook(spoil)
    else:
        hook = network.mask_branch.mask_deconv1.register_forward_hook(spoil)
    try:
        result = run(path, data, 0.3)
    finally:
        hook.remove()
    assert result.finite.tolist() == [True, False]
    assert torch.equal(result.segments.labels[0], expected.segments.labels[0])
    classes = {label // 1000 or label for label in result.segments.labels[1].unique().tolist()}
    assert classes <= {0, *PUBLIC_IDS.tolist()}


class _Kernels(KernelOperators):
    # One program a bin of a box takes the interpreter minutes; test/ops has its comparison.
    pool = Operators.pool


@pytest.mark.long  # the whole network in the interpreter; its parts are tested in test/ops
@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs TRITON_INTERPRET=1, which is set where there is no GPU",
)
def test_equals_the_plain_network_by_kernels_from_camera_bytes_on(network: UPSNet) -> None:
    pytest.importorskip("triton")
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(256, (2, *SOURCE), dtype=torch.uint8, generator=generator)
    camera = {
        "scale": SIZE[0] / SOURCE[0],
        "size": SIZE,
        "padded": PADDED,
        "means": (102.98, 115.95, 122.77),
        "dtype": torch.float32,
    }
    grid = Grid(SIZE)
    with dispatch.interpreted():
        data = camera_input(pixels, "bayer_rggb8", **camera)
        result = run(path_of(network, 2, _Kernels(), grid), data, 0.3)
    assert dispatch.failures() == {}
    expected = camera_input_reference(pixels, "bayer_rggb8", **camera)
    torch.testing.assert_close(data, expected, atol=1e-3, rtol=0)
    assert check(network, expected, result, 0.3, grid) > 2
