"""Segments and their table: reference against the frame's assembly, kernels against reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from upsnet_ros.inference.assemble import assemble
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.network.batched_operators import Operators
from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.panoptic_head import PanopticMaps
from upsnet_ros.network.upsnet import PanopticResult
from upsnet_ros.network.variants import VARIANTS
from upsnet_ros.ops.panoptic import UNKNOWN
from upsnet_ros.ops.segments import (
    ClassMap,
    SegmentTable,
    segment_table,
    segment_table_reference,
)

segments_triton = pytest.importorskip("upsnet_ros.ops.triton.segments")

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


#: Three classes of stuff and three of things as one of stuff, two of things and void: 0 and 1 are
#: one, 2 is void; the first thing is that stuff, the second stays and the third is void.
MERGED = (0, 0, None, 0, 1, None)
NEW_STUFF, NEW_IDS = 1, torch.tensor([5, 9, 10, 255])


def merged_map(device: torch.device | str) -> ClassMap:
    return ClassMap.from_targets(
        MERGED, num_stuff=STUFF, new_stuff=NEW_STUFF, new_classes=3, device=device
    )


def test_classes_are_mapped_before_they_are_counted() -> None:
    """By hand: every pixel's class is replaced first, and the rest is as with such maps."""
    maps = make_batch(*KINDS)
    panoptic, semantic, classes = maps
    new_classes, relabelling = merged_map("cpu").relabelling(classes)
    axes = [torch.arange(n) for n in (HEIGHT, WIDTH)]
    options = {"num_stuff": NEW_STUFF, "stuff_area_limit": LIMIT, "want_semantic": True}
    got = segment_table_reference(
        panoptic, semantic, new_classes, NEW_IDS, *axes, relabelling=relabelling, **options
    )
    # An instance's new value; class 0 stands for nothing found, on the last class of stuff.
    of_thing = {0: -2, 1: 0, 2: NEW_STUFF, 3: -2}
    for image in range(len(panoptic)):
        new = panoptic[image].clone()
        new_semantic = semantic[image].clone()
        for y in range(HEIGHT):
            for x in range(WIDTH):
                value = int(panoptic[image, y, x])
                if value >= STUFF:
                    value = of_thing[int(classes[image, value - STUFF])]
                    new[y, x] = value if value < NEW_STUFF else panoptic[image, y, x] - STUFF + 1
                elif value >= 0:
                    new[y, x] = -2 if MERGED[value] is None else MERGED[value]
                target = MERGED[int(semantic[image, y, x])]
                new_semantic[y, x] = 3 if target is None else target
        want = segment_table_reference(
            new[None], new_semantic[None], new_classes[image][None], NEW_IDS, *axes, **options
        )
        assert_same(SegmentTable(*(x[image : image + 1] for x in got)), want)
        # Void is not unknown.
        assert torch.equal(got.unknown[image], panoptic[image] == UNKNOWN)
        assert not got.labels[image][new == -2].any()
    assert (got.labels == 9001).any() and (got.labels == 5).any()


@pytest.mark.parametrize("majority", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
def test_kernels_and_the_cpu_form_equal_the_reference_of_every_option(
    majority: bool, mapped: bool, device: torch.device
) -> None:
    panoptic, semantic, classes = (x.to(device) for x in make_batch(*KINDS[:2]))
    options = {
        "num_stuff": STUFF,
        "stuff_area_limit": LIMIT,
        "want_semantic": True,
        "majority": majority,
    }
    public_ids = PUBLIC_IDS.to(device)
    if mapped:
        classes, options["relabelling"] = merged_map(device).relabelling(classes)
        options["num_stuff"], public_ids = NEW_STUFF, NEW_IDS.to(device)
    axes = [torch.arange(n, device=device) for n in (HEIGHT, WIDTH)]
    tensors = (panoptic, semantic, classes, public_ids, *axes)
    expected = segment_table_reference(*tensors, **options)
    assert expected.table.any()
    assert_same(segments_triton.segment_table(*tensors, **options, block=16), expected)
    by_cpu = Operators().segments(*tensors, **options)
    # Of equal majorities the CPU's form takes whichever comes first.
    if not mapped or not majority:
        assert_same(by_cpu, expected)
    other = segment_table_reference(*tensors, **{**options, "majority": not majority})
    assert mapped or not torch.equal(other.labels, expected.labels)


#: Targets of the six classes, the new classes of stuff, and how many new classes there are.
EDGES = {
    "no stuff": ((None, None, None, 0, 1, None), 0, 2),
    "one thing": ((None, None, None, None, 0, None), 0, 1),
    "no things": ((0, 1, None, None, None, None), 2, 2),
    "things as stuff": ((None, None, None, 0, 0, 0), 1, 1),
    "nothing": ((None,) * 6, 0, 0),
}


@pytest.mark.parametrize("majority", [True, False])
@pytest.mark.parametrize("edge", EDGES)
def test_kernels_and_the_cpu_form_equal_the_reference_without_a_kind_of_class(
    edge: str, majority: bool, device: torch.device
) -> None:
    targets, new_stuff, new_classes = EDGES[edge]
    panoptic, semantic, classes = (x.to(device) for x in make_batch(*KINDS))
    class_map = ClassMap.from_targets(
        targets, num_stuff=STUFF, new_stuff=new_stuff, new_classes=new_classes, device=device
    )
    classes, relabelling = class_map.relabelling(classes)
    public_ids = torch.tensor([*range(20, 20 + new_classes), 255], device=device)
    axes = [torch.arange(n, device=device) for n in (HEIGHT, WIDTH)]
    tensors = (panoptic, semantic, classes, public_ids, *axes)
    options = {
        "num_stuff": new_stuff,
        "stuff_area_limit": 1,
        "want_semantic": True,
        "majority": majority,
        "relabelling": relabelling,
    }
    expected = segment_table_reference(*tensors, **options)
    assert bool(expected.table.any()) == (edge != "nothing")
    assert (expected.labels >= 1000).any() == (edge in ("no stuff", "one thing"))
    assert torch.equal(expected.unknown, panoptic == UNKNOWN)
    assert_same(segments_triton.segment_table(*tensors, **options, block=16), expected)
    by_cpu = Operators().segments(*tensors, **options)
    if not majority:  # of equal majorities the CPU's form takes whichever comes first
        assert_same(by_cpu, expected)
    assert torch.equal(by_cpu.unknown, expected.unknown)


def test_shapes_are_checked() -> None:
    panoptic, semantic, classes = make_batch("noise")
    axis = torch.arange(5)
    options = {"num_stuff": STUFF, "stuff_area_limit": LIMIT}
    with pytest.raises(ValueError, match=r"shapes \(1, 13, 24\) and \(1, 12, 24\)"):
        segment_table(panoptic, semantic[:, 1:], classes, PUBLIC_IDS, axis, axis, **options)
    with pytest.raises(ValueError, match=r"classes has shape \(6,\), .* \(B, N\) with B 1"):
        segment_table(panoptic, semantic, classes[0], PUBLIC_IDS, axis, axis, **options)
