"""Draws a `PanopticFrame` over its image: colours, contours, captions, hatched unknown regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.taxonomy import ClassInfo, Taxonomy
from upsnet_ros.errors import ImageError, SettingsError, check_number
from upsnet_ros.inference.frame import LABEL_DIVISOR, Instance, PanopticFrame

_Color = tuple[int, int, int]
_Rect = tuple[int, int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)

#: Fraction of a stuff caption that must lie on its own mask, so that it does not label neighbours.
_MIN_COVERED = 0.8

# Black and yellow warning stripes: no taxonomy has both colours in one class.
_UNKNOWN_BGR: _Color = (0, 215, 255)

#: Stuff below this fraction of the image gets no caption.
_STUFF_NAME_SHARE = 0.02
#: Unknown regions below this fraction of the image get no caption; of the others, the largest few.
_UNKNOWN_NAME_SHARE = 0.001
_UNKNOWN_NAMES = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Caption:
    """A text that labels a ``box`` (tag at its upper edge) or a ``mask`` (text inside).

    Attributes:
        text: ASCII, the only characters in OpenCV's fonts.
        shorter: Texts to use where there is no room for ``text``, longest first.
        box: (x1, y1, x2, y2) in pixels, inclusive corners.
        mask: bool (H, W).
        color: BGR background of the text; None writes white text on the image.
    """

    text: str
    shorter: tuple[str, ...] = ()
    box: _Rect | None = None
    mask: npt.NDArray[np.bool_] | None = None
    color: _Color | None = None


def draw_captions(canvas: npt.NDArray[np.uint8], captions: Sequence[Caption]) -> None:
    """Draw the captions into ``canvas``, uint8 (H, W, 3) BGR, in order of precedence.

    The font scales with the image. If a text is too large for its object, or there is no free
    position at the object, the next shorter text is tried; if none fits, the caption is left out.
    """
    writer = _Writer(canvas)
    for caption in captions:
        writer.write(caption)


def ink_on(color: _Color) -> _Color:
    """Return black or white, whichever has more contrast with ``color`` (all BGR).

    Uses the relative luminance of WCAG 2.2. One of the two always reaches a contrast of 4.5, which
    WCAG requires for text of this size.
    """
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in color]
    luminance = 0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2]
    return _BLACK if (luminance + 0.05) ** 2 > 1.05 * 0.05 else _WHITE


class _Writer:
    """Writes captions into one canvas without overlaps."""

    def __init__(self, canvas: npt.NDArray[np.uint8]) -> None:
        self._canvas = canvas
        self._height, self._width = canvas.shape[:2]
        # 0.4 is the smallest Hershey scale whose letters keep their holes.
        self._scale = float(np.clip(max(self._height, self._width) / 2000, 0.4, 2.0))
        self._thickness = max(1, round(self._scale * 1.6))
        self._pad = max(2, round(self._scale * 5))
        self._taken: list[_Rect] = []

    def write(self, caption: Caption) -> None:
        for text in (caption.text, *caption.shorter):
            (width, height), baseline = cv2.getTextSize(text, _FONT, self._scale, self._thickness)
            full_width = width + 2 * self._pad
            full_height = height + baseline + self._pad
            for left, top in self._positions(caption, full_width, full_height):
                rect = (left, top, left + full_width, top + full_height)
                if self._is_free(rect):
                    self._taken.append(rect)
                    self._draw(text, caption.color, rect, top + self._pad // 2 + height)
                    return

    def _positions(self, caption: Caption, width: int, height: int) -> Iterable[tuple[int, int]]:
        """Yield upper left corners to try, best first, clipped to the canvas if possible."""
        positions: list[tuple[int, int]] = []
        if caption.box is not None:
            x1, y1, x2, y2 = caption.box
            if (x2 - x1 + 1) * 3 < width or (x2 - x1 + 1) * (y2 - y1 + 1) < 2 * width * height:
                return
            middle = (x1 + x2 + 1 - width) // 2
            positions = [(x1, y1 - height), (middle, y1), (x1, y2 + 1), (middle, (y1 + y2) // 2)]
        elif caption.mask is not None:
            x, y = _roomiest_point(caption.mask)
            positions = [(x - width // 2, y - height // 2)]
        for left, top in positions:
            left = int(np.clip(left, 0, max(0, self._width - width)))
            top = int(np.clip(top, 0, max(0, self._height - height)))
            if caption.mask is not None:
                covered = caption.mask[top : top + height, left : left + width]
                if covered.mean() < _MIN_COVERED:
                    continue
            yield left, top

    def _is_free(self, rect: _Rect) -> bool:
        left, top, right, bottom = rect
        if right > self._width or bottom > self._height:
            return False
        return all(
            right <= other_left or left >= other_right or bottom <= other_top or top >= other_bottom
            for other_left, other_top, other_right, other_bottom in self._taken
        )

    def _draw(self, text: str, color: _Color | None, rect: _Rect, text_bottom: int) -> None:
        left, top, right, bottom = rect
        origin = (left + self._pad, text_bottom)
        if color is not None:
            cv2.rectangle(self._canvas, (left, top), (right - 1, bottom - 1), color, -1)
            ink = ink_on(color)
        else:
            # Outline by shifted copies, because in OpenCV 5 a thicker pen makes the text wider.
            rim = max(1, self._thickness // 2)
            for dx, dy in ((-rim, 0), (rim, 0), (0, -rim), (0, rim), (rim, rim)):
                self._put(text, (origin[0] + dx, origin[1] + dy), _BLACK)
            ink = _WHITE
        self._put(text, origin, ink)

    def _put(self, text: str, origin: tuple[int, int], ink: tuple[int, int, int]) -> None:
        cv2.putText(
            self._canvas, text, origin, _FONT, self._scale, ink, self._thickness, cv2.LINE_AA
        )


def _roomiest_point(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Return the (x, y) inside ``mask`` that is farthest from its border."""
    step = max(1, max(mask.shape) // 512)  # text positions need not be exact to the pixel
    small = np.pad(mask[::step, ::step], 1).astype(np.uint8)  # the image's edge is a border too
    distance = cv2.distanceTransform(small, cv2.DIST_L2, 3)
    _, _, _, (x, y) = cv2.minMaxLoc(distance)
    return (x - 1) * step, (y - 1) * step


def draw_overlay(
    image_bgr: npt.NDArray[np.uint8],
    frame: PanopticFrame,
    taxonomy: Taxonomy,
    *,
    alpha: float = 0.5,
) -> npt.NDArray[np.uint8]:
    """Draw a frame's segmentation over its image.

    Segments are tinted in their class colour, and things outlined in a shade of it; names and
    scores are drawn where they fit; unknown regions are hatched; void pixels are unchanged. If
    things are tracked, a track keeps its shade, and its id is drawn beside the name.

    Args:
        image_bgr: uint8 (H, W, 3), not modified.
        frame: The segmentation of ``image_bgr``.
        taxonomy: Classes of the frame.
        alpha: Weight of the class colours, 0 (none) to 1 (colours only).

    Returns:
        uint8 (H, W, 3), BGR.

    Raises:
        ImageError: If the image is not uint8 (H, W, 3) of the frame's size.
        SettingsError: If ``alpha`` is not a number from 0 to 1, or a class id is not in the
            taxonomy.
    """
    labels = frame.labels
    if image_bgr.shape != (*labels.shape, 3) or image_bgr.dtype != np.uint8:
        raise ImageError(
            f"image must be uint8 {(*labels.shape, 3)} like the frame's labels, "
            f"got {image_bgr.dtype} {image_bgr.shape}"
        )
    check_number("alpha", alpha)
    if not 0 <= alpha <= 1:
        raise SettingsError(f"alpha must be between 0 and 1, got {alpha}")
    if labels.size == 0:
        return image_bgr.copy()

    segments = _Segments(labels, taxonomy, {one.id: _number(one) for one in frame.instances})
    tinted = cv2.addWeighted(image_bgr, 1 - alpha, segments.paint(_shade), alpha, 0)
    canvas = image_bgr.copy()
    cv2.copyTo(tinted, (labels != 0).view(np.uint8), canvas)
    _draw_contours(canvas, segments)
    _hatch(canvas, frame.unknown)
    draw_captions(canvas, _captions(frame, taxonomy))
    return canvas


class _Segments:
    """The segments of a label map, and the map in terms of segment indices.

    Attributes:
        found: (class, k) of each segment, sorted by label value; k is 0 for stuff, and for things
            the number that determines the shade.
        ranks: uint16 (H, W): 0 for void, else 1 + index in ``found``. OpenCV's morphology accepts
            this dtype, and colour look-up is faster than with the labels.
    """

    def __init__(
        self,
        labels: npt.NDArray[np.int32],
        taxonomy: Taxonomy,
        numbers: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        if labels.min(initial=0) < 0:
            raise SettingsError(f"labels must not be negative, found {labels.min()}")
        occurs = np.zeros(int(labels.max(initial=0)) + 1, bool)
        occurs[labels] = True
        occurs[0] = False
        values = np.flatnonzero(occurs)
        self.found = [
            (info, numbers.get(value, k))
            for value in values.tolist()
            for info, k in [_segment_of(value, taxonomy)]
        ]
        rank_of = np.zeros(occurs.size, np.uint16)
        rank_of[values] = np.arange(1, values.size + 1)
        self.ranks = np.take(rank_of, labels)

    def paint(self, color: Callable[[ClassInfo, int], _Color]) -> npt.NDArray[np.uint8]:
        """Return uint8 (H, W, 3): each pixel in the ``color`` of its (class, k), void black."""
        table = np.array([(0, 0, 0), *(color(info, k) for info, k in self.found)], np.uint8)
        return np.take(table, self.ranks, axis=0)


def _segment_of(value: int, taxonomy: Taxonomy) -> tuple[ClassInfo, int]:
    class_id, k = divmod(value, LABEL_DIVISOR) if value >= LABEL_DIVISOR else (value, 0)
    info = taxonomy.by_id.get(class_id)
    if info is None:
        raise SettingsError(f"label {value}: class {class_id} is not in taxonomy {taxonomy.name}")
    return info, k


def _captions(frame: PanopticFrame, taxonomy: Taxonomy) -> list[Caption]:
    """Return captions in order of precedence: unknown regions, things and stuff by area."""
    captions = [
        Caption(text="unknown", shorter=("?",), box=box, color=_UNKNOWN_BGR)
        for box in _largest_regions(frame.unknown)
    ]
    captions += [
        Caption(
            text=_names(instance)[0],
            shorter=_names(instance)[1:],
            box=instance.box,
            color=_contour_color(taxonomy.by_id[instance.class_id], _number(instance)),
        )
        for instance in sorted(frame.instances, key=lambda instance: -instance.area)
    ]
    size = frame.labels.size
    captions += [
        Caption(text=segment.class_name, mask=frame.labels == segment.id)
        for segment in sorted(frame.stuff, key=lambda segment: -segment.area)
        if segment.area >= _STUFF_NAME_SHARE * size
    ]
    return captions


def _number(instance: Instance) -> int:
    """Return what distinguishes the thing from others of its class: track id or instance index."""
    return instance.track_id or instance.id % LABEL_DIVISOR


def _names(instance: Instance) -> tuple[str, ...]:
    """Return the caption of a thing in decreasing length: name, track id and score first."""
    name, score = instance.class_name, f"{instance.score:.2f}"
    if not instance.track_id:
        return f"{name} {score}", name
    track = f"#{instance.track_id}"
    return f"{name} {track} {score}", f"{name} {track}", track


def _largest_regions(unknown: npt.NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """Return caption boxes of the largest unknown regions, by decreasing area.

    The box encloses the region or, if the region fills less than half of that, its widest part.
    """
    step = max(1, max(unknown.shape) // 512)  # text positions need not be exact to the pixel
    small = np.ascontiguousarray(unknown[::step, ::step]).view(np.uint8)
    _, numbers, regions, _ = cv2.connectedComponentsWithStats(small)
    areas = regions[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0  # background
    depth: npt.NDArray[np.float32] | None = None
    boxes = []
    for number in np.argsort(-areas, kind="stable")[:_UNKNOWN_NAMES].tolist():
        x, y, width, height, area = regions[number].tolist()
        if not number or area < _UNKNOWN_NAME_SHARE * small.size:
            break
        if area < width * height / 2:
            if depth is None:
                depth = np.asarray(cv2.distanceTransform(small, cv2.DIST_L2, 3), np.float32)
            within = np.where(numbers == number, depth, 0)
            row, column = divmod(int(within.argmax()), within.shape[1])
            reach = round(1.5 * float(within[row, column]))
            x, y, width, height = column - reach, row - reach, 2 * reach, 2 * reach
        boxes.append((step * x, step * y, step * (x + width) - 1, step * (y + height) - 1))
    return boxes


def _class_color(info: ClassInfo, k: int) -> _Color:
    red, green, blue = info.color
    return blue, green, red


def _shade(info: ClassInfo, k: int) -> _Color:
    """Return the class colour, its lightness varied with k by up to a fifth of the range."""
    if k == 0:
        return _class_color(info, k)
    # Consecutive multiples of the golden ratio lie far apart modulo 1.
    step = (k * 0.618034) % 1.0 - 0.5
    blue, green, red = (int(np.clip(c + step * 100, 0, 255)) for c in _class_color(info, k))
    return blue, green, red


def _contour_color(info: ClassInfo, k: int) -> _Color:
    """Return a light, saturated colour near the class's hue that depends on k."""
    base = cv2.cvtColor(np.array([[_class_color(info, k)]], np.uint8), cv2.COLOR_BGR2HSV)
    hue = (int(base[0, 0, 0]) + (k * 0.618034 % 1.0 - 0.5) * 60) % 180
    saturation = 110 + int((k * 0.381966 % 1.0) * 110)
    hsv = np.array([[[hue, saturation, 255]]], np.uint8)
    blue, green, red = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def _draw_contours(canvas: npt.NDArray[np.uint8], segments: _Segments) -> None:
    """Draw the contours of things: their pixels close to another segment."""
    is_thing = np.array([False, *(k > 0 for _, k in segments.found)])
    if not is_thing.any():
        return
    colors = np.array([(0, 0, 0), *(_contour_color(*found) for found in segments.found)], np.uint8)
    ranks = segments.ranks
    width = 2 * max(1, round(max(ranks.shape) / 1200)) + 1
    kernel = np.ones((width, width), np.uint8)
    # OpenCV's default border value never wins, so there is no contour along the image border.
    edge = (cv2.dilate(ranks, kernel) != cv2.erode(ranks, kernel)) & is_thing[ranks]
    canvas[edge] = colors[ranks[edge]]


def _hatch(canvas: npt.NDArray[np.uint8], unknown: npt.NDArray[np.bool_]) -> None:
    """Hatch ``unknown`` with translucent black and yellow stripes."""
    rows, columns = np.nonzero(unknown)
    if rows.size == 0:
        return
    period = max(6, round(max(unknown.shape) / 90))
    stripe = (rows + columns) % period < period // 2
    color = np.where(stripe[:, None], np.array(_UNKNOWN_BGR), 0)
    pixels = canvas[rows, columns]
    canvas[rows, columns] = (0.4 * pixels + 0.6 * color).astype(np.uint8)
