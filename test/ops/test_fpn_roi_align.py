"""Pooling from the pyramid: reference against the network's, kernel against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from upsnet_ros.network.instance_head import pool_rois, pyramid_levels
from upsnet_ros.ops.boxes import CONTINUOUS
from upsnet_ros.ops.roi_align import fpn_roi_align, fpn_roi_align_reference, levels_of

fpn_roi_align_triton = pytest.importorskip("upsnet_ros.ops.triton.roi_align")

#: Of every level, on its threshold, over each border, wholly outside, of one pixel.
BOXES = torch.tensor(
    [
        (3.0, 5.0, 30.5, 22.25),
        (0.0, 0.0, 111.0, 111.0),
        (-25.0, -13.0, 250.0, 190.0),
        (10.0, 20.0, 700.0, 600.0),
        (-900.0, -200.0, -700.0, -90.0),
        (8.0, 8.0, 8.0, 8.0),
        (0.0, 0.0, 223.0, 223.0),
        (240.0, 100.0, 260.0, 140.0),  # samples beyond the last pixel, within one of it
    ]
)


def make_pyramid(
    device: torch.device | str, dtype: torch.dtype = torch.float32, *, batch: int = 1
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randn(batch, 5, 128 // stride, 256 // stride, generator=generator).to(device, dtype)
        for stride in (4, 8, 16, 32)
    ]


def make_boxes(device: torch.device | str, *, batch: int = 1) -> Tensor:
    """The boxes, in another order in each image."""
    return torch.stack([BOXES.roll(3 * image, dims=0) for image in range(batch)]).to(device)


def test_levels_are_the_networks() -> None:
    sides = torch.tensor([1.0, 111.9, 112.0, 113.0, 223.0, 224.0, 447.5, 448.0, 3000.0])
    boxes = torch.stack((sides * 0, sides * 0, sides - 1, sides - 1), dim=1)
    assert torch.equal(levels_of(boxes), pyramid_levels(boxes))
    assert levels_of(boxes).unique().tolist() == [0, 1, 2, 3]
    boxes = torch.stack((sides * 0, sides * 0, sides, sides), dim=1)
    levels = levels_of(boxes, edge=CONTINUOUS)
    assert torch.equal(levels, pyramid_levels(boxes, edge=CONTINUOUS))
    assert levels.unique().tolist() == [0, 1, 2, 3]


def test_the_twin_pools_as_the_network_does() -> None:
    pyramid, boxes = make_pyramid("cpu", batch=2), make_boxes("cpu", batch=2)
    expected = [
        pool_rois([level[image : image + 1] for level in pyramid], boxes[image], output_size=3)
        for image in range(2)
    ]
    torch.testing.assert_close(fpn_roi_align_reference(pyramid, boxes, 3), torch.cat(expected))
    expected = [
        pool_rois(
            [level[image : image + 1] for level in pyramid],
            boxes[image],
            output_size=3,
            edge=CONTINUOUS,
        )
        for image in range(2)
    ]
    result = fpn_roi_align_reference(pyramid, boxes, 3, edge=CONTINUOUS)
    torch.testing.assert_close(result, torch.cat(expected))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
    ids=str,
)
def test_kernel_equals_the_twin(dtype: torch.dtype, tolerance: float, device: torch.device) -> None:
    half = dtype != torch.float32
    batch = 2 if half else 1
    pyramid, boxes = make_pyramid(device, dtype, batch=batch), make_boxes(device, batch=batch)
    if half:
        pyramid = [x.contiguous(memory_format=torch.channels_last) for x in pyramid]
    bins, block = 2, 8 if half else 4
    expected = fpn_roi_align_reference(pyramid, boxes, bins)
    result = fpn_roi_align_triton.fpn_roi_align(pyramid, boxes, bins, block=block)
    assert result.dtype == dtype and result.stride() == expected.stride()
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("bins", [1, 3])
def test_continuous_boxes_take_as_many_samples_as_a_bin_spans_cells(
    bins: int, device: torch.device
) -> None:
    """Up to 44 cells a bin at one bin a side; boxes without width, which give zeros, too.

    Each box counts in one image only: a sample takes the interpreter milliseconds.
    """
    pyramid = make_pyramid(device, batch=2)
    boxes = BOXES[torch.tensor([[0, 1, 2, 3, 4, 7], [5, 6, 7, 0, 1, 2]])].to(device)
    boxes[:, 0, 2] = boxes[:, 0, 0]
    numbers = torch.tensor([5, 4], dtype=torch.int32, device=device)
    options = {"counts": numbers, "edge": CONTINUOUS}
    expected = fpn_roi_align_reference(pyramid, boxes, bins, **options)
    result = fpn_roi_align_triton.fpn_roi_align(pyramid, boxes, bins, block=8, **options)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert expected[1].any() and not expected[0].any() and not expected[-2:].any()
    inclusive = fpn_roi_align_reference(pyramid, boxes, bins, counts=numbers)
    assert not torch.allclose(expected[1], inclusive[1], atol=1e-3)


def test_padding_is_pooled_to_zeros(device: torch.device) -> None:
    pyramid, boxes = make_pyramid(device, batch=3), make_boxes(device, batch=3)
    numbers = torch.tensor([2, 0, len(BOXES)], dtype=torch.int32, device=device)
    expected = fpn_roi_align_reference(pyramid, boxes, 1, counts=numbers)
    result = fpn_roi_align_triton.fpn_roi_align(pyramid, boxes, 1, counts=numbers)
    first, second, third = result.split(len(BOXES))
    assert first[:2].any() and not first[2:].any() and not second.any() and third.any()
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_no_boxes(device: torch.device) -> None:
    pyramid, boxes = make_pyramid(device), make_boxes(device)[:, :0]
    assert fpn_roi_align_triton.fpn_roi_align(pyramid, boxes, 7).shape == (0, 5, 7, 7)


def test_shapes_are_checked() -> None:
    pyramid, boxes = make_pyramid("cpu"), make_boxes("cpu")
    with pytest.raises(ValueError, match=r"got 3 levels and \(1, 8, 4\)"):
        fpn_roi_align(pyramid[:3], boxes, 7)
    with pytest.raises(ValueError, match=r"got 4 levels and \(8, 4\)"):
        fpn_roi_align(pyramid, BOXES, 7)
    with pytest.raises(ValueError, match=r"of 2 images, but levels have shapes \[\(1, 5, 32, 64\)"):
        fpn_roi_align(pyramid, boxes.expand(2, -1, -1), 7)
    with pytest.raises(ValueError, match=r"of 1 images, .* counts \(2,\)"):
        fpn_roi_align(pyramid, boxes, 7, counts=torch.zeros(2, dtype=torch.int32))
