"""Peoples a block, and litters it: walkers, parked bicycles, objects of no class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from upsnet_ros.datasets.scenes.draft import Draft, Walk
from upsnet_ros.datasets.scenes.oddities import oddity
from upsnet_ros.datasets.scenes.stage import Item
from upsnet_ros.datasets.scenes.street import BLOCK, Side

_PEOPLE = {"old town": 4.5, "centre": 6.0, "suburb": 1.8, "estate": 2.2, "works": 1.2, "park": 3.5}


def inhabit(draft: Draft, number: int, side: Side, end: float) -> None:
    """Who walks or stands on one sidewalk, and the bicycles left there."""
    rng, sign = draft.rng, 1 if number else -1
    busy = float(draft.street.rng("busy").uniform(0.5, 1.7))
    for _ in range(min(14, int(rng.poisson(_PEOPLE[draft.street.district] * busy)))):
        s = float(rng.uniform(draft.start + 2, end - 1))
        d = sign * float(rng.uniform(side.walk_from + 0.4, side.plots - 0.4))
        stands = bool(rng.random() < 0.25)
        for place in range(1 if rng.random() < 0.75 else 2):
            item = _person(draft, s, d + 0.65 * place * sign)
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
        for place in range(int(rng.integers(1, 5))):
            turn = np.pi / 2 * float(rng.normal(1, 0.15))
            facing = float(rng.choice([0, np.pi])) if against and place == 0 else turn
            draft.items.append(
                Item(
                    kind="bicycle",
                    s=s + (0.65 if not against else 1.9) * place,
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


def cross_at(draft: Draft, s: float) -> None:
    """People who cross at the zebra crossing."""
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


def leave_things(draft: Draft, number: int, side: Side, end: float) -> None:
    """Objects of no class on the sidewalk, and animals that walk there."""
    rng, sign = draft.rng, 1 if number else -1
    for _ in range(int(rng.poisson(0.9))):
        s = float(rng.uniform(draft.start + 1, end - 1))
        d = sign * float(rng.uniform(side.kerb + 0.4, side.plots - 0.3))
        item = _oddity(draft, s, d, float(rng.uniform(0, 2 * np.pi)))
        walks = oddity(draft.street.split, item.look).kind in ("dog", "stroller")
        reach = float(rng.uniform(6, 15)) if walks else 0.0
        draft.walks.append(
            Walk(
                item=replace(item, facing=0.0) if walks else item,
                reach=reach,
                speed=float(rng.uniform(0.8, 1.5)),
                phase=float(rng.uniform(0, 60)),
            )
        )


def drop_on_lanes(draft: Draft) -> None:
    """Objects of no class that lie where cars drive."""
    rng, lanes = draft.rng, [lane for lane in draft.street.lanes if lane.kind == "cars"]
    for _ in range(int(rng.choice([0, 1, 2], p=[0.2, 0.5, 0.3]))):
        lane = lanes[int(rng.integers(len(lanes)))]
        if rng.random() < 0.45:  # where the camera will look longest
            lane = min(lanes, key=lambda other: abs(other.d - draft.street.camera_d))
        s = draft.start + float(rng.uniform(4, BLOCK - 14))
        d = lane.d + float(rng.uniform(-0.9, 0.9))
        draft.items.append(_oddity(draft, s, d, float(rng.uniform(0, 2 * np.pi))))
        draft.obstacles.append((s, d))


def _oddity(draft: Draft, s: float, d: float, facing: float) -> Item:
    look = draft.look() % 4096
    thing = oddity(draft.street.split, look)
    return Item(
        kind="oddity",
        s=s,
        d=d,
        length=thing.length,
        width=thing.width,
        height=thing.height,
        look=look,
        facing=facing,
    )
