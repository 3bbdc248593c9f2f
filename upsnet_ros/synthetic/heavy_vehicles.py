"""Trucks, buses and trams: models made of boxes, and how they are painted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from upsnet_ros.synthetic.cars import paint_color
from upsnet_ros.synthetic.heavy_vehicle_textures import (
    DENSITY,
    advert,
    bus_end,
    door,
    load_end,
    panel,
    plain,
    skirt,
    truck_nose,
    two_tone,
    wheel,
    window_band,
    window_glow,
)
from upsnet_ros.synthetic.labels import BUS, TRAIN, TRUCK
from upsnet_ros.synthetic.stage import Item, Pose, Stage
from upsnet_ros.synthetic.texture import Color, Image, Texture, generator, noise, scaled

#: Number of different vehicles of each kind in a split.
HEAVY_VEHICLES = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class Body:
    """One box of a vehicle; metres.

    Attributes:
        front: z of its front in the vehicle's axes, forward from the middle.
        length: Length along the vehicle.
        width: Width.
        top: Height of its roof.
        slope: How far the upper edge of the front lies behind the lower edge.
        side: Texture of its right side, front on the left, with alpha.
        nose: Texture of its front, with alpha.
        tail: Texture of its rear, with alpha.
        roof: Colour of its roof, BGR.
    """

    front: float
    length: float
    width: float
    top: float
    slope: float = 0.0
    side: Texture
    nose: Texture
    tail: Texture
    roof: Color


@dataclass(frozen=True, kw_only=True, eq=False)
class HeavyVehicle:
    """A vehicle made of boxes, the first one in front; overall sizes in metres."""

    bodies: tuple[Body, ...]
    length: float
    width: float
    height: float


@lru_cache(maxsize=6 * HEAVY_VEHICLES)
def heavy_vehicle(split: str, kind: str, number: int) -> HeavyVehicle:
    """Return "truck", "bus" or "train" ``number``, from 0 to `HEAVY_VEHICLES` - 1."""
    rng = generator(split, kind, number)
    bodies = {"truck": _truck, "bus": _bus, "train": _tram}[kind](rng)
    length = bodies[0].front - (bodies[-1].front - bodies[-1].length)
    return HeavyVehicle(
        bodies=bodies,
        length=length,
        width=max(body.width for body in bodies),
        height=max(body.top for body in bodies),
    )


def _bus(rng: np.random.Generator) -> tuple[Body, ...]:
    length, width = float(rng.uniform(9.5, 12.5)), 2.5
    top = float(rng.choice([2.95, 3.1, 3.3, 4.2], p=[0.35, 0.35, 0.2, 0.1]))
    paint, second = paint_color(rng), paint_color(rng)
    side, alpha = panel(length, top, paint, rng)
    two_tone(side, second, rng)
    decks = [(0.17, 0.53)] if top < 4 else [(0.1, 0.29), (0.45, 0.64)]
    for first, last in decks:
        window_band(side, first, last, gap=float(rng.uniform(1.2, 1.8)), rng=rng)
    for share in (0.06, 0.48) if rng.random() < 0.7 else (0.05, 0.4, 0.78):
        door(side, share, 0.16, rng)
    for share in (0.22, 0.74):
        wheel(side, alpha, share, 0.48)
    body = Body(
        front=length / 2,
        length=length,
        width=width,
        top=top,
        slope=float(rng.uniform(0.05, 0.25)),
        side=Texture(np.dstack([side, alpha]), window_glow(side)),
        nose=bus_end(width, top, paint, second, rng, front=True),
        tail=bus_end(width, top, paint, second, rng, front=False),
        roof=scaled(paint, 0.9),
    )
    return (body,)


def _tram(rng: np.random.Generator) -> tuple[Body, ...]:
    count, width, top = int(rng.integers(2, 5)), 2.4, float(rng.uniform(3.3, 3.6))
    paint, second = paint_color(rng), paint_color(rng)
    low, high, gap = rng.uniform(0.2, 0.28), rng.uniform(0.5, 0.6), float(rng.uniform(1.1, 2.2))
    stripe = float(rng.uniform(0.62, 0.85))
    lengths = [float(rng.uniform(6.5, 8.5))] * count
    front = sum(lengths) / 2 + 0.5 * (count - 1) / 2
    bodies = []
    nose = bus_end(width, top, paint, second, rng, front=True, rail=True)
    tail = bus_end(width, top, paint, second, rng, front=False, rail=True)
    for index, length in enumerate(lengths):
        side, alpha = panel(length, top, paint, rng)
        rows = len(side)
        side[round(stripe * rows) :] = scaled(second, 0.85)
        side[: round(0.1 * rows)] = scaled(paint, 0.55)
        window_band(side, low, high, gap=gap, rng=rng)
        door(side, 0.3, 0.2, rng)
        skirt(side, alpha)
        bodies.append(
            Body(
                front=front,
                length=length,
                width=width,
                top=top,
                slope=0.6 if index == 0 else 0.0,
                side=Texture(np.dstack([side, alpha]), window_glow(side)),
                nose=nose,
                tail=tail,
                roof=scaled(paint, 0.5),
            )
        )
        front -= length + 0.5
    return tuple(bodies)


def _truck(rng: np.random.Generator) -> tuple[Body, ...]:
    kind = str(rng.choice(["box", "box", "tipper", "tank", "flat", "pickup"]))
    paint = paint_color(rng)
    if kind == "pickup":
        return _pickup(rng, paint)
    width, cab_length = float(rng.uniform(2.2, 2.55)), float(rng.uniform(1.7, 2.3))
    cab_top = float(rng.uniform(2.5, 3.3))
    load_length, load_top = float(rng.uniform(4.0, 9.0)), float(rng.uniform(2.8, 3.8))
    length = cab_length + 0.35 + load_length
    cab, cab_alpha = panel(cab_length, cab_top, paint, rng)
    rows, columns = cab.shape[:2]
    pane = (round(0.14 * rows), round(0.46 * rows), round(0.12 * columns), round(0.72 * columns))
    cab[pane[0] : pane[1], pane[2] : pane[3]] = (48, 44, 42)
    cv2.line(cab, (pane[3] + 5, pane[0]), (pane[3] + 5, round(0.85 * rows)), scaled(paint, 0.5), 2)
    wheel(cab, cab_alpha, 0.52, 0.5)
    load, load_alpha, roof = _load(kind, load_length, load_top, rng)
    return (
        Body(
            front=length / 2,
            length=cab_length,
            width=width,
            top=cab_top,
            slope=float(rng.uniform(0.05, 0.3)),
            side=Texture(np.dstack([cab, cab_alpha])),
            nose=truck_nose(width, cab_top, paint, rng),
            tail=plain(width, cab_top, (45.0, 45.0, 45.0)),
            roof=paint,
        ),
        Body(
            front=length / 2 - cab_length - 0.35,
            length=load_length,
            width=width,
            top=load_top if kind != "flat" else load_top * 0.75,
            side=Texture(np.dstack([load, load_alpha])),
            nose=load_end(width, load_top, roof, rng),
            tail=load_end(width, load_top, roof, rng),
            roof=roof,
        ),
    )


def _pickup(rng: np.random.Generator, paint: Color) -> tuple[Body, ...]:
    width = 1.9
    cab, cab_alpha = panel(3.2, 1.78, paint, rng)
    rows, columns = cab.shape[:2]
    hood = np.array([[0, 0], [round(0.5 * columns), 0], [round(0.33 * columns), round(0.4 * rows)]])
    cv2.fillPoly(cab_alpha, [np.vstack([hood, [[0, round(0.45 * rows)]]])], 0)
    pane = np.array([[0.4, 0.4], [0.54, 0.07], [0.94, 0.07], [0.94, 0.4]]) * (columns, rows)
    cv2.fillPoly(cab, [np.rint(pane).astype(np.int32)], (48, 44, 42))
    wheel(cab, cab_alpha, 0.25, 0.38)
    bed, bed_alpha = panel(2.1, 1.12, paint, rng)
    wheel(bed, bed_alpha, 0.42, 0.38)
    return (
        Body(
            front=2.65,
            length=3.2,
            width=width,
            top=1.78,
            slope=1.35,
            side=Texture(np.dstack([cab, cab_alpha])),
            nose=truck_nose(width, 1.78, paint, rng),
            tail=truck_nose(width, 1.78, paint, rng),
            roof=paint,
        ),
        Body(
            front=-0.55,
            length=2.1,
            width=width,
            top=1.12,
            side=Texture(np.dstack([bed, bed_alpha])),
            nose=plain(width, 1.12, paint),
            tail=load_end(width, 1.12, paint, rng),
            roof=(40.0, 40.0, 42.0),
        ),
    )


def _load(
    kind: str, length: float, top: float, rng: np.random.Generator
) -> tuple[Image, Image, Color]:
    paint = paint_color(rng)
    image, alpha = panel(length, top, paint, rng)
    rows, columns = alpha.shape
    floor = round(rows - 1.05 * DENSITY)
    if kind == "box":
        ribs = int(rng.choice([0, 12, 26]))
        if ribs:
            image[:floor, ::ribs] = scaled(paint, 0.8)
        if rng.random() < 0.7:
            advert(image[:floor], rng)
    elif kind == "tank":
        across = np.sin(np.linspace(0.25, np.pi - 0.1, floor))[:, None, None]
        image[:floor] = np.clip(np.array(paint) * (0.35 + 0.9 * across), 0, 255)
        for x in (0, columns - 14):  # rounded ends
            alpha[:12, x : x + 14] = 0
    elif kind == "tipper":
        image[:floor, ::40] = scaled(paint, 0.7)
        image[floor - 8 : floor] = scaled(paint, 0.6)
        heap = 14 * np.abs(noise(rng, 1, columns, cell=60)[0])
        alpha[: round(0.18 * rows)] = 0
        for x in range(columns):
            high = max(0, round(0.18 * rows - heap[x]))
            alpha[high:floor, x] = 255
            image[high : round(0.18 * rows), x] = (70, 85, 100)
    else:
        crates = rng.uniform(0.3, 1.0, 9)
        alpha[:floor] = 0
        wide = columns // 9 + 1
        for number, share in enumerate(crates):
            high = round(floor * (1 - share))
            box = slice(number * wide, (number + 1) * wide - 2)
            image[high:floor, box] = rng.uniform(40, 200, 3)
            alpha[high:floor, box] = 255
        image[floor - 10 : floor] = scaled(paint, 0.8)
        alpha[floor - 10 : floor] = 255
    image[floor : floor + 12] = (40, 40, 40)
    alpha[floor + 12 :] = 0
    for share in (0.68, 0.86):
        wheel(image, alpha, share, 0.5)
    return image, alpha, paint


_LABELS = {"truck": TRUCK, "bus": BUS, "train": TRAIN}


def paint_heavy_vehicle(stage: Stage, item: Item) -> None:
    """Paint a truck, bus or tram."""
    model = heavy_vehicle(stage.street.split, item.kind, item.look % HEAVY_VEHICLES)
    pose = stage.pose(item)
    eye = np.array([0.0, stage.camera.height, 0.0]) - pose.origin
    to_right, to_front = float(eye @ pose.right), float(eye @ pose.forward)
    label = _LABELS[item.kind]
    surface = stage.canvas.surfaces.add(label * 1000 + item.number, stage.depth(pose.origin))
    # Nearer boxes hide farther ones.
    for body in sorted(model.bodies, key=lambda b: -abs(b.front - b.length / 2 - to_front)):
        _paint_body(stage, body, pose, label, surface, to_right=to_right, to_front=to_front)


def _paint_body(
    stage: Stage,
    body: Body,
    pose: Pose,
    label: int,
    surface: int,
    *,
    to_right: float,
    to_front: float,
) -> None:
    half, front, rear, top = body.width / 2, body.front, body.front - body.length, body.top
    slant = front - body.slope
    if stage.camera.height > top:
        roof = [[-half, top, slant], [half, top, slant], [half, top, rear], [-half, top, rear]]
        stage.face(pose.world(np.array(roof)), body.roof, surface)
    if to_front > front:
        corners = [[half, top, slant], [-half, top, slant], [half, 0.0, front]]
        stage.side(pose, corners, body.nose, label, surface)
    elif to_front < rear:
        corners = [[-half, top, rear], [half, top, rear], [-half, 0.0, rear]]
        stage.side(pose, corners, body.tail, label, surface)
    if abs(to_right) > half:
        x = half if to_right > 0 else -half
        corners = [[x, top, front], [x, top, rear], [x, 0.0, front]]
        stage.side(pose, corners, body.side, label, surface)
