"""The model that workers run, as it is told to them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from upsnet_ros.evaluation.errors import EvaluationError

if TYPE_CHECKING:
    from upsnet_ros.inference.model import Model
    from upsnet_ros.inference.predictor import Predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Arguments of `upsnet_ros.inference.predictor.Predictor`.

    Raises:
        EvaluationError: A certain GPU is named: which one a worker has is the cluster's choice.
    """

    weights: Path | None = None
    variant: str | None = None
    device: str = "auto"
    precision: str = "fp32"
    scale: int | None = None
    score_threshold: float = 0.6
    unknown_threshold: float = 0.5
    label_resize: str = "nearest"
    allow_random_weights: bool = False

    def __post_init__(self) -> None:
        if re.fullmatch(r"cuda:\d+", self.device):
            raise EvaluationError(
                f"device {self.device} cannot be chosen on a cluster, whose workers have a GPU"
                " each: use auto, cpu or cuda"
            )

    def predictor(self) -> Predictor:
        """Make the model on this machine.

        Raises:
            EvaluationError: An option or the checkpoint is not possible.
        """
        # Only here: torch takes seconds to import.
        from upsnet_ros.inference.predictor import Predictor

        try:
            return Predictor(unknown_score=True, semantic=True, max_logit=True, **asdict(self))
        except ValueError as error:  # of checkpoint or settings
            raise EvaluationError(str(error)) from error

    def model(self) -> Model:
        """Load the network alone: what it is, and whether its weights can be read.

        Raises:
            EvaluationError: They cannot, or there is no such variant.
        """
        from upsnet_ros.inference.model import load_model

        try:
            return load_model(
                self.weights,
                variant=self.variant,
                allow_random_weights=self.allow_random_weights,
                seed=0,
            )
        except ValueError as error:
            raise EvaluationError(str(error)) from error
