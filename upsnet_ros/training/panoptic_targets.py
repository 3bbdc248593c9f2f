"""Ground truth of the panoptic head at a quarter of the network's input size."""

from __future__ import annotations

import torch
from torch import Tensor

from upsnet_ros.datasets.base import VOID
from upsnet_ros.training.choices import Chooser, Purpose
from upsnet_ros.training.losses import IGNORED_PIXEL


def keep_objects(count: int, *, fraction: float, chooser: Chooser, device: torch.device) -> Tensor:
    """Choose the objects the panoptic head is shown, int64 (K,), in random order.

    The others' pixels become unknown, which is how the unknown channel learns. At least one is
    kept where there is one.
    """
    kept = min(count, max(int(count * fraction), 1))
    everyone = torch.arange(count, device=device)
    return chooser.choose(Purpose.PANOPTIC_KEPT, everyone, kept) if kept else everyone


def panoptic_target(
    semantic: Tensor,
    masks: Tensor,
    *,
    num_stuff: int,
    unknown: Tensor | None = None,
    ignored: Tensor | None = None,
) -> Tensor:
    """Return int64 (H, W): the channel of `panoptic_logits` that should win.

    Stuff keeps its class and void is `IGNORED_PIXEL`; objects lie over both, later ones over
    earlier ones; what is left, pixels of things that are not among the objects, is unknown.

    Args:
        semantic: (H, W), class in UPSNet's order or `VOID`.
        masks: (K, H, W), 1 where a pixel belongs to the object; in the order of the channels.
        num_stuff: Number of stuff classes.
        unknown: bool (H, W), more pixels that should be unknown, unless an object covers them.
        ignored: bool (H, W), more pixels that are void, unless an object covers them.
    """
    semantic = semantic.long()
    target = torch.where(semantic < num_stuff, semantic, num_stuff + len(masks))
    target = target.masked_fill(semantic == VOID, IGNORED_PIXEL)
    if unknown is not None:
        target = target.masked_fill(unknown, num_stuff + len(masks))
    if ignored is not None:
        target = target.masked_fill(ignored, IGNORED_PIXEL)
    if len(masks):
        rank = torch.arange(1, len(masks) + 1, device=masks.device).view(-1, 1, 1)
        last = ((masks == 1) * rank).amax(dim=0)
        target = torch.where(last > 0, num_stuff - 1 + last, target)
    return target
