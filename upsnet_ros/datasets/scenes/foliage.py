"""Trees, bushes and hedges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from upsnet_ros.datasets.scenes.seeds import generator
from upsnet_ros.datasets.scenes.texture import Gain, Texture, noise

#: How many plants of each kind a split has.
TREES, BUSHES, HEDGES = 48, 24, 12

_ROWS, _COLUMNS = 320, 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Plant:
    """A plant as seen from any side: a picture with alpha, and its size in metres."""

    picture: Texture
    width: float
    height: float


@lru_cache(maxsize=2 * TREES)
def tree(split: str, number: int) -> Plant:
    """The tree with this number, from 0 to `TREES` - 1."""
    rng = generator(split, "tree", number)
    kind = str(rng.choice(["round", "tall", "fir", "bare"], p=[0.55, 0.18, 0.12, 0.15]))
    color, alpha = (
        np.zeros((_ROWS, _COLUMNS, 3), np.float32),
        np.zeros((_ROWS, _COLUMNS), np.float32),
    )
    bark = np.array([58, 68, 82]) * rng.uniform(0.5, 1.3) + rng.normal(0, 6, 3)
    _branches(color, alpha, bark, rng, depth={"bare": 8, "fir": 0}.get(kind, 2))
    if kind != "bare":
        crown = _fir(rng) if kind == "fir" else _crown(rng, slim=kind == "tall")
        green = _green(rng) if kind != "fir" else np.array([48, 82, 50]) * rng.uniform(0.6, 1.3)
        _leaves(color, alpha, crown, green, rng)
    height = float(rng.uniform(4.5, 11.0))
    wide = {"tall": 0.5, "fir": 0.6}.get(kind, float(rng.uniform(0.8, 1.1)))
    return Plant(
        picture=_picture(color, alpha),
        width=height * wide * _COLUMNS / _ROWS,
        height=height,
    )


@lru_cache(maxsize=2 * BUSHES)
def bush(split: str, number: int) -> Plant:
    """The bush with this number, from 0 to `BUSHES` - 1."""
    rng = generator(split, "bush", number)
    rows, columns = 128, 192
    color, alpha = np.zeros((rows, columns, 3), np.float32), np.zeros((rows, columns), np.float32)
    v, u = np.mgrid[:rows, :columns].astype(np.float32)
    dome = 1 - ((u - columns / 2) / (columns * 0.46)) ** 2 - ((rows - v) / (rows * 0.92)) ** 2
    crown = dome * 1.4 + 0.35 * noise(rng, rows, columns, cell=40, octaves=4)
    crown[-6:] += 0.4
    _leaves(color, alpha, crown, _green(rng), rng)
    height = float(rng.uniform(0.6, 2.0))
    return Plant(
        picture=_picture(color, alpha), width=height * float(rng.uniform(1.2, 2.2)), height=height
    )


@lru_cache(maxsize=2 * HEDGES)
def hedge(split: str, number: int) -> Texture:
    """A stretch of clipped hedge, opaque, from 0 to `HEDGES` - 1."""
    rng = generator(split, "hedge", number)
    rows, columns = 96, 384
    color, alpha = np.zeros((rows, columns, 3), np.float32), np.zeros((rows, columns), np.float32)
    _leaves(color, alpha, np.ones((rows, columns), np.float32), _green(rng), rng)
    return Texture(np.clip(color, 0, 255).astype(np.uint8))


def _picture(color: npt.NDArray[np.float32], alpha: npt.NDArray[np.float32]) -> Texture:
    # Colour bleeds out under the transparent parts, or halved copies would get dark seams.
    size = alpha.shape[1] // 4, alpha.shape[0] // 4
    covered = np.dstack([color * alpha[..., None], alpha])
    small = cv2.resize(covered, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 2)
    small = small[..., :3] / (small[..., 3:] + 1e-3)
    bled = cv2.resize(small, alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)
    whole = covered[..., :3] + bled * (1 - alpha[..., None])
    return Texture(np.dstack([np.clip(whole, 0, 255), alpha * 255]).astype(np.uint8))


def _green(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    season = rng.random()
    if season < 0.12:  # autumn
        return np.array([30, rng.uniform(75, 125), rng.uniform(120, 185)])
    if season < 0.18:  # dark red leaves
        return np.array([45, 42, rng.uniform(70, 110)])
    level = rng.uniform(52, 128)
    return level * np.array([rng.uniform(0.3, 0.72), 1.0, rng.uniform(0.55, 0.98)])


def _crown(rng: np.random.Generator, *, slim: bool) -> Gain:
    """How deep each pixel lies inside the crown; outside it is negative."""
    rows, columns = _ROWS // 2, _COLUMNS // 2  # heaps of leaves are round: half the size will do
    v, u = np.mgrid[:rows, :columns].astype(np.float32)
    depth = np.full((rows, columns), -9.0, np.float32)
    low = rng.uniform(0.68, 0.86)
    for _ in range(int(rng.integers(14, 26))):
        cy = rng.uniform(0.2, low - 0.12) * rows
        spread = 0.12 if slim else 0.34 * np.sin(np.pi * (cy / rows) / low) ** 0.5
        cx = (0.5 + rng.uniform(-spread, spread)) * columns
        radius = rng.uniform(0.12, 0.22) * columns
        blob = 1 - np.sqrt((u - cx) ** 2 + ((v - cy) * 1.1) ** 2) / np.float32(radius)
        depth = np.maximum(depth, blob)
    # No crown touches the picture's edge: it would look cut off.
    edge = np.minimum(np.minimum(u, columns - 1 - u), v) / 7 - 0.4
    depth = np.minimum(depth, edge)
    whole = cv2.resize(depth, (_COLUMNS, _ROWS), interpolation=cv2.INTER_LINEAR)
    return np.asarray(whole, np.float32) + 0.16 * noise(rng, _ROWS, _COLUMNS, cell=36, octaves=5)


def _fir(rng: np.random.Generator) -> Gain:
    v, u = np.mgrid[:_ROWS, :_COLUMNS].astype(np.float32)
    down = v / _ROWS
    tiers = 0.06 * np.abs(np.sin(down * rng.uniform(22, 34)))
    half = np.clip(down * rng.uniform(0.4, 0.52) + tiers - 0.03, 0, 1) * _COLUMNS
    depth = (half - np.abs(u - _COLUMNS / 2)) / 40
    depth[down > 0.9] = -1
    return depth + 0.2 * noise(rng, _ROWS, _COLUMNS, cell=20, octaves=4)


def _leaves(
    color: npt.NDArray[np.float32],
    alpha: npt.NDArray[np.float32],
    depth: Gain,
    green: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    rows, columns = alpha.shape
    clumps = noise(rng, rows, columns, cell=26, octaves=3)
    fine = noise(rng, rows, columns, cell=5, octaves=2)
    # Light comes from above: clumps are bright on top, dark below, and the crown's foot is darker.
    slope = np.gradient(clumps, axis=0)
    fall = np.linspace(1.15, 0.8, rows, dtype=np.float32)[:, None]
    gain = fall * (1 + 1.6 * slope + 0.16 * clumps + 0.22 * fine)
    holes = (clumps + 0.5 * fine < -1.9) & (depth < 0.5)
    ragged = depth + 0.14 * fine
    cover = np.clip(ragged * 14 + 0.5, 0, 1) * ~holes
    tint = 1 + 0.1 * noise(rng, rows, columns, cell=50)[..., None] * np.array([0.5, 0.2, 1.0])
    leaf = green * np.clip(gain, 0.25, 2.0)[..., None] * tint
    color[:] = color * (1 - cover[..., None]) + leaf * cover[..., None]
    alpha[:] = np.maximum(alpha, cover)


def _branches(
    color: npt.NDArray[np.float32],
    alpha: npt.NDArray[np.float32],
    bark: npt.NDArray[np.float64],
    rng: np.random.Generator,
    *,
    depth: int,
) -> None:
    length = _ROWS * (0.3 if depth < 8 else 0.22)  # twigs stay within the picture
    stack = [(_COLUMNS / 2, float(_ROWS), -np.pi / 2, length, _COLUMNS * 0.05, depth)]
    while stack:
        x, y, angle, length, wide, left = stack.pop()
        end = x + np.cos(angle) * length, y + np.sin(angle) * length
        line = (round(x), round(y)), (round(end[0]), round(end[1]))
        for offset, light in ((0.0, 0.75), (-0.2, 1.15)):
            shift = round(offset * wide)
            ends = [(p[0] + shift, p[1]) for p in line]
            size = max(1, round(wide * (1 if offset == 0 else 0.45)))
            cv2.line(color, ends[0], ends[1], (bark * light).tolist(), size, cv2.LINE_AA)
        cv2.line(alpha, line[0], line[1], 1.0, max(1, round(wide)), cv2.LINE_AA)
        if left == 0:
            continue
        for _ in range(2 if left < depth else 3):
            turn = rng.normal(0, 0.42)
            stack.append(
                (
                    end[0],
                    end[1],
                    angle + turn,
                    length * rng.uniform(0.6, 0.85),
                    wide * rng.uniform(0.55, 0.75),
                    left - 1,
                )
            )
