from __future__ import annotations

import numpy as np
import pytest
from things import thing_of_mask

from upsnet_ros.datasets.base import Sample
from upsnet_ros.training.loading import augment
from upsnet_ros.training.settings import AugmentSettings


@pytest.fixture
def sample() -> Sample:
    """A picture whose colours are its labels."""
    rng = np.random.default_rng(0)
    semantic = np.zeros((48, 80), np.uint8)
    semantic[20:40, 10:30] = 13
    semantic[5:15, 60:70] = 11
    image = np.repeat((semantic * 10)[..., None], 3, axis=2)
    return Sample(
        name="drawn",
        image=image,
        semantic=semantic,
        things=(thing_of_mask(semantic == 11, 11), thing_of_mask(semantic == 13, 13)),
        unknown=rng.random((48, 80)) < 0.1,
    )


def consistent(sample: Sample) -> None:
    """Image, labels, boxes and shapes must still say the same."""
    np.testing.assert_array_equal(sample.image[..., 0], sample.semantic * 10)
    rows, columns = (np.arange(side) for side in sample.size)
    for thing in sample.things:
        mask = thing.shape.paint(rows, columns) > 0
        np.testing.assert_array_equal(mask, sample.semantic == thing.semantic_id)
        y, x = np.nonzero(mask)
        assert thing.box == (x.min(), y.min(), x.max(), y.max())


def test_mirrored(sample: Sample) -> None:
    result = sample.mirrored()
    consistent(result)
    np.testing.assert_array_equal(result.image, sample.image[:, ::-1])
    np.testing.assert_array_equal(result.unknown, sample.unknown[:, ::-1])
    assert result.mirrored().things[0].box == sample.things[0].box


def test_cropped(sample: Sample) -> None:
    result = sample.cropped(x1=20, y1=10, x2=60, y2=36)
    consistent(result)
    assert result.size == (26, 40)
    (thing,) = result.things  # the other is outside
    assert thing.box == (0.0, 10.0, 9.0, 25.0)


def test_every_seed_is_consistent_and_repeats(sample: Sample) -> None:
    settings = AugmentSettings(scales=(64, 96), max_size=512, flip=0.5, crop=(64, 96))
    boxes = set()
    for seed in range(12):
        result, geometry = augment(sample, settings, seed=seed)
        consistent(result)
        assert geometry.source == result.size
        assert geometry.scale in (64 / 48, 96 / 48)
        assert geometry.padded == (64, 96)  # the crop, whatever the rounding
        again, _ = augment(sample, settings, seed=seed)
        np.testing.assert_array_equal(again.image, result.image)
        boxes.add(tuple(thing.box for thing in result.things))
    assert len(boxes) > 6


def test_colours_change_and_labels_do_not(sample: Sample) -> None:
    settings = AugmentSettings(scales=(48,), max_size=512, flip=0.0, color=0.5)
    result, _ = augment(sample, settings, seed=1)
    np.testing.assert_array_equal(result.semantic, sample.semantic)
    assert result.image.shape == sample.image.shape
    assert not np.array_equal(result.image, sample.image)
    plain, _ = augment(sample, AugmentSettings(scales=(48,), max_size=512, flip=0.0), seed=1)
    np.testing.assert_array_equal(plain.image, sample.image)
