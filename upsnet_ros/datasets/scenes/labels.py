"""The Cityscapes label ids that scenes are drawn with."""

from __future__ import annotations

from upsnet_ros.datasets.taxonomy import CITYSCAPES

_IDS = {info.name: info.id for info in CITYSCAPES.classes}

ROAD, SIDEWALK, TERRAIN = _IDS["road"], _IDS["sidewalk"], _IDS["terrain"]
BUILDING, WALL, FENCE = _IDS["building"], _IDS["wall"], _IDS["fence"]
POLE, LIGHT, SIGN = _IDS["pole"], _IDS["traffic light"], _IDS["traffic sign"]
VEGETATION, SKY = _IDS["vegetation"], _IDS["sky"]
PERSON, RIDER = _IDS["person"], _IDS["rider"]
CAR, TRUCK, BUS, TRAIN = _IDS["car"], _IDS["truck"], _IDS["bus"], _IDS["train"]
MOTORCYCLE, BICYCLE = _IDS["motorcycle"], _IDS["bicycle"]

#: Cityscapes' "unlabeled", which evaluation leaves out.
VOID = 0

#: What a surface of an unknown object carries while a frame is painted; becomes `VOID`.
UNKNOWN = -1
