"""Renders the image and labels of a frame, given its address (split, seed, street, frame).

`traffic` and `walkers` yield what moves: the vehicles of a lane are numbered endlessly in both
directions and keep their order, so that any moment can be computed without earlier ones. `World`
paints the scene; `Sensor` adds haze, rain, blur, exposure and noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.synthetic.canvas import Camera, Canvas
from upsnet_ros.synthetic.cars import paint_car
from upsnet_ros.synthetic.ground import (
    GroundPainter,
    contact_shadows,
    draw_rails,
    in_shade,
    road_markings,
    sun_shadows,
)
from upsnet_ros.synthetic.heavy_vehicles import paint_heavy_vehicle
from upsnet_ros.synthetic.labels import UNKNOWN, VOID
from upsnet_ros.synthetic.layout import Block, Walk, blocks_between, vehicle
from upsnet_ros.synthetic.people import (
    paint_bicycle,
    paint_cyclist,
    paint_motorcycle,
    paint_motorcyclist,
    paint_person,
)
from upsnet_ros.synthetic.sky import SkyPainter, Weather, make_weather
from upsnet_ros.synthetic.stage import Item, Stage, back_to_front
from upsnet_ros.synthetic.street import FAR, Lane, Path, Street, lay_street
from upsnet_ros.synthetic.street_furniture import (
    paint_bollard,
    paint_lamp,
    paint_mast,
    paint_sign,
    paint_signal,
)
from upsnet_ros.synthetic.structures import (
    paint_fence,
    paint_hedge,
    paint_house,
    paint_plant,
    paint_wall,
)
from upsnet_ros.synthetic.texture import generator
from upsnet_ros.synthetic.unknown_objects import paint_unknown_object

_BEHIND = 14.0  # how far behind the camera vehicles are placed, metres
_KINDS = ("car", "truck", "bus", "motorcyclist", "cyclist")
_SHARES = (0.48, 0.14, 0.13, 0.17, 0.08)

#: First instance number of moving vehicles, above those of parked ones, and count per lane.
FIRST_NUMBER, PER_LANE = 400, 50

_SWERVE = 13.0  # distance at which drivers begin and end to swerve, metres
_CLEARANCE = 1.9  # lateral distance that they keep from an obstacle, metres


def swerve(s: float, d: float, obstacles: Sequence[tuple[float, float]]) -> float:
    """Return the lateral position of a driver at ``s`` in the lane at ``d``, metres."""
    moved = d
    for position, across in obstacles:
        near = 1 - abs(s - position) / _SWERVE
        gap = d - across
        if near > 0 and abs(gap) < _CLEARANCE:
            away = 1.0 if gap > 0 else -1.0
            smooth = near * near * (3 - 2 * near) * 1.6
            moved += away * (_CLEARANCE - abs(gap)) * min(1.0, smooth)
    return moved


def traffic(street: Street, seconds: float, eye: float, blocks: Sequence[Block]) -> Iterator[Item]:
    """Yield all vehicles near a camera at s = ``eye`` at a time in seconds."""
    obstacles = [obstacle for block in blocks for obstacle in block.obstacles]
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
    for slot in range(first, last + 1):
        if own and slot == 0:  # the camera's own vehicle
            continue
        item = _vehicle(street, number, lane, slot)
        if item is None:
            continue
        s = base + slot * gap + item.s * min(0.22 * gap, 5.0)
        yield replace(item, s=s, gait=seconds * speed)


@lru_cache(maxsize=4096)
def _vehicle(street: Street, number: int, lane: Lane, slot: int) -> Item | None:
    """Return the vehicle in one slot of a lane; ``s`` is its offset in the slot, from -1 to 1."""
    rng = street.rng("vehicle", number, slot)
    if rng.random() < 0.12:
        return None
    if lane.kind == "cars":
        kind = str(rng.choice(_KINDS, p=_SHARES))
    else:
        kind = {"cycles": "cyclist", "trams": "train"}[lane.kind]
    facing = 0.0 if lane.forward else np.pi
    count = FIRST_NUMBER + number * PER_LANE + slot % PER_LANE
    lead = float(rng.uniform(-1, 1))
    # Bicycles and motorcycles keep to the right of their lane.
    aside = 0.6 if kind in ("cyclist", "motorcyclist") and lane.kind == "cars" else 0.0
    d = lane.d + (aside if lane.forward else -aside) + float(rng.normal(0, 0.12))
    return vehicle(street, kind, lead, d, int(rng.integers(1 << 30)), facing, count)


def walkers(blocks: Sequence[Block], seconds: float) -> Iterator[Item]:
    """Yield all people and animals in ``blocks`` at a time in seconds."""
    for block in blocks:
        for walk in block.walks:
            yield _walk(walk, seconds)


def _walk(walk: Walk, seconds: float) -> Item:
    if walk.reach == 0:
        return walk.item
    way = walk.speed * seconds + walk.phase
    turn = way % (4 * walk.reach)
    back = turn > 2 * walk.reach
    moved = 3 * walk.reach - turn if back else turn - walk.reach
    item = walk.item
    if walk.across:
        facing = -np.pi / 2 if back else np.pi / 2
        return replace(item, d=item.d + moved, facing=facing, gait=way)
    return replace(item, s=item.s + moved, facing=np.pi if back else 0.0, gait=way)


_NOISE = 640  # side of the tile of sensor noise, pixels


class Sensor:
    """The camera sensor of a street: contrast, white balance, blur and noise."""

    def __init__(self, street: Street, weather: Weather) -> None:
        rng = street.rng("sensor")
        self._street, self._weather = street, weather
        self._blur = float(rng.uniform(0.35, 0.9))
        self._motion = float(rng.choice([0, 0, 0, 1])) * float(rng.uniform(2, 5))
        dim = {"dusk": 2.2, "evening": 1.3, "rain": 1.3}.get(weather.kind, 1.0)
        self._noise = float(rng.uniform(0.8, 3.2)) * dim
        self._vignette = float(rng.uniform(0.0, 0.28))
        self._curve = _curve(rng)

    def expose(self, canvas: Canvas, frame: int, camera: Camera) -> npt.NDArray[np.uint8]:
        """Return the image of a painted canvas: uint8 (rows, columns, 3), BGR."""
        outlines = canvas.outlines()
        color = self._add_haze(canvas, outlines)
        if self._weather.wet > 0:
            self._mirror(color, canvas, camera)
        _soften_edges(color, outlines)
        if self._weather.rain > 0:
            color = self._rain(color, frame)
        color = self._lens(color)
        color = np.asarray(cv2.LUT(color, self._curve), np.uint8)
        return self._grain(color, frame)

    def _mirror(self, color: npt.NDArray[np.uint8], canvas: Canvas, camera: Camera) -> None:
        """Add reflections of what is above the horizon to wet ground; changes ``color``."""
        first = camera.ground_rows()[0]
        count = min(first, camera.rows - first)
        if count < 8:
            return
        small = cv2.resize(color[first - count : first][::-1], None, fx=0.25, fy=0.25)
        small = cv2.blur(small, (3, max(3, count // 24)))
        mirrored = cv2.resize(small, (camera.columns, count), interpolation=cv2.INTER_LINEAR)
        region = slice(first, first + count)
        # Flatter viewing angles reflect more.
        flat = np.linspace(0.62, 0.0, count, dtype=np.float32)[:, None]
        surface, ground = canvas.surface[region], canvas.ground
        share = ((surface >= ground.start) & (surface < ground.stop)).astype(np.float32)
        share *= flat * np.float32(self._weather.wet)
        color[region] = cv2.blendLinear(color[region], mirrored, 1 - share, share)

    def _add_haze(self, canvas: Canvas, outlines: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
        """Return the colours with haze, through which exp(-haze * depth) of the light passes."""
        inverse = canvas.inverse_depth(outlines)
        kept = cv2.exp(-self._weather.haze / np.maximum(inverse, 1e-3))
        kept[inverse <= 0] = 1.0  # haze is part of the sky's colours
        haze = np.empty_like(canvas.color)
        haze[:] = np.clip(self._weather.skyline, 0, 255)
        return np.asarray(cv2.blendLinear(canvas.color, haze, kept, 1 - kept), np.uint8)

    def _rain(self, color: npt.NDArray[np.uint8], frame: int) -> npt.NDArray[np.uint8]:
        rng = self._street.rng("rain", frame)
        rows, columns = color.shape[:2]
        streaks = np.zeros((rows, columns), np.uint8)
        count = int(500 * self._weather.rain)
        starts = rng.uniform((0, -40), (columns, rows), (count, 2))
        lengths = rng.uniform(0.02, 0.08, count) * rows
        ends = starts + np.stack([lengths * 0.12, lengths], axis=1)
        lines = np.rint(np.stack([starts, ends], axis=1)).astype(np.int32)
        cv2.polylines(streaks, list(lines), False, (70,), 1, cv2.LINE_AA)
        soft = np.asarray(cv2.GaussianBlur(streaks, (3, 3), 0.8), np.uint8) // 2
        return np.asarray(cv2.add(color, cv2.merge([soft] * 3)), np.uint8)

    def _lens(self, color: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        rows, columns = color.shape[:2]
        scale = columns / 1024
        size = self._motion * scale
        if size > 1.5:
            color = np.asarray(cv2.blur(color, (round(size), 1)), np.uint8)
        soft = cv2.GaussianBlur(color, (3, 3), max(0.25, self._blur * max(scale, 0.6)))
        shadow = _vignette(rows, columns, round(self._vignette, 2))
        return np.asarray(cv2.multiply(soft, shadow, scale=1 / 255), np.uint8)

    def _grain(self, color: npt.NDArray[np.uint8], frame: int) -> npt.NDArray[np.uint8]:
        rng = self._street.rng("noise", frame)
        rows, columns = color.shape[:2]
        wide = _wide_noise(self._street.split, rows, columns)
        top, left = rng.integers(0, _NOISE, 2)
        noise = wide[top : top + rows, left : left + columns]
        # The standard deviation of the tile is 16.
        scaled = cv2.convertScaleAbs(noise, alpha=self._noise / 16, beta=128.0)
        return np.asarray(cv2.addWeighted(color, 1.0, scaled, 1.0, -128.0), np.uint8)


def _soften_edges(color: npt.NDArray[np.uint8], surface: npt.NDArray[np.int32]) -> None:
    """Smooth the jagged edges of outlines, as a lens would; changes ``color``."""
    edge = np.zeros(surface.shape, bool)
    across, down = surface[:, 1:] != surface[:, :-1], surface[1:] != surface[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    soft = cv2.GaussianBlur(color, (3, 3), 0.8)
    cv2.copyTo(soft, edge.view(np.uint8), color)


def _curve(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return a random tone curve for each channel: uint8 (256, 1, 3)."""
    level = np.linspace(0, 1, 256)
    gamma, contrast = rng.uniform(0.78, 1.05), rng.uniform(0.0, 0.5)
    level = level**gamma
    level = (1 - contrast) * level + contrast * level * level * (3 - 2 * level)
    balance = 1 + rng.normal(0, 0.022, 3) * (1.0, 0.6, 1.0)
    black, gain = rng.uniform(0, 10), rng.uniform(0.92, 1.15)
    curve = black + (255 - black) * gain * level[:, None] * balance
    return np.clip(curve, 0, 255).astype(np.uint8)[:, None]


@lru_cache(maxsize=64)
def _vignette(rows: int, columns: int, strength: float) -> npt.NDArray[np.uint8]:
    v, u = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None]
    light = 255 * (1 - strength * np.clip((u**2 + v**2) / 2, 0, 1) ** 1.3)
    return np.repeat(light.astype(np.uint8)[..., None], 3, axis=2)


@lru_cache(maxsize=4)
def _wide_noise(split: str, rows: int, columns: int) -> npt.NDArray[np.int16]:
    rng = generator(split, "noise tile")
    grey = rng.normal(0, 11.5, (_NOISE, _NOISE, 1))
    tile = np.rint(grey + rng.normal(0, 11, (_NOISE, _NOISE, 3))).astype(np.int16)
    return np.tile(tile, (-(-rows // _NOISE) + 1, -(-columns // _NOISE) + 1, 1))


PAINTERS: Mapping[str, Callable[[Stage, Item], None]] = MappingProxyType(
    {
        "house": paint_house,
        "wall": paint_wall,
        "fence": paint_fence,
        "hedge": paint_hedge,
        "tree": paint_plant,
        "bush": paint_plant,
        "lamp": paint_lamp,
        "mast": paint_mast,
        "bollard": paint_bollard,
        "sign": paint_sign,
        "signal": paint_signal,
        "car": paint_car,
        "truck": paint_heavy_vehicle,
        "bus": paint_heavy_vehicle,
        "train": paint_heavy_vehicle,
        "bicycle": paint_bicycle,
        "motorcycle": paint_motorcycle,
        "cyclist": paint_cyclist,
        "motorcyclist": paint_motorcyclist,
        "person": paint_person,
        "unknown": paint_unknown_object,
    }
)


#: Frames per second.
RATE_HZ = 10.0

#: An instance that covers a smaller fraction of the image is labelled with its class only, like
#: Cityscapes' groups: at 512x1024 fewer than 53 pixels.
SMALLEST_SHARE = 1e-4

_START = 30.0  # where along the street a sequence begins, metres
_IN_SHADE = 0.25  # share of the sunlight that an item in the shade still gets
_LARGE = frozenset({"house", "tree", "wall", "fence", "hedge"})
_FADE = 18.0  # distance over which large items fade in, metres


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneFrame:
    """One rendered frame and its labels.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        semantic: uint8 (H, W), Cityscapes label ids; 0 on unknown objects.
        instances: int32 (H, W), as Cityscapes' instanceIds: ``label id * 1000 + k`` for things, the
            label id alone for stuff and for things too small to tell apart, 0 for unknown objects.
            An instance keeps its k throughout its sequence; a rider and the vehicle share one.
        unknown: bool (H, W), True on objects outside the 19 classes.
        depth: float32 (H, W), metres along the optical axis; infinity in the sky.
        camera: The pinhole camera of the frame.
    """

    image: npt.NDArray[np.uint8]
    semantic: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.int32]
    unknown: npt.NDArray[np.bool_]
    depth: npt.NDArray[np.float32]
    camera: Camera


class World:
    """One street with its weather and camera, from which any frame can be rendered."""

    def __init__(self, street: Street) -> None:
        self.street = street
        self.weather: Weather = make_weather(street)
        self._ground = GroundPainter(street, self.weather)
        self._sky = SkyPainter(street, self.weather)
        self._sensor = Sensor(street, self.weather)
        rng = street.rng("mounting")
        self._pitch = float(rng.uniform(0.0, 0.07))
        self._sway = float(rng.uniform(0, 6.28))

    def frame(self, number: int, rows: int, columns: int) -> SceneFrame:
        """Render frame ``number`` at ``rows`` x ``columns`` pixels."""
        seconds = number / RATE_HZ
        s = _START + self.street.camera_speed * seconds
        blocks = list(blocks_between(self.street, s - 30, s + FAR))
        stage = self._stage(seconds, s, blocks, rows, columns)
        items = self._items(seconds, s, blocks, stage)
        sun, contact = sun_shadows(stage, items), contact_shadows(stage, items)
        draw_rails(contact, self.street, stage.camera, stage.path)
        self._sky.paint(stage.canvas, stage.camera, stage.path.heading)
        self._ground.paint(
            stage.canvas,
            stage.camera,
            stage.path,
            patches=[patch for block in blocks for patch in block.patches],
            markings=road_markings(self.street, stage.camera, stage.path, blocks),
            shadows=sun,
            contact=contact,
        )
        far = s + FAR
        sunny = max(self.weather.sun) > 0
        bounds = np.array([item.bounds for item in items]).reshape(-1, 4)
        for index in back_to_front(bounds, s, stage.path.d):
            item = items[index]
            stage.sunlit = _IN_SHADE if sunny and in_shade(stage, sun, item) else 1.0
            # Large items fade in, because their sudden appearance would be visible.
            near = (far - item.bounds[0]) / _FADE
            stage.presence = min(1.0, near) if item.kind in _LARGE else 1.0
            PAINTERS[item.kind](stage, item)
        image = self._sensor.expose(stage.canvas, number, stage.camera)
        return _labelled(image, stage)

    def _stage(
        self, seconds: float, s: float, blocks: list[Block], rows: int, columns: int
    ) -> Stage:
        obstacles = [obstacle for block in blocks for obstacle in block.obstacles]
        path = Path(
            self.street.bend,
            s=s,
            d=swerve(s, self.street.camera_d, obstacles),
            yaw=0.012 * float(np.sin(0.7 * seconds + self._sway)),
        )
        camera = Camera(
            rows=rows,
            columns=columns,
            focal=self.street.focal * columns,
            height=self.street.camera_height,
            pitch=self._pitch + 0.003 * float(np.sin(5.1 * seconds + self._sway)),
        )
        canvas = Canvas(rows, columns)
        return Stage(
            canvas=canvas, camera=camera, path=path, street=self.street, weather=self.weather
        )

    def _items(self, seconds: float, s: float, blocks: list[Block], stage: Stage) -> list[Item]:
        items = [item for block in blocks for item in block.items]
        items += walkers(blocks, seconds)
        items += traffic(self.street, seconds, s, blocks)
        near, far = s + 1.2, s + FAR
        return [item for item in items if item.bounds[1] > near and item.bounds[0] < far]


def _labelled(image: npt.NDArray[np.uint8], stage: Stage) -> SceneFrame:
    canvas = stage.canvas
    labels = np.array(canvas.surfaces.labels, np.int32)
    pixels = np.bincount(canvas.surface.ravel(), minlength=len(labels))
    smallest = SMALLEST_SHARE * canvas.surface.size
    for label in np.unique(labels[labels >= 1000]):
        own = labels == label
        if pixels[own].sum() < smallest:
            labels[own] = label // 1000
    instances = np.take(labels, canvas.surface)
    unknown = instances == UNKNOWN
    instances[unknown] = VOID
    semantic = np.where(instances >= 1000, instances // 1000, instances).astype(np.uint8)
    return SceneFrame(
        image=image,
        semantic=semantic,
        instances=instances,
        unknown=unknown,
        depth=canvas.depth(),
        camera=stage.camera,
    )


@lru_cache(maxsize=16)
def world(split: str, seed: int, sequence: int) -> World:
    """Return the world of one sequence (cached)."""
    return World(lay_street(split, seed, sequence))
