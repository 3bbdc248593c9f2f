from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from upsnet_ros.ops import dispatch
from upsnet_ros.ops.boxes import (
    CONTINUOUS,
    INCLUSIVE,
    MAX_LOG_SCALE,
    Weights,
    clip_boxes,
    decode_at,
    decode_at_reference,
    decode_boxes,
)

SIZE = (60, 90)
ONES: Weights = (1.0, 1.0, 1.0, 1.0)
BOX_HEAD: Weights = (10.0, 10.0, 5.0, 5.0)


def make_case(
    device: torch.device | str,
    *,
    lists: int = 2,
    shared: bool = False,
    number: int = 40,
    each: int = 1,
    count: int = 30,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    corner = torch.rand(1 if shared else lists, number, 2, generator=generator) * 60 - 10
    extent = torch.rand(*corner.shape, generator=generator) * 40
    deltas = torch.randn(lists, number * each, 4, generator=generator) * 2
    place = torch.randint(number * each, (lists, count), generator=generator)
    boxes = torch.cat((corner, corner + extent), dim=2)
    return boxes.to(device), deltas.to(device, dtype), place.to(device)


@pytest.mark.parametrize(("each", "shared"), [(1, True), (3, False)])
def test_twin_decodes_box_by_box(each: int, shared: bool) -> None:
    boxes, deltas, place = make_case("cpu", each=each, shared=shared)
    result = decode_at_reference(boxes, deltas, place, weights=BOX_HEAD, size=SIZE)
    for n in range(len(place)):
        for k, at in enumerate(place[n].tolist()):
            box = boxes[0 if shared else n, at // each]
            alone = clip_boxes(decode_boxes(box, deltas[n, at], BOX_HEAD), SIZE)
            torch.testing.assert_close(result[n, k], alone)


def test_boxes_are_clipped_and_do_not_explode() -> None:
    boxes = torch.tensor([[[10.0, 10.0, 19.0, 19.0]]])
    deltas = torch.tensor([[[0.0, 0.0, 100.0, 0.0], [-9.0, 9.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]])
    place = torch.tensor([[0, 1, 2]])
    result = decode_at(boxes, deltas, place, weights=ONES, size=SIZE)[0]
    assert result[0].tolist() == [0.0, 10.0, 89.0, 19.0]
    assert result[1].tolist() == [0.0, 59.0, 0.0, 59.0]
    half = 5 * torch.tensor(0.5).exp().item()
    torch.testing.assert_close(
        result[2], torch.tensor([15 - half, 15 - half, 14 + half, 14 + half])
    )
    unclipped = decode_boxes(boxes[0, 0], deltas[0, 0], ONES)
    torch.testing.assert_close(unclipped[2] - unclipped[0] + 1, torch.tensor(625.0))
    assert MAX_LOG_SCALE < 100


@pytest.mark.parametrize(
    ("geometry", "weights", "edge"),
    [
        ({"shared": True}, ONES, INCLUSIVE),
        ({"each": 3, "count": 200}, BOX_HEAD, INCLUSIVE),
        ({"each": 9, "dtype": torch.float16}, BOX_HEAD, INCLUSIVE),
        ({"shared": True, "lists": 3, "dtype": torch.bfloat16}, ONES, INCLUSIVE),
        ({"lists": 1, "number": 1, "count": 1}, BOX_HEAD, INCLUSIVE),
        ({"each": 3, "count": 200}, BOX_HEAD, CONTINUOUS),
        ({"shared": True}, ONES, CONTINUOUS),
    ],
    ids=str,
)
def test_kernel_equals_the_twin(
    geometry: dict[str, object], weights: Weights, edge: float, device: torch.device
) -> None:
    decode_triton = pytest.importorskip("upsnet_ros.ops.triton.boxes")
    case = make_case(device, **geometry)  # type: ignore[arg-type]
    options = {"weights": weights, "size": SIZE, "edge": edge}
    expected = decode_at_reference(*case, **options)
    result = decode_triton.decode_at(*case, **options, block=64)
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)
    assert expected[..., 0::2].amax() <= SIZE[1] - edge


def test_operator_reads_lists_that_lie_otherwise(device: torch.device) -> None:
    boxes, deltas, place = make_case(device, each=3)
    by_kernel = dispatch.interpreted() if device.type == "cpu" else nullcontext()
    with by_kernel:
        result = decode_at(
            boxes.mT.contiguous().mT,
            deltas.repeat_interleave(2, dim=1)[:, ::2],
            place.mT.contiguous().mT,
            weights=ONES,
            size=SIZE,
        )
    expected = decode_at_reference(boxes, deltas, place, weights=ONES, size=SIZE)
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


def test_shapes_that_do_not_fit_are_named() -> None:
    boxes, deltas, place = make_case("cpu", lists=3)
    for wrong in ((boxes[:2], deltas, place), (boxes, deltas[:, :-1], place)):
        with pytest.raises(ValueError, match=r"must be \(B or 1, N, 4\), \(B, C \* N, 4\)"):
            decode_at(*wrong, weights=ONES, size=SIZE)
