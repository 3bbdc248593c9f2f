from __future__ import annotations

from pathlib import Path

import pytest

from upsnet_ros.errors import SettingsError
from upsnet_ros.node.parameter_info import as_markdown, infos
from upsnet_ros.points.parameters import PointsSettings

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_holds_the_table_of_parameters():
    page = (ROOT / "docs" / "points.md").read_text()
    assert as_markdown(infos(PointsSettings)) in page, (
        "generate it again: python -m upsnet_ros.points.parameters"
    )


def test_without_extrinsics_there_is_no_pose():
    assert PointsSettings().pose is None
    pose = PointsSettings(extrinsics=(1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 1.0)).pose
    assert pose is not None
    assert pose.translation.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"extrinsics": (0.0,) * 6}, "7 finite numbers"),
        ({"extrinsics": (0, 0, 0, 0, 0, 0, 1)}, "double array"),
        ({"extrinsics": (0.0,) * 6 + (2.0,)}, "length 1"),
        ({"input": "radar"}, "depth, cloud"),
        ({"object_quantile": 0.2}, "0.0 to 0.15"),
    ],
)
def test_values_that_cannot_be_used(values, says):
    with pytest.raises(SettingsError, match=says):
        PointsSettings(**values)


def test_numbers_are_read_from_text():
    info = next(one for one in infos(PointsSettings) if one.name == "extrinsics")
    assert info.ros_type == "double array"
    assert info.parse("[0, 0, 1.5, 0,0,0, 1]") == (0.0, 0.0, 1.5, 0.0, 0.0, 0.0, 1.0)
    with pytest.raises(SettingsError, match="extrinsics must be numbers separated by commas"):
        info.parse("a,b")
