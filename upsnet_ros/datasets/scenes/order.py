"""In which order things are painted, so that what is nearer hides what is farther away."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_SLACK = 0.02


def back_to_front(bounds: npt.NDArray[np.float64], s: float, d: float) -> list[int]:
    """The order to paint things in.

    Of two things, a camera at (s, d) that looks along s sees the one behind the other across a line
    that separates them; where a line across the street does, that decides, else one along it.

    Args:
        bounds: (N, 4) least and greatest s, then least and greatest d, of each thing.
        s: The camera's place along the street.
        d: The camera's place across it.

    Returns:
        Row numbers of ``bounds``, farthest first.
    """
    s0, s1, d0, d1 = bounds.T
    # Along the street: whether row's thing begins where column's has ended.
    beyond = s0[:, None] >= s1[None] - _SLACK
    level = ~(beyond | beyond.T)
    # Beside each other: whether row's thing lies farther to the same side of the camera.
    right = (d0[:, None] >= d1[None] - _SLACK) & (d0[None] + d1[None] >= 2 * d)
    left = (d1[:, None] <= d0[None] + _SLACK) & (d0[None] + d1[None] <= 2 * d)
    # Overlapping both ways: by their middles.
    crossed = level & ~(right | right.T | left | left.T)
    middle = s0 + s1
    behind = beyond | (level & (right | left)) | (crossed & (middle[:, None] > middle[None]))
    np.fill_diagonal(behind, False)
    waiting = behind.sum(axis=0)  # how many have to be painted before each
    distance = np.hypot(middle / 2 - s, (d0 + d1) / 2 - d)
    order: list[int] = []
    open_ = np.ones(len(bounds), bool)
    while len(order) < len(bounds):
        ready = np.flatnonzero(open_ & (waiting <= 0))
        if not len(ready):  # a ring of three or more: the farthest goes first
            rest = np.flatnonzero(open_)
            ready = rest[[int(np.argmax(distance[rest]))]]
        for place in ready:
            order.append(int(place))
            open_[place] = False
        waiting = waiting - behind[ready].sum(axis=0)
    return order
