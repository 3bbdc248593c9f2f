"""Parity cases as networks and pictures of the benchmark."""

from __future__ import annotations

from pathlib import Path

import parity_folder
import pytest
import torch

from upsnet_ros.benchmark.compare import parity_cases
from upsnet_ros.network.checkpoint import load_state_dict
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.network.weights_file import read_state_dict


def test_a_case_is_made_anew() -> None:
    cases = parity_cases(parity_folder.FOLDER)
    assert not [case for case in cases if case.path.name.startswith(("train_", "unit_"))]
    case = cases[0]
    assert (case.image() == parity_folder.image(case.meta)).all()
    with case.weights() as path:
        tensors = read_state_dict(path)
        network = UPSNet(get_variant(case.variant))
        load_state_dict(network, tensors, source=str(path))
    assert not path.exists()
    expected, _ = parity_folder.weights(case.meta)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())


def test_a_folder_without_cases(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no parity cases"):
        parity_cases(tmp_path)
