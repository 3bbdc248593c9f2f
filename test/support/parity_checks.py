"""How results are compared with the original's, stage by stage; shared by the tests of parity."""

from __future__ import annotations

from typing import Any

import numpy as np
import parity_folder
import torch
from torch import Tensor

from upsnet_ros.network.instance_head import Detections
from upsnet_ros.ops.panoptic import UNKNOWN

CASES = sorted(
    path
    for path in (parity_folder.FOLDER / "cases").glob("*.npz")
    if not path.name.startswith(("train_", "unit_"))
)
SAMPLE_TOLERANCE = 1e-3
BOX_TOLERANCE = 0.01
#: Pixels of a mask that may fall to either side of its outline: processors, and one of them with
#: another number of threads, add in another order. cityscapes_r50_s4_resize_dense has a mask of 917
#: pixels of which 275 are hidden, where 275.1 are allowed.
OUTLINE_TOLERANCE = 4


def may_be_kept(kept: Tensor, detections: Detections, masks: Tensor, *, threshold: float) -> bool:
    """Return whether the decisions follow from the masks, but for a few pixels of each.

    Args:
        kept: Indices of the detections that were accepted.
        detections: N detections by descending score.
        masks: bool (N, H, W), of the detections.
        threshold: Share of a mask that may be hidden by accepted ones of its class.
    """
    covered: dict[int, Tensor] = {}
    accepted = set(kept.tolist())
    for index, (mask, class_id) in enumerate(zip(masks, detections.classes.tolist(), strict=True)):
        cover = covered.setdefault(class_id, torch.zeros_like(mask))
        excess = int((mask & cover).sum()) - threshold * int(mask.sum())
        possible = class_id > 0 and bool(mask.any())
        if index in accepted:
            if not possible or excess > OUTLINE_TOLERANCE:
                return False
            covered[class_id] = cover | mask
        elif possible and excess < -OUTLINE_TOLERANCE:
            return False
    return True


def _keys(boxes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return boxes (N, 4) and classes (N,) as one array in which rows of two classes are apart."""
    return np.concatenate((boxes, classes[:, None] * 1000.0), axis=1).astype(np.float32)


def least_share(*, same_decisions: bool) -> float:
    """Return how many of the pixels of a panoptic map must be the original's, of 1.

    Where sums came out so that a decision fell otherwise, a box's edge may round to the next pixel
    too: 0.14 % of cityscapes_r50_s4_resize_dense with AVX2 and two threads.
    """
    return 0.999 if same_decisions else 0.998


def sampled(x: Tensor, want: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a tensor's values where the original's were recorded, and those."""
    assert list(x.shape) == want[f"s_{name}_shape"].tolist(), name
    got = x.contiguous().flatten()[torch.from_numpy(want[f"s_{name}_idx"]).long()]
    return got.numpy(), want[f"s_{name}_val"]


def check_samples(samples: dict[str, Tensor], want: Any) -> None:
    """Compare every recorded tensor but `fc_feat`, whose rows follow the order of proposals."""
    recorded = {key[2:-4] for key in want.files if key.startswith("s_") and "_idx" in key}
    assert recorded <= {*samples, "fc_feat"}
    for name in sorted(recorded - {"fc_feat"}):
        got, expected = sampled(samples[name], want, name)
        np.testing.assert_allclose(got, expected, rtol=0, atol=SAMPLE_TOLERANCE, err_msg=name)


def match(got: Tensor, want: np.ndarray) -> np.ndarray:
    """Return for each wanted row the index of a got row of its own within the box tolerance."""
    assert len(got) == len(want)
    distance = np.abs(got.numpy()[None] - want[:, None]).max(axis=-1)
    index = distance.argmin(axis=1)
    assert distance[np.arange(len(want)), index].max(initial=0) <= BOX_TOLERANCE
    return index


def check_box_head(class_logits: Tensor, deltas: Tensor, want: Any, index: np.ndarray) -> None:
    """Compare the box head's output (K, C) and (K, 4 C); index is `match` of the proposals."""
    probabilities = class_logits.softmax(dim=1).numpy()[index]
    np.testing.assert_allclose(probabilities, want["cls_prob"], atol=SAMPLE_TOLERANCE)
    np.testing.assert_allclose(deltas.numpy()[index], want["bbox_pred"], atol=2 * SAMPLE_TOLERANCE)


def same_detections(got: Detections, want: Any, prefix: str) -> np.ndarray:
    """Compare boxes, classes and scores; return what `match` does."""
    keys = _keys(got.boxes.numpy(), got.classes.numpy())
    index = match(torch.from_numpy(keys), _keys(want[f"{prefix}_boxes"], want[f"{prefix}_classes"]))
    np.testing.assert_allclose(
        got.scores.numpy()[index], want[f"{prefix}_scores"], atol=SAMPLE_TOLERANCE
    )
    return index


def share_equal(got: Tensor, want: np.ndarray) -> float:
    """Return the share of pixels of ids (H, W) that are the original's, whose 255 is unknown."""
    ids = torch.where(got == UNKNOWN, 255, got.long()).numpy()
    assert ids.shape == want.shape
    return float((ids == want).mean())
