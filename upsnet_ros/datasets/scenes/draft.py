"""A stretch of street, finished or still being furnished."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from upsnet_ros.datasets.scenes.car_models import car_size
from upsnet_ros.datasets.scenes.coach_models import coach_size
from upsnet_ros.datasets.scenes.grounds import Patch
from upsnet_ros.datasets.scenes.stage import Item
from upsnet_ros.datasets.scenes.street import BLOCK, Street

#: Instances of one class that a block can hold at most, walkers and parked vehicles together.
PER_BLOCK = 64

#: After how many blocks instance numbers begin anew; more blocks than one ever sees at once.
CYCLE_OF_BLOCKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Mouth:
    """Where a side street opens.

    Attributes:
        side: 0 for the left, 1 for the right.
        start: First s, metres.
        end: Last s.
    """

    side: int
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """How something goes to and fro for ever.

    Attributes:
        item: What walks, at the middle of its way.
        reach: Half the way's length, metres; 0 for something that stands.
        speed: Metres a second.
        phase: Where on its way it starts, metres.
        across: Whether the way leads across the street instead of along it.
    """

    item: Item
    reach: float
    speed: float
    phase: float
    across: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One stretch of a street, `BLOCK` metres long.

    Attributes:
        items: What never moves.
        walks: Who or what walks.
        patches: Grounds other than the cross-section's.
        mouths: Side streets.
        crosswalk: s of the middle of its zebra crossing, or None.
        obstacles: (s, d) of what lies on the lanes.
    """

    items: tuple[Item, ...]
    walks: tuple[Walk, ...]
    patches: tuple[Patch, ...]
    mouths: tuple[Mouth, ...]
    crosswalk: float | None
    obstacles: tuple[tuple[float, float], ...]


@dataclass(slots=True, kw_only=True)
class Draft:
    """A block while it is furnished; fields as in `Block`, and where its randomness comes from."""

    street: Street
    index: int
    rng: np.random.Generator
    items: list[Item] = field(default_factory=list)
    walks: list[Walk] = field(default_factory=list)
    patches: list[Patch] = field(default_factory=list)
    obstacles: list[tuple[float, float]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def start(self) -> float:
        """S where the block begins, metres."""
        return self.index * BLOCK

    def number(self, kind: str) -> int:
        """The next instance number of a class in this block."""
        count = self.counts.get(kind, 0)
        self.counts[kind] = count + 1
        return self.index % CYCLE_OF_BLOCKS * PER_BLOCK + count % PER_BLOCK

    def look(self) -> int:
        """A look that nothing else has."""
        return int(self.rng.integers(1 << 30))

    def pole(self, kind: str, s: float, d: float, height: float, width: float) -> None:
        """Puts up something thin; metres."""
        self.items.append(
            Item(kind=kind, s=s, d=d, length=width, width=width, height=height, look=self.look())
        )


def vehicle(
    street: Street, kind: str, s: float, d: float, look: int, facing: float, number: int
) -> Item:
    """A vehicle of the size that its look has."""
    if kind == "car":
        size = car_size(street.split, look)
    elif kind in ("truck", "bus", "train"):
        size = coach_size(street.split, kind, look)
    else:
        size = {"cyclist": (1.8, 0.6, 1.75), "motorcyclist": (2.1, 0.8, 1.6)}[kind]
    length, width, height = size
    return Item(
        kind=kind,
        s=s,
        d=d,
        length=length,
        width=width,
        height=height,
        look=look,
        facing=facing,
        number=number,
    )
