"""`upsnet play`: what arrives on the topic, in which order, and how it ends."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image

from upsnet_ros.ros.player import PlayerSettings

pytestmark = pytest.mark.dds

RELIABLE = QoSProfile(depth=20, reliability=QoSReliabilityPolicy.RELIABLE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five frames whose pixels tell their number."""
    for index in range(5):
        image = np.full((48, 64, 3), (index * 20, 100, 200), np.uint8)
        cv2.imwrite(str(tmp_path / f"frame{index}.png"), image)
    return tmp_path


def stamp_ns(message: Any) -> int:
    return Time.from_msg(message.header.stamp).nanoseconds


def test_frames_arrive_whole_in_order_and_stamped(probe: Any, start: Any, folder: Path) -> None:
    images = probe.collect("/cam1/image", Image, RELIABLE)
    before = probe.node.get_clock().now().nanoseconds
    player = start(
        *("play", str(folder), "--topic", "/cam1/image", "--frame-id", "front_camera"),
        *("--rate", "50", "--wait-for-subscribers", "1"),
    )
    probe.until(lambda: len(images) == 5, "five frames", player)
    assert player.wait() == 0
    assert "published 5 frames" in player.output
    stamps = [stamp_ns(image) for image in images]
    assert stamps == sorted(set(stamps))
    assert before < stamps[0] <= stamps[-1] < probe.node.get_clock().now().nanoseconds
    assert stamps[4] - stamps[0] >= 4 * 0.02e9 * 0.9, "faster than the rate"
    for index, image in enumerate(images):
        assert image.header.frame_id == "front_camera"
        assert (image.encoding, image.height, image.width, image.step) == ("bgr8", 48, 64, 192)
        pixels = np.frombuffer(image.data, np.uint8).reshape(48, 64, 3)
        assert (pixels == (index * 20, 100, 200)).all()


def test_compressed_frames_loop_until_the_count(probe: Any, start: Any, folder: Path) -> None:
    images = probe.collect("/cam2/image/compressed", CompressedImage, RELIABLE)
    player = start(
        *("play", str(folder), "--topic", "/cam2/image", "--compressed", "--loop"),
        *("--count", "7", "--rate", "100", "--size", "32x16", "--wait-for-subscribers", "1"),
    )
    probe.until(lambda: len(images) == 7, "seven frames", player)
    assert player.wait() == 0
    for index, image in enumerate(images):
        assert "jpeg" in image.format
        pixels = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape == (16, 32, 3)
        assert abs(int(pixels[8, 8, 0]) - index % 5 * 20) < 6


def test_lockstep_waits_for_each_answer(probe: Any, start: Any, folder: Path) -> None:
    images = probe.collect("/cam3/image", Image, RELIABLE)
    answers = probe.node.create_publisher(Image, "/cam3/labels", RELIABLE)
    player = start(
        *("play", str(folder), "--topic", "/cam3/image", "--lockstep"),
        *("--answer-topic", "/cam3/labels"),
    )
    answered = 0
    for count in range(1, 6):
        probe.until(lambda n=count: len(images) == n, f"frame {count}", player)
        assert stamp_ns(images[-1]) > answered, "sent before the last frame was answered"
        # A stale answer must not be taken for the one that is waited for.
        stale = Image()
        stale.header.stamp = Time(nanoseconds=stamp_ns(images[-1]) - 1).to_msg()
        answers.publish(stale)
        answered = probe.node.get_clock().now().nanoseconds
        answers.publish(Image(header=images[-1].header))
    assert player.wait() == 0
    assert len(images) == 5


def test_an_answer_that_does_not_come_is_an_error(probe: Any, start: Any, folder: Path) -> None:
    images = probe.collect("/cam4/image", Image, RELIABLE)
    answers = probe.node.create_publisher(Image, "/cam4/labels", RELIABLE)
    player = start(
        *("play", str(folder), "--topic", "/cam4/image", "--lockstep", "--timeout", "3"),
        *("--answer-topic", "/cam4/labels"),
    )
    probe.until(lambda: images, "the first frame", player)
    assert player.wait() == 1
    assert "no answer to frame0.png on /cam4/labels within 3 s (1 publishers" in player.output
    assert "Traceback" not in player.output
    probe.node.destroy_publisher(answers)


def test_nobody_listening_is_an_error(start: Any, folder: Path) -> None:
    player = start(
        *("play", str(folder), "--topic", "/nobody", "--wait-for-subscribers", "2"),
        *("--timeout", "0.5"),
    )
    assert player.wait() == 1
    assert "0 of 2 subscribers on /nobody after 0.5 s" in player.output


def test_ctrl_c_ends_it_well_and_topics_are_remapped(probe: Any, start: Any, folder: Path) -> None:
    images = probe.collect("/front/image_raw", Image, RELIABLE)
    player = start("play", str(folder), "--loop", "--ros-args", "-r", "image:=/front/image_raw")
    probe.until(lambda: len(images) > 5, "a second round", player)
    assert player.signal(signal.SIGINT) == 0
    assert "stopped after" in player.output
    assert "Traceback" not in player.output


def test_cityscapes_stamps_follow_frame_numbers(probe: Any, start: Any, tmp_path: Path) -> None:
    for number in (0, 1, 18):
        name = f"ulm_000002_{number:06d}_leftImg8bit.png"
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    images = probe.collect("/cam5/image", Image, RELIABLE)
    player = start(
        *("play", str(tmp_path), "--topic", "/cam5/image", "--stamps", "source"),
        *("--rate", "100", "--wait-for-subscribers", "1"),
    )
    probe.until(lambda: len(images) == 3, "three frames", player)
    first, *others = [stamp_ns(image) for image in images]
    assert [other - first for other in others] == [round(1e9 / 17), round(18e9 / 17)]
    assert player.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.mp4"], "source missing.mp4 does not exist"),
        ([".", "--size", "640"], "size must look like 1024x512, not '640'"),
        ([".", "--rate", "0"], "rate must be above 0"),
    ],
)
def test_bad_arguments_end_with_one_line(
    start: Callable[..., Any], arguments: list[str], message: str
) -> None:
    player = start("play", *arguments)
    assert player.wait() == 1
    assert player.output.startswith(f"error: {message}")
    assert len(player.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate_hz": -1.0}, "rate"),
        ({"size": (0, 5)}, "size"),
        ({"count": 0}, "count"),
        ({"subscribers": -1}, "subscribers"),
        ({"timeout": float("nan")}, "timeout"),
    ],
)
def test_settings_refuse_what_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlayerSettings(**settings)
