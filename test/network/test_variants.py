from __future__ import annotations

import parity_folder
import pytest
import torch

from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import VARIANTS, get_variant

OFFICIAL = [name for name in VARIANTS if not name.startswith(("cityscapes-r18", "coco-fpn"))]


@pytest.mark.parametrize("name", OFFICIAL)
def test_names_and_shapes_are_the_official_ones(name: str) -> None:
    table = parity_folder.OURS / f"state_dict_{name.replace('-', '_')}.tsv"
    rows = table.read_text().splitlines()[1:]
    want = {}
    for row in rows:
        key, shape, dtype, kind = row.split("\t")
        want[key] = (tuple(int(n) for n in shape.split(",")) if shape else (), dtype, kind)
    with torch.device("meta"):
        network = UPSNet(get_variant(name))
    got = {
        key: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for key, tensor in network.state_dict().items()
    }
    assert got == {key: row[:2] for key, row in want.items()}


def test_the_small_one_fits_in_32_mb_at_half_precision() -> None:
    with torch.device("meta"):
        network = UPSNet(get_variant("cityscapes-r18"))
    assert 2 * sum(p.numel() for p in network.state_dict().values()) < 32e6


def test_underscores_count_as_hyphens() -> None:
    assert get_variant("coco_r101_dcn") is VARIANTS["coco-r101-dcn"]


def test_unknown_variant_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'r34'.*cityscapes-r50"):
        get_variant("r34")
