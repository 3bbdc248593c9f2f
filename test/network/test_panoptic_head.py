from __future__ import annotations

import pytest
import torch

from upsnet_ros.network.instance_head import Detections
from upsnet_ros.network.panoptic_head import (
    Grid,
    HeadOptions,
    PanopticHead,
    Tile,
    first_max,
    upsample_part,
)
from upsnet_ros.network.panoptic_logits import mask_term, panoptic_logits
from upsnet_ros.ops.panoptic import UNKNOWN

NUM_STUFF = 4


def _upsampled(semantic: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(
        semantic[None], scale_factor=4.0, mode="bilinear", align_corners=False
    )[0]


def _frame(seed: int, count: int, height: int = 160, width: int = 544):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    semantic = torch.randn(NUM_STUFF + 3, height // 4, width // 4, generator=generator) * 2
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width * 0.7, height * 0.7])
    extent = torch.rand(count, 2, generator=generator) * torch.tensor([width * 0.4, height * 0.4])
    far = torch.minimum(corner + extent, torch.tensor([width - 1.0, height - 1.0]))
    detections = Detections(
        torch.cat((corner, far), dim=1),
        torch.rand(count, generator=generator),
        torch.randint(1, 4, (count,), generator=generator),
    )
    return semantic, detections, torch.randn(count, 28, 28, generator=generator) * 3


@pytest.mark.parametrize("count", [1, 7, 60])
def test_tiles_give_the_argmax_of_the_definition(count: int) -> None:
    semantic, detections, masks = _frame(count, count)
    size = (160, 544)
    logits = panoptic_logits(
        _upsampled(semantic),
        detections.boxes,
        detections.classes,
        mask_term(detections.boxes, masks, size),
        NUM_STUFF,
    )
    want = logits.argmax(dim=0)
    want[want == len(logits) - 1] = UNKNOWN
    maps = PanopticHead(
        semantic=semantic,
        detections=detections,
        mask_logits=masks,
        grid=Grid(size),
        num_stuff=NUM_STUFF,
    ).maps(HeadOptions(unknown_score=True, confidence=True, max_logit=True))
    assert (maps.panoptic == want).float().mean() > 0.9999
    assert (maps.semantic == _upsampled(semantic).argmax(dim=0)).float().mean() > 0.9999
    won = maps.panoptic == UNKNOWN
    assert won.any() and not won.all()
    assert maps.unknown_score is not None and maps.confidence is not None
    assert (maps.unknown_score[won] >= 128).all()
    assert (maps.unknown_score[~won] <= 128).all()
    probability = _upsampled(semantic).softmax(dim=0).amax(dim=0)
    assert (maps.confidence / 255 - probability).abs().max() < 0.003
    assert maps.max_logit is not None
    torch.testing.assert_close(maps.max_logit, _upsampled(semantic).amax(dim=0))


@pytest.mark.parametrize("margin", [-2.0, 0.5])
def test_a_margin_of_the_unknown_channel_is_that_over_all_others(margin: float) -> None:
    semantic, detections, masks = _frame(4, 4)
    size = (160, 544)
    logits = panoptic_logits(
        _upsampled(semantic),
        detections.boxes,
        detections.classes,
        mask_term(detections.boxes, masks, size),
        NUM_STUFF,
    )
    want = logits[-1] - logits[:-1].amax(dim=0) > margin
    head = PanopticHead(
        semantic=semantic,
        detections=detections,
        mask_logits=masks,
        grid=Grid(size),
        num_stuff=NUM_STUFF,
    )
    maps = head.maps(HeadOptions(unknown_margin=margin))
    assert ((maps.panoptic == UNKNOWN) == want).float().mean() > 0.9999
    known = ~want
    others = logits[:-1].argmax(dim=0)
    assert (maps.panoptic == others)[known].float().mean() > 0.9999


def test_an_instance_takes_part_with_zero_outside_its_box() -> None:
    """Where every stuff logit is negative, a far instance's zero wins, first one first."""
    semantic = torch.full((NUM_STUFF + 3, 8, 8), -1.0)
    detections = Detections(
        torch.tensor([[0.0, 0.0, 7.0, 7.0], [20.0, 20.0, 31.0, 31.0]]),
        torch.tensor([0.9, 0.8]),
        torch.tensor([1, 2]),
    )
    maps = PanopticHead(
        semantic=semantic,
        detections=detections,
        mask_logits=torch.full((2, 28, 28), -4.0),
        grid=Grid((32, 32)),
        num_stuff=NUM_STUFF,
    ).maps()
    assert maps.panoptic[16, 16] == NUM_STUFF  # both are absent: the first
    assert maps.panoptic[3, 3] == NUM_STUFF + 1  # inside the first: the second


def test_first_max_names_the_first_of_equals() -> None:
    values, index = first_max(torch.tensor([[1.0, 0.0], [3.0, -1.0], [3.0, 0.0]]))
    assert values.tolist() == [3, 0]
    assert index.tolist() == [1, 0]


@pytest.mark.parametrize("bounds", [(0, 128, 0, 256), (128, 160, 256, 541), (0, 3, 0, 1)])
def test_parts_meet_without_seams(bounds: tuple[int, int, int, int]) -> None:
    semantic = torch.randn(2, 40, 136)
    y1, y2, x1, x2 = bounds
    part = upsample_part(semantic, Tile(y1, y2, x1, x2, torch.empty(0)))
    torch.testing.assert_close(part, _upsampled(semantic)[:, y1:y2, x1:x2], rtol=0, atol=1e-5)


def test_a_grid_of_its_own_resizes_logits_not_labels() -> None:
    """On a grid twice as fine: the semantic logits of interpolate, boxes at twice the place."""
    semantic, detections, masks = _frame(3, 5, height=64, width=96)
    fine = Grid((128, 192), scale=0.5)
    part = upsample_part(semantic, Tile(0, 128, 0, 192, torch.empty(0)), scale=fine.scale)
    want = torch.nn.functional.interpolate(
        semantic[None], scale_factor=8.0, mode="bilinear", align_corners=False
    )[0]
    torch.testing.assert_close(part, want, rtol=0, atol=1e-5)
    boxes = fine.boxes(torch.tensor([[0.0, 3.0, 95.0, 10.0]]))
    assert boxes.tolist() == [[0, 6, 191, 21]]

    def maps(grid: Grid) -> torch.Tensor:
        head = PanopticHead(
            semantic=semantic,
            detections=detections,
            mask_logits=masks,
            grid=grid,
            num_stuff=NUM_STUFF,
        )
        return head.maps().panoptic

    coarse, smooth = maps(Grid((64, 96))), maps(fine)
    repeated = coarse.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert 0.8 < (smooth == repeated).float().mean() < 1
