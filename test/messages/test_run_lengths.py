from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from upsnet_ros.messages.results import decode, encode


def bounds(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def encode_all(labels):
    ids = [int(value) for value in np.unique(labels)]
    segments = [(value, bounds(labels == value)) for value in ids]
    return [
        (*segment, runs) for segment, runs in zip(segments, encode(labels, segments), strict=True)
    ]


def test_runs_of_a_small_image_by_hand():
    labels = np.array(
        [
            [7, 7, 7, 7],
            [7, 5, 5, 7],
            [5, 5, 7, 7],
        ],
        np.int32,
    )
    runs = {value: lengths.tolist() for value, _, lengths in encode_all(labels)}
    assert runs == {5: [1, 4, 1], 7: [0, 5, 2, 1, 2, 2]}


@given(
    hnp.arrays(
        np.int32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
        elements=st.sampled_from([0, 7, 26001, 26002]),
    )
)
def test_decoded_runs_are_the_pixels_of_each_segment(labels):
    for value, (x1, y1, x2, y2), runs in encode_all(labels):
        inside = labels[y1 : y2 + 1, x1 : x2 + 1] == value
        assert runs.dtype == np.uint32
        assert (runs[1:] > 0).all(), "only the first run may be empty"
        mask = decode(runs, height=y2 - y1 + 1, width=x2 - x1 + 1)
        np.testing.assert_array_equal(mask, inside)


def test_runs_that_do_not_fill_the_region_are_refused():
    with pytest.raises(ValueError, match=r"5 pixels .*2x3 pixels"):
        decode([0, 5], height=3, width=2)
