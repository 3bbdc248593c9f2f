"""Where weights are: bundled with the package, in the cache folder by name, or in a user's file.

`catalogue` has the names, `install` gets weights into the cache folder, and README.md beside them
is the model card of the bundled ones. Finding weights needs no torch.
"""

from __future__ import annotations

import os
from pathlib import Path

from upsnet_ros.errors import CheckpointError, printable
from upsnet_ros.output_files import user_cache
from upsnet_ros.weights.catalogue import CATALOGUE, similar

#: The variant that runs where neither weights nor variant are named.
SHIPPED_VARIANT = "cityscapes-r18"
#: The environment variable that names the folder of downloaded weights.
CACHE_VARIABLE = "UPSNET_WEIGHTS"


def shipped_weights(variant: str) -> Path | None:
    """Return the file of the bundled weights of a variant; None if there are none."""
    path = Path(__file__).with_name(f"{variant}.safetensors")
    return path if path.is_file() else None


def cache_folder() -> Path | None:
    """Return the folder of downloaded weights; None for a user without a home."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).expanduser().absolute() if given else user_cache("weights")


def cached_file(name: str) -> Path | None:
    """Return where weights of that name are kept once they are there; None as `cache_folder`."""
    folder = cache_folder()
    return folder and folder / f"{name}.safetensors"


def name_of(weights: str | os.PathLike[str]) -> str | None:
    """Return the name in the catalogue that a text stands for; None if it is a path.

    A path has a separator or a suffix, or is the path of a file. Anything else is a name if the
    catalogue has it; underscores count as hyphens. ``./coco-fpn-r50`` therefore is always a file.
    """
    text = os.fspath(weights)
    name = text.replace("_", "-")
    return name if name in CATALOGUE and not Path(text).is_file() else None


def find_weights(weights: str | os.PathLike[str]) -> Path:
    """Return the file that a name or a path stands for: the one meaning of ``weights`` everywhere.

    Args:
        weights: A name of the catalogue, such as ``coco-fpn-r50``, or a path; see `name_of`. Of a
            `pathlib.Path`, which drops a leading ``./``, the same holds.

    Raises:
        CheckpointError: There is no such file, or weights of that name are not here yet; the
            message has the command that gets them. Nothing is downloaded.
    """
    name = name_of(weights)
    if name is None:
        return _existing(weights)
    path = shipped_weights(name) or cached_file(name)
    if path is None or not path.is_file():
        raise CheckpointError(f"{name} is not here yet: get it with `upsnet weights get {name}`")
    return path


def _existing(weights: str | os.PathLike[str]) -> Path:
    text = os.fspath(weights)
    path = Path(text)
    try:
        path = path.expanduser()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no home, a zero byte
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot open {printable(text)[:200]}: {reason}") from None
    if is_folder:
        raise CheckpointError(f"{path} is a folder; weights are a file, or a name")
    if not exists:
        plain = os.sep not in text and not path.suffix
        other = f", and no such name in `upsnet weights list`{similar(text)}" if plain else ""
        raise CheckpointError(f"there is no weights file {text}{other}")
    return path
