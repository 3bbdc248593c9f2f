from __future__ import annotations

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from upsnet_ros.node.diagnostics import CameraHealth, NodeHealth, camera_status, node_status
from upsnet_ros.node.statistics import CameraCounts, CameraReport, CameraState

NODE = "/panoptic/upsnet"


def camera(
    state=CameraState.ACTIVE, *, age=0.1, counts=None, qos_mismatch="", listening=True, lost=0.0
):
    return CameraHealth(
        name="front",
        topic="/panoptic/front/image",
        listening=listening,
        publishers=1,
        qos_mismatch=qos_mismatch,
        report=CameraReport(
            state=state,
            counts=counts or CameraCounts(received=9, answered=6, dropped=2),
            age=age,
            arrival_rate=9.876,
            stamp_rate=10.0,
            delay_ms=12.345,
            latency_ms=(100.0, 250.5),
            lost_share=lost,
        ),
    )


def health(**changes):
    values = {
        "state": "active",
        "enabled": True,
        "model": {"variant": "cityscapes-r50", "device": "cpu"},
        "random_weights": False,
        "stages_ms": {"backbone": (10.0, 20.0)},
        "gpu_memory": {},
        "output_mismatches": {},
        "cameras": [],
    }
    return NodeHealth(**{**values, **changes})


def values(status):
    return {one.key: one.value for one in status.values}


def test_keys_that_monitors_know():
    told = values(camera_status(NODE, camera(), random_weights=False))
    assert told["state"] == "active"
    assert told["frame_rate_node"] == "9.88"
    assert told["frame_rate_msg"] == "10.00"
    assert told["current_delay_from_realtime_ms"] == "12.35"
    assert told["total_dropped_frames"] == "2"
    assert told["latency_ms_p99"] == "250.50"


REJECTED = CameraCounts(rejected=1, last_rejection="step 3 is too small")
FAILED = CameraCounts(failed=1, last_failure="OutOfMemoryError: CUDA out of memory")


@pytest.mark.parametrize(
    ("what", "level", "message"),
    [
        (camera(), DiagnosticStatus.OK, "active"),
        (
            camera(CameraState.WAITING, age=None),
            DiagnosticStatus.WARN,
            "waiting: no frame yet from 1 publishers of /panoptic/front/image",
        ),
        (
            camera(CameraState.STALE, age=7.25),
            DiagnosticStatus.ERROR,
            "stale: no frame for 7.2 s on /panoptic/front/image",
        ),
        (
            camera(CameraState.REJECTED, counts=REJECTED),
            DiagnosticStatus.ERROR,
            "rejected: step 3 is too small",
        ),
        (
            camera(CameraState.FAILED, counts=FAILED),
            DiagnosticStatus.ERROR,
            "failed: OutOfMemoryError: CUDA out of memory",
        ),
        (
            camera(CameraState.WAITING, age=None, qos_mismatch="asked for reliable, but"),
            DiagnosticStatus.WARN,
            "waiting: incompatible QoS: asked for reliable, but",
        ),
        (camera(qos_mismatch="asked"), DiagnosticStatus.WARN, "active"),
        (
            camera(counts=CameraCounts(zero_stamps=1)),
            DiagnosticStatus.WARN,
            "active, but frames come without a stamp",
        ),
        (camera(CameraState.STALE, listening=False), DiagnosticStatus.OK, "disabled"),
        (camera(lost=0.01), DiagnosticStatus.OK, "active"),
        (
            camera(lost=0.751),
            DiagnosticStatus.WARN,
            "active, but 75 % of the frames were lost before the node, by their stamps",
        ),
    ],
)
def test_level_and_message_of_a_camera(what, level, message):
    status = camera_status(NODE, what, random_weights=False)
    assert (status.level, status.message) == (level, message)
    assert (status.name, status.hardware_id) == ("panoptic/upsnet: front", NODE)


def test_what_is_not_known_yet_is_not_a_number():
    waiting = camera(CameraState.WAITING, age=None)
    report = CameraReport(
        state=CameraState.WAITING,
        counts=CameraCounts(),
        age=None,
        arrival_rate=0.0,
        stamp_rate=0.0,
        delay_ms=None,
        latency_ms=None,
        lost_share=0.0,
    )
    status = camera_status(
        NODE,
        CameraHealth(
            name="",
            topic=waiting.topic,
            listening=True,
            publishers=0,
            qos_mismatch="",
            report=report,
        ),
        random_weights=False,
    )
    told = values(status)
    assert status.name == "panoptic/upsnet: camera"
    assert told["latency_ms_p50"] == told["current_delay_from_realtime_ms"] == "n/a"
    assert "last_rejection" not in told


@pytest.mark.parametrize(
    ("changes", "level", "message"),
    [
        ({}, DiagnosticStatus.OK, "active"),
        ({"state": "inactive"}, DiagnosticStatus.WARN, "inactive"),
        ({"state": "unconfigured", "model": {}}, DiagnosticStatus.WARN, "unconfigured"),
        ({"enabled": False}, DiagnosticStatus.WARN, "active, disabled"),
        ({"output_mismatches": {"/labels": "no"}}, DiagnosticStatus.WARN, "active"),
        ({"kernel_failures": {"nms": "no"}}, DiagnosticStatus.WARN, "active"),
    ],
)
def test_level_and_message_of_the_node(changes, level, message):
    status = node_status(NODE, health(**changes))
    assert (status.level, status.message) == (level, message)


def test_stages_and_gpu_memory_of_the_node():
    told = values(node_status(NODE, health(gpu_memory={"gpu_memory_free_mib": "1000"})))
    assert (told["backbone_ms_p50"], told["backbone_ms_p99"]) == ("10.00", "20.00")
    assert told["gpu_memory_free_mib"] == "1000"
    assert told["random_weights"] == "false"


def test_random_weights_are_told_with_every_status():
    statuses = [
        node_status(NODE, health(random_weights=True)),
        camera_status(NODE, camera(), random_weights=True),
        camera_status(NODE, camera(CameraState.REJECTED, counts=REJECTED), random_weights=True),
    ]
    for status in statuses:
        assert "random weights: results mean nothing" in status.message
    assert [status.level for status in statuses] == [
        DiagnosticStatus.WARN,
        DiagnosticStatus.WARN,
        DiagnosticStatus.ERROR,
    ]
