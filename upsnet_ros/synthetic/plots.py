"""Furnishes the plots behind the sidewalks: houses, gardens, walls, fences, lawns."""

from __future__ import annotations

import numpy as np

from upsnet_ros.synthetic.buildings import FACADES, facade
from upsnet_ros.synthetic.stage import Item
from upsnet_ros.synthetic.street import PATCH, VERGE, WALK, Patch, Street
from upsnet_ros.synthetic.structures import BUSHES, HOUSE_DEPTH, TREES, bush, tree

_KINDS = ("house", "wall", "fence", "hedge", "lawn")
_SHARES = {
    "old town": (0.82, 0.06, 0.05, 0.02, 0.05),
    "centre": (0.72, 0.08, 0.08, 0.03, 0.09),
    "suburb": (0.26, 0.17, 0.24, 0.2, 0.13),
    "estate": (0.42, 0.08, 0.17, 0.13, 0.2),
    "works": (0.3, 0.32, 0.3, 0.03, 0.05),
    "park": (0.14, 0.17, 0.2, 0.15, 0.34),
}


def furnish_plots(
    street: Street, number: int, start: float, end: float, rng: np.random.Generator
) -> tuple[list[Item], list[Patch]]:
    """Furnish the plots on one side of a street.

    Args:
        street: The street.
        number: Its side: 0 left, 1 right.
        start: Where the first plot begins, s in metres.
        end: Where the last one ends, s in metres.
        rng: Source of the random choices.

    Returns:
        The items on the plots, and patches of ground.
    """
    items: list[Item] = []
    patches: list[Patch] = []
    edge = street.sides[number].plots
    s = start
    while end - s > 2.0:
        kind = str(rng.choice(_KINDS, p=_SHARES[street.district]))
        length = float(rng.uniform(9, 20))
        if kind == "house":
            look = int(rng.integers(FACADES))
            house = _house(street, number, s, look, edge)
            if s + house.length > end:
                length = end - s
                if length < 5:
                    kind = "lawn"
                else:
                    house = _house(street, number, s, look, edge, length=length)
            if kind == "house":
                items.append(house)
                s += house.length + float(rng.choice([0.0, 0.0, 0.0, 2.5]))
                continue
        length = min(length, end - s)
        ground = int(rng.choice([VERGE, VERGE, PATCH, WALK]))
        patches.append(Patch(side=number, start=s, end=s + length, inner=edge, material=ground))
        items += _garden(street, number, kind, s, length, edge, rng)
        s += length
    return items, patches


def _house(
    street: Street, number: int, s: float, look: int, inner: float, *, length: float | None = None
) -> Item:
    house = facade(street.split, look)
    long = house.width if length is None else length
    sign = 1 if number else -1
    return Item(
        kind="house",
        s=s + long / 2,
        d=sign * (inner + HOUSE_DEPTH / 2),
        length=long,
        width=HOUSE_DEPTH,
        height=house.height,
        look=look,
    )


def _garden(
    street: Street,
    number: int,
    kind: str,
    s: float,
    length: float,
    edge: float,
    rng: np.random.Generator,
) -> list[Item]:
    """Return the items of an open plot: enclosure, plants, often a house farther back."""
    sign = 1 if number else -1
    items: list[Item] = []
    if kind != "lawn":
        low, high, thick = {
            "wall": (1.2, 3.2, 0.3),
            "fence": (0.9, 2.2, 0.08),
            "hedge": (0.8, 2.0, 0.9),
        }[kind]
        items.append(
            Item(
                kind=kind,
                s=s + length / 2,
                d=sign * (edge + thick / 2),
                length=length,
                width=thick,
                height=float(rng.uniform(low, high)),
                look=int(rng.integers(1 << 20)),
            )
        )
    setback = float(rng.uniform(4.0, 11.0))
    if rng.random() < (0.65 if kind != "lawn" else 0.3) and length > 8:
        look = int(rng.integers(FACADES))
        wide = min(length - 1.0, facade(street.split, look).width)
        house = _house(street, number, s + 0.5, look, edge + setback, length=wide)
        items.append(house)
    for _ in range(int(rng.poisson(length / (9.0 if kind != "lawn" else 6.5)))):
        d = sign * (edge + float(rng.uniform(1.4, max(1.6, setback - 0.5))))
        items.append(tree_item(rng, s + float(rng.uniform(0, length)), d, split=street.split))
    for _ in range(int(rng.poisson(length / 10.0))):
        d = sign * (edge + float(rng.uniform(1.0, max(1.2, setback - 0.5))))
        items.append(_bush_item(rng, s + float(rng.uniform(0, length)), d, split=street.split))
    return items


def tree_item(rng: np.random.Generator, s: float, d: float, *, split: str) -> Item:
    """Return a tree whose trunk is at (s, d)."""
    look = int(rng.integers(1 << 20))
    plant = tree(split, look % TREES)
    size = float(rng.uniform(0.85, 1.15))
    return Item(
        kind="tree",
        s=s,
        d=d,
        length=0.4,
        width=plant.width * size,
        height=plant.height * size,
        look=look,
    )


def _bush_item(rng: np.random.Generator, s: float, d: float, *, split: str) -> Item:
    look = int(rng.integers(1 << 20))
    plant = bush(split, look % BUSHES)
    return Item(
        kind="bush", s=s, d=d, length=0.4, width=plant.width, height=plant.height, look=look
    )
