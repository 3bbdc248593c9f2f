"""Where a point in space appears in the image: rigid transforms and camera models.

Frames follow REP 103 and 105: in an optical frame x points right, y down and z forward, in metres.
The centre of the first pixel is (0, 0), as in OpenCV and CameraInfo.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Polynomial

from upsnet_ros.errors import PointsError, printable

Floats = npt.NDArray[np.floating[Any]]

# How far the squared norm of a quaternion may be from 1: rounding, not a mistake.
_QUATERNION_SLACK = 1e-2


@dataclass(frozen=True, slots=True, eq=False)
class RigidTransform:
    """A rotation, then a translation: ``target = rotation @ source + translation``.

    Attributes:
        rotation: float64 (3, 3).
        translation: float64 (3,), metres.
    """

    rotation: npt.NDArray[np.float64]
    translation: npt.NDArray[np.float64]

    @classmethod
    def from_values(cls, values: Sequence[float], *, name: str) -> RigidTransform:
        """Return the transform of [x, y, z, qx, qy, qz, qw], metres and a unit quaternion.

        Raises:
            PointsError: If a value is not finite, or the quaternion is not of unit length; it
                begins with ``name``.
        """
        numbers = np.asarray(values, np.float64)
        if numbers.shape != (7,) or not np.isfinite(numbers).all():
            raise PointsError(f"{name} must be 7 finite numbers, not {list(values)}")
        norm = float(numbers[3:] @ numbers[3:])
        if abs(norm - 1) > _QUATERNION_SLACK:
            raise PointsError(
                f"{name}: the quaternion [qx, qy, qz, qw] must have length 1, not"
                f" {math.sqrt(norm):.3g}"
            )
        x, y, z, w = numbers[3:] / math.sqrt(norm)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        return cls(np.eye(3) + 2 * w * cross + 2 * cross @ cross, numbers[:3])

    def inverse(self) -> RigidTransform:
        """Return the transform from target to source."""
        return RigidTransform(self.rotation.T, -self.rotation.T @ self.translation)

    def after(self, first: RigidTransform) -> RigidTransform:
        """Return the transform that applies ``first``, then this one."""
        return RigidTransform(
            self.rotation @ first.rotation, self.rotation @ first.translation + self.translation
        )

    def is_close(self, other: RigidTransform, tolerance: float) -> bool:
        """Return whether no value of rotation and translation differs by more."""
        turned, moved = self.rotation - other.rotation, self.translation - other.translation
        return bool(max(np.abs(turned).max(), np.abs(moved).max()) <= tolerance)

    def apply(self, points: Floats) -> Floats:
        """Return transformed points, (3, N), in the dtype of ``points``."""
        rotation = self.rotation.astype(points.dtype)
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity stay what they are
            return rotation @ points + self.translation.astype(points.dtype)[:, None]


# How far a transform may be from the first of its frame, in metres and in the values of its
# quaternion, without being taken for a moving one: about a pixel.
_STILL = 1e-3


class StaticTransforms:
    """The tree of frames by /tf_static and /tf, through which only what does not move is found."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, RigidTransform]] = {}  # by child
        self._first: dict[str, tuple[str, Sequence[float]]] = {}  # of /tf, by child
        self._moving: set[str] = set()
        self._between: tuple[bytes, ...] | None = None  # frames of the last lookup, if it succeeded

    def may_concern(self, serialized: bytes) -> bool:
        """Return whether a serialised TFMessage could change the last lookup's answer.

        Most of /tf does not, and parsing it would take more time than labelling.
        """
        return self._between is None or any(name in serialized for name in self._between)

    def add(self, parent: str, child: str, transform: RigidTransform) -> None:
        """Add or replace the static transform that takes points of ``child`` to ``parent``."""
        parent, child = parent.lstrip("/"), child.lstrip("/")
        before = self._parents.get(child)
        self._parents[child] = (parent, transform)
        if child in self._first and before is not None:
            self._compare(child, *before)

    def add_sample(self, parent: str, child: str, values: Sequence[float]) -> None:
        """Add what /tf says of a frame at one moment.

        A frame moves if it does not stay where it was said to be first.

        Args:
            parent: Frame that the values refer to.
            child: The frame.
            values: x, y, z, qx, qy, qz, qw; ignored if they are no pose.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        if child in self._moving:
            return
        if child not in self._first:
            try:
                pose = RigidTransform.from_values(values, name=child)
            except PointsError:
                return
            self._first[child] = parent, values
            self._parents.setdefault(child, (parent, pose))
            self._compare(child, parent, pose)
        elif not _is_still(self._first[child], (parent, values)):
            self._moving.add(child)

    def _compare(self, child: str, parent: str, pose: RigidTransform) -> None:
        """Take a frame for a moving one if it is known to be elsewhere."""
        known_parent, known = self._parents[child]
        if known_parent != parent or not known.is_close(pose, _STILL):
            self._moving.add(child)

    def lookup(self, *, source: str, target: str) -> RigidTransform:
        """Return the transform that takes points of the frame ``source`` to ``target``.

        Raises:
            PointsError: If the frames are not connected, or move against each other; it says
                which.
        """
        source, target = source.lstrip("/"), target.lstrip("/")
        up, down = self._to_ancestors(source), self._to_ancestors(target)
        self._between = None
        for ancestor, transform in up.items():
            if ancestor in down:
                between = (*_until(up, ancestor), *_until(down, ancestor))
                self._check_still(between, source, target)
                self._between = tuple(one.encode() for one in between)
                return down[ancestor].inverse().after(transform)
        known = {parent for parent, _ in self._parents.values()} | self._parents.keys()
        missing = [name for name in (source, target) if name not in known]
        reason = (
            f"it has no frame {printable(' and '.join(missing))}"
            if missing
            else "the two are not connected"
        )
        raise PointsError(
            f"/tf_static has no transform from {printable(source)!r} to {printable(target)!r}:"
            f" {reason}; publish it, or set the parameter extrinsics"
        )

    def _check_still(self, frames: Sequence[str], source: str, target: str) -> None:
        moving = next((one for one in frames if one in self._moving), None)
        if moving is not None:
            parent = self._parents[moving][0]
            raise PointsError(
                f"{printable(moving)!r} moves in {printable(parent)!r} (/tf), on the way from"
                f" {printable(source)!r} to {printable(target)!r}: clouds of a lidar that moves"
                " against the camera cannot be labelled; have them transformed into a frame that"
                " does not"
            )

    def _to_ancestors(self, frame: str) -> dict[str, RigidTransform]:
        """Return the transform from a frame to itself and each of its ancestors, nearest first."""
        found = {frame: RigidTransform(np.eye(3), np.zeros(3))}
        while frame in self._parents:
            parent, step = self._parents[frame]
            if parent in found:  # a cycle, which anybody may publish
                break
            found[parent] = step.after(found[frame])
            frame = parent
        return found


def _until(frames: Iterable[str], last: str) -> Iterator[str]:
    return takewhile(lambda one: one != last, frames)


def _is_still(first: tuple[str, Sequence[float]], now: tuple[str, Sequence[float]]) -> bool:
    """Return whether two samples of a frame agree, up to the sign of the quaternion."""
    if first[0] != now[0]:
        return False
    sign = 1 if sum(map(operator.mul, first[1][3:], now[1][3:])) > 0 else -1
    signed = (*now[1][:3], *(sign * one for one in now[1][3:]))
    return all(abs(one - other) <= _STILL for one, other in zip(first[1], signed, strict=True))


#: Number of coefficients of each distortion model.
_COEFFICIENTS = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}
# Coefficients of a polynomial that make no difference inside any image, and disturb its roots.
_TINY = 1e-12
# No calibration has larger values; powers of them would overflow.
_LARGE = 1e6
# Rows of the image whose rays are computed together, so that the temporaries stay in the cache.
_BLOCK_ROWS = 16
_ITERATIONS = 30
# A ray is accepted if it projects this near to its pixel, in normalised coordinates.
_RESIDUAL = 1e-7


@dataclass(frozen=True, kw_only=True)
class CameraModel:
    """A calibrated camera: intrinsics for the image as published, and its distortion.

    Attributes:
        width: Pixels of the image.
        height: Pixels of the image.
        focal: fx and fy, pixels.
        centre: cx and cy, pixels.
        distortion: plumb_bob, rational_polynomial, equidistant, or empty for none.
        coefficients: Of the distortion, in the order of CameraInfo, padded with zeros.
    """

    width: int
    height: int
    focal: tuple[float, float]
    centre: tuple[float, float]
    distortion: str = ""
    coefficients: tuple[float, ...] = ()

    @classmethod
    def from_message(cls, info: Any, *, rectified: bool = False) -> CameraModel:
        """Return the model of a sensor_msgs/CameraInfo.

        K and P refer to the full sensor; the region of interest and binning are applied to them.

        Args:
            info: The message.
            rectified: Whether the images are rectified: P without distortion, rather than K and D.

        Raises:
            PointsError: If the calibration cannot be used; it says why.
        """
        matrix = np.asarray(info.p if rectified else info.k, np.float64)
        which, columns = ("P", 4) if rectified else ("K", 3)
        d = np.asarray(info.d, np.float64)
        if not all((np.abs(one) < _LARGE).all() for one in (matrix, d)):
            raise PointsError("camera_info has values that are NaN, infinite or far too large")
        if info.width < 1 or info.height < 1:
            raise PointsError(f"camera_info has a size of {info.width}x{info.height} pixels")
        fx, fy = float(matrix[0]), float(matrix[columns + 1])
        if fx <= 0 or fy <= 0:
            raise PointsError(
                f"camera_info is not calibrated: {which} has focal lengths of {fx:g} and {fy:g}"
            )
        roi, bins = info.roi, (max(info.binning_x, 1), max(info.binning_y, 1))
        width, height = (roi.width, roi.height) if roi.width and roi.height else (0, 0)
        cx, cy = float(matrix[2]) - roi.x_offset, float(matrix[columns + 2]) - roi.y_offset
        distortion, coefficients = ("", ()) if rectified else _distortion(info, d)
        return cls(
            width=(width or info.width) // bins[0],
            height=(height or info.height) // bins[1],
            focal=(fx / bins[0], fy / bins[1]),
            centre=(cx / bins[0], cy / bins[1]),
            distortion=distortion,
            coefficients=coefficients,
        )

    def check_size(self, *, height: int, width: int, what: str) -> None:
        """Raise `PointsError` unless the camera's image has the size of ``what``."""
        if (self.height, self.width) != (height, width):
            raise PointsError(
                f"camera_info is for images of {self.width}x{self.height} pixels, {what} have"
                f" {width}x{height}"
            )

    def project(self, points: Floats) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
        """Project points of the optical frame.

        Args:
            points: float32 or float64 (3, N), metres; may hold NaN and infinity.

        Returns:
            u and v, pixels, each (N,) in the dtype of ``points``; and whether the point appears in
            the image, bool (N,): it lies in front of the camera, inside the image, and inside the
            field in which the distortion is one-to-one. u and v are meaningless elsewhere.
        """
        x, y, z = points
        with np.errstate(all="ignore"):
            inverse = 1 / z
            x, y = x * inverse, y * inverse
            visible = z > 0
            if self.distortion:
                square = x * x + y * y
                visible &= square <= self._largest_square
                x, y = self._distort(x, y, square)
            u = x * x.dtype.type(self.focal[0]) + x.dtype.type(self.centre[0])
            v = y * y.dtype.type(self.focal[1]) + y.dtype.type(self.centre[1])
            visible &= (u >= -0.5) & (u < self.width - 0.5) & (v >= -0.5) & (v < self.height - 0.5)
        return u, v, visible

    @cached_property
    def rays(self) -> npt.NDArray[np.float32]:
        """What z is multiplied by to give x and y of each pixel's point: float32 (2, H, W).

        NaN where no point in front of the camera appears at the pixel. Computed on first use.
        """
        rays = np.empty((2, self.height, self.width), np.float32)
        columns = (np.arange(self.width) - self.centre[0]) / self.focal[0]
        rows = (np.arange(self.height) - self.centre[1]) / self.focal[1]
        for first in range(0, self.height, _BLOCK_ROWS):
            block = slice(first, first + _BLOCK_ROWS)
            x, y = np.meshgrid(columns, rows[block])
            rays[0, block], rays[1, block] = self._undistort(x, y) if self.distortion else (x, y)
        return rays

    @cached_property
    def has_all_rays(self) -> bool:
        """Whether every pixel has a ray."""
        return bool(np.isfinite(self.rays).all())

    @cached_property
    def _polynomials(self) -> tuple[Polynomial, Polynomial]:
        """Numerator and denominator of the radial factor.

        In the squared radius; for equidistant in the squared angle.
        """
        k = self.coefficients
        if self.distortion == "equidistant":
            return Polynomial([1, *k]), Polynomial([1])
        return Polynomial([1, k[0], k[1], k[4]]), Polynomial([1, *k[5:8]])

    @cached_property
    def _largest(self) -> float:
        """Squared radius (angle for equidistant) up to which the distortion is one-to-one.

        With s = r^2 and the factor N/D, the distorted radius r N(s) / D(s) grows while
        (N + 2 s N') D - 2 s N D' > 0, and D must not vanish.
        """
        numerator, denominator = self._polynomials
        s = Polynomial([0, 1])
        growth = (numerator + 2 * s * numerator.deriv()) * denominator
        growth = growth - 2 * s * numerator * denominator.deriv()
        roots = np.concatenate((growth.trim(_TINY).roots(), denominator.trim(_TINY).roots()))
        real = roots.real[(np.abs(roots.imag) < 1e-9 * np.abs(roots)) & (roots.real > 0)]
        return float(real.min()) if real.size else math.inf

    @cached_property
    def _largest_square(self) -> float:
        """Squared undistorted radius x^2 + y^2 up to which points are visible."""
        if self.distortion != "equidistant":
            return self._largest
        angle = math.sqrt(self._largest)
        return math.tan(angle) ** 2 if angle < math.pi / 2 else math.inf

    def _distort(self, x: Floats, y: Floats, square: Floats) -> tuple[Floats, Floats]:
        """Return distorted normalised coordinates; ``square`` is x^2 + y^2."""
        numerator, denominator = self._polynomials
        if self.distortion == "equidistant":
            radius = np.sqrt(square)
            angle = np.arctan(radius)
            factor = angle * _horner(numerator, angle * angle)
            factor = np.where(radius > 1e-8, factor / np.where(radius > 1e-8, radius, 1), 1)
            return x * factor, y * factor
        p1, p2 = self.coefficients[2:4]
        radial = _horner(numerator, square)
        if denominator.degree():
            radial = radial / _horner(denominator, square)
        if not (p1 or p2):
            return x * radial, y * radial
        product = 2 * x * y
        return (
            x * radial + p1 * product + p2 * (square + 2 * x * x),
            y * radial + p1 * (square + 2 * y * y) + p2 * product,
        )

    def _undistort(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """Return the normalised coordinates that `_distort` takes to (u, v); NaN if there are none.

        By Newton's method, kept inside the field in which the distortion is one-to-one.
        """
        with np.errstate(all="ignore"):
            x, y = (
                self._undistort_angle(u, v)
                if self.distortion == "equidistant"
                else (self._undistort_radial(u, v))
            )
            square = x * x + y * y
            again = self._distort(x, y, square)
            error = np.maximum(np.abs(again[0] - u), np.abs(again[1] - v))
            good = (error < _RESIDUAL) & (square <= self._largest_square)
        return np.where(good, x, np.nan), np.where(good, y, np.nan)

    def _undistort_angle(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        factor, _ = self._polynomials
        slope = factor + 2 * Polynomial([0, 1]) * factor.deriv()
        distorted = np.hypot(u, v)
        limit = min(math.sqrt(self._largest), math.pi / 2)
        angle = np.minimum(distorted, limit)
        for _ in range(_ITERATIONS):
            square = angle * angle
            step = (angle * _horner(factor, square) - distorted) / _horner(slope, square)
            angle = np.clip(angle - step, 0, limit)
            if np.nanmax(np.abs(step)) < _RESIDUAL * 1e-3:
                break
        scale = np.where(distorted > 1e-8, np.tan(angle) / np.where(distorted, distorted, 1), 1)
        return u * scale, v * scale

    def _undistort_radial(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        numerator, denominator = self._polynomials
        slope_n, slope_d = numerator.deriv(), denominator.deriv()
        p1, p2 = self.coefficients[2:4]
        x, y = u, v
        for _ in range(_ITERATIONS):
            square = x * x + y * y
            outside = square > self._largest
            if outside.any():
                shrink = np.where(outside, np.sqrt(self._largest / square), 1)
                x, y, square = x * shrink, y * shrink, square * shrink * shrink
            n, d = _horner(numerator, square), _horner(denominator, square)
            radial = n / d
            slope = _horner(slope_n, square) * d - n * _horner(slope_d, square)
            twice = 2 * slope / (d * d)
            # The Jacobian of the distortion, which is symmetric.
            xx = radial + twice * x * x + 2 * p1 * y + 6 * p2 * x
            xy = twice * x * y + 2 * p1 * x + 2 * p2 * y
            yy = radial + twice * y * y + 6 * p1 * y + 2 * p2 * x
            distorted = self._distort(x, y, square)
            miss_x, miss_y = distorted[0] - u, distorted[1] - v
            determinant = xx * yy - xy * xy
            step_x = (yy * miss_x - xy * miss_y) / determinant
            step_y = (xx * miss_y - xy * miss_x) / determinant
            x, y = x - step_x, y - step_y
            if not max(np.abs(step_x).max(), np.abs(step_y).max()) > _RESIDUAL * 1e-3:
                break
        return x, y


def _distortion(info: Any, d: npt.NDArray[np.float64]) -> tuple[str, tuple[float, ...]]:
    """Return the name and coefficients of a message's distortion."""
    name, coefficients = info.distortion_model, tuple(float(one) for one in d)
    if not any(coefficients) and name in ("", "none", "plumb_bob", "rational_polynomial"):
        return "", ()
    count = _COEFFICIENTS.get(name)
    if count is None:
        raise PointsError(
            f"camera_info has the distortion model {printable(name)!r}: use one of"
            f" {', '.join(_COEFFICIENTS)}, or rectified images with the parameter rectified"
        )
    if any(coefficients[count:]):
        raise PointsError(
            f"camera_info has {len(coefficients)} coefficients, {name} takes at most {count}"
        )
    return name, (*coefficients, *[0.0] * count)[:count] + (0.0,) * (8 - count) * (
        name == "plumb_bob"
    )


def _horner(polynomial: Polynomial, at: Floats) -> Floats:
    """Evaluate a polynomial in the dtype of ``at``; numpy's own would make it float64."""
    coefficients = polynomial.coef
    value = np.full_like(at, coefficients[-1])
    for one in coefficients[-2::-1]:
        value *= at
        value += at.dtype.type(one)
    return value
