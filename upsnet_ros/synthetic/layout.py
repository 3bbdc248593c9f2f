"""Furnishes a street block by block: plots, kerbs, people, objects.

Every block has its own random generator, so any stretch of an endless street can be furnished
without the stretches before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from upsnet_ros.synthetic.buildings import FACADES, facade
from upsnet_ros.synthetic.cars import CARS, Car, car
from upsnet_ros.synthetic.heavy_vehicles import HEAVY_VEHICLES, HeavyVehicle, heavy_vehicle
from upsnet_ros.synthetic.stage import Item
from upsnet_ros.synthetic.street import ASPHALT, BLOCK, PATCH, VERGE, WALK, Patch, Side, Street
from upsnet_ros.synthetic.structures import BUSHES, HOUSE_DEPTH, TREES, bush, tree
from upsnet_ros.synthetic.unknown_objects import unknown_object

#: Maximum number of instances of one class in a block, whether they move or not.
PER_BLOCK = 64

#: Number of blocks after which instance numbers repeat; more than are ever visible at once.
CYCLE_OF_BLOCKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Something that goes back and forth forever, or stands still.

    Attributes:
        item: What walks, at the middle of its way.
        reach: Half the length of the way, metres; 0 for something that stands.
        speed: Speed, metres per second.
        phase: Where on its way it starts, metres.
        across: Whether the way crosses the street instead of following it.
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
        walks: What walks, such as people and animals.
        patches: Ground that differs from the cross-section of the street.
        crosswalk: s of the middle of its zebra crossing, metres, or None.
        obstacles: (s, d) of the objects on the lanes, metres.
    """

    items: tuple[Item, ...]
    walks: tuple[Walk, ...]
    patches: tuple[Patch, ...]
    crosswalk: float | None
    obstacles: tuple[tuple[float, float], ...]


@dataclass(slots=True, kw_only=True)
class Draft:
    """A block while it is furnished: fields as in `Block`, and its random generator."""

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
        """Where the block begins, s in metres."""
        return self.index * BLOCK

    def number(self, kind: str) -> int:
        """Return the next instance number of a class in this block."""
        count = self.counts.get(kind, 0)
        self.counts[kind] = count + 1
        return self.index % CYCLE_OF_BLOCKS * PER_BLOCK + count % PER_BLOCK

    def look(self) -> int:
        """Return a new random look."""
        return int(self.rng.integers(1 << 30))

    def add(
        self,
        kind: str,
        s: float,
        d: float,
        size: tuple[float, float, float],
        *,
        look: int | None = None,
        facing: float = 0.0,
        number: int = 0,
    ) -> None:
        """Add something of a size (length, width, height) in metres; the default look is random."""
        length, width, height = size
        self.items.append(
            Item(
                kind=kind,
                s=s,
                d=d,
                length=length,
                width=width,
                height=height,
                look=self.look() if look is None else look,
                facing=facing,
                number=number,
            )
        )


_CYCLES = {"cyclist": (1.8, 0.6, 1.75), "motorcyclist": (2.1, 0.8, 1.6)}


def vehicle(
    street: Street, kind: str, s: float, d: float, look: int, facing: float, number: int
) -> Item:
    """Return a vehicle, with the size of its look."""
    model: Car | HeavyVehicle | None = None
    if kind == "car":
        model = car(street.split, look % CARS)
    elif kind in ("truck", "bus", "train"):
        model = heavy_vehicle(street.split, kind, look % HEAVY_VEHICLES)
    size = (model.length, model.width, model.height) if model else _CYCLES[kind]
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


_PLOTS = ("house", "wall", "fence", "hedge", "lawn")
_PLOT_SHARES = {
    "old town": (0.82, 0.06, 0.05, 0.02, 0.05),
    "centre": (0.72, 0.08, 0.08, 0.03, 0.09),
    "suburb": (0.26, 0.17, 0.24, 0.2, 0.13),
    "estate": (0.42, 0.08, 0.17, 0.13, 0.2),
    "works": (0.3, 0.32, 0.3, 0.03, 0.05),
    "park": (0.14, 0.17, 0.2, 0.15, 0.34),
}
# Smallest and largest height, and thickness, metres.
_ENCLOSURES = {"wall": (1.2, 3.2, 0.3), "fence": (0.9, 2.2, 0.08), "hedge": (0.8, 2.0, 0.9)}


def add_plots(draft: Draft, number: int, side: Side, end: float) -> None:
    """Add houses, gardens, walls, fences and lawns behind the sidewalk, up to s = ``end``."""
    rng, s = draft.rng, draft.start
    while end - s > 2.0:
        kind = str(rng.choice(_PLOTS, p=_PLOT_SHARES[draft.street.district]))
        length = float(rng.uniform(9, 20))
        if kind == "house":
            look = int(rng.integers(FACADES))
            wide = facade(draft.street.split, look).width
            if s + wide > end:
                wide = length = end - s
            if wide >= 5:
                _add_house(draft, number, s, side.plots, wide, look)
                s += wide + float(rng.choice([0.0, 0.0, 0.0, 2.5]))
                continue
            kind = "lawn"
        length = min(length, end - s)
        ground = int(rng.choice([VERGE, VERGE, PATCH, WALK]))
        draft.patches.append(
            Patch(side=number, start=s, end=s + length, inner=side.plots, material=ground)
        )
        _add_garden(draft, number, kind, s, side.plots, length)
        s += length


def _add_house(draft: Draft, number: int, s: float, inner: float, length: float, look: int) -> None:
    d = (1 if number else -1) * (inner + HOUSE_DEPTH / 2)
    height = facade(draft.street.split, look).height
    draft.add("house", s + length / 2, d, (length, HOUSE_DEPTH, height), look=look)


def _add_garden(draft: Draft, number: int, kind: str, s: float, edge: float, length: float) -> None:
    """Furnish an open plot: enclosure, plants, often a house farther back."""
    rng, sign, lawn = draft.rng, 1 if number else -1, kind == "lawn"
    if not lawn:
        low, high, thick = _ENCLOSURES[kind]
        size = (length, thick, float(rng.uniform(low, high)))
        look = int(rng.integers(1 << 20))
        draft.add(kind, s + length / 2, sign * (edge + thick / 2), size, look=look)
    setback = float(rng.uniform(4.0, 11.0))
    if rng.random() < (0.3 if lawn else 0.65) and length > 8:
        look = int(rng.integers(FACADES))
        wide = min(length - 1.0, facade(draft.street.split, look).width)
        _add_house(draft, number, s + 0.5, edge + setback, wide, look)
    for _ in range(int(rng.poisson(length / (6.5 if lawn else 9.0)))):
        d = sign * (edge + float(rng.uniform(1.4, max(1.6, setback - 0.5))))
        _add_tree(draft, s + float(rng.uniform(0, length)), d)
    for _ in range(int(rng.poisson(length / 10.0))):
        d = sign * (edge + float(rng.uniform(1.0, max(1.2, setback - 0.5))))
        along, look = s + float(rng.uniform(0, length)), int(rng.integers(1 << 20))
        plant = bush(draft.street.split, look % BUSHES)
        draft.add("bush", along, d, (0.4, plant.width, plant.height), look=look)


def _add_tree(draft: Draft, s: float, d: float) -> None:
    look = int(draft.rng.integers(1 << 20))
    plant, scale = tree(draft.street.split, look % TREES), float(draft.rng.uniform(0.85, 1.15))
    draft.add("tree", s, d, (0.4, plant.width * scale, plant.height * scale), look=look)


def add_street_furniture(draft: Draft, number: int, side: Side, end: float) -> None:
    """Add lamps, masts, signs, trees and bollards along the kerb, up to s = ``end``."""
    rng, sign = draft.rng, 1 if number else -1
    d = sign * (side.kerb + 0.45)
    lamp = int(draft.street.rng("lamp").integers(1 << 20))
    height, width = 5.5 + lamp % 4, 0.12 + 0.02 * (lamp % 4)
    trams = any(lane.kind == "trams" for lane in draft.street.lanes)
    for s in np.arange(draft.start + 4 + 9 * number, end, 24.0).tolist():
        kind = "mast" if trams and rng.random() < 0.5 else "lamp"
        draft.add(kind, s, d, (0.3, width, height), look=lamp)
    for s in rng.uniform(draft.start, end, int(rng.poisson(2.4))).tolist():
        draft.add("sign", s, d, (0.07, 0.07, float(rng.uniform(2.2, 3.3))))
    if rng.random() < 0.2:
        first = float(rng.uniform(draft.start, max(draft.start + 1, end - 15)))
        for s in np.arange(first, min(first + 15, end), 1.8).tolist():
            draft.add("bollard", s, d, (0.12, 0.12, 0.95))
    if rng.random() < 0.22:  # a railing along the kerb
        length = float(rng.uniform(8, 18))
        first = float(rng.uniform(draft.start, max(draft.start + 1, end - length)))
        length = min(length, end - first)
        size = (length, 0.08, float(rng.uniform(0.85, 1.25)))
        draft.add("fence", first + length / 2, d, size)
    if side.trees:
        middle = sign * (side.kerb + (side.verge / 2 if side.verge else 0.8))
        for s in np.arange(draft.start + 6, end, float(rng.uniform(8, 13))).tolist():
            if rng.random() < 0.8:
                _add_tree(draft, s, middle)


def add_parked_vehicles(draft: Draft, number: int, side: Side, end: float) -> None:
    """Add vehicles parked along the kerb, up to s = ``end``."""
    if not side.parking:
        return
    rng, sign = draft.rng, 1 if number else -1
    d = sign * (side.kerb - 1.12)
    s = draft.start + 1.0
    fill = float(rng.uniform(0.35, 0.9))
    while s < end - 5:
        facing = 0.0 if sign > 0 or rng.random() < 0.15 else np.pi
        kind = str(rng.choice(["car", "truck", "motorcycle"], p=[0.79, 0.08, 0.13]))
        if rng.random() > fill:
            s += 6.0
            continue
        look = draft.look()
        if kind == "motorcycle":
            for index in range(int(rng.integers(1, 4))):
                facing = sign * float(rng.uniform(1.1, 1.7))
                draft.add(
                    kind,
                    s + 0.7 + 1.3 * index,
                    d,
                    (2.1, 0.8, 1.15),
                    look=look + index,
                    facing=facing,
                    number=draft.number(kind),
                )
            s += 5.0
            continue
        item = vehicle(draft.street, kind, s, d, look, facing, draft.number(kind))
        if s + item.length < end:
            draft.items.append(replace(item, s=s + item.length / 2))
        s += item.length + float(rng.uniform(0.7, 2.0))


def add_waiting_vehicle(draft: Draft, number: int, side: Side, start: float, end: float) -> None:
    """Add a vehicle that waits in the side street from s = ``start`` to ``end``, seen sideways."""
    rng, sign = draft.rng, 1 if number else -1
    if rng.random() > 0.6:
        return
    kind = str(rng.choice(["car", "truck", "bus", "motorcyclist"], p=[0.6, 0.15, 0.13, 0.12]))
    count = draft.number("motorcycle" if kind == "motorcyclist" else kind)
    towards = bool(rng.random() < 0.6)
    facing = -sign * np.pi / 2 if towards else sign * np.pi / 2
    s = start + (end - start) * (0.7 if towards == (sign > 0) else 0.3)
    item = vehicle(draft.street, kind, s, 0.0, draft.look(), facing, count)
    d = sign * (side.kerb + 1.0 + item.length / 2 + float(rng.uniform(0, 4)))
    draft.items.append(replace(item, d=d))


def add_traffic_lights(draft: Draft, s: float) -> None:
    """Add traffic lights in front of the crosswalk at ``s``."""
    rng = draft.rng
    look, phase = draft.look(), int(rng.integers(3))
    for number, side in enumerate(draft.street.sides):
        sign = 1 if number else -1
        size = (0.2, 0.14, 5.6 if look % 3 == 0 and number else 3.3)
        d = sign * (side.kerb + 0.5)
        draft.add("signal", s - 2.2, d, size, look=look, number=phase)


_PEOPLE = {"old town": 4.5, "centre": 6.0, "suburb": 1.8, "estate": 2.2, "works": 1.2, "park": 3.5}


def add_people(draft: Draft, number: int, side: Side, end: float) -> None:
    """Add people who walk or stand on a sidewalk, and bicycles parked there."""
    rng, sign = draft.rng, 1 if number else -1
    busy = float(draft.street.rng("busy").uniform(0.5, 1.7))
    for _ in range(min(14, int(rng.poisson(_PEOPLE[draft.street.district] * busy)))):
        s = float(rng.uniform(draft.start + 2, end - 1))
        d = sign * float(rng.uniform(side.walk_from + 0.4, side.plots - 0.4))
        stands = bool(rng.random() < 0.25)
        for index in range(1 if rng.random() < 0.75 else 2):
            item = _person(draft, s, d + 0.65 * index * sign)
            facing = float(rng.uniform(0, 2 * np.pi)) if stands else 0.0
            draft.walks.append(
                Walk(
                    item=replace(item, facing=facing),
                    reach=0.0 if stands else float(rng.uniform(8, 25)),
                    speed=float(rng.uniform(0.9, 1.6)),
                    phase=float(rng.uniform(0, 100)),
                )
            )
    for _ in range(int(rng.poisson(0.55))):  # bicycles at a rack or against a wall
        s, against = float(rng.uniform(draft.start + 2, end - 4)), rng.random() < 0.5
        d = sign * (side.plots - 0.4 if against else side.kerb + 0.7)
        for index in range(int(rng.integers(1, 5))):
            facing = np.pi / 2 * float(rng.normal(1, 0.15))
            if against and index == 0:
                rng.choice([0, np.pi])  # unused; without it, all later choices would change
            look = draft.look()
            if against:
                facing = float(rng.choice([0, np.pi]))
            draft.add(
                "bicycle",
                s + (1.9 if against else 0.65) * index,
                d,
                (1.75, 0.5, 1.05),
                look=look,
                facing=facing,
                number=draft.number("bicycle"),
            )


def _person(draft: Draft, s: float, d: float) -> Item:
    rng = draft.rng
    height = float(rng.uniform(1.55, 1.92)) if rng.random() < 0.88 else float(rng.uniform(1.0, 1.4))
    return Item(
        kind="person",
        s=s,
        d=d,
        length=0.5,
        width=0.55,
        height=height,
        look=draft.look(),
        number=draft.number("person"),
    )


def add_crossing_people(draft: Draft, s: float) -> None:
    """Add people who cross the street at the crosswalk at ``s``."""
    rng, left, right = draft.rng, *draft.street.sides
    for _ in range(int(rng.poisson(0.8))):
        middle = (right.kerb - left.kerb) / 2
        item = _person(draft, s + float(rng.uniform(-1.3, 1.3)), middle)
        draft.walks.append(
            Walk(
                item=item,
                reach=(right.kerb + left.kerb) / 2 + 1.0,
                speed=float(rng.uniform(1.0, 1.6)),
                phase=float(rng.uniform(0, 80)),
                across=True,
            )
        )


def add_unknown_objects(draft: Draft, number: int, side: Side, end: float) -> None:
    """Add unknown objects on a sidewalk, and animals that walk there."""
    rng, sign = draft.rng, 1 if number else -1
    for _ in range(int(rng.poisson(0.9))):
        s = float(rng.uniform(draft.start + 1, end - 1))
        d = sign * float(rng.uniform(side.kerb + 0.4, side.plots - 0.3))
        item = _unknown_object(draft, s, d, float(rng.uniform(0, 2 * np.pi)))
        walks = unknown_object(draft.street.split, item.look).kind in ("dog", "stroller")
        reach = float(rng.uniform(6, 15)) if walks else 0.0
        draft.walks.append(
            Walk(
                item=replace(item, facing=0.0) if walks else item,
                reach=reach,
                speed=float(rng.uniform(0.8, 1.5)),
                phase=float(rng.uniform(0, 60)),
            )
        )


def add_obstacles(draft: Draft) -> None:
    """Add unknown objects on the lanes."""
    rng, lanes = draft.rng, [lane for lane in draft.street.lanes if lane.kind == "cars"]
    for _ in range(int(rng.choice([0, 1, 2], p=[0.2, 0.5, 0.3]))):
        lane = lanes[int(rng.integers(len(lanes)))]
        if rng.random() < 0.45:  # in the lane of the camera, where it is seen longest
            lane = min(lanes, key=lambda other: abs(other.d - draft.street.camera_d))
        s = draft.start + float(rng.uniform(4, BLOCK - 14))
        d = lane.d + float(rng.uniform(-0.9, 0.9))
        draft.items.append(_unknown_object(draft, s, d, float(rng.uniform(0, 2 * np.pi))))
        draft.obstacles.append((s, d))


def _unknown_object(draft: Draft, s: float, d: float, facing: float) -> Item:
    look = draft.look() % 4096
    thing = unknown_object(draft.street.split, look)
    return Item(
        kind="unknown",
        s=s,
        d=d,
        length=thing.length,
        width=thing.width,
        height=thing.height,
        look=look,
        facing=facing,
    )


_NO_PARKING = 5.0  # distance to a side street, metres


@lru_cache(maxsize=64)
def lay_block(street: Street, index: int) -> Block:
    """Return the block that begins at s = ``index * BLOCK`` (cached)."""
    rng = street.rng("block", index)
    draft = Draft(street=street, index=index, rng=rng)
    width, end = float(rng.uniform(6.5, 9.5)), draft.start + BLOCK
    side_streets = [number for number in (0, 1) if rng.random() < 0.5]
    crosswalk = end - width - 3.0 if rng.random() < 0.6 else None
    for number, side in enumerate(street.sides):
        free = parking = end
        if number in side_streets:
            free, parking = end - width, end - width - _NO_PARKING
            draft.patches.append(
                Patch(side=number, start=free, end=end, inner=side.kerb - 0.01, material=ASPHALT)
            )
            add_waiting_vehicle(draft, number, side, free, end)
        add_plots(draft, number, side, free)
        add_street_furniture(draft, number, side, free)
        add_parked_vehicles(draft, number, side, parking)
        add_people(draft, number, side, free)
        add_unknown_objects(draft, number, side, free)
    if crosswalk is not None:
        if side_streets or rng.random() < 0.5:
            add_traffic_lights(draft, crosswalk)
        add_crossing_people(draft, crosswalk)
    add_obstacles(draft)
    return Block(
        items=tuple(draft.items),
        walks=tuple(draft.walks),
        patches=tuple(draft.patches),
        crosswalk=crosswalk,
        obstacles=tuple(draft.obstacles),
    )


def blocks_between(street: Street, start: float, end: float) -> Iterator[Block]:
    """Yield the blocks that overlap an interval of s."""
    for index in range(int(np.floor(start / BLOCK)), int(np.floor(end / BLOCK)) + 1):
        yield lay_block(street, index)
