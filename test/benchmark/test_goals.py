"""Verdicts about goals: by figures of the goals' own conditions only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from upsnet_ros.benchmark.goals import (
    GOALS,
    MET,
    NOT_MEASURED,
    NOT_MET,
    Conditions,
    Goal,
    judge,
)

GOAL = {goal.key: goal for goal in GOALS}
THERE = Conditions(gpu="NVIDIA H200", variant="cityscapes-r50", size=(1024, 2048), precision="fp16")


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("lone_frame", 8.0, 8.1),
        ("plain", 10.0, 9.9),
        ("maskrcnn", 1.01, 1.0),
        ("head", 0.5, 0.51),
        ("cameras", 1.5, 1.49),
        ("agreement", 99.0, 98.9),
        ("quality", -0.2, -0.21),
        ("memory", 1.99, 2.0),
    ],
)
def test_limits(key: str, good: float, bad: float) -> None:
    assert judge(GOAL[key], good, "so", THERE).verdict == MET
    assert judge(GOAL[key], bad, "so", THERE).verdict == NOT_MET


def test_every_goal_has_a_limit_that_is_tested() -> None:
    assert len(GOALS) == len(GOAL) == 8


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.key)
def test_what_a_cpu_can_say(goal: Goal) -> None:
    outcome = judge(goal, goal.limit, "so", replace(THERE, gpu=None, precision="bf16"))
    if goal.key in ("agreement", "quality"):
        assert outcome.verdict == MET
    else:
        assert (outcome.verdict, outcome.why) == (NOT_MEASURED, "no GPU")
        assert (outcome.value, outcome.shown) == (goal.limit, "so"), "shown all the same"


def test_other_conditions_decide_nothing() -> None:
    small = replace(THERE, variant="cityscapes-r18", size=(256, 512), precision="fp32")
    outcome = judge(GOAL["plain"], 20.0, "20", small)
    assert outcome.verdict == NOT_MEASURED
    assert outcome.why == "fp32; cityscapes-r18 at 256x512"


def test_another_gpu_is_named() -> None:
    outcome = judge(GOAL["lone_frame"], 7.0, "7 ms", replace(THERE, gpu="NVIDIA L4"))
    assert (outcome.verdict, outcome.why) == (MET, "on NVIDIA L4")


def test_no_figure() -> None:
    outcome = judge(GOAL["cameras"], None, "", THERE, note="not asked for")
    assert (outcome.verdict, outcome.why) == (NOT_MEASURED, "not asked for")
