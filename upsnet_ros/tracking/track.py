"""One thing as it was seen last."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from upsnet_ros.inference.frame import Instance
from upsnet_ros.tracking.masks import Points, spread_points

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Track:
    """A thing that was seen at some time.

    Attributes:
        id: Its number.
        class_id: Its class.
        time: When it was seen last, seconds.
        box: float64 (4,): its box then, (x1, y1, x2, y2) px, x2 and y2 exclusive.
        area: Its pixels then.
        points: Some of them, as `spread_points` has them.
        velocity: float64 (2,): px per second of the box's middle; None where nothing tells.
        misses: Frames since then.
    """

    id: int
    class_id: int
    time: float
    box: FloatArray
    area: int
    points: Points
    velocity: FloatArray | None = None
    misses: int = 0

    @classmethod
    def begin(
        cls,
        thing: Instance,
        labels: npt.NDArray[np.int32],
        *,
        track_id: int,
        time: float,
        points: int,
    ) -> Track:
        """The track of a thing that is seen for the first time."""
        return cls(
            id=track_id,
            class_id=thing.class_id,
            time=time,
            box=box_of(thing),
            area=thing.area,
            points=spread_points(labels, thing.id, thing.box, limit=points),
        )

    def followed_by(self, seen: Track, *, smoothing: float) -> Track:
        """The thing of ``seen`` is this track's: what was seen, under this number."""
        passed, velocity = seen.time - self.time, self.velocity
        if passed > 0:
            step = seen.box - self.box
            newest = (step[:2] + step[2:]) / (2 * passed)
            velocity = newest if velocity is None else velocity + smoothing * (newest - velocity)
        return replace(seen, id=self.id, velocity=velocity)

    def missed(self) -> Track:
        """The track after a frame that lacks the thing."""
        return replace(self, misses=self.misses + 1)

    def shift(self, time: float) -> FloatArray:
        """How far it will have moved, px, float64 (2,)."""
        return np.zeros(2) if self.velocity is None else self.velocity * (time - self.time)


def box_of(thing: Instance) -> FloatArray:
    """An instance's box with exclusive corners, float64 (4,)."""
    x1, y1, x2, y2 = thing.box
    return np.array((x1, y1, x2 + 1, y2 + 1), np.float64)
