"""Panoptic FPN's inference by torchvision and Pillow, from the facts in its README.

Written without our operators, one image at a time, so that cases without a recording can be
compared too. Only the layers that have weights are the network's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms, nms, roi_align

from upsnet_ros.network.upsnet import UPSNet

MEANS = (103.53, 116.28, 123.675)
CLAMP = float(np.log(1000 / 16))


@dataclass
class Reference:
    """What one image gives; ids of `panoptic` are 0 void, 1 .. things, -1 .. stuff classes."""

    size: tuple[int, int]
    resized: np.ndarray
    proposals: Tensor
    boxes: Tensor
    scores: Tensor
    classes: Tensor
    semantic: Tensor
    close: Tensor
    owner: Tensor
    accepted: list[int]


def resized_size(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    scale = short / min(height, width)
    new = (short, scale * width) if height < width else (scale * height, short)
    if max(new) > longest:
        factor = longest / max(new)
        new = (new[0] * factor, new[1] * factor)
    return int(new[0] + 0.5), int(new[1] + 0.5)


def _decode(boxes: Tensor, deltas: Tensor, weights: tuple[float, ...], size: tuple[int, int]):
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = boxes[:, 0] + 0.5 * width, boxes[:, 1] + 0.5 * height
    dx, dy, dw, dh = (deltas[:, i] / weights[i] for i in range(4))
    x, y = dx * width + x, dy * height + y
    width, height = (
        torch.exp(dw.clamp(max=CLAMP)) * width,
        torch.exp(dh.clamp(max=CLAMP)) * height,
    )
    corners = torch.stack(
        (x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height), dim=1
    )
    corners[:, 0::2] = corners[:, 0::2].clamp(0, size[1])
    corners[:, 1::2] = corners[:, 1::2].clamp(0, size[0])
    return corners


def _filled(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _propose(network: UPSNet, pyramid, size: tuple[int, int]) -> Tensor:
    boxes, scores, levels = [], [], []
    for level, (logits, deltas) in enumerate(network.rpn(pyramid)):
        stride, side = 4 << level, 32 << level
        height, width = logits.shape[-2:]
        cells = []
        for ratio in (0.5, 1.0, 2.0):
            across = (side * side / ratio) ** 0.5
            down = across * ratio
            cells.append([-across / 2, -down / 2, across / 2, down / 2])
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        shift = torch.stack((x, y, x, y), dim=-1).float().view(-1, 1, 4) * stride
        anchors = (shift + torch.tensor(cells)).view(-1, 4)
        ranks = logits[0].permute(1, 2, 0).flatten()
        moves = deltas[0].view(3, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
        best = ranks.topk(min(1000, len(ranks))).indices
        boxes.append(_decode(anchors[best], moves[best], (1, 1, 1, 1), size))
        scores.append(ranks[best])
        levels.append(torch.full((len(best),), level))
    box, score, level = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
    there = _filled(box)
    box, score, level = box[there], score[there], level[there]
    return box[batched_nms(box, score, level, 0.7)[:1000]]


def _pool(pyramid, boxes: Tensor, bins: int) -> Tensor:
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    levels = torch.floor(4 + torch.log2(area.sqrt() / 224 + 1e-8)).clamp(2, 5)
    pooled = torch.zeros(len(boxes), pyramid[0].shape[1], bins, bins)
    for level in range(2, 6):
        mine = levels == level
        rois = F.pad(boxes[mine], (1, 0))
        pooled[mine] = roi_align(
            pyramid[level - 2], rois, bins, 1 / (1 << level), sampling_ratio=0, aligned=True
        )
    return pooled


def _detect(network: UPSNet, pyramid, proposals: Tensor, size: tuple[int, int]):
    logits, deltas = network.rcnn.classify(_pool(pyramid, proposals, 7))
    chances = logits.softmax(dim=1)
    found = []
    for kind in range(1, chances.shape[1]):
        likely = torch.nonzero(chances[:, kind] > 0.05).squeeze(1)
        moves = deltas.view(len(deltas), -1, 4)[likely, kind]
        boxes = _decode(proposals[likely], moves, (10, 10, 5, 5), size)
        scores = chances[likely, kind]
        kept = nms(boxes, scores, 0.5)
        found.append((boxes[kept], scores[kept], torch.full((len(kept),), kind)))
    boxes, scores, classes = (torch.cat(parts) for parts in zip(*found, strict=True))
    best = scores.argsort(descending=True, stable=True)[:100]
    return boxes[best], scores[best], classes[best]


def _paste(mask: Tensor, box: Tensor, height: int, width: int) -> Tensor:
    x1, y1, x2, y2 = box.tolist()
    y = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1
    x = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1
    grid = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1)
    pasted = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
    return pasted >= 0.5


@torch.inference_mode()
def run(network: UPSNet, image: np.ndarray, *, short: int, longest: int) -> Reference:
    """Run on BGR bytes (H, W, 3)."""
    height, width = image.shape[:2]
    size = resized_size(height, width, short, longest)
    resized = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    data = torch.tensor(resized).float() - torch.tensor(MEANS)
    data = F.pad(data.permute(2, 0, 1)[None], (0, -size[1] % 32, 0, -size[0] % 32))
    pyramid = network.fpn(network.resnet_backbone(data))
    proposals = _propose(network, pyramid, size)
    boxes, scores, classes = _detect(network, pyramid, proposals, size)

    logits = F.interpolate(
        network.fcn_head(pyramid), scale_factor=4.0, mode="bilinear", align_corners=False
    )
    logits = F.interpolate(
        logits[:, :, : size[0], : size[1]], size=(height, width), mode="bilinear",
        align_corners=False,
    )[0]  # fmt: skip
    best = logits.topk(2, dim=0).values
    semantic = logits.argmax(dim=0)

    masks = network.mask_branch.logits(_pool(pyramid, boxes, 14), classes).sigmoid()
    scale = torch.tensor((width / size[1], height / size[0]) * 2)
    own = boxes * scale
    own[:, 0::2] = own[:, 0::2].clamp(0, width)
    own[:, 1::2] = own[:, 1::2].clamp(0, height)
    owner = torch.zeros(height, width, dtype=torch.int64)
    accepted: list[int] = []
    for n in range(len(own)):
        if scores[n] < 0.5:
            break
        if not _filled(own[n : n + 1]):
            continue
        mask = _paste(masks[n], own[n], height, width)
        area, free = int(mask.sum()), mask & (owner == 0)
        if area == 0 or (area - int(free.sum())) / area > 0.5:
            continue
        accepted.append(n)
        owner[free] = len(accepted)
    stuff_count = network.variant.num_stuff
    for kind in range(stuff_count):
        mask = (semantic == kind) & (owner == 0)
        if int(mask.sum()) >= 4096:
            owner[mask] = -1 - kind
    return Reference(
        size=size,
        resized=resized,
        proposals=proposals,
        boxes=boxes,
        scores=scores,
        classes=classes,
        semantic=semantic,
        close=best[0] - best[1] < 1e-3,
        owner=owner,
        accepted=accepted,
    )
