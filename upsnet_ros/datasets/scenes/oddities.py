"""What has no class: animals, lost cargo, debris, strollers and the like.

Some kinds are never drawn for training, so that scenes for validation and tests ask whether a
network knows the unknown as such, and not only what it was shown as unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from upsnet_ros.datasets.scenes.seeds import generator
from upsnet_ros.datasets.scenes.texture import Color, Texture, bgr, bricks, noise, shaded

#: Kinds that are animals.
ANIMALS = frozenset({"dog", "sheep", "cow", "deer", "horse"})

#: Kinds that occur in every split.
COMMON = (
    "dog",
    "sheep",
    "cow",
    "carton",
    "pallet",
    "barrel",
    "tyre",
    "suitcase",
    "rock",
    "branch",
    "stroller",
    "cone",
    "bin",
    "sack",
)

#: Kinds that occur in "val" and "test" only.
NOVEL = ("deer", "horse", "trolley", "armchair", "ball", "wheelbarrow")

# Length, width and height, metres.
_SIZES: dict[str, tuple[float, float, float]] = {
    "dog": (0.85, 0.25, 0.6),
    "sheep": (1.1, 0.4, 0.85),
    "cow": (2.2, 0.65, 1.4),
    "deer": (1.6, 0.4, 1.3),
    "horse": (2.2, 0.55, 1.65),
    "carton": (0.6, 0.55, 0.5),
    "pallet": (1.2, 0.8, 0.35),
    "barrel": (0.6, 0.6, 0.9),
    "tyre": (0.65, 0.25, 0.65),
    "suitcase": (0.5, 0.28, 0.75),
    "rock": (0.7, 0.6, 0.5),
    "branch": (2.0, 0.9, 0.6),
    "stroller": (0.9, 0.55, 1.05),
    "cone": (0.4, 0.4, 0.75),
    "bin": (0.6, 0.6, 1.05),
    "sack": (0.7, 0.55, 0.6),
    "trolley": (0.9, 0.55, 1.0),
    "armchair": (0.9, 0.95, 0.9),
    "ball": (0.35, 0.35, 0.35),
    "wheelbarrow": (1.4, 0.6, 0.65),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Oddity:
    """One object of no class.

    Attributes:
        kind: One of `COMMON` or `NOVEL`.
        length: Metres; likewise `width` and `height`.
        color: BGR.
        second: Another colour of it.
        skin: What its flat sides are covered with.
        shake: (8, 3) numbers of deviation 1 that bend its shape.
    """

    kind: str
    length: float
    width: float
    height: float
    color: Color
    second: Color
    skin: Texture
    shake: np.ndarray


def kinds(split: str) -> tuple[str, ...]:
    """The kinds that occur in a split."""
    return COMMON if split == "train" else COMMON + NOVEL


@lru_cache(maxsize=512)
def oddity(split: str, look: int) -> Oddity:
    """The object with this look."""
    rng = generator(split, "oddity", look)
    kind = str(rng.choice(kinds(split)))
    size = np.array(_SIZES[kind]) * rng.uniform(0.9, 1.3) * rng.normal(1, 0.06, 3)
    color = _tint(rng, kind)
    return Oddity(
        kind=kind,
        length=float(size[0]),
        width=float(size[1]),
        height=float(size[2]),
        color=color,
        second=bgr(rng.uniform(20, 230, 3)),
        skin=_skin(rng, kind, color),
        shake=rng.standard_normal((8, 3)),
    )


def _tint(rng: np.random.Generator, kind: str) -> Color:
    furs = ((30, 40, 55), (60, 90, 130), (110, 150, 190), (200, 210, 215), (45, 60, 95))
    fixed: dict[str, tuple[tuple[int, int, int], ...]] = {
        "carton": ((105, 145, 180), (90, 125, 160), (190, 195, 200)),
        "pallet": ((110, 150, 185), (85, 110, 135)),
        "tyre": ((28, 28, 30), (40, 40, 42)),
        "rock": ((110, 115, 120), (80, 95, 110), (140, 145, 150)),
        "branch": ((50, 65, 85), (60, 85, 100)),
        "cone": ((30, 95, 235), (40, 60, 220)),
        "sheep": ((205, 212, 215), (165, 175, 180), (50, 50, 52)),
    }
    choice = furs if kind in ANIMALS and kind != "sheep" else fixed.get(kind)
    if choice is None:
        color = rng.uniform(20, 225, 3)
    else:
        color = np.array(choice[int(rng.integers(len(choice)))]) * rng.uniform(0.75, 1.2)
    return bgr(color)


def _skin(rng: np.random.Generator, kind: str, color: Color) -> Texture:
    gain = 1 + 0.1 * noise(rng, 64, 64, cell=30)
    if kind == "pallet":
        pattern, joints = bricks(rng, 64, 64, height=13, width=80, joint=5)
        gain = gain * pattern
        gain[joints] *= 0.25
    image = shaded(color, gain.astype(np.float32))
    if kind == "carton":
        cv2.line(image, (32, 0), (32, 64), tuple(min(255.0, c * 1.2 + 15) for c in color), 5)
        cv2.rectangle(image, (42, 40), (58, 54), (225, 225, 225), -1)
    elif kind in ("bin", "suitcase"):
        image[::8] = image[::8] // 2
        image[:7] = np.clip(np.array(color) * 0.6, 0, 255)
    elif kind == "armchair":
        image[:, ::21] = image[:, ::21] // 2
    return Texture(image)
