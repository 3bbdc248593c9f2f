"""The classes that an evaluation counts, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.taxonomy import ClassInfo, Taxonomy
from upsnet_ros.evaluation.errors import EvaluationError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Categories:
    """Classes by place; every array "by class" of this package has this order.

    Unlike a `Taxonomy`, these may come from a file, in any order and with an id of 0.

    Attributes:
        classes: The classes; their ``semantic_id`` is not looked at.

    Raises:
        EvaluationError: There is none, or two have the same id.
    """

    classes: tuple[ClassInfo, ...]

    def __post_init__(self) -> None:
        ids = [info.id for info in self.classes]
        if not ids:
            raise EvaluationError("there are no categories to evaluate")
        twice = sorted({number for number in ids if ids.count(number) > 1})
        if twice:
            raise EvaluationError(f"categories occur twice: {_listed(twice)}")

    @classmethod
    def of(cls, taxonomy: Taxonomy) -> Categories:
        """The classes of a taxonomy."""
        return cls(taxonomy.classes)

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def is_thing(self) -> npt.NDArray[np.bool_]:
        """Whether instances of the class are told apart, bool (C,)."""
        return np.array([info.is_thing for info in self.classes])

    @cached_property
    def _order(self) -> tuple[IntArray, IntArray]:
        ids = np.array([info.id for info in self.classes], np.int64)
        order = np.argsort(ids)
        return ids[order], order

    def places(self, ids: IntArray) -> IntArray:
        """Return the place of each class id.

        Raises:
            EvaluationError: An id is none of these categories'; it is named.
        """
        known, order = self._order
        nearest = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        strange = known[nearest] != ids
        if strange.any():
            raise EvaluationError(f"unknown categories: {_listed(np.unique(ids[strange]))}")
        return order[nearest]


def _listed(numbers: Iterable[int]) -> str:
    texts = [str(number) for number in numbers]
    return ", ".join(texts[:8]) + (f" and {len(texts) - 8} more" if len(texts) > 8 else "")
