"""From an address (split, seed, street, frame) to a picture and its labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.scenes.camera import Camera
from upsnet_ros.datasets.scenes.canvas import Canvas
from upsnet_ros.datasets.scenes.draft import Block
from upsnet_ros.datasets.scenes.grounds import GroundPainter
from upsnet_ros.datasets.scenes.labels import UNKNOWN, VOID
from upsnet_ros.datasets.scenes.layout import blocks_between
from upsnet_ros.datasets.scenes.markings import draw_rails, road_markings
from upsnet_ros.datasets.scenes.order import back_to_front
from upsnet_ros.datasets.scenes.painters import PAINTERS
from upsnet_ros.datasets.scenes.road import FAR, Path
from upsnet_ros.datasets.scenes.sensor import Sensor
from upsnet_ros.datasets.scenes.shadows import contact_shadows, in_shade, sun_shadows
from upsnet_ros.datasets.scenes.sky import SkyPainter
from upsnet_ros.datasets.scenes.stage import Item, Stage
from upsnet_ros.datasets.scenes.street import Street, lay_street
from upsnet_ros.datasets.scenes.traffic import camera_place, swerve, traffic, walkers
from upsnet_ros.datasets.scenes.weather import Weather, make_weather

#: Frames a second.
RATE_HZ = 10.0

#: An instance seen by a smaller share of the pixels than this carries its class alone, as the
#: groups of Cityscapes do: at 512x1024 fewer than 53 pixels.
SMALLEST_SHARE = 1e-4

_START = 30.0  # where along the street a sequence begins, metres
_IN_SHADE = 0.25
_LARGE = frozenset({"house", "tree", "wall", "fence", "hedge"})
_FADE = 18.0  # metres over which what is large comes out of the distance


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneFrame:
    """One drawn frame and what is seen in it.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        semantic: uint8 (H, W), Cityscapes label ids; 0 where an unknown object is.
        instances: int32 (H, W), as Cityscapes' instanceIds: ``label id * 1000 + k`` for things, the
            label id alone for stuff and for things too small to tell apart, 0 for unknown objects.
            An instance keeps its k through its sequence; a rider and what he rides share one.
        unknown: bool (H, W), True on objects outside the 19 classes.
    """

    image: npt.NDArray[np.uint8]
    semantic: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.int32]
    unknown: npt.NDArray[np.bool_]


class World:
    """One street with its weather and its camera, from which any frame can be drawn."""

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
        """Draws frame ``number`` at ``rows`` x ``columns`` pixels."""
        seconds = number / RATE_HZ
        s = _START + camera_place(self.street, seconds)
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
        for place in back_to_front(bounds, s, stage.path.d):
            item = items[place]
            stage.sunlit = _IN_SHADE if sunny and in_shade(stage, sun, item) else 1.0
            # What is large would pop up: it comes out of the distance little by little.
            near = (far - item.bounds[0]) / _FADE
            stage.presence = min(1.0, near) if item.kind in _LARGE else 1.0
            PAINTERS[item.kind](stage, item)
        image = self._sensor.expose(stage.canvas, number, stage.camera)
        return _labelled(image, stage.canvas)

    def _stage(
        self, seconds: float, s: float, blocks: list[Block], rows: int, columns: int
    ) -> Stage:
        obstacles = [place for block in blocks for place in block.obstacles]
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


def _labelled(image: npt.NDArray[np.uint8], canvas: Canvas) -> SceneFrame:
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
    return SceneFrame(image=image, semantic=semantic, instances=instances, unknown=unknown)


@lru_cache(maxsize=16)
def world(split: str, seed: int, sequence: int) -> World:
    """The world of one sequence."""
    return World(lay_street(split, seed, sequence))
