"""Scores of a frame that grow with the likelihood of unknown: the network's, and baselines."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from upsnet_ros.inference.frame import PanopticFrame

# Steps of an eighth, where the logits of a trained network lie.
_LOWEST_LOGIT, _HIGHEST_LOGIT = -8.0, 24.0


def unknown_scores(frame: PanopticFrame) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the scores that the predictor was asked for, uint8 (H, W) by name.

    ``unknown_channel`` is the panoptic head's. The others are what the semantic head alone gives:
    ``max_softmax``, one minus the largest probability (Hendrycks and Gimpel, ICLR 2017), and
    ``max_logit``, the negative of the largest logit (Hendrycks et al., ICML 2022).
    """
    scores = {}
    if frame.unknown_score is not None:
        scores["unknown_channel"] = frame.unknown_score
    if frame.confidence is not None:
        scores["max_softmax"] = 255 - frame.confidence
    if frame.max_logit is not None:
        share = (_HIGHEST_LOGIT - frame.max_logit) / (_HIGHEST_LOGIT - _LOWEST_LOGIT)
        scores["max_logit"] = np.rint(255 * share.clip(0, 1)).astype(np.uint8)
    return scores
