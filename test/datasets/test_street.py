"""The drawn street: repeatable, moving, of any size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from upsnet_ros.datasets.street import street_frames


def test_same_seed_same_frames_other_seed_other_street() -> None:
    first, again = (list(street_frames(2, height=64, width=128, seed=3)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    (other,) = street_frames(1, height=64, width=128, seed=4)
    assert (first[0] != other).mean() > 0.1


def test_the_street_does_not_depend_on_how_many_frames_are_taken() -> None:
    few = list(street_frames(3, height=64, width=128))
    many = list(itertools.islice(street_frames(60, height=64, width=128), 3))
    assert all((a == b).all() for a, b in zip(few, many, strict=True))


@pytest.mark.parametrize(("height", "width"), [(64, 128), (97, 131), (256, 256)])
def test_frames_of_any_size(height: int, width: int) -> None:
    (frame,) = street_frames(1, height=height, width=width)
    assert frame.shape == (height, width, 3)
    assert frame.dtype == np.uint8


def test_the_camera_drives() -> None:
    frames = [frame.astype(int) for frame in street_frames(4, height=128, width=256)]
    for before, after in itertools.pairwise(frames):
        assert np.abs(after - before).mean() > 1


def test_sky_is_above_road() -> None:
    (frame,) = street_frames(1, height=128, width=256)
    sky, road = frame[5, 100:160].mean(axis=0), frame[110, 100:160].mean(axis=0)
    assert sky[0] > sky[2] + 50, "the sky is not blue"
    assert np.ptp(road) < 20, "the road is not grey"
    assert road.mean() < 130
