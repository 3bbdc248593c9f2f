from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from upsnet_ros.cli import main
from upsnet_ros.datasets.taxonomy import CITYSCAPES
from upsnet_ros.synthetic.dataset import DrivingScenes


def _run(capfd, *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(arg) for arg in args])
    out, err = capfd.readouterr()
    return end.value.code or 0, out, err


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Four frames of two drives; the prediction misses the car in one of them."""
    truth = np.full((40, 60), 7)
    truth[:10] = 23
    truth[20:30, 20:40] = 26001
    missed = np.where(truth == 26001, 7, truth)
    paths = {}
    for side in ("gt", "pred"):
        (tmp_path / side).mkdir()
        rows = []
        for number in range(4):
            ids = missed if (side, number) == ("pred", 2) else truth
            name = f"a_{number // 2:06d}_{number:06d}"
            bgr = np.stack([ids >> 16, ids >> 8, ids], axis=-1).astype(np.uint8)
            assert cv2.imwrite(str(tmp_path / side / f"{name}.png"), bgr)
            infos = [
                {"id": i, "category_id": 26 if i > 1000 else i, "iscrowd": 0}
                for i in np.unique(ids).tolist()
            ]
            rows.append({"image_id": name, "file_name": f"{name}.png", "segments_info": infos})
        categories = [
            {"id": info.id, "name": info.name, "isthing": int(info.is_thing), "color": info.color}
            for info in CITYSCAPES.classes
        ]
        paths[side] = tmp_path / f"{side}.json"
        paths[side].write_text(json.dumps({"annotations": rows, "categories": categories}))
    return paths


def test_two_folders_to_json_and_report(files, tmp_path, capfd) -> None:
    code, out, err = _run(
        capfd, "evaluate", "files", "--gt-json", files["gt"], "--gt-dir", tmp_path / "gt",
        "--pred-json", files["pred"], "--pred-dir", tmp_path / "pred", "--vpq", "--boundary",
        "--processes", 1, "--json", tmp_path / "out.json", "--report", tmp_path / "out.html",
    )  # fmt: skip
    assert code == 0, err
    figures = json.loads((tmp_path / "out.json").read_text())
    car = next(row for row in figures["classes"] if row["name"] == "car")
    assert (car["tp"], car["fp"], car["fn"]) == (3, 0, 1)
    assert figures["PQ_things"] == pytest.approx(3 / 3.5)
    assert figures["frames"][2]["name"] == "a_000001_000002"
    assert figures["intervals"].keys() >= {"PQ", "mIoU"}
    assert figures["video"]["windows"]["0"]["PQ"] == pytest.approx(figures["PQ"])
    assert figures["tracks"] == {"id_switches": 0, "MOTSA": 0.75, "sMOTSA": 0.75}
    assert f"{100 * figures['PQ']:.1f}" in out
    assert "car *" in out
    page = (tmp_path / "out.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "Id switches" in page
    assert "sMOTSA of things" in page


def test_video_quality_without_sequences_is_told(files, tmp_path, capfd) -> None:
    for side in ("gt", "pred"):
        content = json.loads(files[side].read_text())
        for row, name in zip(content["annotations"], "asdf", strict=True):
            (tmp_path / side / row["file_name"]).rename(tmp_path / side / f"{name}.png")
            row["image_id"], row["file_name"] = name, f"{name}.png"
        files[side].write_text(json.dumps(content))
    code, out, _ = _run(
        capfd, "evaluate", "files", "--gt-json", files["gt"], "--pred-json", files["pred"], "--vpq",
        "--processes", 1, "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert code == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert "video" not in figures
    assert "tracks" not in figures
    assert "no two frames of one sequence" in " ".join(figures["notes"])
    assert "no two frames of one sequence" in " ".join(out.split())
    assert "VPQ" not in out
    assert "MOTSA" not in out


def test_folders_stand_beside_their_json_files(files, capfd) -> None:
    options = ("files", "--gt-json", files["gt"], "--pred-json", files["pred"], "--processes", 1)
    code, out, _ = _run(capfd, "evaluate", *options)
    assert code == 0
    assert "panoptic quality" in out


@pytest.mark.parametrize("processes", [1, 2])
def test_files_need_no_torch(files, processes) -> None:
    code = (
        "import atexit, sys; from upsnet_ros.cli import main\n"
        "atexit.register(lambda: print('torch' in sys.modules, 'cv2' in sys.modules)); main()"
    )
    options = ["--gt-json", files["gt"], "--pred-json", files["pred"], "--processes", processes]
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", "files", *map(str, options)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "panoptic quality" in done.stdout
    assert done.stdout.splitlines()[-1] == "False True"


def test_missing_frames_are_an_error_unless_allowed(files, tmp_path, capfd) -> None:
    (tmp_path / "pred" / "a_000000_000001.png").unlink()
    options = ("files", "--gt-json", files["gt"], "--pred-json", files["pred"], "--processes", 1)
    code, _, err = _run(capfd, "evaluate", *options)
    assert code == 1
    assert "a_000000_000001" in err
    assert err.count("\n") == 1
    code, out, _ = _run(
        capfd, "evaluate", *options, "--allow-missing", "--json", tmp_path / "out.json"
    )
    assert code == 0
    assert "a_000000_000001" in out
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["frames_evaluated"] == 3
    assert "a_000000_000001" in figures["notes"][0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("bags",),
        ("files", "--gt-json", "a.json"),
        ("dataset",),
        ("dataset", "coco", "--gt-json", "a"),
    ],
)
def test_what_a_subcommand_lacks_or_does_not_know_is_wrong_usage(arguments, capfd) -> None:
    code, _, err = _run(capfd, "evaluate", *arguments)
    assert code == 2
    assert "Missing" in err or "No such option" in err


def test_a_data_set_has_a_folder(capfd) -> None:
    code, _, err = _run(capfd, "evaluate", "dataset", "cityscapes")
    assert code == 1
    assert err == "error: dataset cityscapes needs its folder: pass --root\n"


def test_what_ships_is_judged_on_drawn_scenes_when_nothing_is_named(tmp_path, capfd) -> None:
    options = ("dataset", "scenes", "--split", "test", "--limit", 1, "--scale", 64)
    file = tmp_path / "o.json"
    code, _, err = _run(capfd, "evaluate", *options, "--device", "cpu", "--json", file)
    assert code == 0, err
    figures = json.loads(file.read_text())
    assert figures["facts"]["Data set"] == "scenes, test"
    assert figures["facts"]["Model"].endswith("cityscapes-r18.safetensors")
    scores = figures["unknown"]["scores"]
    assert set(scores) == {"unknown_channel", "max_softmax", "max_logit"}


def test_weights_of_other_classes_are_evaluated_through_a_label_map(tmp_path, capfd) -> None:
    file = tmp_path / "o.json"
    options = (
        "dataset", "scenes", "--split", "test", "--limit", 1, "--scale", 64, "--device", "cpu",
        "--variant", "coco-fpn-r50", "--allow-random-weights", "--json", file,
    )  # fmt: skip
    code, _, err = _run(capfd, "evaluate", *options, "--label-map", "coco_to_cityscape")
    assert code == 1 and "did you mean coco_to_cityscapes" in err and err.count("\n") == 1
    code, _, err = _run(capfd, "evaluate", *options)
    assert code == 1 and "other classes than scenes" in err and "--label-map" in err
    code, _, err = _run(capfd, "evaluate", *options, "--label-map", "coco_to_cityscapes")
    assert code == 0, err
    figures = json.loads(file.read_text())
    assert figures["facts"]["Label map"] == "coco_to_cityscapes.yaml"
    rows = {row["name"]: row for row in figures["classes"]}
    assert rows.keys() == {info.name for info in CITYSCAPES.classes}


def test_a_model_on_a_data_set(tmp_path, capfd) -> None:
    folders = [tmp_path / kind / "val" / "a" for kind in ("leftImg8bit", "gtFine")]
    for folder in folders:
        folder.mkdir(parents=True)
    for number, scene in enumerate(DrivingScenes("val", 0, 2, (128, 256))):
        name = f"a_000000_{number:06d}"
        assert cv2.imwrite(str(folders[0] / f"{name}_leftImg8bit.png"), scene.image)
        ids = np.full((128, 256), 7, np.uint16)
        assert cv2.imwrite(str(folders[1] / f"{name}_gtFine_instanceIds.png"), ids)
    options = (
        "dataset", "cityscapes", "--root", tmp_path, "--variant", "cityscapes-r18",
        "--scale", 128, "--device", "cpu", "--allow-random-weights", "--json", tmp_path / "o.json",
    )  # fmt: skip
    code, out, err = _run(capfd, "evaluate", *options, "--limit", 1)
    assert code == 0, err
    assert "random weights: these metrics mean nothing" in out
    figures = json.loads((tmp_path / "o.json").read_text())
    assert figures["frames_evaluated"] == 1
    assert figures["facts"]["Short side"] == "128 px"

    code, out, err = _run(capfd, "evaluate", *options, "--overwrite", "--vpq")
    assert code == 0, err
    assert "id switches             0" in out
    figures = json.loads((tmp_path / "o.json").read_text())
    assert figures["frames_evaluated"] == 2
    assert figures["tracks"]["id_switches"] == 0
    assert figures["video"]["windows"]["0"]["PQ"] == figures["PQ"]
    code, _, err = _run(capfd, "evaluate", *options[:4], "--variant", "coco-r50")
    assert code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_compare_shows_what_changed(files, tmp_path, capfd) -> None:
    for name, prediction in (("a", files["gt"]), ("b", files["pred"])):
        code, _, err = _run(
            capfd, "evaluate", "files", "--gt-json", files["gt"], "--pred-json", prediction,
            "--processes", 1, "--vpq", "--json", tmp_path / f"{name}.json",
        )  # fmt: skip
        assert code == 0, err
    code, out, _ = _run(
        capfd, "compare", tmp_path / "a.json", tmp_path / "b.json", "--json", tmp_path / "c.json"
    )
    assert code == 0
    assert "a_000001_000002" in out
    assert "a_000000_000000" not in out
    difference = json.loads((tmp_path / "c.json").read_text())
    assert difference["frames"][0]["name"] == "a_000001_000002"
    assert difference["frames"][0]["change"] < 0
    car = next(row for row in difference["classes"] if row["name"] == "car")
    assert car["change"] == pytest.approx(3 / 3.5 - 1)
    figures = {row["name"]: row for row in difference["figures"]}
    assert (figures["MOTSA"]["a"], figures["MOTSA"]["b"]) == (1, 0.75)
    assert figures["VPQ"]["change"] is None  # drives of two frames are shorter than most windows
    assert figures["VPQ_0"]["a"] == 1 and figures["VPQ_0"]["change"] < 0
    # Named as by `evaluate`, and without signs where nothing changes.
    assert "PQ stuff" in out and "VPQ 0" in out and "_stuff" not in out
    assert "-0.0" not in out and "+0.0" not in out


def test_compare_refuses_other_files(tmp_path, capfd) -> None:
    (tmp_path / "a.json").write_text("{}")
    code, _, err = _run(capfd, "compare", tmp_path / "a.json", tmp_path / "a.json")
    assert code == 1
    assert "was not written by `upsnet evaluate --json`" in err
    code, _, err = _run(capfd, "compare", tmp_path / "none.json", tmp_path / "a.json")
    assert "there is no file" in err and "none.json" in err


@pytest.fixture
def bags(tmp_path: Path) -> dict[str, Path]:
    """Three frames of a road; the outputs miss the car in the last."""
    from upsnet_ros.bags.messages import IMAGE, LABEL_INFO, Messages
    from upsnet_ros.bags.writer import BagWriter

    truth = np.full((40, 60), 7)
    truth[:10] = 23
    truth[20:30, 20:40] = 26001
    paths = {"truth": tmp_path / "truth", "outputs": tmp_path / "outputs"}
    with BagWriter(path=paths["truth"]) as drive, BagWriter(path=paths["outputs"]) as outputs:
        make = Messages(drive.types, "camera")
        info = make.label_info(CITYSCAPES, 1)
        drive.write("/ground_truth/label_info", info, 1, LABEL_INFO)
        for number in range(3):
            stamp = 10**18 + number * 10**8
            image = make.image(np.full((40, 60, 3), 99), "bgr8", stamp)
            drive.write("/camera/image_raw", image, stamp, IMAGE)
            labels = make.image(truth, "16UC1", stamp)
            drive.write("/ground_truth/labels", labels, stamp, IMAGE)
            found = np.where(truth == 26001, 7, truth) if number == 2 else truth
            labels = make.image(found, "16UC1", stamp)
            outputs.write("/panoptic/labels", labels, stamp + 20_000_000, IMAGE)
    return paths


def test_a_bag_of_outputs_and_one_of_truth(bags, tmp_path, capfd) -> None:
    code, _, err = _run(
        capfd, "evaluate", "bags", bags["outputs"], "--gt-bag", bags["truth"],
        "--json", tmp_path / "out.json", "--report", tmp_path / "out.html",
    )  # fmt: skip
    assert code == 0, err
    figures = json.loads((tmp_path / "out.json").read_text())
    car = next(row for row in figures["classes"] if row["name"] == "car")
    assert (car["tp"], car["fp"], car["fn"]) == (2, 0, 1)
    assert figures["sequences"] == 1
    page = (tmp_path / "out.html").read_text()
    assert "Latency from image to labels" in page
    assert page.count("data:image/jpeg") == 3


def test_several_bags_count_as_one_set(bags, tmp_path, capfd) -> None:
    pair = (bags["outputs"], "--gt-bag", bags["truth"])
    code, _, err = _run(
        capfd, "evaluate", "bags", *pair, *pair, "--processes", 1, "--json", tmp_path / "a.json"
    )
    assert code == 1
    assert "occurs twice" in err
    other = bags["outputs"].rename(tmp_path / "again")
    other.joinpath("outputs.mcap").rename(other / "again.mcap")
    other.joinpath("metadata.yaml").unlink()
    code, _, err = _run(
        capfd, "evaluate", "bags", other, "--gt-bag", bags["truth"],
        other / "again.mcap", "--gt-bag", bags["truth"], "--processes", 1,
        "--json", tmp_path / "b.json",
    )  # fmt: skip
    assert code == 0, err
    figures = json.loads((tmp_path / "b.json").read_text())
    car = next(row for row in figures["classes"] if row["name"] == "car")
    assert (car["tp"], car["fp"], car["fn"]) == (4, 0, 2)
    assert figures["sequences"] == 2


def test_a_bag_of_images_and_a_model(bags, tmp_path, capfd) -> None:
    code, _, err = _run(
        capfd, "evaluate", "bags", bags["truth"], "--variant", "cityscapes-r18",
        "--allow-random-weights", "--scale", 32, "--limit", 1, "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert code == 0, err
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["frames_evaluated"] == 1
    assert "random weights: these metrics mean nothing" in figures["notes"]


def test_a_bag_without_results_is_segmented_with_a_word(bags, capfd) -> None:
    options = ("evaluate", "bags", bags["truth"], "--scale", 32, "--limit", 1, "--device", "cpu")
    code, _, err = _run(capfd, *options)
    assert code == 0, err
    assert f"{bags['truth']} holds no results: segmented with the bundled weights" in err
    random = ("--variant", "cityscapes-r18", "--allow-random-weights")
    for arguments in ((*options, *random), (*options[:2], bags["outputs"], "--gt-bag", options[2])):
        code, _, err = _run(capfd, *arguments)
        assert code == 0, err
        assert "no results" not in err


def test_bags_that_do_not_fit(bags, tmp_path, capfd) -> None:
    pair = (bags["outputs"], "--gt-bag", bags["truth"])
    for args, reason in (
        ((bags["outputs"],), "has no ground truth"),
        ((*pair, "--outputs", "/panopticc"), "there are labels in /panoptic"),
        ((tmp_path / "none",), "there is no bag"),
        ((bags["outputs"], "--gt-bag", bags["truth"], "--gt-bag", "x"), "2 --gt-bag"),
    ):
        code, _, err = _run(capfd, "evaluate", "bags", *args)
        assert code == 1
        assert reason in err
