"""Label maps: what a file means, and one clear line for each mistake in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from upsnet_ros import shipped_files
from upsnet_ros.datasets.label_map import LabelMap, label_map_path, read_label_map
from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO
from upsnet_ros.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "config/labels/coco_to_cityscapes.yaml"

OWN = """
from: coco
to: depot
classes:
  ground:
    from: [road, pavement-merged]
    id: 40
    color: [1, 2, 3]
  person: [person]
  vehicle: {from: [car, truck, bus], kind: thing}
  sign: {from: stop sign, kind: stuff}
"""


def _read(folder: Path, text: str) -> LabelMap:
    path = folder / "map.yaml"
    path.write_text(text)
    return read_label_map(path)


def _targets(label_map: LabelMap) -> dict[str, str]:
    return {
        one.name: label_map.taxonomy.classes[target].name
        for one, target in zip(label_map.source.classes, label_map.targets, strict=True)
        if target is not None
    }


def test_the_shipped_map() -> None:
    label_map = read_label_map("coco_to_cityscapes")
    assert label_map == read_label_map(SHIPPED) == read_label_map(SHIPPED.name)
    assert label_map.source is COCO and label_map.taxonomy is CITYSCAPES
    targets = _targets(label_map)
    assert targets["pavement-merged"] == "sidewalk"
    assert targets["traffic light"] == "traffic light" and targets["stop sign"] == "traffic sign"
    assert targets["grass-merged"] == targets["dirt-merged"] == "terrain"
    # Of Cityscapes COCO has neither riders nor poles.
    assert {info.name for info in CITYSCAPES.classes} - {*targets.values()} == {"rider", "pole"}
    assert "airplane" not in targets


def test_a_taxonomy_of_ones_own(tmp_path: Path) -> None:
    label_map = _read(tmp_path, OWN)
    assert label_map.taxonomy.name == "depot"
    classes = [(one.name, one.id, one.is_thing, one.color) for one in label_map.taxonomy.classes]
    assert classes == [
        ("ground", 40, False, (1, 2, 3)),
        ("sign", 13, False, (220, 220, 0)),  # id and colour of COCO's stop sign
        ("person", 1, True, (220, 20, 60)),
        ("vehicle", 3, True, (0, 0, 142)),
    ]


def test_unmapped_classes_are_kept_under_free_ids(tmp_path: Path) -> None:
    text = SHIPPED.read_text().replace("unmapped: void", "unmapped: keep")
    label_map = _read(tmp_path, text)
    targets = _targets(label_map)
    assert len(targets) == 133 and targets["airplane"] == "airplane"
    by_name = {info.name: info for info in label_map.taxonomy.classes}
    assert len({info.id for info in by_name.values()}) == len(by_name) <= 254
    assert by_name["airplane"].id == 5 and by_name["airplane"].is_thing
    # 11 is Cityscapes' building.
    assert by_name["fire hydrant"].id > 200
    assert by_name["car"] == next(
        one for one in label_map.taxonomy.classes if one.id == 26 and one.name == "car"
    )
    assert label_map.taxonomy.name == "cityscapes+coco"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "from, to and classes"),
        ("from: coco\nto: x\nclasses: {}", "classes must map"),
        ("from: coca\nto: x\nclasses: {a: [car]}", "'coca'; did you mean coco"),
        ("from: coco\nto: [x]\nclasses: {a: [car]}", "to must name"),
        ("from: coco\nto: x\nclass: {a: [car]}", "'class'; did you mean classes"),
        ("from: coco\nto: x\nunmapped: drop\nclasses: {a: [car]}", "void or keep, not 'drop'"),
        ("from: coco\nto: x\nclasses: {a: [carr]}", "no class 'carr'; did you mean car"),
        ("from: coco\nto: x\nclasses: {a: [3]}", "no class 3"),
        ("from: coco\nto: x\nclasses: {a: }", "'a' must list classes"),
        ("from: coco\nto: x\nclasses: {1: [car]}", "class 1 must be a text"),
        ("from: coco\nto: x\nclasses: {a: [car], b: [car]}", "'car' is mapped twice"),
        ("from: coco\nto: x\nclasses: {a: [car], a: [bus]}", "'a' is listed twice"),
        ("from: coco\nto: x\nclasses: {a: {from: [road], kind: thing}}", "'road' is stuff"),
        ("from: coco\nto: x\nclasses: {a: {from: [car], kind: think}}", "stuff or thing"),
        ("from: coco\nto: x\nclasses: {a: {from: [car], is: 3}}", "unknown key 'is'"),
        ("from: coco\nto: x\nclasses: {a: {from: [car], id: 255}}", "id 255, not 1 to 254"),
        ("from: coco\nto: x\nclasses: {a: {from: [car], id: yes}}", "must be an integer"),
        ("from: coco\nto: x\nclasses: {a: {from: [car], color: [1]}}", r"must be \[R, G, B\]"),
        ("from: coco\nto: x\nclasses: {a: {from: car, id: 6}, b: bus}", "both have id 6"),
        ("from: coco\nto: x\nunmapped: keep\nclasses: {bus: car}", "'bus' of coco is not listed"),
        ("from: coco\nto: cityscapes\nclasses: {cars: [car]}", "'cars'; did you mean car"),
        (
            "from: coco\nto: cityscapes\nclasses: {car: {from: [car], kind: stuff}}",
            "'car' has kind thing in cityscapes, not 'stuff'",
        ),
        ("from: coco\nto: cityscapes\nclasses: {car: [road]}", "cannot become 'car'"),
        ("a: [", "not a YAML file"),
        ("", "from, to and classes"),
        ("from: coco\nto: x\nclasses: {a: [[car]]}", r"no class \['car'\]"),
        ("from: coco\nto: x\nclasses: {a: [{car: 1}]}", "no class {'car': 1}"),
        ("from: coco\nto: x\nclasses: {a: &a [*a]}", "no class"),
        ("from: coco\nto: x\nclasses: {a: [car, car]}", "'car' is mapped twice"),
        ("from: coco\nto: x\nclasses: {a: &b [car], b: *b}", "'car' is mapped twice"),
        ("from: coco\nto: x\nclasses: {'': [car]}", "'' is not the name of a class"),
        ('from: coco\nto: x\nclasses: {"a\\e[31m": [car]}', "is not the name of a class"),
        ('from: coco\nto: "x\\ny"\nclasses: {a: [car]}', "to must name a taxonomy"),
        ("from: coco\nto: x\nclasses: {a: [2020-99-99]}", "not a YAML file: month"),
        (f"from: coco\nto: x\nclasses: {{a: {{from: car, id: {'9' * 5000}}}}}", "not a YAML file"),
        ("from: coco\nto: x\nclasses: {a: [car], <<: 3}", "at line 3.*merging"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        _read(tmp_path, text)
    assert "\n" not in str(caught.value) and str(tmp_path / "map.yaml") in str(caught.value)


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.mkdir [{}]", "!!python/name:os.mkdir", "!mine {{}}"]
)
@pytest.mark.parametrize("key", ["from", "to", "classes"])
def test_tags_that_run_code_are_refused(tmp_path: Path, key: str, value: str) -> None:
    content = {"from": "coco", "to": "x", "classes": "{a: [car]}"}
    content[key] = value.format(tmp_path / "made")
    with pytest.raises(SettingsError, match="could not determine a constructor"):
        _read(tmp_path, "\n".join(f"{name}: {text}" for name, text in content.items()))
    assert not (tmp_path / "made").exists()


def test_anchors_and_merges_of_yaml(tmp_path: Path) -> None:
    label_map = _read(
        tmp_path,
        """
from: coco
to: x
classes:
  sign: &sign {from: [stop sign], kind: stuff, color: [1, 2, 3]}
  light: {<<: *sign, from: [traffic light]}
""",
    )
    assert [(one.name, one.is_thing, one.color) for one in label_map.taxonomy.classes] == [
        ("sign", False, (1, 2, 3)),
        ("light", False, (1, 2, 3)),
    ]
    assert _targets(label_map) == {"stop sign": "sign", "traffic light": "light"}


def test_classes_that_are_kept_stay_themselves_in_their_own_taxonomy(tmp_path: Path) -> None:
    label_map = _read(
        tmp_path, "from: coco\nto: coco\nunmapped: keep\nclasses: {car: [truck, bus]}"
    )
    assert label_map.taxonomy is COCO
    moved = {source: name for source, name in _targets(label_map).items() if source != name}
    assert moved == {"truck": "car", "bus": "car"}
    assert len(_targets(label_map)) == 133, "car among them"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean coco_to_cityscapes"):
        read_label_map("coco_to_cityscape")
    with pytest.raises(SettingsError, match="no such file"):
        read_label_map(tmp_path / "none.yaml")
    with pytest.raises(SettingsError, match="is a folder"):
        read_label_map(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="not a YAML file"):
        read_label_map(tmp_path / "bytes.yaml")


@pytest.mark.parametrize("library", ["lib/python3.12/site-packages", "local/lib/python3.12"])
def test_a_shipped_map_is_found_where_the_package_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    """As CMakeLists.txt and setup.py install it, into one prefix with the modules."""
    share = tmp_path / "share/upsnet_ros/config/labels"
    share.mkdir(parents=True)
    (share / SHIPPED.name).write_text(SHIPPED.read_text())
    module = tmp_path / library / "upsnet_ros/shipped_files.py"
    monkeypatch.setattr(shipped_files, "__file__", str(module))
    assert label_map_path("coco_to_cityscapes") == share / SHIPPED.name


def test_weights_of_other_classes_are_refused() -> None:
    with pytest.raises(SettingsError, match="classes of coco, but the weights have"):
        read_label_map("coco_to_cityscapes").check_source(CITYSCAPES)
