"""Figures of reports that the node's own code wrote."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from upsnet_ros.node.diagnostics import CameraHealth, NodeHealth, camera_status, node_status
from upsnet_ros.node.statistics import CameraCounts, CameraReport, CameraState
from upsnet_ros.view.figures import Presence, Reports

NODE = "/panoptic/upsnet"
THERE = {
    NODE: Presence(True, {"": "/panoptic/overlay/compressed"}, {"": "/panoptic/points", "no": "/x"})
}


def camera(name: str = "", state: CameraState = CameraState.ACTIVE, **counts: Any) -> CameraHealth:
    return CameraHealth(
        name=name,
        topic=f"/panoptic/{name}/image",
        listening=True,
        publishers=1,
        qos_mismatch="",
        report=CameraReport(
            state=state,
            counts=CameraCounts(**counts),
            age=0.1,
            arrival_rate=9.5,
            stamp_rate=10.0,
            delay_ms=None,
            latency_ms=(40.0, 95.5),
            lost_share=0.0,
        ),
    )


def report(*cameras: CameraHealth, state: str = "active", node: str = NODE) -> list[Any]:
    health = NodeHealth(
        state=state,
        enabled=True,
        model={"variant": "cityscapes-r18"},
        random_weights=False,
        stages_ms={"backbone": (12.0, 30.0), "box": (3.25, 4.0)},
        gpu_memory={},
        output_mismatches={},
        cameras=cameras,
    )
    return [
        node_status(node, health),
        *(camera_status(node, one, random_weights=False) for one in cameras),
    ]


def test_what_is_read_off_a_report() -> None:
    reports = Reports()
    assert reports.add(report(camera(received=10, answered=4, dropped=6)), now=100.0)
    assert reports.nodes == [NODE]
    [node] = reports.figures(THERE, now=100.5)
    assert (node["life"], node["level"], node["message"]) == ("live", "ok", "active")
    assert node["facts"]["variant"] == "cityscapes-r18"
    assert not [key for key in node["facts"] if "_ms_" in key]
    assert node["stages"] == [
        {"name": "backbone", "median": 12.0, "high": 30.0},
        {"name": "box", "median": 3.25, "high": 4.0},
    ]
    [single] = node["cameras"]
    assert single["name"] == "camera"
    assert single["overlay"] == "/panoptic/overlay/compressed"
    assert single["points"] == "/panoptic/points"
    assert (single["arrival_rate"], single["latency_ms"]) == (9.5, 40.0)
    assert single["delay_ms"] is None  # "n/a" in the report
    assert single["answer_rate"] is None  # one report makes no rate


def test_rates_are_those_of_the_counts_and_begin_anew_with_the_node() -> None:
    reports = Reports()
    for second in range(30):
        counts = {"received": 10 * second, "answered": 4 * second, "dropped": 6 * second}
        reports.add(report(camera(**counts, last_failure="boom")), now=100.0 + second)
    [node] = reports.figures(THERE, now=130.0)
    [single] = node["cameras"]
    assert single["answer_rate"] == 4.0
    rates = {count["name"]: (count["total"], count["rate"]) for count in single["counts"]}
    assert rates["received"] == (290, 10.0)
    assert rates["dropped"] == (174, 6.0)
    assert rates["failed"] == (0, 0.0)
    assert single["notes"] == ["last failure: boom"]
    reports.add(report(camera(received=3, answered=1)), now=131.0)
    [node] = reports.figures(THERE, now=131.0)
    assert node["cameras"][0]["answer_rate"] is None


@pytest.mark.parametrize(
    ("there", "after", "period", "life"),
    [
        (True, 1.0, 1.0, "live"),
        (True, 4.0, 1.0, "silent"),
        (True, 20.0, 10.0, "live"),  # it reports that seldom
        (True, 31.0, 10.0, "silent"),
        (False, 1.0, 1.0, "live"),  # the graph may be late
        (False, 2.0, 1.0, "gone"),
        (False, 20.0, 10.0, "gone"),
    ],
)
def test_when_a_node_is_taken_for_dead(there, after, period, life) -> None:
    reports = Reports()
    for number in range(3):
        reports.add(report(camera()), now=100.0 + number * period)
    now = 100.0 + 2 * period + after
    [node] = reports.figures({NODE: Presence(there)}, now=now)
    assert node["life"] == life
    assert node["silent_for"] == after


def test_cameras_stay_while_the_node_is_inactive() -> None:
    reports = Reports()
    reports.add(report(camera("left"), camera("right")), now=100.0)
    reports.add(report(state="inactive"), now=101.0)
    overlays = {"left": "/panoptic/left/overlay", "rear/left": "/panoptic/rear/left/overlay"}
    [node] = reports.figures({NODE: Presence(True, overlays)}, now=101.0)
    assert node["state"] == "inactive"
    assert {one["name"]: one["overlay"] for one in node["cameras"]} == {
        "left": "/panoptic/left/overlay",
        "rear/left": "/panoptic/rear/left/overlay",
        "right": "",
    }


def test_others_reports_are_passed_over() -> None:
    stranger = DiagnosticStatus(name="battery: model", hardware_id="/battery")
    mine = DiagnosticStatus(
        name="my/motor: model", hardware_id="my/motor", values=[KeyValue(key="state", value="on")]
    )
    reports = Reports()
    assert not reports.add([stranger, mine], now=1.0)
    assert reports.figures({}, now=1.0) == []


def test_a_node_long_gone_is_forgotten() -> None:
    reports = Reports()
    reports.add(report(camera()), now=100.0)
    reports.add(report(camera(), node="/rear/upsnet"), now=600.0)
    assert [node["name"] for node in reports.figures({}, now=650.0)] == [NODE, "/rear/upsnet"]
    assert [node["name"] for node in reports.figures({}, now=750.0)] == ["/rear/upsnet"]


NUMBERS = ["nan", "-nan", "inf", "-Infinity", "1e999", "-1e999", "1e308", "-5", "9" * 5000, "", "x"]


@pytest.mark.parametrize(("old", "new"), list(itertools.product(NUMBERS, NUMBERS)))
def test_figures_are_json_whatever_is_reported(old: str, new: str) -> None:
    reports = Reports()
    for now, text in ((100.0, old), (100.5, new)):
        statuses = report(camera(received=1))
        for status in statuses:
            for value in status.values:
                if value.key not in ("state", "enabled"):
                    value.value = text
        assert reports.add(statuses, now=now)
    [node] = reports.figures(THERE, now=100.6)
    json.dumps(node, allow_nan=False)
    assert all(0 <= count["total"] <= 2**53 for count in node["cameras"][0]["counts"])


def test_texts_values_and_cameras_are_bounded() -> None:
    reports = Reports()
    statuses = report(*(camera(str(number)) for number in range(200)))
    statuses[0].message = "m" * 10**6
    statuses[0].values = [
        *statuses[0].values,
        *(KeyValue(key=f"{number}" + "k" * 10**4, value="v" * 10**4) for number in range(1000)),
    ]
    reports.add(statuses, now=100.0)
    overlays = {f"topic{number}": f"/topic{number}/overlay" for number in range(200)}
    [node] = reports.figures({NODE: Presence(True, overlays)}, now=100.0)
    assert len(node["cameras"]) == 50
    assert len(json.dumps(node)) < 400_000


def test_only_silent_nodes_make_room_for_more() -> None:
    reports = Reports()
    reports.add(report(camera()), now=100.0)
    for number in range(1000):
        reports.add(report(node=f"/{number}/upsnet"), now=100.0 + number / 1000)
    assert len(reports.nodes) == 50
    assert NODE in reports.nodes
    assert reports.left_out == 951
    reports.add(report(node="/late/upsnet"), now=200.0)
    assert "/late/upsnet" in reports.nodes
    assert len(reports.nodes) == 50
