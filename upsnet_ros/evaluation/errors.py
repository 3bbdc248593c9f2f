"""What evaluation raises."""

from __future__ import annotations


class EvaluationError(ValueError):
    """Truth and prediction cannot be compared; the message names the frame or file and why."""
