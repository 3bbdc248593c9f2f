"""What goes wrong with a cluster, beside what goes wrong with bags."""

from __future__ import annotations

from upsnet_ros.evaluation.errors import EvaluationError


class ClusterError(EvaluationError):
    """The workers cannot be had, or cannot work; the message says why."""
