"""Segments and their table: the twin against the frame's assembly, the kernels against the twin."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from upsnet_ros.inference.assemble import assemble
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.kernels.segments import SegmentTable, segment_table, segment_table_reference
from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.panoptic_head import UNKNOWN, PanopticMaps
from upsnet_ros.network.upsnet import PanopticResult
from upsnet_ros.network.variants import VARIANTS

segments_triton = pytest.importorskip("upsnet_ros.kernels.segments_triton")

STUFF, CLASSES, LIMIT = 3, 6, 30
PUBLIC_IDS = torch.tensor([7, 8, 11, 24, 25, 26])
HEIGHT, WIDTH = 13, 24


def make_case(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Maps of rectangles, an instance of stuff's pixels, one cut in two, one without a pixel."""
    generator = torch.Generator().manual_seed(5)
    classes = torch.tensor([1, 2, 1, 3, 1, 2])
    if kind == "noise":
        panoptic = torch.randint(-1, STUFF + 6, (HEIGHT, WIDTH), generator=generator)
        semantic = torch.randint(0, CLASSES, (HEIGHT, WIDTH), generator=generator)
        return panoptic.short(), semantic.short(), classes
    panoptic = torch.full((HEIGHT, WIDTH), UNKNOWN)
    semantic = torch.full((HEIGHT, WIDTH), 4)
    if kind == "unknown":
        return panoptic.short(), semantic.short(), classes
    if kind == "nothing found":
        panoptic[:, :20], semantic[:, :20] = 1, 1
        panoptic[0, 0] = STUFF  # the stand-in's pixel, of the last stuff class
        panoptic[1, :20] = STUFF
        semantic[1, :20] = 0
        return panoptic.short(), semantic.short(), torch.zeros_like(classes)
    panoptic[:6], semantic[:6] = 0, 0
    panoptic[6:8], semantic[6:8] = 1, 1  # 48 pixels before the instances take some
    panoptic[8:9, :20], semantic[8:9, :20] = 2, 2  # 20: too few
    panoptic[2:7, 3:9], semantic[2:6, 3:9] = STUFF, 3
    panoptic[2:7, 12:18] = STUFF + 1  # all of it looks like stuff
    panoptic[10, 1:3], semantic[10, 1:3] = STUFF + 2, 3
    panoptic[12, 20:24], semantic[12, 20:24] = STUFF + 2, 3
    panoptic[10:12, 10:14], semantic[10:11, 10:14] = STUFF + 4, 1  # half of one, half of another
    panoptic[12, 0], semantic[12, 0] = STUFF + 5, 4
    return panoptic.short(), semantic.short(), classes


KINDS = ["rectangles", "noise", "unknown", "nothing found"]


def both_axes(geometry: Geometry, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    return geometry.source_rows_and_columns(torch.device(device))


def make_batch(*kinds: str) -> list[Tensor]:
    return [torch.stack(parts) for parts in zip(*(make_case(kind) for kind in kinds), strict=True)]


def test_the_twin_is_the_frames_assembly() -> None:
    geometry = Geometry((26, 48), 0.5, (HEIGHT, WIDTH), (32, 32))
    # Of a variant that has the classes of this test.
    variant = replace(
        VARIANTS["cityscapes-r18"], num_classes=4, num_seg_classes=CLASSES, stuff_area_limit=LIMIT
    )
    got = segment_table_reference(
        *make_batch(*KINDS),
        PUBLIC_IDS,
        *both_axes(geometry),
        num_stuff=STUFF,
        stuff_area_limit=LIMIT,
        want_semantic=True,
    )
    for image, kind in enumerate(KINDS):
        panoptic, semantic, classes = make_case(kind)
        count = len(classes) if classes.any() else 1
        detections = Detections(torch.rand(count, 4), torch.rand(count), classes[:count])
        result = PanopticResult(PanopticMaps(panoptic, semantic), detections)
        expected = assemble(result, geometry, variant=variant, public_ids=PUBLIC_IDS, semantic=True)
        assert torch.equal(got.labels[image], expected.labels), kind
        assert torch.equal(got.unknown[image], expected.unknown), kind
        assert got.semantic is not None and expected.semantic is not None
        assert torch.equal(got.semantic[image], expected.semantic), kind
        rows, wanted = (x[x[:, 2] > 0].tolist() for x in (got.table[image], expected.table))
        assert sorted(rows) == sorted(wanted), kind
        assert got.num_segments[image] == len(rows), kind


def assert_same(result: SegmentTable, expected: SegmentTable) -> None:
    for name, want in expected._asdict().items():
        got = getattr(result, name)
        assert (got is None) == (want is None), name
        assert want is None or (torch.equal(got, want) and got.dtype == want.dtype), name


@pytest.mark.parametrize("kinds", [KINDS[:2], KINDS[2:]], ids=str)
@pytest.mark.parametrize("source", [(HEIGHT, WIDTH), (7, 37)])
def test_kernels_equal_the_twin(
    kinds: list[str], source: tuple[int, int], device: torch.device
) -> None:
    maps = [tensor.to(device) for tensor in (*make_batch(*kinds), PUBLIC_IDS)]
    axes = (torch.linspace(0, HEIGHT - 1, source[0]), torch.linspace(0, WIDTH - 1, source[1]))
    places = [axis.round().long().to(device) for axis in axes]
    options = {"num_stuff": STUFF, "stuff_area_limit": LIMIT, "want_semantic": "noise" in kinds}
    expected = segment_table_reference(*maps, *places, **options)
    assert expected.table.any()
    # A block shorter than a row, so that runs are cut.
    result = segments_triton.segment_table(*maps, *places, **options, block=16)
    assert_same(result, expected)


def test_shapes_are_checked() -> None:
    panoptic, semantic, classes = make_batch("noise")
    axis = torch.arange(5)
    options = {"num_stuff": STUFF, "stuff_area_limit": LIMIT}
    with pytest.raises(ValueError, match=r"shapes \(1, 13, 24\) and \(1, 12, 24\)"):
        segment_table(panoptic, semantic[:, 1:], classes, PUBLIC_IDS, axis, axis, **options)
    with pytest.raises(ValueError, match=r"classes has shape \(6,\), .* \(B, N\) with B 1"):
        segment_table(panoptic, semantic, classes[0], PUBLIC_IDS, axis, axis, **options)
