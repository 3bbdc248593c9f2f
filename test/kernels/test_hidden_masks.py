"""Mask removal: the twin against the network's, the kernels against the twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from upsnet_ros.kernels.hidden_masks import accept_masks, accept_masks_reference
from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.mask_removal import remove_hidden_masks

hidden_masks_triton = pytest.importorskip("upsnet_ros.kernels.hidden_masks_triton")

SIZE, BINS, THRESHOLD = (19, 37), 4, 0.3


def make_case(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Crowded masks of few classes, one of them without pixels, one of one pixel, and padding."""
    generator = torch.Generator().manual_seed(seed)
    total = count + 3
    corner = torch.rand(total, 2, generator=generator) * torch.tensor([15.0, 8.0])
    extent = torch.rand(total, 2, generator=generator) * torch.tensor([21.0, 10.0])
    boxes = torch.cat((corner, corner + extent), dim=1)
    masks = torch.randn(total, BINS, BINS, generator=generator) + 0.8
    masks[min(2, total - 1)] = -1
    boxes[min(4, total - 1), 2:] = boxes[min(4, total - 1), :2]
    classes = torch.tensor([1, 40, 80])[torch.randint(0, 3, (total,), generator=generator)]
    return boxes, classes, masks, torch.tensor([count], dtype=torch.int32)


@pytest.mark.parametrize("seed", range(4))
def test_the_twin_is_the_networks_removal(seed: int) -> None:
    boxes, classes, masks, count = make_case(12, seed=seed)
    n = int(count)
    detections = Detections(boxes[:n], torch.linspace(1, 0.5, n), classes[:n])
    kept, _ = remove_hidden_masks(detections, masks[:n], size=SIZE, threshold=THRESHOLD)
    result = accept_masks_reference(boxes, classes, masks, count, size=SIZE, threshold=THRESHOLD)
    assert result.place[: int(result.number)].tolist() == kept.tolist()
    assert 0 < len(kept) < n - 1 and not result.blank


@pytest.mark.parametrize(
    ("seed", "dtype"), [(0, torch.float32), (1, torch.bfloat16), (3, torch.float16)]
)
def test_kernels_equal_the_twin(seed: int, dtype: torch.dtype, device: torch.device) -> None:
    case = [tensor.to(device) for tensor in make_case(8, seed=seed)]
    case[2] = case[2].to(dtype)
    expected = accept_masks_reference(*case, size=SIZE, threshold=THRESHOLD)
    result = hidden_masks_triton.accept_masks(
        *case, size=SIZE, threshold=THRESHOLD, rounds=4, block=(32, 32)
    )
    for name, got, want in zip(expected._fields, result, expected, strict=True):
        assert torch.equal(got, want) and got.dtype == want.dtype, name


def test_too_few_rounds_are_told(device: torch.device) -> None:
    """A hides B, B would hide C, C would hide D: two rounds see B and C go, and D with them."""
    left = torch.arange(4.0, device=device) * 4
    boxes = torch.stack((left, left * 0, left + 9, left * 0 + 9), dim=1)
    case = (
        boxes,
        torch.ones(4, dtype=torch.int64, device=device),
        torch.ones(4, BINS, BINS, device=device),
        torch.tensor([4], dtype=torch.int32, device=device),
    )
    options = {"size": (12, 32), "threshold": 0.5}
    expected = accept_masks_reference(*case, **options)
    assert expected.place.tolist() == [0, 2, 0, 0]
    short = hidden_masks_triton.accept_masks(*case, **options, rounds=2, block=(16, 32))
    assert not short.settled
    enough = hidden_masks_triton.accept_masks(*case, **options, rounds=4, block=(16, 32))
    assert enough.settled and torch.equal(enough.place, expected.place)


@pytest.mark.parametrize("why", ["none there", "no pixels", "class 0"])
def test_where_none_is_accepted_the_first_stands_in(why: str, device: torch.device) -> None:
    boxes, classes, masks, count = make_case(2)
    if why == "none there":
        count = count * 0
    elif why == "no pixels":
        masks = masks * 0
    else:
        classes = classes * 0
    case = [tensor.to(device) for tensor in (boxes, classes, masks, count)]
    for accept in (accept_masks_reference, hidden_masks_triton.accept_masks):
        result = accept(*case, size=SIZE, threshold=THRESHOLD)
        assert result.number.tolist() == [1] and result.blank.all() and result.settled.all()
        assert not result.place.any()


def test_shapes_are_checked() -> None:
    boxes, classes, masks, count = make_case(2)
    with pytest.raises(ValueError, match=r"\(5, 4\), \(4,\), \(5, 4, 4\)"):
        accept_masks(boxes, classes[:4], masks, count, size=SIZE, threshold=THRESHOLD)
