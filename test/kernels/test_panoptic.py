"""The panoptic head in one pass: the twin against the network, the kernel against the twin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from upsnet_ros.kernels.panoptic import UNKNOWN, HeadMaps, panoptic_maps, panoptic_maps_reference
from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.panoptic_head import Grid, HeadOptions, PanopticHead

panoptic_triton = pytest.importorskip("upsnet_ros.kernels.panoptic_triton")

STUFF, CLASSES, BINS = 3, 5, 4
ALL = {"unknown_score": True, "confidence": True, "max_logit": True}
#: Corners inside the grid of 21 x 45: whole pixels and halves, one pixel, one line, all of it.
BOXES = [
    (3.0, 2.5, 30.5, 14.5),
    (10.25, 4.0, 20.75, 19.5),
    (44.0, 20.0, 44.0, 20.0),
    (0.0, 7.5, 44.0, 7.5),
    (5.5, 5.5, 5.5, 6.49),
    (0.0, 0.0, 44.0, 20.0),
]


def make_case(count: int, *, padded: int = 7, seed: int = 0) -> tuple[Tensor, ...]:
    """Logits are multiples of 1/8, so that sums are exact, and equals come in numbers."""
    generator = torch.Generator().manual_seed(seed)

    def eighths(*shape: int) -> Tensor:
        return torch.randint(-24, 25, shape, generator=generator) / 8

    boxes = torch.zeros(padded, 4)
    boxes[:count] = torch.tensor(BOXES[:count] or [(0.0,) * 4])[:count]
    boxes[count:] = torch.tensor((1.0, 1.0, 40.0, 18.0))  # padding that must not be seen
    classes = torch.arange(padded) % (CLASSES - STUFF) + 1
    masks = eighths(padded, BINS, BINS) * 2
    return eighths(CLASSES, 6, 12), boxes, classes, masks, torch.tensor([count], dtype=torch.int32)


def assert_same(result: HeadMaps, expected: HeadMaps, *, ids: float = 1.0) -> None:
    for got, want in ((result.panoptic, expected.panoptic), (result.semantic, expected.semantic)):
        assert got.dtype == torch.int16
        assert (got == want).float().mean() >= ids
    for score, wanted in zip(result[2:4], expected[2:4], strict=True):
        assert score is not None and wanted is not None
        assert (score.int() - wanted.int()).abs().max() <= 1
    assert result.max_logit is not None and expected.max_logit is not None
    torch.testing.assert_close(result.max_logit, expected.max_logit)


@pytest.mark.parametrize("scale", [1.0, 0.7])
@pytest.mark.parametrize("margin", [0.0, -1.5])
def test_the_twin_is_the_networks_head(scale: float, margin: float) -> None:
    semantic, boxes, classes, masks, count = make_case(6, padded=6)
    masks += 0.01 * torch.rand(masks.shape)  # no equals, which sums in another order would part
    semantic += 0.01 * torch.rand(semantic.shape)
    size = (21, 45)
    grid = Grid(size, scale)
    head = PanopticHead(
        semantic=semantic,
        detections=Detections(boxes * scale, torch.ones(6), classes),
        mask_logits=masks,
        grid=grid,
        num_stuff=STUFF,
    )
    expected = head.maps(HeadOptions(unknown_margin=margin, **ALL))
    result = panoptic_maps_reference(
        semantic,
        grid.boxes(boxes * scale),
        classes,
        masks,
        count,
        size=size,
        num_stuff=STUFF,
        scale=scale,
        unknown_margin=margin,
        **ALL,
    )
    assert_same(
        result,
        HeadMaps(
            expected.panoptic,
            expected.semantic,
            expected.unknown_score,
            expected.confidence,
            expected.max_logit,
        ),
        ids=0.999,
    )


@pytest.mark.parametrize(
    ("count", "options"),
    [(0, {}), (1, {}), (6, {}), (6, {"scale": 0.7}), (6, {"unknown_margin": -1.5})],
    ids=str,
)
def test_kernel_equals_the_twin(count: int, options: dict[str, Any], device: torch.device) -> None:
    case = [tensor.to(device) for tensor in make_case(count)]
    options = {"size": (21, 45), "num_stuff": STUFF, **ALL, **options}
    expected = panoptic_maps_reference(*case, **options)
    assert (expected.panoptic == UNKNOWN).any()
    result = panoptic_triton.panoptic_maps(*case, **options, block=(8, 64))
    # Positions of the scaled grid are no fractions of two, and sums no longer exact.
    assert_same(result, expected, ids=0.998 if "scale" in options or count else 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_in_float32(dtype: torch.dtype, device: torch.device) -> None:
    semantic, boxes, classes, masks, count = (tensor.to(device) for tensor in make_case(4))
    case = (semantic.to(dtype), boxes, classes, masks.to(dtype), count)
    options = {"size": (24, 48), "num_stuff": STUFF, **ALL}
    expected = panoptic_maps_reference(*case, **options)
    assert_same(
        panoptic_triton.panoptic_maps(*case, **options, block=(16, 64)), expected, ids=0.998
    )


def test_all_unknown_and_instances_absent_from_their_tile(device: torch.device) -> None:
    """Stuff is nowhere: either things are void, or where none is the first absent instance wins."""
    semantic = torch.full((CLASSES, 2, 4), -5.0)
    boxes = torch.tensor([(0.0, 0.0, 3.0, 3.0), (12.0, 4.0, 15.0, 7.0)])
    masks = torch.full((2, BINS, BINS), -4.0)
    case = (semantic, boxes, torch.tensor([1, 2]), masks, torch.tensor([2], dtype=torch.int32))
    options = {"size": (8, 16), "num_stuff": STUFF}
    placed = [tensor.to(device) for tensor in case]
    result = panoptic_triton.panoptic_maps(*placed, **options, block=(4, 4)).panoptic.cpu()
    assert result[0, 0] == STUFF + 1 and result[7, 15] == STUFF and result[4, 8] == STUFF
    assert torch.equal(result, panoptic_maps_reference(*case, **options).panoptic)
    placed[0][STUFF:] = 9.0
    result = panoptic_triton.panoptic_maps(*placed, **options, block=(4, 4)).panoptic.cpu()
    case[0][STUFF:] = 9.0
    assert torch.equal(result, panoptic_maps_reference(*case, **options).panoptic)
    assert (result[2:, 4:12] == UNKNOWN).all()


def test_shapes_are_checked() -> None:
    semantic, boxes, classes, masks, count = make_case(2)
    with pytest.raises(ValueError, match=r"semantic has shape \(5, 6, 12\), but .* stuff \(5\)"):
        panoptic_maps(semantic, boxes, classes, masks, count, size=(21, 45), num_stuff=5)
    with pytest.raises(ValueError, match=r"boxes, classes and mask_logits have shapes"):
        panoptic_maps(semantic, boxes, classes[:3], masks, count, size=(21, 45), num_stuff=STUFF)


def test_the_networks_head_launches_the_kernel(device: torch.device) -> None:
    semantic, boxes, classes, masks, _ = (tensor.to(device) for tensor in make_case(6, padded=6))
    scale = 0.7
    head = PanopticHead(
        semantic=semantic,
        detections=Detections(boxes * scale, torch.ones(6, device=device), classes),
        mask_logits=masks,
        grid=Grid((21, 45), scale),
        num_stuff=STUFF,
    )
    options = HeadOptions(unknown_margin=-0.3, **ALL)
    result, expected = head._at_once(options), head._tile_by_tile(options)
    for name in ("panoptic", "semantic", "max_logit"):
        near = torch.isclose(getattr(result, name), getattr(expected, name), atol=1e-4)
        assert near.float().mean() > 0.99, name
    for name in ("unknown_score", "confidence"):
        assert (getattr(result, name).int() - getattr(expected, name).int()).abs().max() <= 1
