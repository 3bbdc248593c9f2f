"""Feature pyramid network (Lin et al., CVPR 2017) under the official parameter names."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from upsnet_ros.kernels.merge import merge

#: Strides of P2 .. P6.
STRIDES = (4, 8, 16, 32, 64)


class FPN(nn.Module):
    """Top-down pathway over res2 .. res5; P6 is every second cell of P5.

    With `global_average` the projected mean of res5 is added to the coarsest lateral map before
    anything else sees it. The mean takes in the padded border too, as in the original.
    """

    def __init__(
        self, in_channels: Sequence[int], *, channels: int, global_average: bool = False
    ) -> None:
        super().__init__()
        res2, res3, res4, res5 = in_channels
        self.fpn_p5_1x1 = nn.Conv2d(res5, channels, 1)
        self.fpn_p4_1x1 = nn.Conv2d(res4, channels, 1)
        self.fpn_p3_1x1 = nn.Conv2d(res3, channels, 1)
        self.fpn_p2_1x1 = nn.Conv2d(res2, channels, 1)
        self.fpn_p5 = nn.Conv2d(channels, channels, 3, padding=1)
        self.fpn_p4 = nn.Conv2d(channels, channels, 3, padding=1)
        self.fpn_p3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.fpn_p2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.fpn_gap = nn.Linear(res5, channels) if global_average else None

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return P2 .. P6, (N, channels, H/stride, W/stride) each, from res2 .. res5."""
        res2, res3, res4, res5 = stages
        top = self.fpn_p5_1x1(res5)
        if self.fpn_gap is not None:
            top += self.fpn_gap(res5.mean(dim=(2, 3)))[:, :, None, None]
        merged4 = merge(self.fpn_p4_1x1, res4, top)
        merged3 = merge(self.fpn_p3_1x1, res3, merged4)
        merged2 = merge(self.fpn_p2_1x1, res2, merged3)
        p5 = self.fpn_p5(top)
        return (
            self.fpn_p2(merged2),
            self.fpn_p3(merged3),
            self.fpn_p4(merged4),
            p5,
            F.max_pool2d(p5, 1, stride=2),
        )
