"""`upsnet play`: what arrives on the topic, in which order, and how it ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import video_files

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image

from upsnet_ros.bags.sources import open_source
from upsnet_ros.playback.player import Player
from upsnet_ros.playback.settings import PlayerSettings

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
        *("play", str(folder), "--image-topic", "/cam1/image", "--frame-id", "front_camera"),
        *("--rate", "50", "--wait-for-subscribers", "1"),
    )
    probe.until(lambda: len(images) == 5, "five frames", player)
    assert player.wait() == 0
    assert "published 5 frames" in player.output
    stamps = [stamp_ns(image) for image in images]
    assert stamps == sorted(set(stamps))
    assert before < stamps[0] <= stamps[-1] < probe.node.get_clock().now().nanoseconds
    assert stamps[4] - stamps[0] >= 4 * 0.02e9 * 0.999, "faster than the rate"
    for index, image in enumerate(images):
        assert image.header.frame_id == "front_camera"
        assert (image.encoding, image.height, image.width, image.step) == ("bgr8", 48, 64, 192)
        pixels = np.frombuffer(image.data, np.uint8).reshape(48, 64, 3)
        assert (pixels == (index * 20, 100, 200)).all()


def test_compressed_frames_loop_until_the_count(probe: Any, start: Any, folder: Path) -> None:
    images = probe.collect("/cam2/image/compressed", CompressedImage, RELIABLE)
    player = start(
        *("play", str(folder), "--image-topic", "/cam2/image", "--compressed", "--loop"),
        *("--count", "7", "--rate", "20", "--size", "16x32", "--wait-for-subscribers", "1"),
    )
    probe.until(lambda: len(images) == 7, "seven frames", player)
    assert player.wait() == 0
    assert "publishing 16x32 (height x width)" in player.output
    for index, image in enumerate(images):
        assert "jpeg" in image.format
        pixels = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape == (16, 32, 3)
        assert abs(int(pixels[8, 8, 0]) - index % 5 * 20) < 6


def test_lockstep_waits_for_each_answer(probe: Any, start: Any, folder: Path) -> None:
    images = probe.collect("/cam3/image", Image, RELIABLE)
    answers = probe.node.create_publisher(Image, "/cam3/labels", RELIABLE)
    player = start(
        *("play", str(folder), "--image-topic", "/cam3/image", "--lockstep"),
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


def test_a_node_that_subscribes_after_a_recorder_gets_the_first_frame(
    probe: Any, start: Any, folder: Path
) -> None:
    """The subscription of the node becomes known a moment after that of another one."""
    name = "/cam7"
    recorded = probe.collect(f"{name}/image", Image, RELIABLE)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=probe.node.context.get_domain_id())
    node = Node("late", context=context)
    answers = node.create_publisher(Image, f"{name}/labels", RELIABLE)
    images: list[Any] = []

    def answer(image: Any) -> None:
        images.append(image)
        answers.publish(Image(header=image.header))

    def subscribe() -> None:
        node.create_subscription(Image, f"{name}/image", answer, RELIABLE)

    player = start(
        *("play", str(folder), "--image-topic", f"{name}/image", "--rate", "100"),
        *("--lockstep", "--answer-topic", f"{name}/labels"),
    )
    try:
        player_is_there = partial(probe.node.count_publishers, f"{name}/image")
        probe.until(player_is_there, "the player", player)
        end = time.monotonic() + 1.5
        probe.until(lambda: time.monotonic() > end, "the recorder's match", player)
        subscribe()
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)

        def complete() -> bool:
            executor.spin_once(timeout_sec=0.01)
            return len(images) == 5 and len(recorded) == 5

        probe.until(complete, "all frames")
        assert player.wait() == 0, player.output
        assert "publishing all the same" not in player.output
        executor.shutdown()
    finally:
        node.destroy_node()
        context.try_shutdown()


def test_no_frame_is_due_earlier_than_the_rate_allows(
    probe: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stamps do not show it of two frames: one that is late is nearer to the next."""
    due: list[float] = []
    monkeypatch.setattr(Player, "_wait_for_peers", lambda *_: None)
    monkeypatch.setattr(Player, "spin_until", lambda *_, until: due.append(until))
    rclpy.init(domain_id=probe.node.context.get_domain_id())
    try:
        player = Player(PlayerSettings(topic="/cam10/image", rate_hz=50))
        try:
            assert len(list(player.play(open_source(str(folder))))) == 5
        finally:
            player.destroy_node()
    finally:
        rclpy.try_shutdown()
    assert len(due) == 6  # and the end of the last one
    assert min(np.diff(due)) >= 0.02 - 1e-6


def test_the_first_frame_waits_for_those_who_subscribe(
    probe: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upsnet_ros.playback.player._LONELY_SECONDS", 60)  # the machine may be busy
    heard = [probe.collect("/cam9/image", Image, RELIABLE) for _ in range(2)]
    rclpy.init(domain_id=probe.node.context.get_domain_id())
    try:
        player = Player(PlayerSettings(topic="/cam9/image", count=1))
        try:
            assert len(list(player.play(open_source(str(folder))))) == 1
            probe.until(lambda: all(heard), "the first frame")
        finally:
            player.destroy_node()
    finally:
        rclpy.try_shutdown()


def test_an_answer_that_does_not_come_is_an_error(probe: Any, start: Any, folder: Path) -> None:
    """Beside a player whose node is inactive: both wait, and discovery may take its time."""
    topics = ("/cam4", "/cam8")
    images = {name: probe.collect(f"{name}/image", Image, RELIABLE) for name in topics}
    answers = probe.node.create_publisher(Image, "/cam4/labels", RELIABLE)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=probe.node.context.get_domain_id())
    # The probe is not taken for this node, whose images may come through a relay.
    inactive = Node("inactive", context=context)
    try:
        inactive.create_publisher(Image, "/cam8/labels", RELIABLE)
        silent, relayed = (
            start(
                *("play", str(folder), "--image-topic", f"{name}/image", "--lockstep"),
                *("--answer-topic", f"{name}/labels", "--timeout", "20"),
            )
            for name in topics
        )
        for name, player in zip(topics, (silent, relayed), strict=True):
            probe.until(lambda name=name: images[name], "the first frame", player)
        for player in (silent, relayed):
            assert player.wait() == 1
            assert "Traceback" not in player.output
        assert "no result for frame0.png on /cam4/labels within 20 s (1 publish" in silent.output
        assert "is not subscribed to /cam8/image; publishing all the same" in relayed.output
        assert "no result for frame0.png" in relayed.output
    finally:
        probe.node.destroy_publisher(answers)
        inactive.destroy_node()
        context.try_shutdown()


def test_nobody_listening_is_an_error(start: Any, folder: Path) -> None:
    player = start(
        *("play", str(folder), "--image-topic", "/nobody", "--wait-for-subscribers", "2"),
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
        *("play", str(tmp_path), "--image-topic", "/cam5/image", "--stamps", "source"),
        *("--rate", "100", "--wait-for-subscribers", "1"),
    )
    probe.until(lambda: len(images) == 3, "three frames", player)
    first, *others = [stamp_ns(image) for image in images]
    assert [other - first for other in others] == [round(1e9 / 17), round(18e9 / 17)]
    assert player.wait() == 0


def test_a_video_of_variable_rate_plays_and_loops_at_its_own_times(
    probe: Any, start: Any, tmp_path: Path
) -> None:
    times_ms = [0, 20, 40, 340, 360]
    video_files.matroska(tmp_path / "phone.mkv", times_ms, claims_hz=1000, duration_ms=90_000)
    images = probe.collect("/cam6/image", Image, RELIABLE)
    player = start(
        *(
            "play",
            str(tmp_path / "phone.mkv"),
            "--image-topic",
            "/cam6/image",
            "--stamps",
            "source",
        ),
        *("--loop", "--count", "10", "--wait-for-subscribers", "1"),
    )
    began = time.monotonic()
    probe.until(lambda: len(images) == 10, "two rounds", player)
    assert time.monotonic() - began > 0.8, "faster than its own times"
    assert player.wait() == 0, player.output
    again = [time_ms + 360 + 90 for time_ms in times_ms]  # after a frame's mean time
    stamps = [stamp_ns(image) for image in images]
    assert [(one - stamps[0]) / 1e6 for one in stamps] == [*times_ms, *again]


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_damaged_image_ends_it_or_is_skipped(start: Any, folder: Path, skip_bad: bool) -> None:
    (folder / "frame2.png").write_bytes(b"nonsense")
    player = start("play", str(folder), "--rate", "100", *["--skip-bad"] * skip_bad)
    assert player.wait() == (0 if skip_bad else 1)
    if skip_bad:
        assert "published 4 frames, skipped 1 (the first: " in player.output
        assert "frame2.png is not an image" in player.output
    else:
        assert "frame2.png is not an image" in player.output
        assert "--skip-bad" in player.output


def test_one_frame_is_not_several(start: Any, folder: Path) -> None:
    player = start("play", str(folder), "--count", "1")
    assert player.wait() == 0
    assert player.output.splitlines() == ["published 1 frame"]


def test_a_loop_without_a_good_frame_ends(start: Any, folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"nonsense")
    player = start("play", str(folder), "--loop", "--skip-bad")
    assert player.wait() == 1
    assert f"{folder} has no frame that can be read" in player.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.mp4"], "source missing.mp4 does not exist"),
        ([""], "no source is named"),
        (["/dev/null"], "/dev/null is a device, but not a camera: give"),
        (["http://127.0.0.1:1/x.mjpg"], "cannot open http://127.0.0.1:1/x.mjpg"),
        (["97"], "cannot open webcam 97"),
        ([__file__], f"cannot read {__file__} as a video"),
        ([".", "--size", "640"], "size '640' is not HEIGHTxWIDTH"),
        ([".", "--size", "32x16"], "size 32x16 is height x width now: write 16x32 for a width"),
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
