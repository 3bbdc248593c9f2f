from __future__ import annotations

from typing import Any

import numpy as np
import parity_folder
import pytest
import torch

from upsnet_ros.network.segments import VOID, Segments, unify
from upsnet_ros.ops.panoptic import UNKNOWN


def _unify(panoptic: Any, semantic: Any, classes: Any, limit: int = 0) -> Segments:
    panoptic = torch.as_tensor(np.asarray(panoptic).astype(np.int16))
    panoptic = torch.where(panoptic == 255, UNKNOWN, panoptic)
    return unify(
        panoptic,
        torch.as_tensor(np.asarray(semantic).astype(np.int16)),
        torch.as_tensor(np.asarray(classes)),
        num_stuff=11,
        num_seg_classes=19,
        stuff_area_limit=limit,
    )


@pytest.mark.parametrize("case", parity_folder.names("un_", "_pan"))
def test_as_the_original(unit_ops: Any, case: str) -> None:
    got = _unify(
        unit_ops[f"un_{case}_pan"],
        unit_ops[f"un_{case}_seg"],
        unit_ops[f"un_{case}_cls"],
        int(unit_ops[f"un_{case}_limit"]),
    )
    np.testing.assert_array_equal(got.semantic, unit_ops[f"un_{case}_sem"])
    np.testing.assert_array_equal(got.instance, unit_ops[f"un_{case}_ins"])


def test_majority_of_stuff_takes_an_instance() -> None:
    panoptic = np.full((4, 4), 11)
    semantic = np.full((4, 4), 3)
    semantic[:, 2:] = 11
    got = _unify(panoptic, semantic, [1])  # a tie: the lowest label counts, and half suffices
    assert (got.semantic == 3).all() and (got.instance == 0).all()
    semantic[0, 0] = 11
    got = _unify(panoptic, semantic, [1])
    assert (got.semantic == 11).all() and (got.instance == 1).all()


def test_another_thing_never_takes_an_instance() -> None:
    got = _unify(np.full((4, 4), 11), np.full((4, 4), 15), [1])
    assert (got.semantic == 11).all()


def test_small_stuff_is_void_but_small_things_stay() -> None:
    panoptic = np.zeros((8, 8))
    panoptic[0, 0], panoptic[0, 1] = 5, 11
    semantic = np.where(panoptic == 11, 11, panoptic)
    got = _unify(panoptic, semantic, [1], limit=2)
    assert got.semantic[0, :3].tolist() == [VOID, 11, 0]
    assert got.region_area[5] == 1


def test_numbers_skip_hidden_instances_and_count_converted_ones() -> None:
    panoptic = np.array([[11, 11, 13, 13, 14, 14]])
    semantic = np.array([[11, 11, 0, 0, 12, 12]])
    got = _unify(panoptic, semantic, [1, 1, 2, 2])
    assert got.instance.tolist() == [[1, 1, 0, 0, 3, 3]]
