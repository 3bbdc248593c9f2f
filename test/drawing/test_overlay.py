"""Overlay: what is tinted, what is left alone, and that texts keep out of each other's way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO
from upsnet_ros.drawing import overlay
from upsnet_ros.drawing import overlay as captions
from upsnet_ros.drawing.overlay import Caption, draw_captions, draw_overlay
from upsnet_ros.errors import ImageError, SettingsError
from upsnet_ros.inference.frame import Instance, PanopticFrame, StuffSegment

ROAD, SKY, CAR = 7, 23, 26
GREY = 100


def frame_of(
    labels: npt.NDArray[np.int32], unknown: npt.NDArray[np.bool_] | None = None
) -> PanopticFrame:
    """A frame whose tables are read off ``labels``."""
    instances, stuff = [], []
    for value in np.unique(labels[labels > 0]).tolist():
        rows, columns = np.nonzero(labels == value)
        box = tuple(int(v) for v in (columns.min(), rows.min(), columns.max(), rows.max()))
        class_id = value // 1000 or value
        common = {
            "id": value,
            "class_id": class_id,
            "class_name": CITYSCAPES.by_id[class_id].name,
            "box": box,
            "area": rows.size,
        }
        if value >= 1000:
            instances.append(Instance(score=0.9, detection_box=box, **common))
        else:
            stuff.append(StuffSegment(**common))
    return PanopticFrame(
        labels=labels,
        unknown=np.zeros(labels.shape, bool) if unknown is None else unknown,
        instances=tuple(instances),
        stuff=tuple(stuff),
    )


def grey(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), GREY, np.uint8)


def test_classes_take_their_official_colour_and_void_stays() -> None:
    labels = np.zeros((60, 80), np.int32)
    labels[:, 20:40] = ROAD
    labels[:, 40:] = SKY
    image = grey(60, 80)
    drawn = draw_overlay(image, frame_of(labels), CITYSCAPES, alpha=1.0)
    assert (drawn[:, :20] == GREY).all()
    # the corners, where no text can be
    assert drawn[0, 20].tolist() == [128, 64, 128]  # BGR of (128, 64, 128)
    assert drawn[0, 79].tolist() == [180, 130, 70]  # BGR of (70, 130, 180)
    assert (image == GREY).all(), "the image handed in was changed"


def test_alpha_weighs_colour_against_image() -> None:
    labels = np.full((8, 8), SKY, np.int32)
    drawn = draw_overlay(grey(8, 8), frame_of(labels), CITYSCAPES, alpha=0.25)
    expected = 0.75 * GREY + 0.25 * np.array([180, 130, 70])
    assert np.abs(drawn[0, 0] - expected).max() <= 0.5


def test_instances_of_a_class_differ_and_are_outlined() -> None:
    labels = np.full((100, 200), ROAD, np.int32)
    labels[20:80, 20:80] = CAR * 1000 + 1
    labels[20:80, 80:140] = CAR * 1000 + 2
    plain = painted(labels, CITYSCAPES)
    drawn = draw_overlay(plain, frame_of(labels), CITYSCAPES, alpha=0.0)
    left, right = plain[50, 50], plain[50, 110]
    assert (left != right).any()
    changed = (drawn != plain).any(axis=2)
    rim = [drawn[30, 20], drawn[30, 139]]
    assert changed[21:79, 20].all()
    assert changed[21:79, 139].all()
    assert (rim[0] != rim[1]).any(), "two instances share a contour colour"
    assert not changed[85:].any(), "stuff was outlined"


def test_a_track_keeps_its_colours_and_shows_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        overlay, "draw_captions", lambda _, captions: written.extend(one.text for one in captions)
    )
    labels = np.zeros((80, 200), np.int32)
    labels[20:60, 10:90], labels[20:60, 110:190] = 26001, 26002
    swapped = np.zeros_like(labels)
    swapped[labels == 26001], swapped[labels == 26002] = 26002, 26001

    def drawn(map_: npt.NDArray[np.int32], *tracks: int) -> npt.NDArray[np.uint8]:
        frame = frame_of(map_)
        numbered = zip(frame.instances, tracks or (0, 0), strict=True)
        things = tuple(replace(thing, track_id=track) for thing, track in numbered)
        return draw_overlay(grey(80, 200), replace(frame, instances=things), CITYSCAPES)

    first, second = drawn(labels, 12, 4_000_000_000), drawn(swapped, 4_000_000_000, 12)
    assert (first == second).all()
    left, right = first[:, :100], first[:, 100:]
    assert not (left == right).all()
    assert written[:2] == ["car #12 0.90", "car #4000000000 0.90"]
    written.clear()
    assert not (drawn(labels) == drawn(swapped)).all()
    assert written[0] == "car 0.90"


def test_a_thing_that_leaves_the_image_is_open_at_its_edge() -> None:
    labels = np.full((40, 40), CAR * 1000 + 1, np.int32)
    labels[:, 30:] = ROAD
    drawn = draw_overlay(grey(40, 40), frame_of(labels), CITYSCAPES, alpha=0.0)
    assert (drawn[:, 29] != GREY).any(axis=1).all()
    assert (drawn[39, :25] == GREY).all()


def test_unknown_is_striped_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "draw_captions", lambda *_: None)
    unknown = np.zeros((90, 120), bool)
    unknown[30:60, 40:100] = True
    labels = np.zeros((90, 120), np.int32)
    drawn = draw_overlay(grey(90, 120), frame_of(labels, unknown), CITYSCAPES)
    changed = (drawn != GREY).any(axis=2)
    assert changed[unknown].all()
    assert not changed[~unknown].any()
    colors = np.unique(drawn[31, 41:60].reshape(-1, 3), axis=0)
    assert len(colors) >= 2, "one flat colour is no hatching"


@pytest.mark.parametrize(("height", "width"), [(360, 480), (480, 640), (1024, 2048)])
def test_letters_grow_with_the_image(height: int, width: int) -> None:
    canvas = np.zeros((height, width, 3), np.uint8)
    draw_captions(canvas, [Caption(text="HHH", mask=np.ones((height, width), bool))])
    rows = np.flatnonzero((canvas > 128).any(axis=(1, 2)))
    letter_height = np.ptp(rows) + 1
    assert letter_height >= 7, "too small to read"
    assert width / 110 <= letter_height <= width / 40


def test_captions_stay_inside_and_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int, int, int]] = []
    draw = captions._Writer._draw

    def remember(self: captions._Writer, text: str, color, rect: captions._Rect, y: int) -> None:
        drawn.append(rect)
        draw(self, text, color, rect, y)

    monkeypatch.setattr(captions._Writer, "_draw", remember)
    rng = np.random.default_rng(0)
    boxes = []
    for x, y, w, h in rng.integers((0, 0, 40, 40), (600, 440, 200, 200), (80, 4)).tolist():
        boxes.append((x, y, min(x + w, 639), min(y + h, 479)))
    canvas = np.zeros((480, 640, 3), np.uint8)
    draw_captions(canvas, [Caption(text="car 0.90", box=b, color=(0, 200, 0)) for b in boxes])
    assert len(drawn) > 20
    taken = np.zeros((480, 640), np.uint8)
    for left, top, right, bottom in drawn:
        assert 0 <= left < right <= 640
        assert 0 <= top < bottom <= 480
        taken[top:bottom, left:right] += 1
    assert taken.max() == 1


def test_tiny_segments_get_no_caption() -> None:
    canvas = np.zeros((480, 640, 3), np.uint8)
    speck = np.zeros((480, 640), bool)
    speck[100:104, 100:300] = True
    draw_captions(
        canvas,
        [
            Caption(text="person 0.99", box=(10, 10, 17, 17), color=(255, 255, 255)),
            Caption(text="fence", mask=speck),
        ],
    )
    assert not canvas.any()


@pytest.mark.parametrize("width", [640, 2048])
def test_names_of_unknown_regions_are_tags_beside_them(width: int) -> None:
    unknown = np.zeros((width // 2, width), bool)
    side, top = width // 12, width // 4
    lefts = [width // 8 + k * width // 5 for k in range(4)]
    for k, left in enumerate(lefts):
        unknown[top : top + side + k * width // 100, left : left + side] = True
    unknown[10:12, 10:12] = True
    frame = frame_of(np.zeros(unknown.shape, np.int32), unknown)
    drawn = draw_overlay(np.zeros((*unknown.shape, 3), np.uint8), frame, CITYSCAPES)
    tags = (drawn == overlay._UNKNOWN_BGR).all(axis=2) & ~unknown
    assert not tags[:, : lefts[1]].any(), "the smallest of four, or the speck, has a name"
    for left in lefts[1:]:
        assert tags[:top, left : left + side].any(axis=1).sum() >= width / 80


def test_the_name_of_a_winding_region_stands_at_its_widest_part() -> None:
    unknown = np.zeros((320, 640), bool)
    unknown[20:280, 500:508] = True  # a thin pole
    unknown[272:280, 100:508] = True  # a thin wire
    unknown[230:300, 90:170] = True  # a carton
    frame = frame_of(np.zeros(unknown.shape, np.int32), unknown)
    drawn = draw_overlay(np.zeros((320, 640, 3), np.uint8), frame, CITYSCAPES)
    rows, columns = np.nonzero((drawn == overlay._UNKNOWN_BGR).all(axis=2) & ~unknown)
    assert rows.size > 100
    assert rows.min() >= 200
    assert columns.max() <= 200


def test_a_text_gives_way_to_a_shorter_one(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(captions._Writer, "_draw", lambda self, text, *_: written.append(text))
    names = overlay._names(
        Instance(
            id=24001,
            class_id=24,
            class_name="person",
            score=0.87,
            box=(0, 0, 9, 9),
            detection_box=(0.0, 0.0, 9.0, 9.0),
            area=100,
            track_id=12,
        )
    )
    canvas = np.zeros((480, 640, 3), np.uint8)
    for column, width in enumerate((60, 30, 14, 4)):
        box = (20 + 150 * column, 100, 20 + 150 * column + width - 1, 299)
        draw_captions(
            canvas, [Caption(text=names[0], shorter=names[1:], box=box, color=(0, 200, 0))]
        )
    assert written == ["person #12 0.87", "person #12", "#12"]


def test_ink_always_stands_out() -> None:
    def luminance(color: tuple[int, int, int]) -> float:
        """WCAG 2.2's, of BGR."""
        share = np.array(color) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.0722, 0.7152, 0.2126])

    for color in np.random.default_rng(0).integers(0, 256, (500, 3)).tolist():
        light, dark = sorted((luminance(color), luminance(captions.ink_on(color))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_a_caption_wider_than_the_image_is_left_out() -> None:
    canvas = np.zeros((40, 40, 3), np.uint8)
    draw_captions(canvas, [Caption(text="traffic light 0.99", box=(0, 0, 39, 39), color=(9, 9, 9))])
    assert not canvas.any()


def painted(labels, taxonomy, color=overlay._shade) -> npt.NDArray[np.uint8]:
    return overlay._Segments(labels, taxonomy).paint(color)


def test_colours_follow_the_map() -> None:
    labels = np.array([[0, ROAD], [CAR * 1000 + 1, CAR * 1000 + 2]], np.int32)
    flat = painted(labels, CITYSCAPES, overlay._class_color)
    assert flat.dtype == np.uint8
    assert flat.tolist() == [[[0, 0, 0], [128, 64, 128]], [[142, 0, 0], [142, 0, 0]]]
    shaded = painted(labels, CITYSCAPES)
    assert (shaded[1, 0] != shaded[1, 1]).any()


def test_colours_of_ids_beyond_16_bits() -> None:
    labels = np.array([[200, 90 * 1000 + 999]], np.int32)
    flat = painted(labels, COCO, overlay._class_color)
    for column, class_id in enumerate((200, 90)):
        assert flat[0, column].tolist() == list(COCO.by_id[class_id].color[::-1])


@pytest.mark.parametrize(("value", "message"), [(99, "class 99 is not in"), (-1, "negative")])
def test_labels_outside_the_taxonomy_are_named(value: int, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        painted(np.full((2, 2), value, np.int32), CITYSCAPES)


def test_bad_arguments_are_named() -> None:
    frame = frame_of(np.full((4, 6), ROAD, np.int32))
    for image in (grey(6, 4), grey(4, 6).astype(np.float32)):
        with pytest.raises(ImageError, match=r"uint8 \(4, 6, 3\)"):
            draw_overlay(image, frame, CITYSCAPES)
    for alpha in (1.5, "x", float("nan")):
        with pytest.raises(SettingsError, match="alpha"):
            draw_overlay(grey(4, 6), frame, CITYSCAPES, alpha=alpha)
