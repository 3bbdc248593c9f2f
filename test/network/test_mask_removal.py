from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import parity_folder
import pytest
import torch

from upsnet_ros.network.instance_head import Detections, nothing_found
from upsnet_ros.network.panoptic_head import remove_hidden_masks
from upsnet_ros.network.panoptic_logits import mask_term


@pytest.mark.parametrize("case", parity_folder.names("mr_", "_boxes"))
def test_as_the_original(unit_ops: Any, case: str) -> None:
    def recorded(name: str) -> torch.Tensor:
        return torch.from_numpy(unit_ops[f"mr_{case}_{name}"])

    detections = Detections(recorded("boxes"), recorded("scores"), recorded("cls"))
    size = tuple(recorded("shape").tolist())
    kept, masks = remove_hidden_masks(detections, recorded("logit")[:, 0], size=size, threshold=0.3)
    assert kept.tolist() == recorded("keep").tolist()
    pasted = mask_term(detections.boxes[kept], masks, size)
    np.testing.assert_allclose(pasted, recorded("energy")[0], atol=1e-4)


def _one_by_one(detections: Detections, logits: torch.Tensor, size: tuple[int, int]) -> list[int]:
    """The rule walked along literally, with OpenCV."""
    kept = []
    cover: dict[int, np.ndarray] = {}
    for i in detections.scores.argsort(descending=True, stable=True).tolist():
        x1, y1, x2, y2 = detections.boxes[i].int().tolist()
        mask = np.zeros(size, bool)
        w, h = x2 - x1 + 1, y2 - y1 + 1
        mask[y1 : y2 + 1, x1 : x2 + 1] = cv2.resize(logits[i].numpy(), (w, h)) > 0
        over = cover.setdefault(int(detections.classes[i]), np.zeros(size, bool))
        if mask.any() and (mask & over).sum() / mask.sum() <= 0.3:
            kept.append(i)
            over |= mask
    return kept


@pytest.mark.parametrize("seed", range(8))
def test_decisions_at_once_are_those_one_by_one(seed: int) -> None:
    """Crowded frames over several tiles, where acceptance hangs on long chains."""
    generator = torch.Generator().manual_seed(seed)
    size, count = (200, 600), 60
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([600.0, 200.0])
    half = 10 + torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat((centre - half, centre + half), dim=1)
    boxes[:, 0::2].clamp_(0, size[1] - 1)
    boxes[:, 1::2].clamp_(0, size[0] - 1)
    detections = Detections(
        boxes,
        torch.rand(count, generator=generator),
        torch.randint(1, 3, (count,), generator=generator),
    )
    coarse = torch.randn(count, 1, 4, 4, generator=generator) + 0.5
    logits = torch.nn.functional.interpolate(coarse, size=(28, 28), mode="bilinear")[:, 0]
    kept, _ = remove_hidden_masks(detections, logits, size=size, threshold=0.3)
    want = _one_by_one(detections, logits, size)
    assert 1 < len(want) < count
    assert kept.tolist() == want


def test_nothing_found_stays_with_an_empty_mask() -> None:
    kept, masks = remove_hidden_masks(
        nothing_found(torch.device("cpu")), torch.ones(1, 28, 28), size=(32, 32), threshold=0.3
    )
    assert kept.tolist() == [0]
    assert not masks.any()
