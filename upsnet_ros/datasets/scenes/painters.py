"""Which painter paints which kind of item."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from upsnet_ros.datasets.scenes.cars import paint_car
from upsnet_ros.datasets.scenes.coaches import paint_coach
from upsnet_ros.datasets.scenes.cycles import (
    paint_bicycle,
    paint_cyclist,
    paint_motorcycle,
    paint_motorcyclist,
)
from upsnet_ros.datasets.scenes.figures import paint_person
from upsnet_ros.datasets.scenes.furniture import (
    paint_bollard,
    paint_lamp,
    paint_mast,
    paint_sign,
    paint_signal,
)
from upsnet_ros.datasets.scenes.lost_things import paint_oddity
from upsnet_ros.datasets.scenes.stage import Item, Stage
from upsnet_ros.datasets.scenes.structures import (
    paint_fence,
    paint_hedge,
    paint_house,
    paint_plant,
    paint_wall,
)

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
        "truck": paint_coach,
        "bus": paint_coach,
        "train": paint_coach,
        "bicycle": paint_bicycle,
        "motorcycle": paint_motorcycle,
        "cyclist": paint_cyclist,
        "motorcyclist": paint_motorcyclist,
        "person": paint_person,
        "oddity": paint_oddity,
    }
)
