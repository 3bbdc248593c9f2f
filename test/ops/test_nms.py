"""NMS of padded lists: the reference against torchvision's, the kernel against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from upsnet_ros.ops import boxes as ops_boxes
from upsnet_ros.ops.boxes import CONTINUOUS, INCLUSIVE, batched_nms, batched_nms_reference, nms

nms_triton = pytest.importorskip("upsnet_ros.ops.triton.boxes")


def make_boxes(batch: int, count: int, *, seed: int = 0) -> Tensor:
    """Boxes that crowd; some of one pixel, some equal, some inside out."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, count, 2, generator=generator) * 40
    extent = torch.rand(batch, count, 2, generator=generator) * 25
    boxes = torch.cat((corner, corner + extent), dim=2)
    boxes[:, ::7, 2:] = boxes[:, ::7, :2]
    boxes[:, 1::9] = boxes[:, :1]
    boxes[:, 5::11, 2:] = boxes[:, 5::11, :2] - 3
    return boxes


@pytest.mark.parametrize("edge", [INCLUSIVE, CONTINUOUS])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_twin_is_the_networks_suppression(grouped: bool, edge: float) -> None:
    boxes = make_boxes(2, 60)
    boxes[:, 5::11, 2:] += 4  # torchvision gives areas below zero another sign
    groups = torch.arange(60).expand(2, -1) % 3 if grouped else None
    numbers = torch.tensor([60, 41], dtype=torch.int32)
    result = batched_nms_reference(boxes, numbers, 0.4, limit=60, groups=groups, edge=edge)
    for image, number in enumerate(numbers.tolist()):
        scores = torch.linspace(1, 0, number)
        own = None if groups is None else groups[image, :number]
        expected = nms(boxes[image, :number], scores, 0.4, groups=own, edge=edge)
        kept = int(result.counts[image])
        assert result.indices[image, :kept].tolist() == expected.tolist()
        assert not result.indices[image, kept:].any()


@pytest.mark.parametrize(
    ("count", "numbers", "limit"),
    [
        (70, [70, 33, 0], 70),
        (64, [64, 64, 1], 5),
        (3, [3, 2, 9], 8),
    ],
)
@pytest.mark.parametrize(
    ("grouped", "edge"), [(False, INCLUSIVE), (True, INCLUSIVE), (True, CONTINUOUS)]
)
def test_kernel_equals_the_twin(
    count: int, numbers: list[int], limit: int, grouped: bool, edge: float, device: torch.device
) -> None:
    boxes = make_boxes(3, count, seed=count).to(device)
    valid = torch.tensor(numbers, dtype=torch.int32, device=device)
    groups = torch.arange(count, device=device).expand(3, -1) % 3 if grouped else None
    options = {"limit": limit, "groups": groups, "edge": edge}
    expected = batched_nms_reference(boxes, valid, 0.4, **options)
    result = nms_triton.batched_nms(boxes, valid, 0.4, **options)
    assert torch.equal(result.indices, expected.indices)
    assert torch.equal(result.counts, expected.counts)
    assert result.indices.dtype == result.counts.dtype == torch.int32


@pytest.mark.parametrize(
    ("grouped", "edge", "limit"),
    [(True, CONTINUOUS, 12), (True, INCLUSIVE, 100), (False, CONTINUOUS, 100)],
)
def test_long_lists_are_walked_along_until_the_limit(
    grouped: bool, edge: float, limit: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As lists of more than 1024 are; here shorter ones, as the interpreter is slow."""
    monkeypatch.setattr(nms_triton, "LARGEST_LIST", 64)
    boxes = make_boxes(3, 150, seed=2).to(device)
    valid = torch.tensor([150, 40, 0], dtype=torch.int32, device=device)
    groups = torch.arange(150, device=device).expand(3, -1) % 4 if grouped else None
    options = {"limit": limit, "groups": groups, "edge": edge}
    expected = batched_nms_reference(boxes, valid, 0.4, **options)
    result = nms_triton.batched_nms(boxes, valid, 0.4, **options)
    assert torch.equal(result.indices, expected.indices)
    assert torch.equal(result.counts, expected.counts)
    assert int(expected.counts[0]) == 12 or limit == 100
    # The reference stops early too.
    monkeypatch.setattr(ops_boxes, "LARGEST_LIST", 64)
    early = batched_nms_reference(boxes, valid, 0.4, **options)
    assert torch.equal(early.indices, expected.indices) and torch.equal(
        early.counts, expected.counts
    )
    assert result.indices.dtype == result.counts.dtype == torch.int32


def test_a_chain_of_decisions_is_followed_to_its_end(device: torch.device) -> None:
    """Each box overlaps the next alone, so that every second one stays: as many rounds as boxes."""
    left = torch.arange(40.0, device=device) * 4
    boxes = torch.stack((left, left * 0, left + 7, left * 0 + 9), dim=1)[None]
    numbers = torch.tensor([40], dtype=torch.int32, device=device)
    result = nms_triton.batched_nms(boxes, numbers, 0.3, limit=40)
    assert result.indices[0, :20].tolist() == list(range(0, 40, 2))
    assert result.counts.tolist() == [20]


def test_no_boxes_and_an_overlap_of_just_the_threshold(device: torch.device) -> None:
    numbers = torch.zeros(2, dtype=torch.int32, device=device)
    empty = nms_triton.batched_nms(torch.empty(2, 0, 4, device=device), numbers, 0.5, limit=3)
    assert empty.indices.tolist() == [[0, 0, 0]] * 2 and empty.counts.tolist() == [0, 0]
    # 4x8 pixels of 8x8: half of it, which must be exceeded.
    boxes = torch.tensor([[[0.0, 0.0, 7.0, 7.0], [0.0, 0.0, 3.0, 7.0]]], device=device)
    result = nms_triton.batched_nms(boxes, numbers[:1] + 2, 0.5, limit=2)
    assert result.counts.tolist() == [2]


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"shapes \(5, 4\) and \(5,\)"):
        batched_nms(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int32), 0.5, limit=5)
