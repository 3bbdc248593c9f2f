"""The page in the system's Chromium, of a real node that dies and comes back."""

from __future__ import annotations

import array
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect, sync_playwright
from point_scene import labelled_message
from sensor_msgs.msg import Image, PointCloud2

pytestmark = pytest.mark.dds

HEIGHT, WIDTH = 96, 160
NODE = ("node", "--variant", "cityscapes-r18", "--scale", "64", "--device", "cpu")
NODE += ("--warm-up", "none", "--allow-random-weights", "--score-threshold", "0.0")
NODE += ("--cameras", "front", "--cameras", "rear", "--stale-timeout", "600")
OVERLAY = "/panoptic/front/overlay/compressed"
POINTS = "/panoptic/front/points"
# Generous: the machine may be busy. No test waits that long where things work.
MILLISECONDS = 120_000.0
expect.set_options(timeout=MILLISECONDS)


@dataclass
class View:
    """What runs, and the tab that shows it."""

    tab: Page
    probe: Any
    start: Callable[..., Any]
    processes: dict[str, Any]
    errors: list[str] = field(default_factory=list)

    def begin(self, name: str, *arguments: str) -> None:
        self.processes[name] = self.start(*arguments)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        return self.probe.until(condition, what)

    def received(self) -> int:
        return int(self.tab.locator("#counts tbody tr").first.locator("td").first.inner_text())


@pytest.fixture(scope="module")
def camera(probe: Any) -> Iterator[None]:
    """Pictures on the front camera's topic, some a second; the rear one sends none."""
    publisher = probe.node.create_publisher(Image, "/panoptic/front/image", 5)
    message = Image(height=HEIGHT, width=WIDTH, encoding="bgr8", step=3 * WIDTH)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    message.data = array.array("B", pixels.tobytes())
    ended = threading.Event()

    def publish() -> None:
        while not ended.wait(0.2):
            message.header.stamp = probe.node.get_clock().now().to_msg()
            publisher.publish(message)

    thread = threading.Thread(target=publish)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.fixture(scope="module")
def view(probe: Any, start: Callable[..., Any], camera: None) -> Iterator[View]:
    """The freshly opened page; nothing may fail in it but what the test brings down."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs Chromium: .ci/run installs it")
        pytest.skip("there is no Chromium here")
    processes = {"node": start(*NODE), "view": start("view", "--port", "0")}
    url = probe.until(
        lambda: re.search(r"http://127\.0\.0\.1:\d+/", processes["view"].output),
        "the page's address",
        processes["view"],
    )[0]
    probe.until(
        lambda: probe.node.count_publishers(OVERLAY), "the node's overlay", processes["node"]
    )
    with sync_playwright() as playwright:
        # Root may not use Chromium's sandbox; the page is our own.
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"], timeout=MILLISECONDS
        )
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(MILLISECONDS)
        view = View(tab, probe, start, processes)
        tab.on("pageerror", lambda error: view.errors.append(str(error)))
        tab.on("console", lambda line: line.type == "error" and view.errors.append(line.text))
        tab.goto(url)
        yield view
        browser.close()


def test_picture_and_figures_appear(view: View) -> None:
    tab = view.tab
    expect(tab.locator("#picture")).to_be_visible()
    expect(tab.locator("#picture")).to_have_js_property("naturalWidth", WIDTH)
    expect(tab.locator("#picture")).to_have_attribute("alt", "Overlay of camera front")
    expect(tab.locator("#caption")).to_contain_text(f"{OVERLAY} · {WIDTH}")
    expect(tab.locator("#state")).to_contain_text("random weights")  # a warning of the node's
    expect(tab.locator("#state")).to_have_attribute("data-level", "warn")
    expect(tab.locator("#stages tbody")).to_contain_text("backbone")
    expect(tab.locator("[data-figure=latency] .value")).to_have_text(re.compile(r"^\d+$"))
    expect(tab.locator("[data-figure=arrivals] .value")).to_have_text(re.compile(r"^[\d.]+$"))
    expect(tab.locator("#facts")).to_contain_text("cityscapes-r18")
    expect(tab.locator("#charts svg")).to_have_count(2)


def test_both_go_on(view: View) -> None:
    received, shown = view.received(), view.tab.locator("#picture").get_attribute("src")
    view.until(lambda: view.received() > received, "newer figures")
    expect(view.tab.locator("#picture")).not_to_have_attribute("src", shown or "")
    expect(view.tab.locator("#curtain")).to_be_hidden()


def test_another_camera(view: View) -> None:
    choice = view.tab.get_by_label("Camera")
    assert choice.locator("option").all_inner_texts() == ["front", "rear"]
    choice.select_option("rear", timeout=MILLISECONDS)
    expect(view.tab.locator("#state")).to_contain_text("camera rear: waiting:")
    expect(view.tab.locator("#curtain")).to_contain_text("waiting:")
    expect(view.tab.locator("#picture")).to_be_hidden()
    choice.select_option("front")
    expect(view.tab.locator("#picture")).to_be_visible()
    expect(view.tab.locator("#curtain")).to_be_hidden()


def test_by_keyboard_it_is_paused_and_then_nobody_subscribes(view: View) -> None:
    tab, subscribers = view.tab, lambda: view.probe.node.count_subscribers(OVERLAY)
    view.until(subscribers, "the page's subscription")
    tab.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(3):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.textContent.trim()"))
    assert reached[0] == "Skip to the figures"
    assert reached[2] == "Pause"
    tab.keyboard.press("Enter")
    expect(tab.locator("#curtain")).to_have_text("paused")
    view.until(lambda: not subscribers(), "the end of the subscription")
    tab.keyboard.press("Enter")
    expect(tab.locator("#curtain")).to_be_hidden()
    view.until(subscribers, "the page's subscription again")
    assert view.errors == []


def test_a_node_that_dies_shows_as_dead_and_comes_back(view: View) -> None:
    view.processes["node"].signal(signal.SIGKILL)
    state = view.tab.locator("#state")
    expect(state).to_have_attribute("data-level", "error")
    expect(state).to_contain_text(re.compile("/panoptic/upsnet .*: no report for"))
    expect(view.tab.locator("#curtain")).to_have_text(re.compile("silent|gone"))
    view.begin("node", *NODE)
    expect(state).to_contain_text("random weights")
    expect(view.tab.locator("#curtain")).to_be_hidden()
    assert view.errors == []


@pytest.fixture
def clouds(probe: Any) -> Iterator[None]:
    """Labelled points of the front camera, some a second, as of a points node."""
    publisher = probe.node.create_publisher(PointCloud2, POINTS, 5)
    ended = threading.Event()

    def publish() -> None:
        stamp = 0
        while not ended.wait(0.2):
            stamp += 10**9
            publisher.publish(labelled_message([(20, 5, 0)], [0xFF0000], stamp_ns=stamp))

    thread = threading.Thread(target=publish)
    thread.start()
    yield
    ended.set()
    thread.join()
    probe.node.destroy_publisher(publisher)


def test_points_are_shown_from_above_while_a_points_node_publishes(
    view: View, request: pytest.FixtureRequest
) -> None:
    tab, subscribers = view.tab, lambda: view.probe.node.count_subscribers(POINTS)
    expect(tab.locator("#picture")).to_be_visible()
    expect(tab.locator("#points")).to_be_hidden()
    request.getfixturevalue("clouds")
    picture = tab.locator("#points-picture")
    expect(picture).to_be_visible()
    expect(picture).to_have_attribute("alt", "Labelled points of camera front, from above")
    expect(tab.locator("#points-caption")).to_contain_text(POINTS)
    expect(tab.locator("#points-curtain")).to_be_hidden()
    shown = picture.get_attribute("src")
    expect(picture).not_to_have_attribute("src", shown or "")
    view.until(subscribers, "the page's subscription")
    tab.locator("#pause").click()
    expect(tab.locator("#points-curtain")).to_have_text("paused")
    view.until(lambda: not subscribers(), "the end of the subscription")
    tab.locator("#pause").click()
    expect(tab.locator("#points-curtain")).to_be_hidden()
    choice = tab.get_by_label("Camera")
    choice.select_option("rear", timeout=MILLISECONDS)
    expect(tab.locator("#points")).to_be_hidden()
    choice.select_option("front")
    expect(picture).to_be_visible()
    assert view.errors == []


def test_without_the_points_node_the_view_goes(view: View) -> None:
    expect(view.tab.locator("#points")).to_be_hidden()
    expect(view.tab.locator("#picture")).to_be_visible()


def test_the_page_outlives_its_server(view: View) -> None:
    server = view.processes["view"]
    assert server.signal(signal.SIGINT) == 0
    assert "Traceback" not in server.output
    expect(view.tab.locator("#state")).to_contain_text("no connection")
    port = re.search(r"127\.0\.0\.1:(\d+)/", server.output)
    view.begin("view", "view", "--port", port[1] if port else "")
    expect(view.tab.locator("#state")).to_contain_text("random weights")
    expect(view.tab.locator("#curtain")).to_be_hidden()
    # The browser itself notes the lost connection, and that pictures were asked for of topics that
    # had gone, or that the new server had not met yet; nothing else went wrong.
    expected = ("net::ERR_", "status of 404")
    assert [one for one in view.errors if not any(what in one for what in expected)] == []
