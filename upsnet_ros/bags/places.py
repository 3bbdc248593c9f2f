"""Where a frame belongs: its name, its sequence, and its number along it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from upsnet_ros.bags.index import BagIndex, FrameKey
from upsnet_ros.bags.roles import Role
from upsnet_ros.evaluation.naming import place_in_sequence

__all__ = ["Place", "Places"]


class Place(NamedTuple):
    """Of one frame."""

    name: str
    sequence: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The places of frames.

    Where a bag names its frames, as `upsnet bag make` does, they go by these names, and belong to
    the sequences that names of Cityscapes' form tell, as files do. Otherwise each camera of a bag
    is a sequence, numbered by time.

    Attributes:
        prefix: In front of names and sequences, to tell bags apart.
        bag: What to call the bag.
        names: By stamp; empty where there are several cameras, which stamps do not tell apart.
        clocks: First stamp and time between two frames, in ns, by frame_id.
    """

    prefix: str
    bag: str
    names: Mapping[int, str]
    clocks: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, truth: BagIndex, images: BagIndex, *, prefix: str = "") -> Places:
        """Learn names and pace from the bags of truth and images."""
        stamps: dict[str, list[int]] = {}
        for role, index in ((Role.TRUTH, truth), (Role.IMAGE, images)):
            for key in index.arrivals.get(role, {}):
                stamps.setdefault(key.frame_id, []).append(key.stamp_ns)
        clocks = {}
        for frame_id, values in stamps.items():
            moments = np.unique(values)
            period = int(np.median(np.diff(moments))) if len(moments) > 1 else 1
            clocks[frame_id] = (int(moments[0]), max(period, 1))
        cameras = {key.frame_id for key in truth.arrivals.get(Role.TRUTH, {})}
        names = truth.names if len(cameras) == 1 else {}
        return cls(prefix=prefix, bag=truth.path.stem, names=names, clocks=clocks)

    def __getitem__(self, key: FrameKey) -> Place:
        name = self.names.get(key.stamp_ns, str(key))
        sequence, number = place_in_sequence(name)
        if sequence == name:
            begin, period = self.clocks[key.frame_id]
            sequence = f"{self.bag}/{key.frame_id or 'camera'}"
            number = round((key.stamp_ns - begin) / period)
        space = f"{self.prefix}/" if self.prefix else ""
        return Place(space + name, space + sequence, number)
