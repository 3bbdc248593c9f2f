"""Pictures of a `PanopticFrame`: class colours over the image, contours, names, hatched unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.taxonomy import ClassInfo, Taxonomy
from upsnet_ros.inference.captions import Caption, draw_captions
from upsnet_ros.inference.frame import LABEL_DIVISOR, Instance, PanopticFrame

_Color = tuple[int, int, int]

# Black and yellow warning stripes: no taxonomy has both colours in one class.
_UNKNOWN_BGR: _Color = (0, 215, 255)

#: Stuff below this share of the image gets no name: the colour says it well enough.
_STUFF_NAME_SHARE = 0.02
#: A region of unknown below this share gets none either; of the others, so many do.
_UNKNOWN_NAME_SHARE = 0.001
_UNKNOWN_NAMES = 3


def colorize(
    labels: npt.NDArray[np.int32], taxonomy: Taxonomy, *, shade_instances: bool = True
) -> npt.NDArray[np.uint8]:
    """Draw a label map in the taxonomy's colours.

    Args:
        labels: int32 (H, W) as in `PanopticFrame.labels`; 0 is void and comes out black.
        taxonomy: Whose class ids ``labels`` holds.
        shade_instances: Vary the class colour from instance to instance.

    Returns:
        uint8 (H, W, 3), BGR.

    Raises:
        ValueError: If ``labels`` holds a class id that the taxonomy does not have.
    """
    segments = _Segments(labels, taxonomy)
    return segments.paint(_shade if shade_instances else _class_color)


def draw_overlay(
    image_bgr: npt.NDArray[np.uint8],
    frame: PanopticFrame,
    taxonomy: Taxonomy,
    *,
    alpha: float = 0.5,
) -> npt.NDArray[np.uint8]:
    """Draw a frame's segmentation over its image.

    Segments are tinted in their class colour and things outlined in a shade of their own; names and
    scores stand where there is room for them; unknown regions are striped; void stays as it was.
    Where things are tracked, a track keeps its shade and its number stands beside the name.

    Args:
        image_bgr: uint8 (H, W, 3), left unchanged.
        frame: The segmentation of ``image_bgr``.
        taxonomy: Whose class ids the frame holds.
        alpha: Weight of the class colours, 0 (none) to 1 (colours only).

    Returns:
        uint8 (H, W, 3), BGR.

    Raises:
        ValueError: If image and frame differ in size, ``alpha`` is out of range, or a class id is
            not the taxonomy's.
    """
    labels = frame.labels
    if image_bgr.shape != (*labels.shape, 3) or image_bgr.dtype != np.uint8:
        raise ValueError(
            f"image must be uint8 {(*labels.shape, 3)} like the frame's labels, "
            f"got {image_bgr.dtype} {image_bgr.shape}"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be within 0 and 1, got {alpha}")
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
    """Which segments a label map holds, and the map again as ranks among them.

    Attributes:
        found: (class, k) of each segment, by pixel value; k is 0 for stuff, and of a thing the
            number that its shade depends on.
        ranks: uint16 (H, W): 0 for void, else 1 + place in ``found``. A narrow type that OpenCV's
            morphology takes and that looks up colours faster than the labels themselves.
    """

    def __init__(
        self,
        labels: npt.NDArray[np.int32],
        taxonomy: Taxonomy,
        numbers: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        if labels.min(initial=0) < 0:
            raise ValueError(f"labels must not be negative, found {labels.min()}")
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
        """Each pixel the ``color`` of its (class, k); void black. uint8 (H, W, 3)."""
        table = np.array([(0, 0, 0), *(color(info, k) for info, k in self.found)], np.uint8)
        return np.take(table, self.ranks, axis=0)


def _segment_of(value: int, taxonomy: Taxonomy) -> tuple[ClassInfo, int]:
    class_id, k = divmod(value, LABEL_DIVISOR) if value >= LABEL_DIVISOR else (value, 0)
    info = taxonomy.by_id.get(class_id)
    if info is None:
        raise ValueError(f"label {value}: class {class_id} is not in taxonomy {taxonomy.name}")
    return info, k


def _captions(frame: PanopticFrame, taxonomy: Taxonomy) -> list[Caption]:
    """Unknown regions, things by falling area, stuff: in the order of their claim to room."""
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
    """What tells the thing from others of its class: in all frames where it is tracked."""
    return instance.track_id or instance.id % LABEL_DIVISOR


def _names(instance: Instance) -> tuple[str, ...]:
    """What to call the thing: first all that is known, last what it can least do without."""
    name, score = instance.class_name, f"{instance.score:.2f}"
    if not instance.track_id:
        return f"{name} {score}", name
    track = f"#{instance.track_id}"
    return f"{name} {track} {score}", f"{name} {track}", track


def _largest_regions(unknown: npt.NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """Boxes to name the largest regions by, as far as they are worth a name, by falling area.

    A region's box is its bounds; of one that winds through its bounds, its widest part.
    """
    step = max(1, max(unknown.shape) // 512)  # where a name stands need not be exact to the pixel
    small = np.ascontiguousarray(unknown[::step, ::step]).view(np.uint8)
    _, numbers, regions, _ = cv2.connectedComponentsWithStats(small)
    areas = regions[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0  # what is not unknown
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
    """The class colour, its lightness moved by up to a fifth of the range from k to k."""
    if k == 0:
        return _class_color(info, k)
    # Multiples of the golden ratio fall far apart from their neighbours.
    step = (k * 0.618034) % 1.0 - 0.5
    blue, green, red = (int(np.clip(c + step * 100, 0, 255)) for c in _class_color(info, k))
    return blue, green, red


def _contour_color(info: ClassInfo, k: int) -> _Color:
    """A light, saturated colour that differs from instance to instance, near the class's hue."""
    base = cv2.cvtColor(np.array([[_class_color(info, k)]], np.uint8), cv2.COLOR_BGR2HSV)
    hue = (int(base[0, 0, 0]) + (k * 0.618034 % 1.0 - 0.5) * 60) % 180
    saturation = 110 + int((k * 0.381966 % 1.0) * 110)
    hsv = np.array([[[hue, saturation, 255]]], np.uint8)
    blue, green, red = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def _draw_contours(canvas: npt.NDArray[np.uint8], segments: _Segments) -> None:
    """Colour the pixels of things that have a pixel of another segment near them."""
    is_thing = np.array([False, *(k > 0 for _, k in segments.found)])
    if not is_thing.any():
        return
    colors = np.array([(0, 0, 0), *(_contour_color(*found) for found in segments.found)], np.uint8)
    ranks = segments.ranks
    width = 2 * max(1, round(max(ranks.shape) / 1200)) + 1
    kernel = np.ones((width, width), np.uint8)
    # OpenCV's default border never wins, so a thing that leaves the image stays open there.
    edge = (cv2.dilate(ranks, kernel) != cv2.erode(ranks, kernel)) & is_thing[ranks]
    canvas[edge] = colors[ranks[edge]]


def _hatch(canvas: npt.NDArray[np.uint8], unknown: npt.NDArray[np.bool_]) -> None:
    """Stripe ``unknown`` black and yellow, the image showing through."""
    rows, columns = np.nonzero(unknown)
    if rows.size == 0:
        return
    period = max(6, round(max(unknown.shape) / 90))
    stripe = (rows + columns) % period < period // 2
    color = np.where(stripe[:, None], np.array(_UNKNOWN_BGR), 0)
    pixels = canvas[rows, columns]
    canvas[rows, columns] = (0.4 * pixels + 0.6 * color).astype(np.uint8)
