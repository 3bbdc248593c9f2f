"""Who belongs to whom."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

IntArray = npt.NDArray[np.int64]


def assign(scores: npt.NDArray[np.float64]) -> tuple[IntArray, IntArray]:
    """The pairing of rows with columns whose scores have the largest sum.

    Args:
        scores: float64 (N, M), not negative; a score of 0 is no pair.

    Returns:
        Rows and columns of the pairs, int64 (P,) each; each row and column in one pair at most.
    """
    rows, columns = linear_sum_assignment(scores, maximize=True)
    paired = scores[rows, columns] > 0
    return rows[paired], columns[paired]
