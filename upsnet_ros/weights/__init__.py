"""Weights that ship with the package; README.md beside them is their model card."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SHIPPED_VARIANT", "shipped_weights"]

#: The variant that runs where neither weights nor variant are named.
SHIPPED_VARIANT = "cityscapes-r18"


def shipped_weights(variant: str) -> Path | None:
    """The file of the weights that ship for a variant; None where there are none."""
    path = Path(__file__).with_name(f"{variant}.safetensors")
    return path if path.is_file() else None
