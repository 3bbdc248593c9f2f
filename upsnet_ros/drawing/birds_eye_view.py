"""Draws labelled points from above: forward is up, and the sensor is at the bottom."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.errors import ImageError

FloatArray = npt.NDArray[np.floating]
_Color = tuple[int, int, int]

#: Rows are forward, left and up in a frame with x forward, y left and z up, as REP 103 has it for
#: everything that is not a camera: a lidar, a base.
BODY_AXES = np.eye(3)
#: The same in an optical frame: x right, y down and z forward.
OPTICAL_AXES = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
for _axes in (BODY_AXES, OPTICAL_AXES):
    _axes.flags.writeable = False
# REP 103's endings of optical frames.
_OPTICAL_ENDINGS = ("_optical_frame", "_optical")

#: How far ahead a view may reach, and the distance between its rings; metres.
_RINGS = {10.0: 2, 25.0: 5, 50.0: 10}
#: Share of the points in front that a view shows at least, if the longest reach does.
_SHOWN = 0.97
# Extent of the view: to each side, and behind the sensor, as shares of the reach.
_ASIDE, _BEHIND = 0.6, 0.06
#: Where a ring has its label, degrees to the right of forward: beside what most cameras see.
_LABEL_ANGLE = 33.0
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.4
# Heights above this one, in metres, are compared in so many steps, of which 200 are a metre: with
# the layer they have 16 bits, which sort several times as fast as more.
_LOWEST, _HEIGHTS, _STEPS_PER_METRE = -30.0, 1 << 14, 200
# Sides of the square of a point, pixels, by layer: without a label, with one, and on top. Those on
# top are few and must not be missed.
_DOTS = (2, 3, 5)
_ON_TOP = 2
_BLACK = (0, 0, 0)


def view_axes(frame_id: str, *, camera: str = "") -> npt.NDArray[np.float64]:
    """Return the directions forward, left and up in a frame, as rows of a (3, 3) rotation.

    Args:
        frame_id: Frame of the points.
        camera: Frame of the camera's images, which is optical whatever its name.
    """
    optical = frame_id == camera or frame_id.endswith(_OPTICAL_ENDINGS)
    return OPTICAL_AXES if optical else BODY_AXES


def reach_of(xyz: FloatArray, axes: FloatArray) -> float:
    """Return the reach of a view of these points, metres: 10, 25 or 50, as `draw_birds_eye_view`.

    Args:
        xyz: (3, N), metres; may hold NaN and infinity.
        axes: As of `view_axes`.
    """
    forward = _turned(xyz, axes)[0]
    ahead = forward[(forward > 0) & (forward < np.inf)]
    for reach in _RINGS:
        if np.count_nonzero(ahead <= reach) >= _SHOWN * ahead.size:
            return reach
    return max(_RINGS)


def draw_birds_eye_view(
    xyz: FloatArray,
    colors: npt.NDArray[np.uint8],
    *,
    axes: FloatArray,
    reach: float,
    on_top: npt.NDArray[np.bool_] | None = None,
    height: int = 480,
    ink: _Color = (170, 170, 170),
    paper: _Color = (235, 235, 235),
) -> npt.NDArray[np.uint8]:
    """Draw points from above, with rings of equal range around the sensor.

    Of the points at a pixel the highest is seen. Points that are black have no label and are drawn
    in ``ink``, below all others. The paper is light, on which the dark colours of cars are seen.

    Args:
        xyz: (3, N), metres, in the sensor's frame; those that are not finite are left out.
        colors: uint8 (N, 3), BGR.
        axes: Directions forward, left and up in that frame: see `view_axes`. With a transform to
            another frame, the product of the axes there and its rotation.
        reach: How far ahead the view reaches, metres: 10, 25 or 50. The rings are 2, 5 or 10 apart.
        on_top: bool (N,), points to draw larger, with a black rim, and above all others: the
            unknown ones.
        height: Height of the picture, pixels.
        ink: BGR colour of rings and of points without a label.
        paper: BGR colour of the background.

    Returns:
        uint8 (height, width, 3), BGR, where the width follows from the height.

    Raises:
        ImageError: If the shapes do not match.
        KeyError: If ``reach`` is none of the values.
    """
    if xyz.ndim != 2 or xyz.shape[0] != 3 or colors.shape != (xyz.shape[1], 3):
        raise ImageError(f"points of shape {xyz.shape} with colours of shape {colors.shape}")
    spacing = _RINGS[reach]
    scale = height / (reach * (1 + _BEHIND))
    width = 2 * round(_ASIDE * reach * scale)
    sensor = (width // 2, round(reach * scale))
    canvas = np.full((height, width, 3), paper, np.uint8)
    ranges = range(spacing, int(np.hypot(reach, _ASIDE * reach)) + 1, spacing)
    for metres in ranges:
        cv2.circle(canvas, sensor, round(metres * scale), ink, 1, cv2.LINE_AA)
    forward, left, up = _turned(xyz, axes)
    inside = (np.abs(left) < _ASIDE * reach) & (forward > -_BEHIND * reach) & (forward < reach)
    shown = np.flatnonzero(inside & np.isfinite(up))
    rows = (sensor[1] - forward[shown] * scale).astype(np.intp).clip(0, height - 1)
    columns = (sensor[0] - left[shown] * scale).astype(np.intp).clip(0, width - 1)
    layers: npt.NDArray[np.uint16] = np.any(colors[shown], axis=1).astype(np.uint16)
    if on_top is not None:
        layers[on_top[shown]] = _ON_TOP
    order = _order(up[shown], layers)
    order = order[_last_of_each(rows[order] * width + columns[order])]
    drawn = np.where(layers[order, None] == 0, np.array(ink), colors[shown[order]])
    _draw_dots(canvas, rows[order], columns[order], drawn.astype(np.uint8), layers[order])
    for metres in ranges:
        _label(canvas, f"{metres} m", metres * scale, sensor, paper)
    _draw_sensor(canvas, sensor)
    return canvas


def _turned(xyz: FloatArray, axes: FloatArray) -> npt.NDArray[np.float32]:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(axes, np.float32) @ np.asarray(xyz, np.float32)


def _order(up: npt.NDArray[np.float32], layers: npt.NDArray[np.uint16]) -> npt.NDArray[np.intp]:
    """Return the order in which points are drawn: layer by layer, from the lowest up."""
    steps = np.clip((up - _LOWEST) * _STEPS_PER_METRE, 0, _HEIGHTS - 1).astype(np.uint16)
    # A radix sort, since they have 16 bits.
    return np.argsort(layers * np.uint16(_HEIGHTS) + steps, kind="stable")


def _last_of_each(pixels: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the positions of the last occurrence of each value, ascending."""
    last = np.full(pixels.max(initial=0) + 1, -1, np.intp)
    last[pixels] = np.arange(pixels.size)
    return np.sort(last[last >= 0])


def _draw_dots(
    canvas: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    colors: npt.NDArray[np.uint8],
    layers: npt.NDArray[np.uint16],
) -> None:
    for layer, side in enumerate(_DOTS):
        here = layers == layer
        if layer == _ON_TOP:
            black = np.zeros((np.count_nonzero(here), 3), np.uint8)
            _draw_squares(canvas, rows[here], columns[here], black, side + 2)
        _draw_squares(canvas, rows[here], columns[here], colors[here], side)


def _draw_squares(
    canvas: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    colors: npt.NDArray[np.uint8],
    side: int,
) -> None:
    height, width = canvas.shape[:2]
    first = -((side - 1) // 2)
    for down in range(first, first + side):
        for right in range(first, first + side):
            canvas[np.clip(rows + down, 0, height - 1), np.clip(columns + right, 0, width - 1)] = (
                colors
            )


def _draw_sensor(canvas: npt.NDArray[np.uint8], sensor: tuple[int, int]) -> None:
    column, row = sensor
    size = max(2, round(0.3 * _BEHIND * canvas.shape[0]))
    corners = [(column, row - 2 * size), (column - size, row + size), (column + size, row + size)]
    cv2.fillPoly(canvas, [np.array(corners, np.int32)], _BLACK)


def _label(
    canvas: npt.NDArray[np.uint8],
    text: str,
    radius: float,
    sensor: tuple[int, int],
    paper: _Color,
) -> None:
    """Write the range of a ring on it, if it fits into the picture."""
    angle = np.radians(_LABEL_ANGLE)
    (width, tall), base = cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)
    x = round(sensor[0] + radius * np.sin(angle) - width / 2)
    y = round(sensor[1] - radius * np.cos(angle) + tall / 2)
    if x < 0 or y - tall < 0 or x + width > canvas.shape[1]:
        return
    cv2.rectangle(canvas, (x - 2, y - tall - 2), (x + width + 1, y + base - 1), paper, -1)
    # Not smoothed: where colours are codes of classes, mixtures would be other classes.
    cv2.putText(canvas, text, (x, y), _FONT, _FONT_SCALE, _BLACK, 1, cv2.LINE_8)
