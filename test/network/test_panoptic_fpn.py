"""Panoptic FPN's conventions one by one: boxes, lists, and the merge of the two heads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upsnet_ros.errors import SettingsError
from upsnet_ros.inference.predictor import Predictor
from upsnet_ros.network.batched_operators import KernelOperators, Operators
from upsnet_ros.network.batched_selection import (
    Anchors,
    ProposalLists,
    select_detections,
    select_proposals,
)
from upsnet_ros.network.instance_head import Detections, pool_rois, pyramid_levels
from upsnet_ros.network.panoptic_head import Grid, HeadOptions, Tile, upsample_part
from upsnet_ros.network.rpn import base_anchors, grid_anchors
from upsnet_ros.network.segments import merge_by_score
from upsnet_ros.network.variants import VARIANTS, get_variant
from upsnet_ros.ops.boxes import (
    CONTINUOUS,
    INCLUSIVE,
    RPN_WEIGHTS,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    nms,
)
from upsnet_ros.ops.panoptic import UNKNOWN
from upsnet_ros.ops.roi_align import roi_align_reference

OPERATORS = pytest.mark.parametrize("operators", [Operators(), KernelOperators()])


def test_edges_of_all_variants() -> None:
    assert {v.name for v in VARIANTS.values() if v.box_edge == CONTINUOUS} == {
        "coco-fpn-r50",
        "coco-fpn-r101",
    }
    variant = get_variant("coco-fpn-r50")
    assert (variant.num_stuff, variant.num_seg_classes, variant.merge) == (53, 54, "heuristic")


@pytest.mark.parametrize("edge", [INCLUSIVE, CONTINUOUS])
def test_decoding_undoes_encoding(edge: float) -> None:
    generator = torch.Generator().manual_seed(0)
    near = torch.rand(2, 50, 2, generator=generator) * 90
    boxes, targets = torch.cat((near, near + 5 + near.flip(0)), dim=-1)
    deltas = encode_boxes(boxes, targets, RPN_WEIGHTS, edge=edge)
    torch.testing.assert_close(decode_boxes(boxes, deltas, RPN_WEIGHTS, edge=edge), targets)


def test_continuous_boxes_reach_the_image_s_far_edge() -> None:
    box = torch.tensor([-5.0, -5.0, 500.0, 500.0])
    assert clip_boxes(box, (30, 40), edge=CONTINUOUS).tolist() == [0, 0, 40, 30]
    assert clip_boxes(box, (30, 40)).tolist() == [0, 0, 39, 29]


@pytest.mark.parametrize(("edge", "kept"), [(INCLUSIVE, [0]), (CONTINUOUS, [0, 1])])
def test_overlap_is_of_the_convention_s_areas(edge: float, kept: list[int]) -> None:
    # Shares 1 of 3 columns without the edge, 2 of 4 with it.
    boxes = torch.tensor([[0.0, 0, 2, 9], [1, 0, 3, 9]])
    assert nms(boxes, torch.tensor([2.0, 1.0]), 0.45, edge=edge).tolist() == kept


def test_anchors_lie_about_the_cell_s_corner_unrounded() -> None:
    anchors = base_anchors(4, edge=CONTINUOUS)
    sides = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(anchors[:, :2], -anchors[:, 2:])
    torch.testing.assert_close(sides.prod(dim=1), torch.full((3,), 32.0**2))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1.0, 2.0]))
    grid = grid_anchors(2, 3, stride=4, device="cpu", edge=CONTINUOUS).view(2, 3, 3, 4)
    torch.testing.assert_close(grid[1, 2], anchors + torch.tensor([8.0, 4, 8, 4]))


@pytest.mark.parametrize(
    ("side", "level"), [(111.9, 0), (112.1, 1), (223.9, 1), (224.1, 2), (447.9, 2), (448.1, 3)]
)
def test_levels_begin_at_the_sides_themselves(side: float, level: int) -> None:
    boxes = torch.tensor([[10.0, 10, 10 + side, 10 + side]])
    assert pyramid_levels(boxes, edge=CONTINUOUS).tolist() == [level]
    assert pyramid_levels(boxes - torch.tensor([0.0, 0, 1, 1])).tolist() == [level]


def _bins(feature: Tensor, box: Tensor, scale: float, size: int) -> Tensor:
    """RoIAlign of one box as it is defined, aligned and with adaptive sampling: (C, size, size)."""
    x1, y1, x2, y2 = (box * scale - 0.5).tolist()
    samples = [max(1, int(np.ceil(side / size))) for side in (y2 - y1, x2 - x1)]

    def positions(start: float, stop: float, count: int) -> Tensor:
        step = (stop - start) / (size * count)
        return start + step * (torch.arange(size * count, dtype=torch.float64) + 0.5)

    y, x = positions(y1, y2, samples[0]), positions(x1, x2, samples[1])
    height, width = feature.shape[1:]
    inside = ((y >= -1) & (y <= height))[:, None] & ((x >= -1) & (x <= width))
    grid = torch.stack(
        torch.meshgrid(x.clamp(0, width - 1), y.clamp(0, height - 1), indexing="xy"), dim=-1
    )
    scale_of = torch.tensor([2 / (width - 1), 2 / (height - 1)])
    values = F.grid_sample(feature[None].double(), (grid * scale_of - 1)[None], align_corners=True)[
        0
    ]
    return F.avg_pool2d(values * inside, tuple(samples)).float()


def test_pooling_is_aligned_and_takes_as_many_samples_as_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    pyramid = [torch.randn(2, 3, 256 // s, 320 // s, generator=generator) for s in (4, 8, 16, 32)]
    boxes = torch.tensor(
        [
            [3.2, 5.1, 90.4, 60.0],
            [10, 10, 240, 250.5],
            [0, 0, 318, 256],
            [5, 9, 315, 21],
            [7, 7, 9, 8],
        ]
    )
    images = torch.tensor([0, 1, 0, 1, 1])
    got = pool_rois(pyramid, boxes, output_size=7, images=images, edge=CONTINUOUS)
    for box, image, level, one in zip(
        boxes, images, pyramid_levels(boxes, edge=CONTINUOUS).tolist(), got, strict=True
    ):
        want = _bins(pyramid[level][image], box, 1 / (4 << level), 7)
        torch.testing.assert_close(one, want, rtol=0, atol=1e-4)


def test_plain_roi_align_has_no_shift() -> None:
    feature = torch.arange(64.0).view(1, 1, 8, 8)
    rois = torch.tensor([[0.0, 2, 2, 6, 6]])
    shifted = roi_align_reference(feature, rois - torch.tensor([0, 0.5, 0.5, 0.5, 0.5]), 2, 1.0)
    torch.testing.assert_close(roi_align_reference(feature, rois, 2, 1.0, aligned=True), shifted)


def _proposals(operators: Operators, bias: float) -> tuple[Tensor, int]:
    """Select from two levels of random outputs whose deltas push half of the boxes out."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(6, 8), (3, 4)]
    outputs = [
        (
            torch.randn(2, 3, *size, generator=generator) + bias,
            2 * torch.randn(2, 12, *size, generator=generator),
        )
        for size in sizes
    ]
    anchors = Anchors.from_sizes(sizes, (4, 8), top_n=50, device="cpu", edge=CONTINUOUS)
    found = select_proposals(
        outputs,
        anchors,
        size=(24, 32),
        top_n=50,
        nms_threshold=0.7,
        operators=operators,
        edge=CONTINUOUS,
    )
    number = int(found.counts[1])
    assert not found.boxes[1, number:].any()
    return found.boxes[1, :number], number


@OPERATORS
def test_empty_proposals_are_dropped_and_low_logits_rank_above_padding(
    operators: Operators,
) -> None:
    boxes, number = _proposals(operators, 0.0)
    assert 10 < number < 50
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    # Every logit far below zero: the order is theirs all the same.
    lower, _ = _proposals(operators, -50.0)
    torch.testing.assert_close(lower, boxes, rtol=0, atol=1e-4)


@OPERATORS
@pytest.mark.parametrize("limit", [3, 100])
def test_detections_are_suppressed_class_by_class_and_never_more_than_the_limit(
    operators: Operators, limit: int
) -> None:
    """300 proposals at one place and 300 spread, four likely classes each: 2400 pairs."""
    spread = torch.arange(300.0)[:, None] * torch.tensor([3.0, 0, 3, 0]) + torch.tensor(
        [0, 0, 3, 9]
    )
    boxes = torch.cat((torch.tensor([[0.0, 0, 3, 9]]).expand(300, 4), spread))
    logits = torch.zeros(600, 6)
    logits[:, 5] = -50
    found = select_detections(
        ProposalLists(boxes[None], torch.tensor([600], dtype=torch.int32)),
        logits,
        torch.zeros(600, 24),
        size=(10, 1000),
        score_threshold=torch.tensor([0.05]),
        nms_threshold=0.5,
        limit=limit,
        operators=operators,
        edge=CONTINUOUS,
    )
    assert found.boxes.shape[1] == limit and int(found.counts[0]) == limit
    # At one place one of each class stays.
    first = found.boxes[0, :, 0] == 0
    assert found.classes[0, first].tolist() == [1, 2, 3, 4][: int(first.sum())]
    pairs = [
        (x, c)
        for (x, *_), c in zip(found.boxes[0].tolist(), found.classes[0].tolist(), strict=True)
    ]
    assert len({*pairs}) == limit


@pytest.mark.parametrize("size", [(24, 40), (37, 61), (90, 33)])
def test_logits_are_interpolated_twice(size: tuple[int, int]) -> None:
    logits = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    via = (27, 58)
    grid = Grid(size, (via[0] / size[0], via[1] / size[1]), edge=CONTINUOUS, via=via)
    whole = F.interpolate(logits[None], scale_factor=4.0, mode="bilinear", align_corners=False)
    want = F.interpolate(
        whole[:, :, : via[0], : via[1]], size=size, mode="bilinear", align_corners=False
    )[0]
    for y1, y2, x1, x2 in ((0, size[0], 0, size[1]), (5, 20, 7, 30)):
        tile = Tile(y1, y2, x1, x2, torch.empty(0))
        got = upsample_part(logits, tile, scale=grid.scale, via=grid.via)
        torch.testing.assert_close(got, want[:, y1:y2, x1:x2], rtol=0, atol=1e-5)


def _merge(
    boxes: list[list[float]],
    *,
    grid: Grid | None = None,
    semantic: Tensor | None = None,
    **options: float,
) -> tuple[list[int], Tensor]:
    """Merge filled masks over 16x16 pixels of stuff 1; class 2 is the merged things."""
    if semantic is None:
        semantic = torch.zeros(3, 4, 4)
        semantic[1] = 1
    number = len(boxes)
    found = Detections(
        torch.tensor(boxes, dtype=torch.float32).view(number, 4),
        torch.linspace(0.9, 0.6, number),
        torch.ones(number, dtype=torch.int64),
    )
    accepted, maps = merge_by_score(
        semantic,
        found,
        torch.full((number, 28, 28), 9.0),
        grid=grid or Grid((16, 16), edge=CONTINUOUS),
        num_stuff=2,
        share=0.5,
        options=HeadOptions(unknown_score=True, confidence=True, max_logit=True, **options),
    )
    return accepted.tolist(), maps.panoptic


def test_instances_take_what_is_free_by_score() -> None:
    accepted, panoptic = _merge([[0, 0, 8, 8], [4, 0, 12, 8], [0, 0, 12, 4], [1, 1, 1, 9]])
    # The third is covered more than by half, the last has no area.
    assert accepted == [0, 1]
    want = torch.ones(16, 16, dtype=torch.int16)
    want[:8, :8] = 2
    want[:8, 8:12] = 3
    assert torch.equal(panoptic, want)


def test_nothing_found_leaves_stuff() -> None:
    accepted, panoptic = _merge([])
    assert accepted == [] and (panoptic == 1).all()


def test_boxes_are_scaled_by_each_side() -> None:
    grid = Grid((32, 8), (0.5, 2.0), edge=CONTINUOUS, via=(16, 16))
    _, panoptic = _merge([[4, 4, 12, 8]], grid=grid)
    rows, columns = torch.nonzero(panoptic == 2, as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 15, 2, 5)


@pytest.mark.parametrize(("margin", "unknown"), [(0.0, True), (2.5, True), (3.5, False)])
def test_a_thing_of_no_instance_is_unknown(margin: float, unknown: bool) -> None:
    semantic = torch.zeros(3, 4, 4)
    semantic[2] = 3
    _, panoptic = _merge([[0, 0, 8, 16]], semantic=semantic, unknown_margin=margin)
    assert (panoptic[:, :8] == 2).all()
    assert (panoptic[:, 8:] == (UNKNOWN if unknown else 0)).all()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


def _predictor(merge: str, variant: str = "coco-fpn-r50", **options: object) -> Predictor:
    return Predictor(
        variant=variant,
        allow_random_weights=True,
        device="cpu",
        scale=64,
        merge=merge,
        semantic=True,
        unknown_score=True,
        score_threshold=0.1,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("merge", "variant"),
    [
        ("auto", "coco-fpn-r50"),
        ("upsnet", "coco-fpn-r50"),
        ("heuristic", "cityscapes-r18"),
    ],
)
def test_frames_of_every_merge(merge: str, variant: str, image: np.ndarray) -> None:
    predictor = _predictor(merge, variant)
    assert predictor.merge == ("heuristic" if merge == "auto" else merge)
    frame = predictor(image)
    assert frame.labels.shape == image.shape[:2]
    assert frame.semantic is not None and frame.unknown_score is not None
    public = {*predictor.taxonomy.public_ids.tolist(), 255}
    assert {*np.unique(frame.semantic).tolist()} <= public
    assert (frame.labels[frame.unknown] == 0).all()
    assert (frame.unknown_score[frame.unknown] > 127).all()
    for instance in frame.instances:
        mine = frame.labels == instance.id
        assert mine.sum() == instance.area
        if predictor.variant.family == "panoptic_fpn":
            x1, y1, x2, y2 = instance.detection_box
            assert x1 >= 0 and y1 >= 0 and x2 <= image.shape[1] - 1 and y2 <= image.shape[0] - 1
    one, other = predictor.compute_batch([torch.from_numpy(image)] * 2, predictor.settings())
    assert torch.equal(one.labels, other.labels)
    # Sums of a batch may come in another order, which close calls feel.
    assert (one.labels.numpy() == frame.labels).mean() > 0.8


@pytest.mark.parametrize("encoding", ["rgb8", "mono8", "yuyv"])
def test_every_encoding_is_taken(encoding: str, image: np.ndarray) -> None:
    pixels = {"rgb8": image[..., ::-1], "mono8": image[..., 0], "yuyv": image[..., :2]}[encoding]
    frame = _predictor("auto")(np.ascontiguousarray(pixels), encoding)
    assert frame.labels.shape == image.shape[:2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge": "panoptic"}, "merge"),
        ({"merge": "auto", "plain": True}, "plain"),
        ({"merge": "heuristic", "variant": "cityscapes-r18", "plain": True}, "plain"),
    ],
)
def test_impossible_merges(options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        _predictor(**options)  # type: ignore[arg-type]


def test_plain_form_is_refused(image: np.ndarray) -> None:
    network = _predictor("auto").network
    with pytest.raises(SettingsError, match="reference form"):
        network(torch.zeros(1, 3, 64, 96), (60, 90))


def test_scores_default_to_the_variant_s() -> None:
    thresholds = [
        Predictor(variant=name, allow_random_weights=True, device="cpu").score_threshold
        for name in ("coco-fpn-r50", "cityscapes-r18")
    ]
    assert thresholds == [0.5, 0.6]
    assert replace(get_variant("coco-fpn-r50"), family="upsnet").box_edge == INCLUSIVE
