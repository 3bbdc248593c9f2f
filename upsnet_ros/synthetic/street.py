"""The course, the cross-section and the properties of one street.

Positions on a street are road coordinates: s, metres along its middle line, and d, metres to the
right of it. The middle line bends; `Path` converts (s, d) to the world axes of
`upsnet_ros.synthetic.canvas`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from upsnet_ros.synthetic.labels import ROAD, SIDEWALK, TERRAIN
from upsnet_ros.synthetic.texture import Color, bgr, generator

Array = npt.NDArray[np.float64]

#: How far ahead a street is rendered, metres.
FAR = 115.0

_BEHIND = 12.0  # how far a path reaches behind the camera, metres
_STEP = 0.5  # distance of the nodes of a path, metres


@dataclass(frozen=True, kw_only=True)
class Bend:
    """The bends of a street: its heading is a sine of s.

    Attributes:
        amplitude: Largest angle to the mean direction, radians.
        length: Length of a period, metres.
        phase: Phase at s = 0, radians.
    """

    amplitude: float
    length: float
    phase: float

    def heading(self, s: Array) -> Array:
        """Return the heading at ``s``, radians clockwise from the street's mean direction."""
        return self.amplitude * np.sin(2 * np.pi * s / self.length + self.phase)


class Path:
    """The stretch of a street that a camera at (s, d) sees.

    Args:
        bend: The bends of the street.
        s: Position of the camera along the street, metres.
        d: Position of the camera to the right of the middle, metres.
        yaw: Rotation of the camera to the right from the street's direction, radians.
    """

    def __init__(self, bend: Bend, *, s: float, d: float, yaw: float) -> None:
        self.s, self.d = s, d
        self._grid = np.arange(-_BEHIND, FAR + _BEHIND, _STEP) + s
        self.heading = float(bend.heading(np.array([s]))[0]) + yaw
        turn = bend.heading(self._grid) - self.heading
        at = round(_BEHIND / _STEP)
        middle = [_integral(wave(turn), at) for wave in (np.sin, np.cos)]
        # The camera is the origin; it stands d to the right of the middle line.
        self._x = middle[0] - d * np.cos(turn[at])
        self._z = middle[1] + d * np.sin(turn[at])
        self._turn = turn
        self._first = float(self._grid[0])
        self._nodes = np.stack([self._x, self._z, turn], axis=1).tolist()

    def place(self, s: Array, d: Array, y: Array) -> Array:
        """Return the world points (N, 3) of road coordinates (N,) and heights (N,), metres."""
        turn = np.interp(s, self._grid, self._turn)
        points = np.empty((len(s), 3))
        points[:, 0] = np.interp(s, self._grid, self._x) + d * np.cos(turn)
        points[:, 1] = y
        points[:, 2] = np.interp(s, self._grid, self._z) - d * np.sin(turn)
        return points

    def point(self, s: float, d: float) -> tuple[float, float, float]:
        """Return world x and z of a point on the ground, metres, and the street's heading."""
        # `place` for one point, without numpy's overhead.
        position = min(max((s - self._first) / _STEP, 0.0), len(self._nodes) - 1.001)
        low = int(position)
        share = position - low
        (x0, z0, turn0), (x1, z1, turn1) = self._nodes[low], self._nodes[low + 1]
        turn = turn0 + (turn1 - turn0) * share
        x = x0 + (x1 - x0) * share + d * math.cos(turn)
        return x, z0 + (z1 - z0) * share - d * math.sin(turn), turn

    def rows(self, z: Array) -> tuple[Array, Array, Array]:
        """Return the middle line at distances z (N,) ahead: s, x and heading, (N,) each."""
        s = np.interp(z, self._z, self._grid)
        return s, np.interp(s, self._grid, self._x), np.interp(s, self._grid, self._turn)


def _integral(values: Array, at: int) -> Array:
    steps = (values[1:] + values[:-1]) * (_STEP / 2)
    total = np.concatenate([[0.0], np.cumsum(steps)])
    return total - total[at]


#: Length of the blocks in which a street is furnished, metres.
BLOCK = 72.0

KERB_WIDTH = 0.18

_DISTRICTS = ("old town", "centre", "suburb", "estate", "works", "park")

ASPHALT, CYCLE, TRACK, KERB, WALK, VERGE, YARD, PATCH = range(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One kind of ground.

    Attributes:
        label: Cityscapes label id.
        color: Mean colour, BGR.
        pattern: Index into the tiles of `upsnet_ros.synthetic.ground`.
        grain: Contrast of the pattern.
        blotches: Contrast of the slow changes of colour.
    """

    label: int
    color: Color
    pattern: int
    grain: float
    blotches: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """An area whose ground differs from the cross-section: a side street, or a plot.

    Attributes:
        side: 0 for the left, 1 for the right.
        start: Where it begins, s in metres.
        end: Where it ends, s in metres.
        inner: Distance from the street's middle, metres, beyond which it lies.
        material: Index into the street's grounds.
    """

    side: int
    start: float
    end: float
    inner: float
    material: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A line along which something drives.

    Attributes:
        d: Position of its middle, metres to the right of the middle of the street.
        forward: Whether traffic has the camera's direction.
        kind: "cars", "cycles" or "trams".
        speed: Speed of all its vehicles, metres per second.
    """

    d: float
    forward: bool
    kind: str
    speed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The cross-section beside the lanes on one side, from the middle outwards, metres.

    Attributes:
        lanes_end: Where lanes end and parked cars begin.
        kerb: Where the road ends.
        verge: Width of the grass strip behind the kerb; 0 for none.
        walk: Width of the sidewalk.
        parking: Whether cars park along the kerb.
        trees: Whether trees stand in a row.
    """

    lanes_end: float
    kerb: float
    verge: float
    walk: float
    parking: bool
    trees: bool

    @property
    def walk_from(self) -> float:
        """Where the sidewalk begins."""
        return self.kerb + self.verge

    @property
    def plots(self) -> float:
        """Where the sidewalk ends and houses begin."""
        return self.kerb + self.verge + self.walk


@dataclass(frozen=True, kw_only=True, eq=False)
class Street:
    """One street. `side` 0 is on the left of the camera, 1 on the right."""

    split: str
    seed: int
    number: int
    district: str
    bend: Bend
    sides: tuple[Side, Side]
    lanes: tuple[Lane, ...]
    grounds: tuple[Ground, ...]
    marking: Color
    lane_lines: tuple[float, ...]
    middle_line: str
    camera_d: float
    camera_speed: float
    camera_height: float
    focal: float

    def rng(self, purpose: str, *key: int) -> np.random.Generator:
        """Return the street's random generator for one purpose and key."""
        return generator(self.split, purpose, self.seed, self.number, *key)


def lay_street(split: str, seed: int, number: int) -> Street:
    """Return street ``number`` of a set of streets."""
    rng = generator(split, "street", seed, number)
    district = str(rng.choice(_DISTRICTS))
    lane = float(rng.uniform(2.9, 3.6))
    tram = bool(rng.random() < 0.3)
    count = 1 if district in ("old town", "estate") or rng.random() < 0.5 else 2
    bed = 3.1 if tram else 0.0
    inner = [bed + lane * (lane_index + 0.5) for lane_index in range(count)]
    own = int(rng.integers(count))
    speed = float(rng.uniform(5.0, 11.0))
    lanes, sides, lines = [], [], []
    if tram:
        lanes += [
            Lane(d=1.55, forward=True, kind="trams", speed=speed + float(rng.uniform(-1, 2))),
            Lane(d=-1.55, forward=False, kind="trams", speed=float(rng.uniform(5, 10))),
        ]
        lines += [bed, -bed]
    for sign in (-1, 1):
        end = bed + lane * count
        lines += [sign * (bed + lane * index) for index in range(1, count)]
        for index, d in enumerate(inner):
            mine = sign > 0 and index == own
            pace = speed if mine else float(rng.uniform(5, 12))
            lanes.append(Lane(d=sign * d, forward=sign > 0, kind="cars", speed=pace))
        if rng.random() < 0.55:
            lanes.append(
                Lane(
                    d=sign * (end + 0.75),
                    forward=sign > 0,
                    kind="cycles",
                    speed=float(rng.uniform(3.5, 6)),
                )
            )
            lines.append(sign * end)
            end += 1.5
        parking = bool(rng.random() < 0.52)
        sides.append(
            Side(
                lanes_end=end,
                kerb=end + (2.3 if parking else 0.35),
                verge=float(rng.uniform(1.2, 2.6)) if rng.random() < 0.4 else 0.0,
                walk=float(rng.uniform(2.0, 6.0)),
                parking=parking,
                trees=bool(rng.random() < 0.5),
            )
        )
    straight = rng.random() < 0.3
    return Street(
        split=split,
        seed=seed,
        number=number,
        district=district,
        bend=Bend(
            amplitude=0.0 if straight else float(rng.uniform(0.05, 0.3)),
            length=float(rng.uniform(200, 420)),
            phase=float(rng.uniform(0, 2 * np.pi)),
        ),
        sides=(sides[0], sides[1]),
        lanes=tuple(lanes),
        grounds=_grounds(rng),
        marking=_marking(rng),
        lane_lines=tuple(lines),
        middle_line="none" if tram else str(rng.choice(["dashed", "solid", "double"])),
        camera_d=inner[own],
        camera_speed=speed,
        camera_height=float(rng.uniform(1.2, 1.65)),
        focal=float(rng.uniform(0.84, 1.14)),
    )


def grey(rng: np.random.Generator, low: float, high: float, *, tint: float = 8.0) -> Color:
    """Return a random grey between two levels, slightly tinted, BGR."""
    level = rng.uniform(low, high)
    return bgr(level + rng.normal(0, tint / 2, 3))


def _marking(rng: np.random.Generator) -> Color:
    if rng.random() < 0.15:
        return 60.0, 180.0, 215.0
    level = float(rng.uniform(185, 240))
    return level, level, level


def _grounds(rng: np.random.Generator) -> tuple[Ground, ...]:
    asphalt, walk = grey(rng, 55, 120), grey(rng, 85, 175, tint=14)
    # Greys of roads and sidewalks overlap, so that only position and pattern tell them apart.
    road_pattern = int(rng.choice([0, 0, 0, 0, 3, 2]))
    walk_pattern = int(rng.choice([0, 1, 1, 2, 2, 3]))
    red = (70.0, 75.0, 140.0) if rng.random() < 0.4 else asphalt
    track = asphalt if rng.random() < 0.5 else grey(rng, 80, 140)
    green = (
        float(rng.uniform(35, 75)),
        float(rng.uniform(85, 135)),
        float(rng.uniform(60, 125)),
    )
    paved = rng.random() < 0.4
    yard = grey(rng, 90, 160, tint=14) if paved else green
    return (
        Ground(label=ROAD, color=asphalt, pattern=road_pattern, grain=1.0, blotches=0.07),
        Ground(label=ROAD, color=red, pattern=0, grain=0.8, blotches=0.06),
        Ground(
            label=ROAD,
            color=track,
            pattern=int(rng.choice([0, 3])),
            grain=1.0,
            blotches=0.07,
        ),
        Ground(label=SIDEWALK, color=grey(rng, 120, 190), pattern=0, grain=0.6, blotches=0.05),
        Ground(label=SIDEWALK, color=walk, pattern=walk_pattern, grain=1.0, blotches=0.08),
        Ground(label=TERRAIN, color=green, pattern=4, grain=1.0, blotches=0.16),
        Ground(
            label=SIDEWALK if paved else TERRAIN,
            color=yard,
            pattern=walk_pattern if paved else 4,
            grain=1.0,
            blotches=0.15,
        ),
        Ground(
            label=TERRAIN,
            color=(float(rng.uniform(60, 95)), float(rng.uniform(85, 125)), 140.0),
            pattern=5,
            grain=1.0,
            blotches=0.15,
        ),
    )
