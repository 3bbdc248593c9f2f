"""Placing short texts on an image so that they can be read and do not cover one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

_Color = tuple[int, int, int]
_Rect = tuple[int, int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)

#: A text that would stand on less of its own mask than this names its neighbours too.
_MIN_COVERED = 0.8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Caption:
    """A text and what it names: a ``box`` (tag at its upper edge) or a ``mask`` (text inside).

    Attributes:
        text: ASCII, the only letters that OpenCV's fonts have.
        shorter: What to write where there is no room for ``text``, longest first.
        box: (x1, y1, x2, y2) px, inclusive corners.
        mask: bool (H, W).
        color: BGR of the tag behind the text; None writes white on the image itself.
    """

    text: str
    shorter: tuple[str, ...] = ()
    box: _Rect | None = None
    mask: npt.NDArray[np.bool_] | None = None
    color: _Color | None = None


def draw_captions(canvas: npt.NDArray[np.uint8], captions: Sequence[Caption]) -> None:
    """Draw the captions into ``canvas``, uint8 (H, W, 3) BGR, in order of precedence.

    The letters grow with the image. A text that would name something hardly larger than its own
    letters, or finds no free place at what it names, gives way to a shorter one, and is left out
    where there is none.
    """
    writer = _Writer(canvas)
    for caption in captions:
        writer.write(caption)


def ink_on(color: _Color) -> _Color:
    """Black or white, whichever stands out more from ``color`` (all BGR).

    By the relative luminance of WCAG 2.2, by which one of the two always has a contrast of at least
    4.5, what the same text asks for letters of this size.
    """
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in color]
    luminance = 0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2]
    return _BLACK if (luminance + 0.05) ** 2 > 1.05 * 0.05 else _WHITE


class _Writer:
    """Knows the size of letters for one canvas and which places are taken."""

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
            for left, top in self._places(caption, full_width, full_height):
                rect = (left, top, left + full_width, top + full_height)
                if self._is_free(rect):
                    self._taken.append(rect)
                    self._draw(text, caption.color, rect, top + self._pad // 2 + height)
                    return

    def _places(self, caption: Caption, width: int, height: int) -> Iterable[tuple[int, int]]:
        """Upper left corners to try, best first, each inside the canvas where it can be."""
        places: list[tuple[int, int]] = []
        if caption.box is not None:
            x1, y1, x2, y2 = caption.box
            if (x2 - x1 + 1) * 3 < width or (x2 - x1 + 1) * (y2 - y1 + 1) < 2 * width * height:
                return
            middle = (x1 + x2 + 1 - width) // 2
            places = [(x1, y1 - height), (middle, y1), (x1, y2 + 1), (middle, (y1 + y2) // 2)]
        elif caption.mask is not None:
            x, y = _roomiest_point(caption.mask)
            places = [(x - width // 2, y - height // 2)]
        for left, top in places:
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
            # Shifted copies, not a thicker pen: OpenCV 5's fonts grow wider with the pen.
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
    """The (x, y) of ``mask`` that is farthest from its border."""
    step = max(1, max(mask.shape) // 512)  # a place for a text need not be exact to the pixel
    small = np.pad(mask[::step, ::step], 1).astype(np.uint8)  # the image's edge is a border too
    distance = cv2.distanceTransform(small, cv2.DIST_L2, 3)
    _, _, _, (x, y) = cv2.minMaxLoc(distance)
    return (x - 1) * step, (y - 1) * step
