"""Assigns track ids: the same id for the same thing from frame to frame.

Comparing masks pixel by pixel costs the area of every pair. Instead, each old mask is represented
by a few hundred sampled points, which are looked up in the new label map all at once. The result is
the joint histogram of old masks and new labels, at a cost that does not grow with the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from upsnet_ros.errors import SettingsError, check_number
from upsnet_ros.inference.frame import Instance, PanopticFrame, check_frame

FloatArray = npt.NDArray[np.float64]

#: int64 (N, 2): x and y of pixels.
Points = npt.NDArray[np.int64]

#: Number of neighbours whose median motion is used.
_NEIGHBOURS = 5

#: A mask with fewer points than this on a coarse grid is sampled at every pixel.
_FEW_POINTS = 64


def centers(boxes: FloatArray) -> FloatArray:
    """Return the centre (x, y) of each box, float64 (N, 2)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def widened_ious(
    first: FloatArray, second: FloatArray, *, share: float, pixels: float
) -> FloatArray:
    """Return the pairwise IoU of two lists of boxes, after expanding all boxes on every side.

    Small things that move farther than their own width overlap their old position only when
    expanded, as in Yang et al., "Hard to Track Objects with Irregular Motions and Similar
    Appearances?", WACV 2023.

    Args:
        first: float64 (N, 4), (x1, y1, x2, y2) in pixels, x2 and y2 exclusive.
        second: float64 (M, 4), as ``first``.
        share: Expansion per side as a fraction of the box's width and height.
        pixels: Minimum expansion per side, pixels.

    Returns:
        float64 (N, M).
    """
    first, second = (_widened(boxes, share, pixels) for boxes in (first, second))
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    return shared / (_areas(first)[:, None] + _areas(second) - shared)


def motion_of_neighbours(
    positions: FloatArray, known: npt.NDArray[np.int64], motions: FloatArray
) -> FloatArray:
    """Estimate the motion at each position from its neighbours (mostly camera motion).

    Args:
        positions: float64 (N, 2): x and y, pixels.
        known: int64 (M,): indices of the positions whose motion is known.
        motions: float64 (M, 2): those motions.

    Returns:
        float64 (N, 2): median motion of the nearest known positions, excluding the position itself;
        NaN if fewer than three motions are known.
    """
    if len(known) < 3:
        return np.full_like(positions, np.nan)
    distances = np.square(positions[:, None] - positions[known]).sum(axis=2)
    distances[known, np.arange(len(known))] = np.inf
    nearest = np.argsort(distances, axis=1)[:, : min(_NEIGHBOURS, len(known) - 1)]
    return np.median(motions[nearest], axis=1)


def _widened(boxes: FloatArray, share: float, pixels: float) -> FloatArray:
    margin = np.maximum(share * (boxes[:, 2:] - boxes[:, :2]), pixels)
    return np.concatenate((boxes[:, :2] - margin, boxes[:, 2:] + margin), axis=1)


def _areas(boxes: FloatArray) -> FloatArray:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def spread_points(
    labels: npt.NDArray[np.int32], label: int, box: tuple[int, int, int, int], *, limit: int
) -> Points:
    """Sample pixels of a mask on a regular grid over its box.

    Args:
        labels: int32 (H, W).
        label: Value of the mask's pixels.
        box: Bounds of the mask (x1, y1, x2, y2), corners inclusive.
        limit: Approximate number of grid points; smaller boxes are sampled at every pixel.

    Returns:
        int64 (N, 2), (x, y); N is 0 if the box has no such pixel.
    """
    x1, y1, x2, y2 = box
    step = math.ceil(math.sqrt((x2 - x1 + 1) * (y2 - y1 + 1) / limit))
    points = _grid(labels, label, box, step)
    if step > 1 and len(points) < _FEW_POINTS:
        return _grid(labels, label, box, 1)
    return points


def mask_ious(
    points: Sequence[Points],
    areas: npt.NDArray[np.int64],
    shifts: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int32],
    ids: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return the IoU of each shifted mask with each mask of a label map.

    Args:
        points: Points of each of the T masks, from `spread_points`.
        areas: int64 (T,): area of each mask, pixels.
        shifts: int64 (T, 2): shift of each mask in x and y, pixels; it may leave the image.
        labels: int32 (H, W).
        ids: int64 (D,): values of ``labels`` to compare with, positive and unique.
        sizes: int64 (D,): area of each, pixels.

    Returns:
        float64 (T, D): exact for masks sampled at every pixel, else an estimate. Points shifted out
        of the image are not counted.
    """
    if len(points) == 0 or len(ids) == 0:
        return np.zeros((len(points), len(ids)))
    counts = np.array([len(one) for one in points])
    owner = np.repeat(np.arange(len(points)), counts)
    x, y = (np.concatenate(points) + shifts[owner]).T
    height, width = labels.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    # One additional column for pixels that belong to none of the masks.
    columns = len(ids) + 1
    column_of = np.full(ids.max() + 2, len(ids))
    column_of[ids] = np.arange(len(ids))
    column = column_of.take(labels[y[inside], x[inside]], mode="clip")
    hits = np.bincount(owner[inside] * columns + column, minlength=len(points) * columns)
    pixels = hits.reshape(-1, columns) * (areas / np.maximum(counts, 1))[:, None]
    shared = np.minimum(pixels[:, :-1], sizes)
    union = pixels.sum(axis=1, keepdims=True) + sizes - shared
    return shared / np.maximum(union, 1)  # 0 for a listed mask without pixels


def _grid(
    labels: npt.NDArray[np.int32], label: int, box: tuple[int, int, int, int], step: int
) -> Points:
    x1, y1, x2, y2 = box
    # Start in the middle of the first cell; a side shorter than a cell gets one sample.
    left, top = x1 + min(step - 1, x2 - x1) // 2, y1 + min(step - 1, y2 - y1) // 2
    rows, columns = np.nonzero(labels[top : y2 + 1 : step, left : x2 + 1 : step] == label)
    return np.stack((left + step * columns, top + step * rows), axis=1)


IntArray = npt.NDArray[np.int64]

#: Largest value of `PanopticInstance.track_id`; after it, ids start again at 1.
MAX_TRACK_ID = 2**32 - 1


def assign(scores: npt.NDArray[np.float64]) -> tuple[IntArray, IntArray]:
    """Return the one-to-one assignment of rows to columns with the largest sum of scores.

    Args:
        scores: float64 (N, M), not negative; pairs with score 0 are left out.

    Returns:
        Row and column indices of the pairs, int64 (P,) each.
    """
    rows, columns = linear_sum_assignment(scores, maximize=True)
    paired = scores[rows, columns] > 0
    return rows[paired], columns[paired]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Track:
    """A thing that has been detected in some frame.

    Attributes:
        id: Track id.
        class_id: Class of the thing.
        time: Time of the last detection, seconds.
        box: float64 (4,): last box, (x1, y1, x2, y2) in pixels, x2 and y2 exclusive.
        area: Last area, pixels.
        points: Points sampled from the last mask; see `spread_points`.
        velocity: float64 (2,): velocity of the box centre, pixels per second; None if unknown.
        misses: Number of frames since the last detection.
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
        """Return a new track for a detected thing."""
        return cls(
            id=track_id,
            class_id=thing.class_id,
            time=time,
            box=box_of(thing),
            area=thing.area,
            points=spread_points(labels, thing.id, thing.box, limit=points),
        )

    def followed_by(self, seen: Track, *, smoothing: float) -> Track:
        """Return the detection ``seen`` as the continuation of this track, with updated velocity.

        Args:
            seen: The detection that was matched with this track.
            smoothing: Weight of the newest velocity, above 0 and up to 1.
        """
        elapsed, velocity = seen.time - self.time, self.velocity
        if elapsed > 0:
            step = seen.box - self.box
            newest = (step[:2] + step[2:]) / (2 * elapsed)
            velocity = newest if velocity is None else velocity + smoothing * (newest - velocity)
        return replace(seen, id=self.id, velocity=velocity)

    def missed(self) -> Track:
        """Return the track after a frame without a detection."""
        return replace(self, misses=self.misses + 1)

    def shift(self, time: float) -> FloatArray:
        """Return the expected motion since the last detection, pixels, float64 (2,)."""
        return np.zeros(2) if self.velocity is None else self.velocity * (time - self.time)


def box_of(thing: Instance) -> FloatArray:
    """Return an instance's box with x2 and y2 exclusive, float64 (4,)."""
    x1, y1, x2, y2 = thing.box
    return np.array((x1, y1, x2 + 1, y2 + 1), np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerSettings:
    """How things are matched between frames.

    The defaults were tuned on driving scenes at 10 frames per second with degraded ground-truth
    masks (eroded, dilated, dropped).

    Attributes:
        min_mask_iou: Minimum IoU of two masks to match.
        min_box_iou: Minimum IoU of two expanded boxes to match, for masks that do not overlap.
        box_share: Expansion of boxes per side, as a fraction of their width and height.
        box_margin: Minimum expansion per side, as a fraction of the image's longer side.
        max_misses: Number of consecutive frames that a thing may be missing and keep its id.
        max_gap: Seconds between two frames after which all tracks are dropped.
        smoothing: Weight of the newest velocity in the velocity of a track, above 0 and up to 1.
        points: Approximate number of points sampled per mask.

    Raises:
        SettingsError: If a setting is out of range; the message names it.
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
                raise SettingsError(
                    f"{name} must be above 0 and up to 1, not {getattr(self, name)}"
                )
        for name in ("box_share", "box_margin", "max_misses", "max_gap"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.points < 1:
            raise SettingsError(f"points must be at least 1, not {self.points}")


class Tracker:
    """Tracks the things of one camera and sets their track ids.

    Each track is extrapolated with its velocity, corrected by the motion of its neighbours, which
    reflects camera motion. Its shifted mask is compared with the masks of the new frame, and tracks
    and things of the same class are matched so that the sum of IoUs is largest. Unmatched things,
    mostly small and fast ones, are then matched by the IoU of expanded boxes. A thing without a
    track starts a new one immediately; a track without a thing survives some frames unmatched.

    A track never changes its class: a thing that is classified differently gets another id. Ids are
    not reused, not even after `reset`, until they wrap around at `MAX_TRACK_ID`.

    Args:
        settings: How things are matched.
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self.settings = settings or TrackerSettings()
        self._tracks: list[Track] = []
        self._last_id = 0
        self._time = 0.0
        self._size: tuple[int, ...] = ()

    def reset(self) -> None:
        """Drop all tracks; ids are not reused."""
        self._tracks = []

    def __call__(self, frame: PanopticFrame, *, time: float | None = None) -> PanopticFrame:
        """Set the track ids of the next frame.

        All tracks are dropped if time goes backwards, if more than `TrackerSettings.max_gap` has
        passed, or if the image size changes.

        Args:
            frame: Segmentation of the next frame.
            time: Time of the frame, seconds; by default one second after the previous frame.

        Returns:
            The frame, with `Instance.track_id` set.

        Raises:
            ImageError: It is not a `PanopticFrame`.
            SettingsError: The time is not a number.
        """
        check_frame(frame)
        if time is not None:
            check_number("time", time)
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
            for index, track in enumerate(self._tracks)
            if index not in track_of.values() and track.misses < self.settings.max_misses
        ]
        used = {track.id for track in self._tracks}
        for index, track in enumerate(seen):
            if index in track_of:
                before = self._tracks[track_of[index]]
                seen[index] = before.followed_by(track, smoothing=self.settings.smoothing)
            else:
                seen[index] = replace(track, id=self._new_id(used))
        self._tracks = _with_velocity_of_neighbours(seen) + unseen
        things = zip(frame.instances, seen, strict=True)
        return replace(
            frame, instances=tuple(replace(thing, track_id=track.id) for thing, track in things)
        )

    def _pair(self, seen: list[Track], frame: PanopticFrame) -> tuple[IntArray, IntArray]:
        """Return the indices of the matched tracks, and of the detection matched with each."""
        if not self._tracks or not seen:
            none = np.zeros(0, np.int64)
            return none, none
        ids = np.array([thing.id for thing in frame.instances])
        shifts = np.stack([track.shift(self._time) for track in self._tracks])
        rows, columns = self._pair_moved(shifts, seen, frame.labels, ids)
        # If the camera turns, all predictions are off by the same amount: correct it, match again.
        boxes = np.stack([track.box for track in self._tracks])
        predicted = centers(boxes) + shifts
        errors = centers(np.stack([track.box for track in seen]))[columns] - predicted[rows]
        shifts += np.nan_to_num(motion_of_neighbours(predicted, rows, errors))
        return self._pair_moved(shifts, seen, frame.labels, ids)

    def _pair_moved(
        self,
        shifts: npt.NDArray[np.float64],
        seen: list[Track],
        labels: npt.NDArray[np.int32],
        ids: IntArray,
    ) -> tuple[IntArray, IntArray]:
        """Match the tracks, shifted by (x, y) pixels each, with the detections.

        Args:
            shifts: float64 (T, 2): shift of each track, pixels.
            seen: The D detections as new tracks.
            labels: int32 (H, W): the new label map.
            ids: int64 (D,): value of each detection in ``labels``.

        Returns:
            Indices of the matched tracks and detections, int64 (P,) each.
        """
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

    def _new_id(self, used: set[int]) -> int:
        while True:
            self._last_id = self._last_id % MAX_TRACK_ID + 1
            if self._last_id not in used:
                return self._last_id


def _with_velocity_of_neighbours(tracks: list[Track]) -> list[Track]:
    """Return the tracks with unknown velocities estimated from their neighbours, if possible."""
    known = np.array([n for n, track in enumerate(tracks) if track.velocity is not None], np.int64)
    velocities = [track.velocity for track in tracks if track.velocity is not None]
    if len(known) in (0, len(tracks)):
        return tracks
    positions = centers(np.stack([track.box for track in tracks]))
    estimates = motion_of_neighbours(positions, known, np.stack(velocities))
    return [
        replace(track, velocity=estimate)
        if track.velocity is None and np.isfinite(estimate).all()
        else track
        for track, estimate in zip(tracks, estimates, strict=True)
    ]
