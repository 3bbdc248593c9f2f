"""The panoptic head in one pass: reference against the network, kernel against reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.panoptic_head import Grid, HeadOptions, PanopticHead
from upsnet_ros.ops.boxes import CONTINUOUS
from upsnet_ros.ops.panoptic import (
    UNKNOWN,
    GridTables,
    HeadMaps,
    MapOptions,
    panoptic_maps,
    panoptic_maps_reference,
)

panoptic_triton = pytest.importorskip("upsnet_ros.ops.triton.panoptic")

STUFF, CLASSES, BINS = 3, 5, 4
SIZE, CELLS = (21, 45), (6, 12)
GRID = Grid(SIZE)
#: As Panoptic FPN's, from 22 x 46 pixels of an input that is padded to 24 x 48.
TWICE = Grid(SIZE, (22 / SIZE[0], 46 / SIZE[1]), edge=CONTINUOUS, via=(22, 46))
IDS = MapOptions(STUFF)
ALL = MapOptions(STUFF, unknown_score=True, confidence=True, max_logit=True)
#: Corners inside the grid of 21 x 45: whole pixels and halves, one pixel, one line, all of it.
BOXES = [
    (3.0, 2.5, 30.5, 14.5),
    (10.25, 4.0, 20.75, 19.5),
    (44.0, 20.0, 44.0, 20.0),
    (0.0, 7.5, 44.0, 7.5),
    (5.5, 5.5, 5.5, 6.49),
    (0.0, 0.0, 44.0, 20.0),
]


def tables(device: torch.device | str, grid: Grid = GRID) -> GridTables:
    return grid.tables(CELLS, device)


def make_case(
    *counts: int, padded: int = 7, seed: int = 0, margin: float = 0.0
) -> tuple[Tensor, ...]:
    """Logits are multiples of 1/8, so that sums are exact, and equals come in numbers."""
    generator = torch.Generator().manual_seed(seed)
    batch = len(counts)

    def eighths(*shape: int) -> Tensor:
        return torch.randint(-24, 25, shape, generator=generator) / 8

    boxes = torch.zeros(batch, padded, 4)
    for own, count in zip(boxes, counts, strict=True):
        own[:count] = torch.tensor(BOXES[:count] or [(0.0,) * 4])[:count]
        own[count:] = torch.tensor((1.0, 1.0, 40.0, 18.0))  # padding that must not be seen
    classes = torch.arange(batch * padded).view(batch, -1) % (CLASSES - STUFF) + 1
    return (
        eighths(batch, CLASSES, *CELLS),
        boxes,
        classes,
        eighths(batch, padded, BINS, BINS) * 2,
        torch.tensor(counts, dtype=torch.int32),
        torch.tensor([margin]),
    )


def assert_same(result: HeadMaps, expected: HeadMaps, *, ids: float = 1.0) -> None:
    for got, want in ((result.panoptic, expected.panoptic), (result.semantic, expected.semantic)):
        assert got.dtype == torch.int16
        assert (got == want).float().mean() >= ids
    for score, wanted in zip(result[2:4], expected[2:4], strict=True):
        assert score is not None and wanted is not None
        assert (score.int() - wanted.int()).abs().max() <= 1
    assert result.max_logit is not None and expected.max_logit is not None
    torch.testing.assert_close(result.max_logit, expected.max_logit)


@pytest.mark.parametrize("grid", [GRID, Grid(SIZE, 0.7), TWICE], ids=["same", "scaled", "twice"])
@pytest.mark.parametrize("margin", [0.0, -1.5])
def test_the_twin_is_the_networks_head(grid: Grid, margin: float) -> None:
    semantic, boxes, classes, masks, *rest = make_case(6, 6, padded=6, margin=margin)
    generator = torch.Generator().manual_seed(0)
    # No equal values, which sums in another order would tell apart.
    masks += 0.01 * torch.rand(masks.shape, generator=generator)
    semantic += 0.01 * torch.rand(semantic.shape, generator=generator)
    down, across = grid.scales
    boxes = boxes * torch.tensor([across, down] * 2)
    result = panoptic_maps_reference(
        semantic,
        grid.boxes(boxes),
        classes,
        masks,
        *rest,
        tables("cpu", grid),
        options=ALL,
    )
    for image in range(2):
        head = PanopticHead(
            semantic=semantic[image],
            detections=Detections(boxes[image], torch.ones(6), classes[image]),
            mask_logits=masks[image],
            grid=grid,
            num_stuff=STUFF,
        )
        maps = head.maps(
            HeadOptions(unknown_margin=margin, unknown_score=True, confidence=True, max_logit=True)
        )
        expected = HeadMaps(*(getattr(maps, name) for name in HeadMaps._fields))
        assert_same(HeadMaps(*(own[image] for own in result)), expected, ids=0.999)


@pytest.mark.parametrize(
    ("counts", "margin", "grid"),
    [
        ((0, 6), 0.0, GRID),
        ((1,), 0.0, GRID),
        ((6, 2, 4), -1.5, GRID),
        ((6,), 0.0, Grid(SIZE, 0.7)),
        ((6, 3), -0.5, TWICE),
    ],
    ids=["none and all", "one", "three frames", "scaled", "twice"],
)
@pytest.mark.parametrize("merged", [False, True], ids=["classes", "one channel"])
def test_kernel_equals_the_twin(
    counts: tuple[int, ...], margin: float, grid: Grid, merged: bool, device: torch.device
) -> None:
    """Also where things have one channel, which all classes read."""
    case = [tensor.to(device) for tensor in make_case(*counts, margin=margin)]
    if merged:
        case[0], case[2] = case[0][:, : STUFF + 1], case[2].clamp(max=1)
        case[5] = case[5] - 2  # by one channel few pixels are unknown
    case.append(tables(device, grid))
    expected = panoptic_maps_reference(*case, options=ALL)
    assert (expected.panoptic == UNKNOWN).flatten(1).any(dim=1).all()
    result = panoptic_triton.panoptic_maps(*case, options=ALL, block=(8, 32))
    # Mask positions are no fractions of two, and sums no longer exact.
    assert_same(result, expected, ids=0.998)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("in_place", [False, True])
def test_half_precision_as_the_network_gives_it(
    dtype: torch.dtype, in_place: bool, device: torch.device
) -> None:
    """Added in float32; channels side by side, read where they are or copied into planes."""
    semantic, boxes, classes, masks, *rest = (tensor.to(device) for tensor in make_case(4, 3))
    semantic = semantic.to(dtype, memory_format=torch.channels_last)
    case = (semantic, boxes, classes, masks.to(dtype), *rest, tables(device, Grid((24, 48))))
    expected = panoptic_maps_reference(*case, options=ALL)
    result = panoptic_triton.panoptic_maps(*case, options=ALL, in_place=in_place, block=(16, 64))
    assert_same(result, expected, ids=0.998)


def test_all_unknown_and_instances_absent_from_their_tile(device: torch.device) -> None:
    """Stuff is nowhere: either things are void, or where none is the first absent instance wins."""
    semantic = torch.full((1, CLASSES, 2, 4), -5.0)
    boxes = torch.tensor([[(0.0, 0.0, 3.0, 3.0), (12.0, 4.0, 15.0, 7.0)]])
    masks = torch.full((1, 2, BINS, BINS), -4.0)
    numbers = torch.tensor([2], dtype=torch.int32)
    case = (semantic, boxes, torch.tensor([[1, 2]]), masks, numbers, torch.zeros(1))
    on_host, on_device = (Grid((8, 16)).tables((2, 4), place) for place in ("cpu", device))
    for things in (-5.0, 9.0):
        semantic[:, STUFF:] = things
        placed = [tensor.to(device) for tensor in case]
        maps = panoptic_triton.panoptic_maps(*placed, on_device, options=IDS, block=(4, 4))
        result = maps.panoptic.cpu()
        assert torch.equal(result, panoptic_maps_reference(*case, on_host, options=IDS).panoptic)
        if things < 0:
            corners = (result[0, 0, 0], result[0, 7, 15], result[0, 4, 8])
            assert corners == (STUFF + 1, STUFF, STUFF)
        else:
            assert (result[0, 2:, 4:12] == UNKNOWN).all()


def test_a_leaders_zero_beats_that_of_absent_instances_after_it(device: torch.device) -> None:
    """Of instances 0 and 2 in the tile and 1 beside it, whoever has zero first is shown."""
    semantic = torch.full((1, CLASSES, 2, 4), -5.0)
    inside, outside = (0.0, 0.0, 3.0, 3.0), (12.0, 4.0, 15.0, 7.0)
    boxes = torch.tensor([[inside, outside, inside]])
    masks = torch.full((1, 3, BINS, BINS), 5.0)  # zero, with their segment
    masks[0, 0, :, : BINS // 2] = 4.0  # below
    numbers = torch.tensor([3], dtype=torch.int32)
    case = (semantic, boxes, torch.ones(1, 3, dtype=torch.int64), masks, numbers, torch.ones(1))
    on_host, on_device = (Grid((8, 16)).tables((2, 4), place) for place in ("cpu", device))
    expected = panoptic_maps_reference(*case, on_host, options=IDS).panoptic
    assert expected[0, 0].tolist()[:4] == [STUFF + 1, STUFF + 1, STUFF, STUFF]
    placed = [tensor.to(device) for tensor in case]
    result = panoptic_triton.panoptic_maps(*placed, on_device, options=IDS, block=(4, 4)).panoptic
    assert torch.equal(result.cpu(), expected)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the interpreter's
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_give_ids_that_exist(value: float, device: torch.device) -> None:
    """The segments' kernels count by them; that such a frame means nothing is said elsewhere."""
    for spoiled in (0, 3):
        case = [tensor.to(device) for tensor in make_case(6, 3)]
        case[spoiled][1] *= value
        maps = panoptic_triton.panoptic_maps(*case, tables(device), options=ALL, block=(8, 32))
        for ids, most in ((maps.panoptic, STUFF + 7), (maps.semantic, CLASSES)):
            assert int(ids.min()) >= UNKNOWN and int(ids.max()) < most


def test_shapes_are_checked() -> None:
    semantic, boxes, classes, masks, numbers, margin = make_case(2)
    rest = (numbers, margin, tables("cpu"))
    with pytest.raises(ValueError, match=r"semantic has shape \(1, 5, 6, 12\), .* stuff \(5\)"):
        panoptic_maps(semantic, boxes, classes, masks, *rest, options=MapOptions(5))
    with pytest.raises(ValueError, match=r"counts have shapes .*, B 1 and N at least 1"):
        panoptic_maps(semantic, boxes, classes[:, :3], masks, *rest, options=IDS)
    rest = (numbers, margin[0], tables("cpu"))
    with pytest.raises(ValueError, match=r"unknown_margin has shape \(\), but it must be \(1,\)"):
        panoptic_maps(semantic, boxes, classes, masks, *rest, options=IDS)
