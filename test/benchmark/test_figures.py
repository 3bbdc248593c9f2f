"""From what was measured to a verdict on every goal, and to the table of documents."""

from __future__ import annotations

from dataclasses import asdict, replace

from upsnet_ros.benchmark.agreement import Agreement, AgreementFigures, SceneFigures
from upsnet_ros.benchmark.cameras import CameraFigures
from upsnet_ros.benchmark.figures import Figures, outcomes
from upsnet_ros.benchmark.goals import GOALS, MET, NOT_MEASURED, NOT_MET, Conditions
from upsnet_ros.benchmark.head import HeadFigures
from upsnet_ros.benchmark.markdown import to_markdown
from upsnet_ros.benchmark.memory import MemoryFigures
from upsnet_ros.benchmark.race import RaceFigures
from upsnet_ros.benchmark.summary import PairedRatio, Summary

THERE = Conditions(gpu="NVIDIA H200", variant="cityscapes-r50", size=(1024, 2048), precision="fp16")


def all_of(value: float) -> Summary:
    return Summary.of([value])


def measured() -> Figures:
    return Figures(
        memory=MemoryFigures(weights_mib=90, allocated_mib=900, reserved_mib=1536, driver_mib=1200),
        race=RaceFigures(
            fast_ms=all_of(7.25),
            plain_ms=all_of(58),
            maskrcnn_ms=all_of(14.5),
            plain_over_fast=PairedRatio.of([58], [7.25]),
            maskrcnn_over_fast=PairedRatio.of([14.5], [7.25]),
            instances=20,
            boxes=30,
            maskrcnn_instances=30,
        ),
        cameras=CameraFigures(
            cameras=4,
            frames=8,
            one_hz=all_of(150),
            all_hz=all_of(240),
            gain=PairedRatio.of([240], [150]),
        ),
        head=HeadFigures(
            size=(1024, 2048),
            instances=100,
            accepted=100,
            accept_ms=all_of(0.2),
            maps_ms=all_of(0.1),
            segments_ms=all_of(0.1),
            all_ms=all_of(0.41),
        ),
        scenes=SceneFigures(
            agreement=AgreementFigures.of([Agreement(98, 99, 99.5)]), fast_pq=36.1, exact_pq=36.2
        ),
        parity={"first": Agreement(97, 98.5, 99), "second": Agreement(99, 99.9, 100)},
    )


def test_every_goal_gets_its_own_figure() -> None:
    judged = {outcome.key: outcome for outcome in outcomes(measured(), THERE)}
    assert list(judged) == [goal.key for goal in GOALS]
    values = {key: outcome.value for key, outcome in judged.items()}
    assert values == {
        "lone_frame": 7.25,
        "plain": 8.0,
        "maskrcnn": 2.0,
        "head": 0.41,
        "cameras": 1.6,
        "agreement": 98.5,
        "quality": -0.1,
        "memory": 1.5,
    }
    missed = {key for key, outcome in judged.items() if outcome.verdict == NOT_MET}
    assert missed == {"plain", "agreement"}
    assert all(outcome.verdict == MET for key, outcome in judged.items() if key not in missed)


def test_what_was_not_measured_says_why() -> None:
    judged = {o.key: o for o in outcomes(Figures(head_failed="no room"), THERE)}
    assert {outcome.verdict for outcome in judged.values()} == {NOT_MEASURED}
    assert judged["head"].why == "no room"
    assert judged["agreement"].why == "no folder of parity cases given: --parity"
    assert judged["plain"].why == judged["memory"].why == "not asked for"


def test_a_failure_is_told_on_a_cpu_too() -> None:
    on_cpu = replace(THERE, gpu=None, precision="bf16")
    judged = {o.key: o for o in outcomes(Figures(head_failed="no room"), on_cpu)}
    assert judged["head"].why == "no room"


def test_table_of_documents() -> None:
    figures = measured()
    report = {
        "settings": {
            "variant": "cityscapes-r50",
            "network_size": [1024, 2048],
            "precision": "fp16",
            "threads": 8,
            "weights": "random",
            "seed": 0,
            "iterations": 50,
            "warmup": 5,
        },
        "machine": {
            "gpu": "NVIDIA H200",
            "load_average": [0.1, 0.1, 0.1],
            "versions": {"torch": "2.14.1"},
        },
        "goals": [asdict(outcome) for outcome in outcomes(figures, THERE)],
        **asdict(figures),
        "kernels_failed": {"nms": "no | room\nat all"},
    }
    text = to_markdown(report)
    first, *lines = text.splitlines()
    assert "cityscapes-r50 at 1024x2048, fp16, on NVIDIA H200" in first
    rows = [line for line in lines if line]
    assert all(line.startswith("| ") and line.endswith(" |") for line in rows)
    goals = [line for line in rows if "**" in line]
    assert len(goals) == len(GOALS)
    assert "| at least 10 | 8.00 (p10 8.00, p90 8.00, 1 pairs) | **not met** |" in goals[1]
    assert "| kernel nms failed | no \\| room at all |" in rows
