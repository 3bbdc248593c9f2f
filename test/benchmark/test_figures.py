"""From what was measured to a verdict on every goal, and to the table of documents."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from upsnet_ros.benchmark.goals import (
    MET,
    NOT_MEASURED,
    NOT_MET,
    Conditions,
    Figures,
    outcomes,
    to_markdown,
)
from upsnet_ros.benchmark.head import HeadFigures
from upsnet_ros.benchmark.measure import PairedRatio, Summary
from upsnet_ros.benchmark.race import (
    Agreement,
    AgreementFigures,
    CameraFigures,
    RaceFigures,
    SceneFigures,
)
from upsnet_ros.benchmark.settings import METRICS, PARTS, read_goals
from upsnet_ros.benchmark.stages import MemoryFigures, StageFigures

GOALS = read_goals(Path(__file__).parents[2] / "benchmarks" / "goals.json")
THERE = Conditions(gpu="NVIDIA H200", variant="cityscapes-r50", size=(1024, 2048), precision="fp16")


def all_of(value: float) -> Summary:
    return Summary.of([value])


def measured() -> Figures:
    return Figures(
        memory=MemoryFigures(
            weights_mib=90,
            tensors_peak_mib=900,
            reserved_peak_mib=4096,
            reserved_mib=1200,
            driver_mib=1536,
        ),
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
        stages=StageFigures(
            stages_ms={"backbone": all_of(1.5), "publish": None},
            frame_ms=all_of(4.75),
            graph_ms=all_of(3.5),
            panoptic_share=0.1,
            instances=20,
        ),
        parity={"first": Agreement(97, 98.5, 99), "second": Agreement(99, 99.9, 100)},
    )


def test_every_goal_gets_its_own_figure() -> None:
    checked = {outcome.key: outcome for outcome in outcomes(measured(), THERE, GOALS)}
    assert list(checked) == list(METRICS)
    values = {key: outcome.value for key, outcome in checked.items()}
    assert values == {
        "lone_frame": 7.25,
        "graph": 3.5,
        "plain": 8.0,
        "maskrcnn": 2.0,
        "head": 0.41,
        "cameras": 1.6,
        "agreement": 98.5,
        "trained": 99.0,
        "quality": -0.1,
        "memory": 1.5,
    }
    missed = {key for key, outcome in checked.items() if outcome.verdict == NOT_MET}
    assert missed == {"lone_frame", "plain", "maskrcnn", "head", "agreement", "trained"}
    assert all(outcome.verdict == MET for key, outcome in checked.items() if key not in missed)


def test_what_was_not_measured_says_why() -> None:
    checked = {o.key: o for o in outcomes(Figures(failed={"head": "no room"}), THERE, GOALS)}
    assert {outcome.verdict for outcome in checked.values()} == {NOT_MEASURED}
    assert checked["head"].why == "no room"
    assert checked["agreement"].why == "no folder of parity cases given: --parity"
    assert checked["plain"].why == checked["memory"].why == "not asked for"


def test_a_failure_is_told_on_a_cpu_too() -> None:
    on_cpu = replace(THERE, gpu=None, precision="bf16")
    checked = {
        o.key: o for o in outcomes(Figures(failed=dict.fromkeys(PARTS, "no room")), on_cpu, GOALS)
    }
    assert {outcome.why for outcome in checked.values()} == {"no room"}


def test_table_of_documents() -> None:
    figures = measured()
    figures.failed["stages"] = "out of memory"
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
        "goals": [asdict(outcome) for outcome in outcomes(figures, THERE, GOALS)],
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
    assert "| at least 10 | 8.00 (p10 8.00, p90 8.00, 1 pairs) | **not met** |" in goals[2]
    assert "| part stages failed | out of memory |" in rows
    assert "| memory once warm, MiB: pools, driver | 1200, 1536 |" in rows
    assert "| kernel nms failed | no \\| room at all |" in rows
