"""A recording's files hold what was recorded, in the data sets' own forms."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import psutil
import pytest

from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO, Taxonomy
from upsnet_ros.drawing.result_folder import RecordedFrame, Recording, RecordingSettings
from upsnet_ros.errors import OutputError, RecordingError
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.output_files import MARKER

STAMP_NS = 1_700_000_000_000_000_042


def recorded(labels: npt.NDArray[np.int32], stamp_ns: int = STAMP_NS) -> RecordedFrame:
    unknown = np.zeros(labels.shape, bool)
    unknown[0, :3] = True
    return RecordedFrame(
        image_bgr=np.full((*labels.shape, 3), 80, np.uint8),
        panoptic=PanopticFrame(labels=labels, unknown=unknown, instances=(), stuff=()),
        stamp_ns=stamp_ns,
        frame_id="camera",
        unknown_regions=1,
        latency_ms=12.34,
    )


def begin(folder: Path, taxonomy: Taxonomy = CITYSCAPES, **settings: Any) -> Recording:
    return Recording(folder, taxonomy=taxonomy, settings=RecordingSettings(**settings))


def labels_of(*values: int) -> npt.NDArray[np.int32]:
    return np.repeat(np.array(values, np.int32), 16).reshape(len(values), 16)


def test_cityscapes_labels_are_instance_ids(tmp_path: Path) -> None:
    labels = labels_of(0, 7, 26001, 26002, 33999)
    recording = begin(tmp_path / "out", video=False)
    recording.write(recorded(labels))
    recording.close({})
    written = cv2.imread(str(tmp_path / "out/labels/000000.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16
    assert (written == labels).all()
    assert json.loads((tmp_path / "out/index.json").read_text())["labels_form"] == (
        "cityscapes_instance_ids"
    )


def test_coco_labels_are_panoptic_rgb(tmp_path: Path) -> None:
    labels = labels_of(0, 200, 1001, 90_007)
    recording = begin(tmp_path / "out", COCO, video=False)
    recording.write(recorded(labels))
    recording.close({})
    bgr = cv2.imread(str(tmp_path / "out/labels/000000.png"), cv2.IMREAD_UNCHANGED)
    blue, green, red = (bgr[:, :, channel].astype(int) for channel in range(3))
    assert (red + 256 * green + 65536 * blue == labels).all()
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert index["labels_form"] == "coco_panoptic_rgb"
    assert len(index["classes"]) == 133


@pytest.mark.parametrize("sign", "=+-@")
@pytest.mark.parametrize("before", ["", "\t", "\r", "\x1b"])
def test_a_spreadsheet_runs_no_frame_id(tmp_path: Path, sign: str, before: str) -> None:
    recording = begin(tmp_path, video=False)
    frame_id = f"{before}{sign}cmd|' /C calc'!A0"
    recording.write(replace(recorded(labels_of(7)), frame_id=frame_id))
    recording.close({})
    with (tmp_path / "frames.csv").open(newline="") as table:
        (row,) = csv.DictReader(table)
    assert row["frame_id"] == f"'{sign}cmd|' /C calc'!A0"


def test_table_mask_and_pictures(tmp_path: Path) -> None:
    recording = begin(tmp_path)
    for step in range(2):
        recording.write(recorded(labels_of(0, 7, 7), STAMP_NS + step))
    assert recording.count == 2
    recording.close({"incomplete": 3})
    with (tmp_path / "frames.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["stamp"] for row in rows] == ["1700000000.000000042", "1700000000.000000043"]
    assert rows[1] == {
        "index": "1", "stamp": "1700000000.000000043", "frame_id": "camera", "things": "0",
        "stuff": "0", "unknown_regions": "1", "unknown_pixels": "3", "void_pixels": "16",
        "latency_ms": "12.3",
    }  # fmt: skip
    mask = cv2.imread(str(tmp_path / "unknown/000001.png"), cv2.IMREAD_UNCHANGED)
    assert np.count_nonzero(mask == 255) == 3
    assert np.count_nonzero(mask) == 3
    assert cv2.imread(str(tmp_path / "overlay/000001.png")).shape == (3, 16, 3)
    assert cv2.VideoCapture(str(tmp_path / "overlay.mp4")).read()[0]
    index = json.loads((tmp_path / "index.json").read_text())
    assert (index["frames"], index["complete"], index["incomplete"]) == (2, True, 3)


def test_what_is_written_can_be_read_before_the_end(tmp_path: Path) -> None:
    recording = begin(tmp_path, video=False)
    recording.write(recorded(labels_of(7)))
    assert len((tmp_path / "frames.csv").read_text().splitlines()) == 2
    assert cv2.imread(str(tmp_path / "labels/000000.png"), cv2.IMREAD_UNCHANGED) is not None
    assert json.loads((tmp_path / "index.json").read_text())["complete"] is False
    assert not list(tmp_path.rglob("*.part"))
    recording.close({})


def test_pictures_and_video_can_be_left_out(tmp_path: Path) -> None:
    recording = begin(tmp_path, pictures=False, video=False)
    recording.write(recorded(labels_of(7)))
    recording.close({})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        MARKER, "frames.csv", "index.json", "labels", "unknown"
    ]  # fmt: skip


def test_a_recording_is_replaced_only_when_told(tmp_path: Path) -> None:
    recording = begin(tmp_path, video=False)
    for _ in range(3):
        recording.write(recorded(labels_of(7)))
    recording.close({})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RecordingError, match="already holds a recording"):
        begin(tmp_path)
    again = begin(tmp_path, video=False, overwrite=True)
    again.write(recorded(labels_of(8)))
    again.close({})
    assert len(list((tmp_path / "labels").iterdir())) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_folders_of_something_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/mine.png").write_bytes(b"precious")
    with pytest.raises(RecordingError, match="did not write labels"):
        begin(tmp_path, overwrite=True)
    assert (tmp_path / "labels/mine.png").read_bytes() == b"precious"


def test_closing_ends_the_encoder_whatever_else_fails(tmp_path: Path) -> None:
    out = tmp_path / "out"
    recording = begin(out)
    recording.write(recorded(labels_of(7)))
    (encoder,) = [
        child
        for child in psutil.Process().children()
        if str(out / "overlay.mp4") in child.cmdline()
    ]
    (out / "index.json").unlink()
    (out / "index.json").mkdir()  # nothing can be written there, as on a full disk
    with pytest.raises(OutputError, match=r"index\.json"):
        recording.close({})
    assert not psutil.pid_exists(encoder.pid)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RecordingError, match=f"{tmp_path}/out"):
        begin(tmp_path / "out")


def test_a_disk_that_fails_is_named(tmp_path: Path) -> None:
    recording = begin(tmp_path, video=False)
    (tmp_path / "labels").rmdir()
    with pytest.raises(RecordingError, match=r"cannot write .*labels/000000\.png"):
        recording.write(recorded(labels_of(7)))
    assert recording.count == 0
    assert len((tmp_path / "frames.csv").read_text().splitlines()) == 1
