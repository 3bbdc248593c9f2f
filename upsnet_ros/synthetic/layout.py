"""Furnishes a street block by block: kerbs, plots, people, objects.

Every block has its own random generator, so any stretch of an endless street can be furnished
without the stretches before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from upsnet_ros.synthetic.cars import car_size
from upsnet_ros.synthetic.heavy_vehicles import heavy_vehicle_size
from upsnet_ros.synthetic.plots import furnish_plots, tree_item
from upsnet_ros.synthetic.stage import Item
from upsnet_ros.synthetic.street import ASPHALT, BLOCK, Patch, Side, Street
from upsnet_ros.synthetic.unknown_objects import unknown_object

#: Maximum number of instances of one class in a block, whether they move or not.
PER_BLOCK = 64

#: Number of blocks after which instance numbers repeat; more than are ever visible at once.
CYCLE_OF_BLOCKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class SideStreet:
    """The side_street of a side street.

    Attributes:
        side: 0 for the left, 1 for the right.
        start: Where it begins along the street, s in metres.
        end: Where it ends, s in metres.
    """

    side: int
    start: float
    end: float


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
        side_streets: Side streets.
        crosswalk: s of the middle of its zebra crossing, metres, or None.
        obstacles: (s, d) of the objects on the lanes, metres.
    """

    items: tuple[Item, ...]
    walks: tuple[Walk, ...]
    patches: tuple[Patch, ...]
    side_streets: tuple[SideStreet, ...]
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

    def pole(self, kind: str, s: float, d: float, height: float, width: float) -> None:
        """Add something thin; sizes in metres."""
        self.items.append(
            Item(kind=kind, s=s, d=d, length=width, width=width, height=height, look=self.look())
        )


def vehicle(
    street: Street, kind: str, s: float, d: float, look: int, facing: float, number: int
) -> Item:
    """Return a vehicle, with the size of its look."""
    if kind == "car":
        size = car_size(street.split, look)
    elif kind in ("truck", "bus", "train"):
        size = heavy_vehicle_size(street.split, kind, look)
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


def add_street_furniture(draft: Draft, number: int, side: Side, end: float) -> None:
    """Add lamps, masts, signs, trees and bollards along the kerb, up to s = ``end``."""
    rng, sign = draft.rng, 1 if number else -1
    d = sign * (side.kerb + 0.45)
    lamp = int(draft.street.rng("lamp").integers(1 << 20))
    height, width = 5.5 + lamp % 4, 0.12 + 0.02 * (lamp % 4)
    trams = any(lane.kind == "trams" for lane in draft.street.lanes)
    for s in np.arange(draft.start + 4 + 9 * number, end, 24.0).tolist():
        kind = "mast" if trams and rng.random() < 0.5 else "lamp"
        draft.items.append(
            Item(kind=kind, s=s, d=d, length=0.3, width=width, height=height, look=lamp)
        )
    for s in rng.uniform(draft.start, end, int(rng.poisson(2.4))).tolist():
        draft.pole("sign", s, d, float(rng.uniform(2.2, 3.3)), 0.07)
    if rng.random() < 0.2:
        first = float(rng.uniform(draft.start, max(draft.start + 1, end - 15)))
        for s in np.arange(first, min(first + 15, end), 1.8).tolist():
            draft.pole("bollard", s, d, 0.95, 0.12)
    if rng.random() < 0.22:  # a railing along the kerb
        _rail_off(draft, d, end)
    if side.trees:
        middle = sign * (side.kerb + (side.verge / 2 if side.verge else 0.8))
        for s in np.arange(draft.start + 6, end, float(rng.uniform(8, 13))).tolist():
            if rng.random() < 0.8:
                draft.items.append(tree_item(rng, s, middle, split=draft.street.split))


def _rail_off(draft: Draft, d: float, end: float) -> None:
    rng = draft.rng
    length = float(rng.uniform(8, 18))
    first = float(rng.uniform(draft.start, max(draft.start + 1, end - length)))
    length = min(length, end - first)
    draft.items.append(
        Item(
            kind="fence",
            s=first + length / 2,
            d=d,
            length=length,
            width=0.08,
            height=float(rng.uniform(0.85, 1.25)),
            look=draft.look(),
        )
    )


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
                draft.items.append(
                    Item(
                        kind=kind,
                        s=s + 0.7 + 1.3 * index,
                        d=d,
                        length=2.1,
                        width=0.8,
                        height=1.15,
                        look=look + index,
                        facing=sign * float(rng.uniform(1.1, 1.7)),
                        number=draft.number(kind),
                    )
                )
            s += 5.0
            continue
        item = vehicle(draft.street, kind, s, d, look, facing, draft.number(kind))
        if s + item.length < end:
            draft.items.append(replace(item, s=s + item.length / 2))
        s += item.length + float(rng.uniform(0.7, 2.0))


def add_waiting_vehicle(draft: Draft, side_street: SideStreet) -> None:
    """Add a vehicle that waits in a side street, seen from the side."""
    rng, sign = draft.rng, 1 if side_street.side else -1
    if rng.random() > 0.6:
        return
    inner = draft.street.sides[side_street.side].kerb
    kind = str(rng.choice(["car", "truck", "bus", "motorcyclist"], p=[0.6, 0.15, 0.13, 0.12]))
    number = draft.number("motorcycle" if kind == "motorcyclist" else kind)
    towards = bool(rng.random() < 0.6)
    facing = -sign * np.pi / 2 if towards else sign * np.pi / 2
    share = 0.7 if towards == (sign > 0) else 0.3
    s = side_street.start + (side_street.end - side_street.start) * share
    item = vehicle(draft.street, kind, s, 0.0, draft.look(), facing, number)
    d = sign * (inner + 1.0 + item.length / 2 + float(rng.uniform(0, 4)))
    draft.items.append(replace(item, s=s, d=d))


def add_traffic_lights(draft: Draft, s: float) -> None:
    """Add traffic lights in front of the crosswalk at ``s``."""
    rng = draft.rng
    look, phase = draft.look(), int(rng.integers(3))
    for number, side in enumerate(draft.street.sides):
        sign = 1 if number else -1
        draft.items.append(
            Item(
                kind="signal",
                s=s - 2.2,
                d=sign * (side.kerb + 0.5),
                length=0.2,
                width=0.14,
                height=5.6 if look % 3 == 0 and number else 3.3,
                look=look,
                number=phase,
            )
        )


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
            turn = np.pi / 2 * float(rng.normal(1, 0.15))
            facing = float(rng.choice([0, np.pi])) if against and index == 0 else turn
            draft.items.append(
                Item(
                    kind="bicycle",
                    s=s + (0.65 if not against else 1.9) * index,
                    d=d,
                    length=1.75,
                    width=0.5,
                    height=1.05,
                    look=draft.look(),
                    facing=facing if not against else float(rng.choice([0, np.pi])),
                    number=draft.number("bicycle"),
                )
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
    open_sides = [side for side in (0, 1) if rng.random() < 0.5]
    side_streets = tuple(SideStreet(side=side, start=end - width, end=end) for side in open_sides)
    crosswalk = end - width - 3.0 if rng.random() < 0.6 else None
    for number, side in enumerate(street.sides):
        own = [side_street for side_street in side_streets if side_street.side == number]
        free = own[0].start if own else end
        for side_street in own:
            draft.patches.append(
                Patch(
                    side=number,
                    start=side_street.start,
                    end=side_street.end,
                    inner=side.kerb - 0.01,
                    material=ASPHALT,
                )
            )
            add_waiting_vehicle(draft, side_street)
        items, patches = furnish_plots(street, number, draft.start, free, rng)
        draft.items += items
        draft.patches += patches
        add_street_furniture(draft, number, side, free)
        add_parked_vehicles(draft, number, side, free - (_NO_PARKING if own else 0.0))
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
        side_streets=side_streets,
        crosswalk=crosswalk,
        obstacles=tuple(draft.obstacles),
    )


def blocks_between(street: Street, start: float, end: float) -> Iterator[Block]:
    """Yield the blocks that overlap an interval of s."""
    for index in range(int(np.floor(start / BLOCK)), int(np.floor(end / BLOCK)) + 1):
        yield lay_block(street, index)
