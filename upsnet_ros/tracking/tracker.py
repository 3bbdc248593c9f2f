"""Gives the things of one camera's frames numbers that last."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.tracking.assignment import IntArray, assign
from upsnet_ros.tracking.boxes import centers, motion_of_neighbours, widened_ious
from upsnet_ros.tracking.masks import mask_ious
from upsnet_ros.tracking.track import Track

#: Largest number that `PanopticInstance.track_id` holds; after it they begin anew at 1.
MAX_TRACK_ID = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerSettings:
    """How things are found again.

    The defaults were chosen on driving scenes at 10 frames a second whose true masks were spoilt:
    eroded, widened, left out.

    Attributes:
        min_mask_iou: Masks that meet with less are not of one thing.
        min_box_iou: The same of widened boxes, for things whose masks do not meet.
        box_share: Boxes are widened on every side by this share of their width and height,
        box_margin: and at least by this share of the image's longer side.
        max_misses: Frames in a row that may lack a thing without its number being lost.
        max_gap: Seconds between two frames after which nothing is found again.
        smoothing: Weight of the newest speed in the speed of a track, above 0 and up to 1.
        points: Points of a mask that are compared, about.

    Raises:
        ValueError: A setting is out of range; it is named.
    """

    min_mask_iou: float = 0.05
    min_box_iou: float = 0.3
    box_share: float = 1.0
    box_margin: float = 0.01
    max_misses: int = 10
    max_gap: float = 3.0
    smoothing: float = 0.5
    points: int = 256

    def __post_init__(self) -> None:
        for name in ("min_mask_iou", "min_box_iou", "smoothing"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and up to 1, not {getattr(self, name)}")
        for name in ("box_share", "box_margin", "max_misses", "max_gap"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.points < 1:
            raise ValueError(f"points must be at least 1, not {self.points}")


class Tracker:
    """Follows the things of one camera: a frame goes in, and comes back with track ids.

    Every track goes on at the speed it had, and with what its neighbours show of the camera's own
    motion. Its mask, moved so, is compared with the masks of the new frame; of all ways to pair
    tracks with things of their class, the one with the largest sum of IoUs is taken. Things whose
    mask meets none, small and fast ones above all, are paired once more by widened boxes. A thing
    without a track begins one at once; a track without a thing goes on unseen for some frames.

    A track keeps its class: a thing that changes it has another number for as long. No number is
    given twice, not after a reset either.

    Args:
        settings: How things are found again.
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self.settings = settings or TrackerSettings()
        self._tracks: list[Track] = []
        self._last_id = 0
        self._time = 0.0
        self._size: tuple[int, ...] = ()

    def reset(self) -> None:
        """Forget all things; what comes next is new."""
        self._tracks = []

    def __call__(self, frame: PanopticFrame, *, time: float | None = None) -> PanopticFrame:
        """Number the things of the next frame.

        Tracks are forgotten where time goes back, where more than `TrackerSettings.max_gap` has
        passed, and where the image has another size than the one before.

        Args:
            frame: What the camera saw.
            time: When, in seconds; by default one second after the frame before.

        Returns:
            The frame, with `Instance.track_id` set.
        """
        time = self._time + 1 if time is None else time
        size = frame.labels.shape
        if not 0 <= time - self._time <= self.settings.max_gap or size != self._size:
            self.reset()
        self._time, self._size = time, size

        seen = [
            Track.begin(thing, frame.labels, track_id=0, time=time, points=self.settings.points)
            for thing in frame.instances
        ]
        rows, columns = self._pair(seen, frame)
        track_of = dict(zip(columns.tolist(), rows.tolist(), strict=True))
        unseen = [
            track.missed()
            for place, track in enumerate(self._tracks)
            if place not in track_of.values() and track.misses < self.settings.max_misses
        ]
        taken = {track.id for track in self._tracks}
        for place, track in enumerate(seen):
            if place in track_of:
                before = self._tracks[track_of[place]]
                seen[place] = before.followed_by(track, smoothing=self.settings.smoothing)
            else:
                seen[place] = replace(track, id=self._new_id(taken))
        self._tracks = _with_speed_of_neighbours(seen) + unseen
        things = zip(frame.instances, seen, strict=True)
        return replace(
            frame, instances=tuple(replace(thing, track_id=track.id) for thing, track in things)
        )

    def _pair(self, seen: list[Track], frame: PanopticFrame) -> tuple[IntArray, IntArray]:
        """Places of the tracks that were found again, and of what was seen of each."""
        if not self._tracks or not seen:
            none = np.zeros(0, np.int64)
            return none, none
        ids = np.array([thing.id for thing in frame.instances])
        shifts = np.stack([track.shift(self._time) for track in self._tracks])
        rows, columns = self._pair_moved(shifts, seen, frame.labels, ids)
        # All miss their places by the same where the camera turns: once more, with that.
        boxes = np.stack([track.box for track in self._tracks])
        places = centers(boxes) + shifts
        off = centers(np.stack([track.box for track in seen]))[columns] - places[rows]
        shifts += np.nan_to_num(motion_of_neighbours(places, rows, off))
        return self._pair_moved(shifts, seen, frame.labels, ids)

    def _pair_moved(
        self,
        shifts: npt.NDArray[np.float64],
        seen: list[Track],
        labels: npt.NDArray[np.int32],
        ids: IntArray,
    ) -> tuple[IntArray, IntArray]:
        """Pair the tracks, moved by (x, y) px each, with what was seen, of these ids."""
        settings, tracks = self.settings, self._tracks
        classes, others = (np.array([track.class_id for track in side]) for side in (tracks, seen))
        possible = classes[:, None] == others
        masks = mask_ious(
            [track.points for track in tracks],
            np.array([track.area for track in tracks]),
            np.rint(shifts).astype(np.int64),
            labels,
            ids,
            np.array([track.area for track in seen]),
        )
        rows, columns = assign(np.where(possible & (masks >= settings.min_mask_iou), masks, 0))
        possible[rows] = False
        possible[:, columns] = False
        boxes, other_boxes = (np.stack([track.box for track in side]) for side in (tracks, seen))
        near = widened_ious(
            boxes + np.tile(shifts, 2),
            other_boxes,
            share=settings.box_share,
            pixels=settings.box_margin * max(labels.shape),
        )
        more_rows, more_columns = assign(
            np.where(possible & (near >= settings.min_box_iou), near, 0)
        )
        return np.concatenate((rows, more_rows)), np.concatenate((columns, more_columns))

    def _new_id(self, taken: set[int]) -> int:
        while True:
            self._last_id = self._last_id % MAX_TRACK_ID + 1
            if self._last_id not in taken:
                return self._last_id


def _with_speed_of_neighbours(tracks: list[Track]) -> list[Track]:
    """Let those of unknown speed move as those around them do, where those tell."""
    known = np.array([n for n, track in enumerate(tracks) if track.velocity is not None], np.int64)
    velocities = [track.velocity for track in tracks if track.velocity is not None]
    if len(known) in (0, len(tracks)):
        return tracks
    places = centers(np.stack([track.box for track in tracks]))
    around = motion_of_neighbours(places, known, np.stack(velocities))
    return [
        replace(track, velocity=speed)
        if track.velocity is None and np.isfinite(speed).all()
        else track
        for track, speed in zip(tracks, around, strict=True)
    ]
