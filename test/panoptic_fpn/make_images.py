"""Deterministic synthetic uint8 BGR images (independent code; numpy only)."""

import zlib
import numpy as np


def _rng(tag, seed):
    return np.random.Generator(np.random.PCG64(zlib.crc32(tag.encode()) + int(seed)))


def _upsample(grid, h, w):
    """bilinear (align-corners) upsampling of a small (gh, gw, c) grid"""
    gh, gw = grid.shape[:2]
    y = np.linspace(0, gh - 1, h)
    x = np.linspace(0, gw - 1, w)
    y0 = np.minimum(y.astype(int), gh - 2)
    x0 = np.minimum(x.astype(int), gw - 2)
    fy = (y - y0)[:, None, None]
    fx = (x - x0)[None, :, None]
    a = grid[y0][:, x0]
    b = grid[y0][:, x0 + 1]
    c = grid[y0 + 1][:, x0]
    d = grid[y0 + 1][:, x0 + 1]
    return a * (1 - fy) * (1 - fx) + b * (1 - fy) * fx + c * fy * (1 - fx) + d * fy * fx


def shapes(h, w, seed, n=14):
    """random ellipses / boxes: list of dict(kind, cx, cy, rx, ry, colour, stripe)"""
    r = _rng("shapes", seed)
    out = []
    for i in range(n):
        s = float(r.uniform(0.05, 0.22)) * min(h, w) * (2.0 if i % 5 == 0 else 1.0)
        out.append(
            dict(
                kind="ellipse" if r.random() < 0.5 else "box",
                cx=float(r.uniform(0.05, 0.95)) * w,
                cy=float(r.uniform(0.05, 0.95)) * h,
                rx=s * float(r.uniform(0.6, 1.6)),
                ry=s * float(r.uniform(0.6, 1.6)),
                colour=r.uniform(0, 255, 3),
                colour2=r.uniform(0, 255, 3),
                period=float(r.uniform(4, 24)),
                ang=float(r.uniform(0, 3.14159)),
            )
        )
    return out


def shape_mask(s, h, w):
    yy, xx = np.mgrid[0:h, 0:w]
    dx = (xx - s["cx"]) / s["rx"]
    dy = (yy - s["cy"]) / s["ry"]
    if s["kind"] == "ellipse":
        return dx * dx + dy * dy <= 1.0
    return (np.abs(dx) <= 1.0) & (np.abs(dy) <= 1.0)


def make_image(h, w, seed):
    """(h, w, 3) uint8, channel order taken as B, G, R"""
    r = _rng("image", seed)
    img = _upsample(r.uniform(30, 220, (4, 6, 3)), h, w)
    img += _upsample(r.normal(0, 25, (h // 16 + 2, w // 16 + 2, 3)), h, w)
    yy, xx = np.mgrid[0:h, 0:w]
    for s in shapes(h, w, seed):
        m = shape_mask(s, h, w)
        # triangle wave, no transcendental functions except one cos/sin of a constant
        t = (xx * np.cos(s["ang"]) + yy * np.sin(s["ang"])) / s["period"]
        tri = np.abs(t - np.floor(t) - 0.5) * 2.0
        tex = s["colour"][None, None] * tri[..., None] + s["colour2"][None, None] * (
            1 - tri[..., None]
        )
        img[m] = tex[m]
    img += r.normal(0, 6, (h, w, 3))
    return np.clip(np.rint(img), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    import sys

    h, w, s = map(int, sys.argv[1:4])
    im = make_image(h, w, s)
    print(im.shape, im.dtype, im.mean(), zlib.crc32(im.tobytes()))
