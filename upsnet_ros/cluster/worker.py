"""What judges bags, one after the other, in a process of its own."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import cv2

from upsnet_ros.bags.judging import BagTask, judge_bag
from upsnet_ros.cluster.identity import code_digest
from upsnet_ros.cluster.model import ModelSettings
from upsnet_ros.cluster.results import encode
from upsnet_ros.evaluation.datasets import Predict
from upsnet_ros.evaluation.errors import EvaluationError

__all__ = ["Greeting", "Verdict", "Worker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """A worker that is there.

    Attributes:
        host: The machine's name.
        pid: The process.
        problem: Why it cannot work; empty where it can.
    """

    host: str
    pid: int
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a bag.

    Attributes:
        data: The encoded result; empty where there is none.
        problem: Why the bag cannot be judged; empty where it can.
    """

    data: bytes = b""
    problem: str = ""


class Worker:
    """Judges bags; the model is made once."""

    def __init__(self) -> None:
        self._predict: Predict | None = None

    def start(self, model: ModelSettings | None, code: str | None = None) -> Greeting:
        """Get ready.

        Args:
            model: What segments images; None: the bags hold outputs.
            code: `code_digest` of the machine that puts the results together, if it is another.
        """
        cv2.setNumThreads(1)  # the workers are the parallelism
        host, pid = platform.node(), os.getpid()
        problem = ""
        if code is not None and code != code_digest():
            problem = f"the modules of upsnet_ros on {host} are not those of this machine"
        elif model is not None:
            try:
                self._predict = model.predictor()
            except EvaluationError as error:
                problem = f"{host}: {error}"
        return Greeting(host=host, pid=pid, problem=problem)

    def judge(self, task: BagTask) -> Verdict:
        """Judge one bag."""
        try:
            return Verdict(data=encode(judge_bag(task, self._predict)))
        except EvaluationError as error:
            return Verdict(problem=str(error))
