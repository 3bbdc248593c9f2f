from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from upsnet_ros.datasets.base import Bitmask, Polygons
from upsnet_ros.ops.boxes import BOX_HEAD_WEIGHTS, decode_boxes
from upsnet_ros.training.settings import Quirks, TargetSettings
from upsnet_ros.training.targets import RegionTargets, SeededChooser, mask_targets, sample_regions

BOXES = torch.tensor([[10.0, 10.0, 49.0, 49.0], [60.0, 20.0, 99.0, 39.0]])
CLASSES = torch.tensor([3, 5])
PROPOSALS = torch.tensor(
    [
        [12.0, 8.0, 50.0, 52.0],  # the first object
        [55.0, 18.0, 101.0, 40.0],  # the second
        [61.0, 21.0, 98.0, 38.0],  # the second
        [0.0, 60.0, 30.0, 90.0],
        [70.0, 60.0, 95.0, 95.0],
    ]
)


def sample(
    *,
    crowd: tuple[bool, bool] = (False, False),
    settings: TargetSettings | None = None,
    quirks: Quirks | None = None,
    boxes: Tensor = BOXES,
) -> RegionTargets:
    """Sample of one image; behind its proposals and boxes there is padding."""
    padding = torch.tensor([[12.0, 8.0, 50.0, 52.0]])
    found = len(boxes)
    return sample_regions(
        torch.cat((PROPOSALS, padding))[None],
        numbers=torch.tensor([len(PROPOSALS)], dtype=torch.int32),
        boxes=torch.cat((boxes, torch.zeros(3 - found, 4)))[None],
        classes=torch.cat((CLASSES[:found], torch.zeros(3 - found, dtype=torch.int64)))[None],
        crowd=torch.tensor([(*crowd[:found], *[False] * (3 - found))]),
        has_crowds=any(crowd[:found]),
        settings=settings or TargetSettings(),
        quirks=quirks or Quirks(),
        choosers=[SeededChooser(0)],
    )


def test_objects_and_proposals_are_candidates() -> None:
    regions = sample()
    assert len(regions.boxes) == 7
    assert sorted(regions.classes.tolist()) == [0, 0, 3, 3, 5, 5, 5]
    positives = len(regions.objects)
    decoded = decode_boxes(regions.boxes[:positives], regions.deltas, BOX_HEAD_WEIGHTS)
    torch.testing.assert_close(decoded, BOXES[regions.objects])
    assert torch.equal(CLASSES[regions.objects], regions.classes[:positives])


def test_counts_are_limited() -> None:
    regions = sample(settings=TargetSettings(rois=4, roi_positives=3))
    assert (regions.classes > 0).tolist() == [True, True, True, False]


def test_without_objects_all_is_background() -> None:
    regions = sample(boxes=torch.zeros((0, 4)))
    assert regions.classes.tolist() == [0] * 5
    assert regions.deltas.shape == (0, 4)


def test_proposals_on_a_group_are_left_out_but_by_quirk() -> None:
    regions = sample(crowd=(False, True))
    assert sorted(regions.classes.tolist()) == [0, 0, 3, 3]
    regions = sample(crowd=(False, True), quirks=Quirks(crowds_as_objects=True))
    # The group itself is no candidate, the proposals on it are examples of its class.
    assert sorted(regions.classes.tolist()) == [0, 0, 3, 3, 5, 5]


def test_masks_of_the_own_object() -> None:
    whole = np.zeros((100, 120), bool)
    whole[10:50, 10:50] = True
    half = np.zeros((100, 120), bool)
    half[20:40, 60:80] = True
    shapes = (Bitmask.of(whole), Bitmask.of(half))
    regions = RegionTargets(
        torch.tensor(
            [[10.0, 10.0, 49.0, 49.0], [60.0, 20.0, 99.0, 39.0], [50.0, 10.0, 89.0, 49.0]]
        ),
        torch.zeros(3, dtype=torch.int64),
        torch.tensor([3, 5, 0]),
        torch.tensor([0, 1]),
        torch.zeros((2, 4)),
        torch.full((3,), 1 / 3),
        (2,),
    )
    masks = mask_targets(
        regions,
        shapes=[shapes],
        crowds=[np.array([False, False])],
        resolution=28,
        quirks=Quirks(),
    )
    assert masks.shape == (2, 28, 28)
    assert masks[0].min() == 1
    assert masks[1, :, :14].min() == 1
    assert masks[1, :, 14:].max() == 0
    ignored = mask_targets(
        regions,
        shapes=[shapes],
        crowds=[np.array([True, False])],
        resolution=28,
        quirks=Quirks(),
    )
    assert ignored[0].max() == -1


def test_masks_by_the_outlines_bounds_by_quirk() -> None:
    """The object whose box a region has need not be the one whose outline it overlaps most."""
    small = Polygons.of([[12, 12, 20, 12, 20, 20, 12, 20]])
    large = Polygons.of([[10, 10, 49, 10, 49, 49, 10, 49]])
    regions = RegionTargets(
        torch.tensor([[10.0, 10.0, 49.0, 49.0]]),
        torch.tensor([0]),
        torch.tensor([3]),
        torch.tensor([0]),
        torch.zeros((1, 4)),
        torch.ones(1),
        (1,),
    )
    shapes, crowds = [(small, large)], [np.array([False, False])]
    mine = mask_targets(regions, shapes=shapes, crowds=crowds, resolution=28, quirks=Quirks())
    theirs = mask_targets(
        regions,
        shapes=shapes,
        crowds=crowds,
        resolution=28,
        quirks=Quirks(masks_by_bounds=True),
    )
    assert mine.mean() < 0.1
    assert theirs.mean() > 0.9
