"""Furnishes the kerbs of a block: lamps, signs, trees, traffic lights, vehicles at rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from upsnet_ros.datasets.scenes.draft import Draft, Mouth, vehicle
from upsnet_ros.datasets.scenes.plots import tree_item
from upsnet_ros.datasets.scenes.stage import Item
from upsnet_ros.datasets.scenes.street import Side


def stand_along(draft: Draft, number: int, side: Side, end: float) -> None:
    """Lamps, masts, signs, trees and bollards behind the kerb."""
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


def park(draft: Draft, number: int, side: Side, end: float) -> None:
    """Vehicles parked along the kerb up to s = ``end``."""
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
            for place in range(int(rng.integers(1, 4))):
                draft.items.append(
                    Item(
                        kind=kind,
                        s=s + 0.7 + 1.3 * place,
                        d=d,
                        length=2.1,
                        width=0.8,
                        height=1.15,
                        look=look + place,
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


def wait_in(draft: Draft, mouth: Mouth) -> None:
    """Cars that wait in a side street, and so show their flanks."""
    rng, sign = draft.rng, 1 if mouth.side else -1
    if rng.random() > 0.6:
        return
    inner = draft.street.sides[mouth.side].kerb
    kind = str(rng.choice(["car", "truck", "bus", "motorcyclist"], p=[0.6, 0.15, 0.13, 0.12]))
    number = draft.number("motorcycle" if kind == "motorcyclist" else kind)
    towards = bool(rng.random() < 0.6)
    facing = -sign * np.pi / 2 if towards else sign * np.pi / 2
    share = 0.7 if towards == (sign > 0) else 0.3
    s = mouth.start + (mouth.end - mouth.start) * share
    item = vehicle(draft.street, kind, s, 0.0, draft.look(), facing, number)
    d = sign * (inner + 1.0 + item.length / 2 + float(rng.uniform(0, 4)))
    draft.items.append(replace(item, s=s, d=d))


def put_up_signals(draft: Draft, s: float) -> None:
    """Traffic lights before the crosswalk at ``s``."""
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
