from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.training.optimizer import (
    RateInMomentumSGD,
    build_optimizer,
    freeze_stages,
    parameter_groups,
    rate_factor,
    set_rate,
)
from upsnet_ros.training.settings import OptimizerSettings, Quirks, ScheduleSettings


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)


def test_published_update() -> None:
    """The rate sits in the buffer, which is divided by ten where the rate is."""
    settings = OptimizerSettings(learning_rate=0.1, weight_decay=0.01)
    schedule = ScheduleSettings(iterations=6, decay_at=(3,), warmup=2)
    module = Line()
    optimizer = build_optimizer(module, settings, Quirks(momentum_holds_rate=True))
    assert isinstance(optimizer, RateInMomentumSGD)
    weight, bias = module.line.weight, module.line.bias
    with torch.no_grad():
        weight.fill_(2.0)
        bias.fill_(1.0)
    p, b, buffers = 2.0, 1.0, [0.0, 0.0]
    rng = np.random.default_rng(0)
    for iteration in range(6):
        gw, gb = rng.normal(size=2).tolist()
        weight.grad, bias.grad = torch.full((1, 1), gw), torch.full((1,), gb)
        set_rate(optimizer, settings, schedule, iteration)
        optimizer.step()
        factor = [0.1, 0.55, 1.0, 0.1, 0.1, 0.1][iteration]
        if iteration == 3:
            buffers = [buffer / 10 for buffer in buffers]
        buffers[0] = 0.9 * buffers[0] + 0.1 * factor * (gw + 0.01 * p)
        buffers[1] = 0.9 * buffers[1] + 2 * 0.1 * factor * gb
        p, b = p - buffers[0], b - buffers[1]
        assert weight.item() == pytest.approx(p, rel=1e-5)
        assert bias.item() == pytest.approx(b, rel=1e-5)


def test_a_schedule_by_seconds_follows_the_time() -> None:
    schedule = ScheduleSettings(seconds=100, kind="cosine", warmup=10)
    assert rate_factor(schedule, 0, 0.0) == pytest.approx(0.1)
    assert rate_factor(schedule, 5, 50.0) == pytest.approx(0.55 * 0.5)
    assert rate_factor(schedule, 10, 50.0) == pytest.approx(0.5)
    assert rate_factor(schedule, 10_000, 50.0) == pytest.approx(0.5), "however many iterations"
    assert rate_factor(schedule, 20, 103.0) == pytest.approx(0.0), "a step that ended late"
    assert [schedule.is_over(10_000, time) for time in (99.9, 100.0)] == [False, True]


def test_cosine_ends_at_zero() -> None:
    schedule = ScheduleSettings(iterations=110, kind="cosine", warmup=10)
    factors = [rate_factor(schedule, i) for i in range(111)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == pytest.approx(0.0, abs=1e-9)
    assert all(a >= b for a, b in pairwise(factors[10:]))


def test_groups_of_the_network() -> None:
    network = UPSNet(get_variant("cityscapes-r18"))
    freeze_stages(network, 2)
    weights, biases = parameter_groups(network, OptimizerSettings())
    assert (weights["rate"], weights["weight_decay"]) == (1.0, 1e-4)
    assert (biases["rate"], biases["weight_decay"]) == (2.0, 0.0)
    names = {parameter: name for name, parameter in network.named_parameters()}
    learning = {names[p] for group in (weights, biases) for p in group["params"]}
    frozen = set(names.values()) - learning
    assert all(names[p].endswith(".bias") for p in biases["params"])
    assert all(
        ".conv1." in name or ".res2." in name or ".bn" in name or ".downsample.1" in name
        for name in frozen
    )
    assert not any(name.startswith("resnet_backbone.res2") for name in learning)
