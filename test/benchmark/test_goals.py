"""Verdicts about goals: by figures of the goals' own conditions only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from upsnet_ros.benchmark.goals import (
    MEASURED,
    MET,
    NOT_MEASURED,
    NOT_MET,
    Conditions,
    check_goal,
)
from upsnet_ros.benchmark.settings import METRICS, Goal, read_goals
from upsnet_ros.errors import SettingsError

FILE = Path(__file__).parents[2] / "benchmarks" / "goals.json"
GOALS = read_goals(FILE)

GOAL = {goal.metric: goal for goal in GOALS}
THERE = Conditions(gpu="NVIDIA H200", variant="cityscapes-r50", size=(1024, 2048), precision="fp16")


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("lone_frame", 5.0, 5.1),
        ("graph", 4.0, 4.1),
        ("plain", 10.0, 9.9),
        ("maskrcnn", 4.0, 3.9),
        ("head", 0.3, 0.31),
        ("cameras", 1.5, 1.49),
        ("agreement", 99.0, 98.9),
        ("trained", 99.5, 99.49),
        ("quality", -0.2, -0.21),
        ("memory", 1.99, 2.0),
    ],
)
def test_limits(key: str, good: float, bad: float) -> None:
    assert check_goal(key, GOAL[key], good, "so", THERE).verdict == MET
    assert check_goal(key, GOAL[key], bad, "so", THERE).verdict == NOT_MET


def test_every_metric_has_a_goal() -> None:
    assert len(GOALS) == len(GOAL) == len(METRICS) == 10


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.metric)
def test_what_a_cpu_can_say(goal: Goal) -> None:
    outcome = check_goal(
        goal.metric, goal, goal.limit, "so", replace(THERE, gpu=None, precision="bf16")
    )
    if goal.metric in ("agreement", "trained", "quality"):
        assert outcome.verdict == MET
    else:
        assert (outcome.verdict, outcome.why) == (NOT_MEASURED, "no GPU")
        assert (outcome.value, outcome.shown) == (goal.limit, "so"), "shown all the same"


def test_other_conditions_decide_nothing() -> None:
    small = replace(THERE, variant="cityscapes-r18", size=(256, 512), precision="fp32")
    outcome = check_goal("plain", GOAL["plain"], 20.0, "20", small)
    assert outcome.verdict == NOT_MEASURED
    assert outcome.why == "fp32; cityscapes-r18 at 256x512"


def test_another_gpu_is_named() -> None:
    outcome = check_goal(
        "lone_frame", GOAL["lone_frame"], 4.0, "4 ms", replace(THERE, gpu="NVIDIA L4")
    )
    assert (outcome.verdict, outcome.why) == (MET, "on NVIDIA L4")


def test_no_figure() -> None:
    outcome = check_goal("cameras", GOAL["cameras"], None, "", THERE, note="not asked for")
    assert (outcome.verdict, outcome.why) == (NOT_MEASURED, "not asked for")


def test_without_a_goal_a_value_is_only_measured() -> None:
    outcome = check_goal("cameras", None, 1.6, "1.6", THERE)
    assert (outcome.verdict, outcome.goal, outcome.why) == (MEASURED, "", "")
    assert check_goal("cameras", None, None, "", THERE, note="why").verdict == NOT_MEASURED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "tea"}, "unknown metric 'tea'"),
        ({"limit": "5"}, "limit is '5'"),
        ({"limit": True}, "limit is True"),
        ({"size": [1024]}, "size is \\[1024\\]"),
        ({"least": 1}, "unknown field 'least'"),
    ],
)
def test_a_mistake_in_a_file_of_goals(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "goals.json"
    good = {"metric": "lone_frame", "text": "quick", "limit": 5}
    file.write_text(json.dumps([good, good | {"metric": "graph"} | change]))
    with pytest.raises(SettingsError, match=f"goal 2.*{message}"):
        read_goals(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not JSON"),
        ("{}", "is not a list"),
        ("[3]", "goal 1 is not an object"),
        ('[{"metric": "plain"}]', "has no text, limit"),
    ],
)
def test_a_file_that_is_no_list_of_goals(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "goals.json").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_goals(tmp_path / "goals.json")


def test_two_goals_for_a_metric(tmp_path: Path) -> None:
    goal = {"metric": "plain", "text": "quick", "limit": 5}
    (tmp_path / "goals.json").write_text(json.dumps([goal, goal]))
    with pytest.raises(SettingsError, match="more than one goal for plain"):
        read_goals(tmp_path / "goals.json")
