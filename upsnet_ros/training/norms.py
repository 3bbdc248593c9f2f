"""Batch norms that learn, where a run wants them to."""

from __future__ import annotations

from torch import nn

from upsnet_ros.network.resnet import FrozenBatchNorm2d


def thaw_batch_norms_(module: nn.Module, *, shared: bool) -> None:
    """Replace frozen norms whose convolutions learn by ordinary ones of the same values, in place.

    Parameter names stay, so that the weights load into a network with frozen norms.

    Args:
        module: A network; freeze what should not learn before.
        shared: Whether statistics are those of all processes' images, which torch can do on CUDA
            only; otherwise those of each process's own.
    """
    kind = nn.SyncBatchNorm if shared else nn.BatchNorm2d
    for parent in list(module.modules()):
        if not _learns(parent):
            continue
        for name, child in list(parent.named_children()):
            if isinstance(child, FrozenBatchNorm2d):
                norm = kind(child.num_features, eps=child.eps)
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm)


def _learns(block: nn.Module) -> bool:
    return any(
        parameter.requires_grad
        for child in block.children()
        if isinstance(child, nn.Conv2d)
        for parameter in child.parameters()
    )
