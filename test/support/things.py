"""Objects for tests of training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.base import Bitmask, Thing


def thing_of_mask(mask: npt.NDArray[np.bool_], semantic_id: int, *, crowd: bool = False) -> Thing:
    """The object that covers the pixels of a mask, bool (H, W), not empty."""
    shape = Bitmask.of(mask)
    return Thing(semantic_id=semantic_id, box=shape.bounds, shape=shape, crowd=crowd)
