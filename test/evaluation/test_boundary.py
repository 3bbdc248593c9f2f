from __future__ import annotations

import cv2
import numpy as np
import pytest

from upsnet_ros.evaluation.maps import Overlaps, PanopticMap, Segments
from upsnet_ros.evaluation.panoptic_quality import band_width, boundary_overlaps, match


def _band_of_one(mask: np.ndarray, width: int) -> np.ndarray:
    """The band by its definition: what repeated erosion by a pixel takes, borders eroding too."""
    padded = np.pad(mask.astype(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)
    return mask & (inner[1:-1, 1:-1] == 0)


@pytest.mark.parametrize("offset", [0, 2**25])  # the latter is beyond what float32 holds
def test_iou_is_the_smaller_of_whole_and_boundary(offset, random_pairs) -> None:
    seen = 0
    for pair in random_pairs(150, 4):
        truth, prediction = (
            PanopticMap(
                pixels=np.where(side.pixels > 0, side.pixels.astype(np.int64) + offset, 0),
                segments=Segments.from_arrays(
                    side.segments.ids + offset, side.segments.classes, crowd=side.segments.crowd
                ),
            )
            for side in (pair.truth, pair.prediction)
        )
        width = band_width(*truth.pixels.shape)
        whole = Overlaps.from_maps(truth, prediction)
        matching = match(whole, boundary_overlaps(truth, prediction))
        found = dict(
            zip(zip(matching.rows, matching.columns, strict=True), matching.ious, strict=True)
        )
        for row, column in zip(*(match(whole).rows, match(whole).columns), strict=True):
            masks = [
                side.pixels == side.segments.ids[place]
                for side, place in ((truth, row), (prediction, column))
            ]
            known = truth.pixels != 0
            bands = [_band_of_one(mask, width) for mask in masks]
            ious = [(a & b).sum() / (a | (b & known)).sum() for a, b in (masks, bands)]
            if min(ious) > 0.5:
                assert found.pop((row, column)) == pytest.approx(min(ious), abs=1e-12), pair.name
                seen += 1
        assert not found
    assert seen > 50


def test_band_follows_the_size_of_the_image() -> None:
    assert band_width(1024, 2048) == 46
    assert band_width(3, 4) == 1
