"""Selection of trainable weights, optimisers, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from upsnet_ros.network.resnet import FrozenBatchNorm2d
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.training.settings import OptimizerSettings, Quirks, ScheduleSettings

#: Factor on the learning rate at each of `ScheduleSettings.decay_at`.
DECAY = 0.1
#: Factor on the learning rate at the start of the warm-up.
WARMUP_START = 0.1


def thaw_batch_norms_(module: nn.Module, *, shared: bool) -> None:
    """Replace frozen norms by trainable ones with the same values, in place.

    Norms beside frozen convolutions stay frozen. Parameter names do not change, so that the weights
    load into a network with frozen norms.

    Args:
        module: A network; freeze stages before calling this.
        shared: Whether to synchronise statistics over all processes (CUDA only); otherwise each
            process uses its own images.
    """
    kind = nn.SyncBatchNorm if shared else nn.BatchNorm2d
    for parent in list(module.modules()):
        if not _is_trainable(parent):
            continue
        for name, child in list(parent.named_children()):
            if isinstance(child, FrozenBatchNorm2d):
                norm = kind(child.num_features, eps=child.eps)
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm)


def _is_trainable(block: nn.Module) -> bool:
    return any(
        parameter.requires_grad
        for child in block.children()
        if isinstance(child, nn.Conv2d)
        for parameter in child.parameters()
    )


def freeze_stages(network: UPSNet, count: int) -> None:
    """Freeze the first ``count`` stages of the backbone: 1 the stem, 2 also res2, and so on."""
    backbone = network.resnet_backbone
    stages = (backbone.conv1, backbone.res2, backbone.res3, backbone.res4, backbone.res5)
    for stage in stages[:count]:
        stage.requires_grad_(False)


class RateInMomentumSGD(Optimizer):
    """SGD whose momentum buffer includes the learning rate, as in Caffe.

    A change of the rate would take effect only as the buffer decays, which is why the original
    divides the buffers whenever it divides the rate: `scale_momentum`.
    """

    def __init__(self, params: Iterable[Any], *, lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one optimisation step."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
            buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
            # All of a group at once: on a GPU one by one would take a launch for each.
            gradients = torch._foreach_add(
                [p.grad for p in parameters], parameters, alpha=group["weight_decay"]
            )
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, gradients, alpha=group["lr"])
            torch._foreach_sub_(parameters, buffers)
        return loss

    @torch.no_grad()
    def scale_momentum(self, factor: float) -> None:
        """Multiply all momentum buffers by ``factor``."""
        for state in self.state.values():
            state["momentum_buffer"].mul_(factor)


def parameter_groups(network: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Return groups of trainable parameters with ``rate`` factor and weight decay."""
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


def build_optimizer(
    network: nn.Module, settings: OptimizerSettings, quirks: Quirks, *, fused: bool = False
) -> Optimizer:
    """Return the optimiser of a network's trainable parameters.

    Args:
        network: The network.
        settings: Settings of the optimiser.
        quirks: Faults of the original to reproduce.
        fused: Whether torch updates all parameters of a group in one launch.
    """
    groups, rate = parameter_groups(network, settings), settings.learning_rate
    if settings.kind == "adamw":
        return AdamW(groups, lr=rate, fused=fused)
    if quirks.momentum_holds_rate:
        return RateInMomentumSGD(groups, lr=rate, momentum=settings.momentum)
    return SGD(groups, lr=rate, momentum=settings.momentum, fused=fused)


def rate_factor(schedule: ScheduleSettings, iteration: int, elapsed: float = 0.0) -> float:
    """Return the factor on the learning rate at an iteration, counted from 0.

    Args:
        schedule: Schedule of the run.
        iteration: Number of completed steps.
        elapsed: Elapsed training time in seconds, for a schedule by seconds.
    """
    warm = 1.0
    if iteration < schedule.warmup:
        progress = iteration / schedule.warmup
        warm = WARMUP_START * (1 - progress) + progress
    if schedule.seconds is not None:
        return warm * _cosine(elapsed / schedule.seconds)
    if iteration < schedule.warmup:
        return warm
    if schedule.kind == "cosine" and schedule.iterations is not None:
        left = max(1, schedule.iterations - schedule.warmup)
        return _cosine((iteration - schedule.warmup) / left)
    return float(DECAY ** sum(iteration >= decay for decay in schedule.decay_at))


def _cosine(progress: float) -> float:
    """Return half a cosine: 1 at progress 0, 0 at progress 1 and after it."""
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def set_rate(
    optimizer: Optimizer,
    settings: OptimizerSettings,
    schedule: ScheduleSettings,
    iteration: int,
    elapsed: float = 0.0,
) -> float:
    """Set the learning rates of all groups for an iteration; return that of the weights.

    Args:
        optimizer: Optimiser from `build_optimizer`.
        settings: Settings of the optimiser.
        schedule: Schedule of the run.
        iteration: Number of completed steps.
        elapsed: Elapsed training time, seconds.
    """
    rate = settings.learning_rate * rate_factor(schedule, iteration, elapsed)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]
    if isinstance(optimizer, RateInMomentumSGD) and iteration in schedule.decay_at:
        optimizer.scale_momentum(DECAY)
    return rate
