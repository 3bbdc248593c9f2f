from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from things import thing_of_mask

from upsnet_ros.datasets.base import VOID, Polygons, Sample
from upsnet_ros.inference.preprocess import Geometry
from upsnet_ros.training.loading import nearest_index, prepare
from upsnet_ros.training.settings import Quirks

NUM_STUFF = 11


@pytest.mark.parametrize("length", [30, 97, 360, 1024])
@pytest.mark.parametrize("factor", [0.25, 0.7, 1.0, 1.25, 800 / 1024, 2.133333])
def test_nearest_index_is_opencvs_rule(length: int, factor: float) -> None:
    row = np.arange(length, dtype=np.float32)[None].repeat(4, axis=0)
    want = cv2.resize(row, None, fx=factor, fy=1.0, interpolation=cv2.INTER_NEAREST)[0]
    np.testing.assert_array_equal(nearest_index(length, factor), want)


def make_sample() -> Sample:
    semantic = np.zeros((60, 90), np.uint8)
    semantic[30:50, 10:40] = 13
    semantic[0:20, 60:80] = 11
    semantic[40:60, 60:90] = 13
    things = (
        thing_of_mask((semantic == 13) & (np.arange(90) < 50), 13),
        thing_of_mask(semantic == 11, 11, crowd=True),
        thing_of_mask((semantic == 13) & (np.arange(90) > 50), 13),
    )
    unknown = np.zeros((60, 90), bool)
    unknown[:8, :8] = True
    image = np.zeros((60, 90, 3), np.uint8)
    return Sample(name="s", image=image, semantic=semantic, things=things, unknown=unknown)


def test_labels_come_to_the_networks_grid() -> None:
    geometry = Geometry.of((60, 90), scale=120, max_size=400)
    image = prepare(make_sample(), geometry, num_stuff=NUM_STUFF, seed=1, quirks=Quirks())
    assert image.data.shape == (1, 3, 128, 192)
    assert image.semantic.shape == (1, 128, 192)
    assert (image.semantic[0, 120:] == VOID).all()
    assert (image.semantic[0, 60:100, 20:80] == 13).all()
    assert image.semantic_quarter.shape == (1, 32, 48)
    assert torch.equal(image.semantic_quarter[0, :30, :45], image.semantic[0, :120:4, :180:4])
    assert image.classes.tolist() == [[3, 1, 3]]
    assert image.crowd.tolist() == [[False, True, False]]
    assert image.masks_quarter.shape == (2, 32, 48)  # objects, not groups
    quarter = image.semantic_quarter[0, :30, :45]
    objects = (image.masks_quarter[:, :30, :45] == 1).any(dim=0)
    assert torch.equal(objects, quarter == 13)
    assert torch.equal(image.crowd_quarter[0, :30, :45], quarter == 11)
    assert image.unknown_quarter[0, :4, :4].all()
    assert not image.unknown_quarter[0, 4:].any()
    assert image.roi_semantic.shape == (2, 28, 28)
    assert (image.roi_semantic == 13).all()


def test_groups_shift_masks_only_by_quirk() -> None:
    geometry = Geometry.of((60, 90), scale=60, max_size=400)
    quirks = Quirks(crowd_shifts_panoptic_masks=True, masks_by_bounds=True)
    image = prepare(make_sample(), geometry, num_stuff=NUM_STUFF, seed=1, quirks=quirks)
    assert all(isinstance(shape, Polygons) for shape in image.shapes[0])
    assert image.masks_quarter.shape[0] == 2
    # The second object's mask is the group's.
    quarter = image.semantic_quarter[0, :15, :22]
    assert torch.equal(image.masks_quarter[1, :15, :22] == 1, quarter == 11)


def test_a_sample_without_things() -> None:
    geometry = Geometry.of((60, 90), scale=64, max_size=400)
    sample = Sample(
        name="s",
        image=np.zeros((60, 90, 3), np.uint8),
        semantic=np.zeros((60, 90), np.uint8),
        things=(),
    )
    image = prepare(sample, geometry, num_stuff=NUM_STUFF, seed=1, quirks=Quirks())
    assert image.shapes == ((),)
    assert image.boxes.shape == (1, 1, 4) and image.classes.tolist() == [[0]]  # padding
    assert image.members.shape == (2, 0)
    assert image.masks_quarter.shape[0] == 0
    assert not image.unknown_quarter.any()
