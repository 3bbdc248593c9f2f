"""The page, opened and used in the system's Chromium."""

from __future__ import annotations

import io
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from playwright.sync_api import Page as BrowserPage

from upsnet_ros.cli.evaluate_runs import show
from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO
from upsnet_ros.drawing.birds_eye_view import BODY_AXES
from upsnet_ros.evaluation.maps import Categories, map_from_labels
from upsnet_ros.evaluation.metrics import EvaluationFrame, EvaluationResult, evaluate
from upsnet_ros.evaluation.points import LabelledCloud, PointLabels
from upsnet_ros.evaluation.report import Page, _seen, safe_colors
from upsnet_ros.evaluation.run import Series, Snapshot, SnapshotSelector, take_snapshot

# Generous: the machine may be busy. No test waits that long where things work.
MILLISECONDS = 120_000.0
expect.set_options(timeout=MILLISECONDS)
_FRAMES = 5


def _frames() -> list[EvaluationFrame]:
    """A road with a car; from frame to frame more of the car is missed."""
    rng = np.random.default_rng(0)
    truth = np.full((60, 120), 7)
    truth[:20] = 23
    truth[30:50, 20:60] = 26001
    truth[30:40, 90:100] = 0
    frames = []
    for number in range(_FRAMES):
        answer = truth.copy()
        answer[30:50, 20 : 20 + 8 * number] = 7
        answer[30:40, 90:95] = 7
        frames.append(
            EvaluationFrame(
                name=f"a_000000_{number:06d}",
                sequence="a_000000",
                number=number,
                truth=map_from_labels(truth, CITYSCAPES),
                prediction=map_from_labels(answer, CITYSCAPES),
                image=rng.integers(0, 256, (60, 120, 3), dtype=np.uint8),
                truth_unknown=truth == 0,
                prediction_unknown=answer == 0,
            )
        )
    return frames


def _cloud() -> LabelledCloud:
    """Three points straight ahead: a car, of a strange class, and unknown; all missed but one."""
    sides = [
        PointLabels(class_ids=np.array(ids), unknown=np.array([False, False, unknown]))
        for ids, unknown in (((26, 99, 0), True), ((26, 0, 7), False))
    ]
    return LabelledCloud(
        xyz=np.array([(40, 30, 45), (0, 10, -10), (0, 0, 0)], np.float32),
        axes=BODY_AXES,
        truth=sides[0],
        prediction=sides[1],
    )


def _page(frames: Sequence[EvaluationFrame] | None = None, **options) -> Page:
    frames = frames or _frames()
    categories = Categories.from_taxonomy(CITYSCAPES)
    return Page(
        title="A <run> & more",
        result=evaluate(frames, categories),
        snapshots=[take_snapshot(frame, categories) for frame in frames],
        facts=[("Model", "</script><b>bold</b>")],
        notes=["one frame was left out"],
        **options,
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs Chromium: .ci/run installs it")
        pytest.skip("there is no Chromium here")
    with sync_playwright() as playwright:
        # Root may not use Chromium's sandbox; the page is our own.
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"], timeout=MILLISECONDS
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    latency = Series(
        title="Latency, ms",
        times=[0.0, 0.1, 0.2, 0.3],
        values=[20.0, math.nan, 31.5, 25.0],
        marks=[0.1],
        marks_title="dropped frames",
    )
    path.write_text(_page(series=[latency]).html(), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Browser, report: str) -> Iterator[BrowserPage]:
    """The freshly opened page; it must neither fail nor ask for anything but itself."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.set_default_timeout(MILLISECONDS)
    errors: list[str] = []
    requests: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda line: line.type == "error" and errors.append(line.text))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(report)
    expect(tab.locator("body[data-ready=true]")).to_be_visible()
    yield tab
    tab.close()
    assert errors == []
    assert [url for url in requests if not url.startswith("data:")] == [report]


def _pixel(page: BrowserPage, view: str, x: int, y: int) -> list[int]:
    return page.evaluate(
        "([view, x, y]) => [...document.querySelector(`#view-${view} canvas`)"
        ".getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)",
        [view, x, y],
    )


def test_headline_and_texts(page) -> None:
    expect(page).to_have_title("A <run> & more")
    result = evaluate(_frames(), Categories.from_taxonomy(CITYSCAPES))
    tile = page.locator("li[data-figure=PQ] .value")
    expect(tile).to_have_text(re.compile(rf"{100 * result.pq:.1f}"))
    expect(page.locator("li[data-figure=unknown_recall]")).to_contain_text("50.0")
    expect(page.locator(".facts")).to_contain_text("</script><b>bold</b>")
    expect(page.locator(".note")).to_contain_text("one frame was left out")


def test_worst_first_then_along_the_sequence(page) -> None:
    caption = page.locator("#caption")
    expect(caption).to_contain_text(f"1 of {_FRAMES}: a_000000_000004")
    names = page.locator("#film button").all_inner_texts()
    assert [int(text.split("_")[2][:6]) for text in names] == [4, 3, 2, 1, 0]
    page.get_by_label("Order").select_option("time")
    expect(caption).to_contain_text(f"1 of {_FRAMES}: a_000000_000000")
    page.locator("#film button").nth(2).click()
    expect(caption).to_contain_text(f"3 of {_FRAMES}: a_000000_000002")
    expect(page.locator("#film button[aria-current]")).to_contain_text("a_000000_000002")
    page.get_by_role("button", name="Next frame").click()
    expect(caption).to_contain_text("4 of 5")
    page.get_by_role("button", name="Previous frame").click()
    expect(caption).to_contain_text("3 of 5")


def test_everything_is_reached_by_keyboard(page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the frames")).to_be_focused()
    reached = []
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"palette", "previous", "play", "next", "slider", "order", "CANVAS", "BUTTON"} <= set(
        reached
    )
    page.locator("#slider").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#caption")).to_contain_text("3 of 5")
    page.keyboard.press("End")
    expect(page.locator("#caption")).to_contain_text("5 of 5")
    page.locator("#view-truth canvas").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#probe")).to_have_text("Column 0, row 16: truth sky, prediction sky")
    page.locator("#play").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#play")).to_have_text("Pause")
    expect(page.locator("#caption")).to_contain_text("2 of 5")
    page.keyboard.press("Enter")
    expect(page.locator("#play")).to_have_text("Play")


def test_pictures_show_classes_in_either_palette(page) -> None:
    places = {info.name: info.semantic_id for info in CITYSCAPES.classes}
    assert _pixel(page, "truth", 40, 40) == list(CITYSCAPES.classes[places["car"]].color)
    assert _pixel(page, "prediction", 30, 40) == list(CITYSCAPES.classes[places["road"]].color)
    assert _pixel(page, "truth", 95, 35) == [0, 0, 0]
    assert _pixel(page, "unknown", 97, 35) == [0x00, 0x9E, 0x73]  # found
    assert _pixel(page, "unknown", 92, 35) == [0xE6, 0x9F, 0x00]  # missed
    page.get_by_label("Colours").select_option("safe")
    expect(page.locator("body[data-palette=safe]")).to_be_visible()
    safe = safe_colors(len(CITYSCAPES.classes))
    assert _pixel(page, "truth", 40, 40) == list(safe[places["car"]])
    swatch = page.locator("tr[data-name=car] .swatch")
    assert swatch.evaluate("element => element.style.background") == (
        f"rgb({', '.join(map(str, safe[places['car']]))})"
    )


def test_pointing_reads_off_classes(page) -> None:
    canvas = page.locator("#view-prediction canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 30.5 / 120, box["y"] + box["height"] * 40.5 / 60)
    expect(page.locator("#probe")).to_have_text("Column 30, row 40: truth car, prediction road")


def test_classes_sort(page) -> None:
    rows = page.locator("#classes tbody tr")
    expect(rows).to_have_count(len(CITYSCAPES.classes))
    page.locator("#classes thead").get_by_role("button", name="PQ").click()
    assert rows.first.get_attribute("data-name") == "car"  # the worst that occurs
    head = page.locator("#classes thead th", has_text="PQ")
    expect(head).to_have_attribute("aria-sort", "ascending")
    page.locator("#classes thead").get_by_role("button", name="Class").click()
    assert rows.first.get_attribute("data-name") == "bicycle"


def test_plots(page) -> None:
    plots = page.locator("#plots svg")
    expect(plots).to_have_count(2)
    expect(plots.nth(1)).to_have_attribute(
        "aria-label", re.compile("20.0 to 31.5, 1 dropped frames")
    )
    assert plots.nth(1).locator("path").get_attribute("d").count("M") == 2  # nan breaks the line
    plots.nth(0).locator("circle.link").nth(1).click()
    expect(page.locator("#caption")).to_contain_text("a_000000_000001")


def test_without_points_there_is_no_view_from_above(page) -> None:
    for side in ("truth", "prediction"):
        expect(page.locator(f"#view-{side}-points")).to_be_hidden()


def test_points_are_shown_from_above_in_either_palette(browser: Browser, tmp_path: Path) -> None:
    frames = _frames()
    path = tmp_path / "points.html"
    page = _page([replace(frames[0], cloud=_cloud()), *frames[1:]])
    path.write_text(page.html(), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    try:
        tab.goto(path.as_uri())
        expect(tab.locator("body[data-ready=true]")).to_be_visible()
        expect(tab.locator("#view-truth-points")).to_be_hidden()  # the worst frame has none
        tab.get_by_label("Order").select_option("time")
        expect(tab.locator("#view-truth-points")).to_be_visible()
        expect(tab.locator("#view-prediction-points canvas")).to_have_attribute(
            "aria-label", re.compile("Prediction of the points of a_000000_000000")
        )
        car = next(info for info in CITYSCAPES.classes if info.name == "car")
        colors = _colors(tab, "truth-points"), _colors(tab, "prediction-points")
        assert {car.color, (255, 215, 0), (170, 170, 170)} <= colors[0]
        road = next(info for info in CITYSCAPES.classes if info.name == "road")
        assert {car.color, road.color, (170, 170, 170)} <= colors[1]
        assert (255, 215, 0) not in colors[1]
        tab.get_by_label("Colours").select_option("safe")
        expect(tab.locator("body[data-palette=safe]")).to_be_visible()
        safe = safe_colors(len(CITYSCAPES.classes))[car.semantic_id]
        assert safe in _colors(tab, "truth-points")
    finally:
        tab.close()


def _colors(page: BrowserPage, view: str) -> set[tuple[int, ...]]:
    """The colours that occur in a picture."""
    values = page.evaluate(
        "(view) => { const canvas = document.querySelector(`#view-${view} canvas`);"
        " const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        " const found = new Set(); for (let i = 0; i < data.length; i += 4)"
        " found.add(`${data[i]},${data[i + 1]},${data[i + 2]}`); return [...found]; }",
        view,
    )
    return {tuple(map(int, text.split(","))) for text in values}


def _shown(result: EvaluationResult, notes: Sequence[str] = ()) -> str:
    with redirect_stdout(io.StringIO()) as out:
        show(result, notes)
    return out.getvalue()


def test_names_of_others_do_nothing_to_the_terminal() -> None:
    name = "[/red]\x1b[2J[bold]road\nx"
    first, *others = Categories.from_taxonomy(CITYSCAPES).classes
    categories = Categories((replace(first, name=name), *others))
    frame = replace(_frames()[0], name=name)
    result = evaluate([frame], categories)
    out = _shown(result, [f"left out: {name}"])
    assert "\x1b" not in out
    assert "[/red][2J[bold]road" in out
    assert "left out: [/red][2J[bold]road" in out
    page = Page(title="t", result=result, snapshots=[take_snapshot(frame, categories)])
    assert page.html()


def test_the_terminal_shows_what_scores_of_unknown_are_worth() -> None:
    frames = [
        replace(frame, unknown_scores={"max_logit": frame.truth_unknown * np.uint8(200)})
        for frame in _frames()
    ]
    out = _shown(evaluate(frames, Categories.from_taxonomy(CITYSCAPES)))
    row = next(line for line in out.splitlines() if "max logit" in line)
    assert re.findall(r"[\d.]+", row) == ["100.0", "0.0", "100.0", "0.002"]
    assert re.search(r"region recall +100\.0", out)
    assert "max logit" not in _shown(evaluate(_frames(), Categories.from_taxonomy(CITYSCAPES)))


def test_page_of_no_frames_is_still_a_page() -> None:
    page = Page(title="empty", result=_page().result, snapshots=[])
    assert "No frames were kept." in page.html()


def worst_distance(colors: Sequence[tuple[int, int, int]]) -> float:
    """Smallest CIELAB distance of any two colours, in the worst of all visions."""
    seen = _seen(np.array(colors, np.float64))
    between = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1)
    rows, columns = np.triu_indices(len(colors), 1)
    return float(between[:, rows, columns].min())


@pytest.mark.parametrize("taxonomy", [CITYSCAPES, COCO])
def test_safe_colours_are_further_apart(taxonomy) -> None:
    colors = safe_colors(taxonomy.num_classes)
    assert len(set(colors)) == taxonomy.num_classes
    assert worst_distance(colors) > 4 * worst_distance([info.color for info in taxonomy.classes])


def test_the_selector_keeps_the_worst_and_evenly_spaced_frames() -> None:
    selector = SnapshotSelector(10)
    qualities = np.random.default_rng(0).permutation(1000) / 1000
    for number, quality in enumerate(qualities):
        shot = Snapshot(
            name=str(number), width=1, height=1, image=None, truth=b"", prediction=b"", unknown=None
        )
        selector.add(shot, math.nan if number == 500 else float(quality))
    kept = [int(shot.name) for shot in selector.snapshots()]
    assert len(kept) <= 10
    assert kept == sorted(kept)
    qualities[500] = 1
    assert set(np.argsort(qualities)[:5].tolist()) <= set(kept)
    assert min(kept) == 0
    assert max(kept) > 500
