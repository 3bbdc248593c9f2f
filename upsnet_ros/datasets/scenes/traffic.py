"""Where everything that moves is at one moment.

What drives along a lane is numbered without end in both directions, and keeps its place between its
neighbours, so that the traffic of any moment can be told without that of the moments before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from upsnet_ros.datasets.scenes.draft import Block, Walk, vehicle
from upsnet_ros.datasets.scenes.road import FAR
from upsnet_ros.datasets.scenes.stage import Item
from upsnet_ros.datasets.scenes.street import Lane, Street

_BEHIND = 14.0
_KINDS = ("car", "truck", "bus", "motorcyclist", "cyclist")
_SHARES = (0.48, 0.14, 0.13, 0.17, 0.08)
_CLASS = {"motorcyclist": "motorcycle", "cyclist": "bicycle"}

#: Instance numbers of what drives lie above those of what stands; so many for each lane.
FIRST_NUMBER, PER_LANE = 400, 50

_SWERVE = 13.0  # metres before and after an obstacle
_CLEARANCE = 1.9


def camera_place(street: Street, seconds: float) -> float:
    """How far along the street the camera has come, metres."""
    return street.camera_speed * seconds


def swerve(s: float, d: float, obstacles: Sequence[tuple[float, float]]) -> float:
    """Where across the street a driver at ``s`` is, whose lane's middle is ``d``, metres."""
    moved = d
    for there, across in obstacles:
        near = 1 - abs(s - there) / _SWERVE
        gap = d - across
        if near > 0 and abs(gap) < _CLEARANCE:
            away = 1.0 if gap > 0 else -1.0
            smooth = near * near * (3 - 2 * near) * 1.6
            moved += away * (_CLEARANCE - abs(gap)) * min(1.0, smooth)
    return moved


def traffic(street: Street, seconds: float, eye: float, blocks: Sequence[Block]) -> Iterator[Item]:
    """Everything that drives near a camera at s = ``eye`` after so many seconds."""
    obstacles = [place for block in blocks for place in block.obstacles]
    for number, lane in enumerate(street.lanes):
        for item in _drive(street, number, lane, seconds, eye):
            moved = swerve(item.s, item.d, obstacles) if lane.kind == "cars" else item.d
            yield replace(item, d=moved)


def _drive(street: Street, number: int, lane: Lane, seconds: float, eye: float) -> Iterator[Item]:
    rng = street.rng("lane", number)
    low, high = {"cars": (21.0, 38.0), "cycles": (9.0, 24.0), "trams": (48.0, 85.0)}[lane.kind]
    gap = float(rng.uniform(low, high))
    own = lane.kind == "cars" and lane.forward and abs(lane.d - street.camera_d) < 0.1
    sign = 1.0 if lane.forward else -1.0
    speed = street.camera_speed if own else lane.speed
    offset = 0.0 if own else float(rng.uniform(0, gap))
    base = eye if own else offset + sign * speed * seconds
    first = int(np.ceil((eye - _BEHIND - base) / gap)) - 1
    last = int(np.floor((eye + FAR - base) / gap)) + 1
    for place in range(first, last + 1):
        if own and place == 0:  # the camera's own vehicle
            continue
        item = _vehicle(street, number, lane, place)
        if item is None:
            continue
        s = base + place * gap + item.s * min(0.22 * gap, 5.0)
        yield replace(item, s=s, gait=seconds * speed)


@lru_cache(maxsize=4096)
def _vehicle(street: Street, number: int, lane: Lane, place: int) -> Item | None:
    """What drives at one place of a lane; ``s`` is its lead on that place, from -1 to 1."""
    rng = street.rng("vehicle", number, place)
    if rng.random() < 0.12:
        return None
    if lane.kind == "cars":
        kind = str(rng.choice(_KINDS, p=_SHARES))
    else:
        kind = {"cycles": "cyclist", "trams": "train"}[lane.kind]
    facing = 0.0 if lane.forward else np.pi
    count = FIRST_NUMBER + number * PER_LANE + place % PER_LANE
    lead = float(rng.uniform(-1, 1))
    # A lane's bicycles and motorcycles keep to its right.
    aside = 0.6 if kind in ("cyclist", "motorcyclist") and lane.kind == "cars" else 0.0
    d = lane.d + (aside if lane.forward else -aside) + float(rng.normal(0, 0.12))
    return vehicle(street, kind, lead, d, int(rng.integers(1 << 30)), facing, count)


def walkers(blocks: Sequence[Block], seconds: float) -> Iterator[Item]:
    """Everybody who walks or stands in ``blocks`` after so many seconds."""
    for block in blocks:
        for walk in block.walks:
            yield _walk(walk, seconds)


def _walk(walk: Walk, seconds: float) -> Item:
    if walk.reach == 0:
        return walk.item
    way = walk.speed * seconds + walk.phase
    turn = way % (4 * walk.reach)
    back = turn > 2 * walk.reach
    place = 3 * walk.reach - turn if back else turn - walk.reach
    item = walk.item
    if walk.across:
        facing = -np.pi / 2 if back else np.pi / 2
        return replace(item, d=item.d + place, facing=facing, gait=way)
    return replace(item, s=item.s + place, facing=np.pi if back else 0.0, gait=way)
