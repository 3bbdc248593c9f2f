"""Which weights learn, and how gradients move them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.training.settings import OptimizerSettings, Quirks, ScheduleSettings

#: The rate falls to this share at each of `ScheduleSettings.decay_at`.
DECAY = 0.1
#: Share of the rate with which the warm-up begins.
WARMUP_START = 0.1


def freeze_stages(network: UPSNet, count: int) -> None:
    """Stop the first stages of the backbone from learning: 1 is the stem, 2 res2 as well, ..."""
    backbone = network.resnet_backbone
    stages = (backbone.conv1, backbone.res2, backbone.res3, backbone.res4, backbone.res5)
    for stage in stages[:count]:
        stage.requires_grad_(False)


class RateInMomentumSGD(Optimizer):
    """SGD whose momentum buffer holds steps, learning rate included, as in Caffe.

    A change of the rate therefore reaches the weights only as fast as the buffer forgets, which
    is why the original divides the buffers wherever it divides the rate: `scale_momentum`.
    """

    def __init__(self, params: Iterable[Any], *, lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the weights along their gradients."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"]
                buffer.mul_(group["momentum"]).add_(gradient, alpha=group["lr"])
                parameter.sub_(buffer)
        return loss

    @torch.no_grad()
    def scale_momentum(self, factor: float) -> None:
        """Multiply every momentum buffer."""
        for state in self.state.values():
            state["momentum_buffer"].mul_(factor)


def parameter_groups(network: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Return weights, biases and norms that learn, each with its ``rate`` factor and decay."""
    weights, biases, norms = [], [], []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                norms.append(parameter)
            elif name.endswith("bias"):
                biases.append(parameter)
            else:
                weights.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": weights, "rate": 1.0, "weight_decay": settings.weight_decay},
        {"params": biases, "rate": settings.bias_rate, "weight_decay": 0.0},
        {"params": norms, "rate": 1.0, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(network: nn.Module, settings: OptimizerSettings, quirks: Quirks) -> Optimizer:
    """Return the optimiser of a network's parameters that require gradients."""
    groups, rate = parameter_groups(network, settings), settings.learning_rate
    if settings.kind == "adamw":
        return AdamW(groups, lr=rate)
    if quirks.momentum_holds_rate:
        return RateInMomentumSGD(groups, lr=rate, momentum=settings.momentum)
    return SGD(groups, lr=rate, momentum=settings.momentum)


def rate_factor(schedule: ScheduleSettings, iteration: int) -> float:
    """Return the share of the learning rate at an iteration, counted from 0."""
    if iteration < schedule.warmup:
        progress = iteration / schedule.warmup
        return WARMUP_START * (1 - progress) + progress
    if schedule.kind == "cosine":
        left = max(1, schedule.iterations - schedule.warmup)
        return (1 + math.cos(math.pi * (iteration - schedule.warmup) / left)) / 2
    return float(DECAY ** sum(iteration >= decay for decay in schedule.decay_at))


def set_rate(
    optimizer: Optimizer, settings: OptimizerSettings, schedule: ScheduleSettings, iteration: int
) -> float:
    """Give every group its learning rate for an iteration; return that of weights."""
    rate = settings.learning_rate * rate_factor(schedule, iteration)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]
    if isinstance(optimizer, RateInMomentumSGD) and iteration in schedule.decay_at:
        optimizer.scale_momentum(DECAY)
    return rate
