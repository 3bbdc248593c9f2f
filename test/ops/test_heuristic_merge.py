"""The heuristic merge: references against the network's, kernels against the references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from upsnet_ros.network.batched_operators import KernelOperators, Operators
from upsnet_ros.network.batched_selection import DetectionLists
from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.panoptic_head import Grid, HeadOptions, Tile, upsample_part
from upsnet_ros.network.segments import merge_by_score
from upsnet_ros.ops import dispatch
from upsnet_ros.ops.boxes import CONTINUOUS, INCLUSIVE
from upsnet_ros.ops.heuristic_merge import merged_maps, merged_maps_reference
from upsnet_ros.ops.mask_removal import accept_masks_reference
from upsnet_ros.ops.panoptic import GridTables, MapOptions, interpolated

heuristic_merge_triton = pytest.importorskip("upsnet_ros.ops.triton.heuristic_merge")
mask_removal_triton = pytest.importorskip("upsnet_ros.ops.triton.mask_removal")

STUFF, BINS, SHARE = 2, 4, 0.5
#: Of the unpadded input, and of the image; the semantic logits are 8 x 16.
INPUT, SIZE = (27, 58), (19, 37)
GRID = Grid(SIZE, (INPUT[0] / SIZE[0], INPUT[1] / SIZE[1]), edge=CONTINUOUS, via=INPUT)
WANTED = HeadOptions(unknown_score=True, confidence=True, max_logit=True, unknown_margin=0.4)


def make_case(*counts: int, seed: int = 0) -> tuple[Tensor, DetectionLists, Tensor]:
    """Crowded masks over noise; boxes over each border, without width, of less than a pixel."""
    generator = torch.Generator().manual_seed(seed)
    batch, total = len(counts), max(counts) + 2
    semantic = torch.randn(batch, STUFF + 1, 8, 16, generator=generator) * 2
    corner = torch.rand(batch, total, 2, generator=generator) * torch.tensor([40.0, 15.0]) - 3
    extent = torch.rand(batch, total, 2, generator=generator) * torch.tensor([25.0, 14.0]) + 3
    boxes = torch.cat((corner, corner + extent), dim=2)
    boxes[:, 1, 2] = boxes[:, 1, 0]
    boxes[:, 2, 2:] = boxes[:, 2, :2] + 0.3
    masks = torch.randn(batch, total, BINS, BINS, generator=generator) * 2 + 1.2
    masks[:, 3] = -1
    numbers = torch.tensor(counts, dtype=torch.int32)
    inside = (torch.arange(total) < numbers[:, None])[..., None]
    scores = torch.linspace(0.99, 0.5, total).expand(batch, -1) * inside[..., 0]
    classes = torch.randint(1, 5, (batch, total), generator=generator) * inside[..., 0]
    found = DetectionLists(boxes * inside, scores, classes, numbers)
    return semantic, found, masks


def tables(device: torch.device | str, grid: Grid = GRID) -> GridTables:
    return grid.tables((8, 16), device)


@pytest.mark.parametrize("size", [SIZE, (27, 58), (90, 33), (5, 9)])
@pytest.mark.parametrize("twice", [True, False])
def test_tables_interpolate_as_the_network_does(size: tuple[int, int], twice: bool) -> None:
    scale = (INPUT[0] / size[0], INPUT[1] / size[1])
    grid = Grid(size, scale, edge=CONTINUOUS, via=INPUT if twice else None)
    logits = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    whole = Tile(0, size[0], 0, size[1], torch.empty(0))
    want = upsample_part(logits, whole, scale=grid.scale, via=grid.via)
    got = interpolated(logits, tables("cpu", grid))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def references(
    semantic: Tensor, found: DetectionLists, masks: Tensor, margin: Tensor
) -> tuple[Any, Any]:
    boxes = GRID.extents(found.boxes)
    alike = torch.ones_like(found.classes)
    accepted = accept_masks_reference(
        boxes, alike, masks, found.counts, size=SIZE, threshold=SHARE, edge=CONTINUOUS
    )
    number = accepted.counts.masked_fill(accepted.blank, 0)
    maps = merged_maps_reference(
        semantic,
        boxes,
        masks,
        accepted.indices,
        number,
        margin,
        tables(semantic.device),
        options=MapOptions(STUFF, unknown_score=True, confidence=True, max_logit=True),
    )
    return accepted._replace(counts=number), maps


@pytest.mark.parametrize("seed", range(3))
def test_the_references_are_the_network_s_merge(seed: int) -> None:
    semantic, found, masks = make_case(9, 0, 6, seed=seed)
    margin = torch.tensor([WANTED.unknown_margin])
    accepted, maps = references(semantic, found, masks, margin)
    for image, number in enumerate(found.counts.tolist()):
        one = Detections(
            found.boxes[image, :number], found.scores[image, :number], found.classes[image, :number]
        )
        place, want = merge_by_score(
            semantic[image],
            one,
            masks[image, :number],
            grid=GRID,
            num_stuff=STUFF,
            share=SHARE,
            options=WANTED,
        )
        kept = int(accepted.counts[image])
        assert accepted.indices[image, :kept].tolist() == place.tolist()
        assert number == 0 or 1 < kept < number
        for name in ("panoptic", "semantic", "unknown_score", "confidence"):
            assert torch.equal(getattr(maps, name)[image], getattr(want, name)), name
        torch.testing.assert_close(maps.max_logit[image], want.max_logit, rtol=0, atol=1e-5)
    assert {*maps.panoptic.unique().tolist()} >= {-1, 0, 1, 2, 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_kernels_equal_the_references(dtype: torch.dtype, device: torch.device) -> None:
    semantic, found, masks = make_case(8, 0, seed=1)
    masks = masks.to(device, dtype)
    boxes, numbers = GRID.extents(found.boxes).to(device), found.counts.to(device)
    alike = torch.ones_like(found.classes).to(device)
    options: dict[str, Any] = {"size": SIZE, "threshold": SHARE, "edge": CONTINUOUS}
    want = accept_masks_reference(boxes, alike, masks, numbers, **options)
    for rounds in (1, 3):
        got = mask_removal_triton.accept_masks(
            boxes, alike, masks, numbers, **options, rounds=rounds, block=(32, 32)
        )
        for mine, wanted in zip(got, want, strict=True):
            assert torch.equal(mine, wanted)
    number = want.counts.masked_fill(want.blank, 0)
    inputs = (semantic.to(device), boxes, masks, want.indices, number)
    margin = torch.tensor([WANTED.unknown_margin], device=device)
    for extra in (False, True):
        options = MapOptions(STUFF, extra, extra, extra)
        expected = merged_maps_reference(*inputs, margin, tables(device), options=options)
        result = heuristic_merge_triton.merged_maps(
            *inputs, margin, tables(device), options=options, block=(8, 16)
        )
        for name, wanted in expected._asdict().items():
            mine = getattr(result, name)
            assert (mine is None) == (wanted is None), name
            if wanted is None:
                continue
            assert mine.dtype == wanted.dtype
            near = torch.isclose(mine.float(), wanted.float(), rtol=0, atol=1e-4)
            # Sums in another order round some bytes otherwise.
            assert near.float().mean() > 0.995, name
    assert (expected.panoptic >= STUFF).any() and (expected.panoptic == -1).any()


@pytest.mark.parametrize("edge", [INCLUSIVE, CONTINUOUS])
def test_operators_merge_alike(edge: float, device: torch.device) -> None:
    """By kernels and on a CPU; also for a network whose boxes are inclusive."""
    if device.type != "cpu":
        pytest.skip("the frames of test_frames_on_gpu.py are on a GPU")
    grid = GRID if edge == CONTINUOUS else Grid(SIZE, 0.9)
    semantic, found, masks = make_case(5, 0)
    call = {
        "grid": grid,
        "tables": tables("cpu", grid),
        "num_stuff": STUFF,
        "share": SHARE,
        "options": WANTED,
    }
    margin = torch.tensor([0.4])
    want, want_maps = Operators().merge(semantic, found, masks, margin, **call)
    with dispatch.interpreted():
        got, maps = KernelOperators().merge(semantic, found, masks, margin, **call)
    assert torch.equal(got.counts, want.counts) and torch.equal(got.blank, want.blank)
    assert (
        got.indices[0, : int(got.counts[0])].tolist()
        == want.indices[0, : int(got.counts[0])].tolist()
    )
    for name, wanted in want_maps._asdict().items():
        near = torch.isclose(getattr(maps, name).float(), wanted.float(), rtol=0, atol=1e-4)
        assert near.float().mean() > 0.995, name


def test_shapes_are_checked() -> None:
    semantic, found, masks = make_case(3)
    rest = (found.counts * 0, torch.zeros(1), tables("cpu"))
    places = torch.zeros(1, 5, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"semantic has shape \(1, 3, 8, 16\)"):
        merged_maps(semantic, found.boxes, masks, places, *rest, options=MapOptions(3))
    with pytest.raises(ValueError, match=r"\(1, 5, 4\), \(1, 4\)"):
        merged_maps(semantic, found.boxes, masks, places[:, :4], *rest, options=MapOptions(STUFF))
