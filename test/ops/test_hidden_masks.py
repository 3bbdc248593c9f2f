"""Mask removal: the reference against the network's, the kernels against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.panoptic_head import remove_hidden_masks
from upsnet_ros.ops.mask_removal import Accepted, accept_masks, accept_masks_reference

hidden_masks_triton = pytest.importorskip("upsnet_ros.ops.triton.mask_removal")

SIZE, BINS, THRESHOLD = (19, 37), 4, 0.3


def make_case(*counts: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Crowded masks of few classes, one of them without pixels, one of one pixel, and padding."""
    generator = torch.Generator().manual_seed(seed)
    batch, total = len(counts), max(counts) + 3
    corner = torch.rand(batch, total, 2, generator=generator) * torch.tensor([15.0, 8.0])
    extent = torch.rand(batch, total, 2, generator=generator) * torch.tensor([21.0, 10.0])
    boxes = torch.cat((corner, corner + extent), dim=2)
    masks = torch.randn(batch, total, BINS, BINS, generator=generator) + 0.8
    masks[:, min(2, total - 1)] = -1
    boxes[:, min(4, total - 1), 2:] = boxes[:, min(4, total - 1), :2]
    kinds = torch.randint(0, 3, (batch, total), generator=generator)
    classes = torch.tensor([1, 40, 80])[kinds]
    return boxes, classes, masks, torch.tensor(counts, dtype=torch.int32)


def make_chain(length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A row of masks, each of which alone would hide more than half of the next."""
    left = torch.arange(float(length)) * 4
    boxes = torch.stack((left, left * 0, left + 9, left * 0 + 9), dim=1)[None]
    masks = torch.ones(1, length, BINS, BINS)
    classes = torch.ones(1, length, dtype=torch.int64)
    numbers = torch.tensor([length], dtype=torch.int32)
    return boxes.to(device), classes.to(device), masks.to(device), numbers.to(device)


def assert_same(result: Accepted, expected: Accepted) -> None:
    for name, got, want in zip(expected._fields, result, expected, strict=True):
        assert torch.equal(got, want) and got.dtype == want.dtype, name


@pytest.mark.parametrize("seed", range(4))
def test_the_twin_is_the_networks_removal(seed: int) -> None:
    boxes, classes, masks, numbers = make_case(12, 9, seed=seed)
    result = accept_masks_reference(boxes, classes, masks, numbers, size=SIZE, threshold=THRESHOLD)
    for image, n in enumerate(numbers.tolist()):
        detections = Detections(boxes[image, :n], torch.linspace(1, 0.5, n), classes[image, :n])
        kept, _ = remove_hidden_masks(detections, masks[image, :n], size=SIZE, threshold=THRESHOLD)
        assert result.indices[image, : int(result.counts[image])].tolist() == kept.tolist()
        assert 0 < len(kept) < n - 1 and not result.blank[image]


@pytest.mark.parametrize(
    ("seed", "dtype"), [(0, torch.float32), (1, torch.bfloat16), (3, torch.float16)]
)
def test_kernels_equal_the_twin(seed: int, dtype: torch.dtype, device: torch.device) -> None:
    case = [tensor.to(device) for tensor in make_case(8, 0, seed=seed)]
    case[2] = case[2].to(dtype)
    options = {"size": SIZE, "threshold": THRESHOLD}
    expected = accept_masks_reference(*case, **options)
    assert expected.blank.tolist() == [False, True]
    result = hidden_masks_triton.accept_masks(*case, **options, rounds=3, block=(32, 32))
    assert_same(result, expected)


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_chains_longer_than_the_rounds_are_followed_to_their_end(
    rounds: int, device: torch.device
) -> None:
    """A hides B, B would hide C, C would hide D ..: after two rounds, C is seen to stay."""
    case = make_chain(5, device)
    options = {"size": (12, 32), "threshold": 0.5}
    expected = accept_masks_reference(*case, **options)
    assert expected.indices.tolist() == [[0, 2, 4, 0, 0]]
    result = hidden_masks_triton.accept_masks(*case, **options, rounds=rounds, block=(8, 32))
    assert_same(result, expected)


def test_crowds_are_decided_one_by_one_where_rounds_are_too_few(device: torch.device) -> None:
    case = [tensor.to(device) for tensor in make_case(12, 9, seed=5)]
    case[1].fill_(1)
    options = {"size": SIZE, "threshold": THRESHOLD}
    expected = accept_masks_reference(*case, **options)
    result = hidden_masks_triton.accept_masks(*case, **options, rounds=1, block=(8, 32))
    assert_same(result, expected)


@pytest.mark.parametrize("why", ["none there", "no pixels", "class 0"])
def test_where_none_is_accepted_the_first_stands_in(why: str, device: torch.device) -> None:
    boxes, classes, masks, numbers = make_case(2)
    if why == "none there":
        numbers = numbers * 0
    elif why == "no pixels":
        masks = masks * 0
    else:
        classes = classes * 0
    case = [tensor.to(device) for tensor in (boxes, classes, masks, numbers)]
    for accept in (accept_masks_reference, hidden_masks_triton.accept_masks):
        result = accept(*case, size=SIZE, threshold=THRESHOLD)
        assert result.counts.tolist() == [1] and result.blank.tolist() == [True]
        assert not result.indices.any()


def test_shapes_are_checked() -> None:
    boxes, classes, masks, numbers = make_case(2)
    with pytest.raises(ValueError, match=r"\(1, 5, 4\), \(1, 4\), \(1, 5, 4, 4\), \(1,\)"):
        accept_masks(boxes, classes[:, :4], masks, numbers, size=SIZE, threshold=THRESHOLD)
