"""Random choices of the samplers, made here so that recorded ones can take their place."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import torch
from torch import Tensor


class Purpose(Enum):
    """What a choice is for."""

    RPN_SURPLUS_POSITIVES = "positive anchors beyond the limit, to be ignored"
    RPN_NEGATIVES = "anchors to be labelled background"
    ROI_POSITIVES = "regions to be labelled with an object's class"
    ROI_NEGATIVES = "regions to be labelled background"
    PANOPTIC_KEPT = "objects the panoptic head is shown"


class Chooser(Protocol):
    """Chooses without replacement."""

    def choose(self, purpose: Purpose, candidates: Tensor, count: int) -> Tensor:
        """Return ``count`` of the candidates, int64 (N,) with N >= count, in random order."""


class SeededChooser:
    """Chooses by a generator of its own: the same seed, the same choices, on every device."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def choose(self, purpose: Purpose, candidates: Tensor, count: int) -> Tensor:
        """Return ``count`` of the candidates, int64 (N,) with N >= count, in random order."""
        order = torch.randperm(len(candidates), generator=self._generator)[:count]
        return candidates[order.to(candidates.device)]
