"""The weights that have a name: where they come from, how good they are, and under which licence.

The names are those of the network's variants. Nothing here needs torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from upsnet_ros.errors import SettingsError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """What a user must know before using weights.

    Attributes:
        name: Short name.
        url: Where its full text is.
        commercial: Whether it allows commercial use.
        summary: What it asks for, a sentence or two.
    """

    name: str
    url: str
    commercial: bool
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A published file.

    Attributes:
        name: Its name.
        url: Where it can be downloaded; None if its authors are to be asked.
        md5: First hexadecimal digits of its MD5 digest; empty if unknown.
        quality: Published panoptic quality in percent.
        measured_on: What that was measured on.
        note: How it was trained, if several files fit one variant.
    """

    name: str
    url: str | None
    md5: str = ""
    quality: float
    measured_on: str
    note: str = ""

    @property
    def published(self) -> str:
        """The published quality in words."""
        return f"PQ {self.quality} on {self.measured_on}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Weights with a name.

    Attributes:
        name: Their name, which is that of the variant.
        dataset: The taxonomy of their classes, ``cityscapes`` or ``coco``.
        origin: Who trained them.
        page: Where their authors describe them.
        attribution: Whom to credit.
        licence: Its terms.
        files: The published files that hold them; the first is the one to get.
        megabytes: Size in MB, as this project keeps them.
        bundled: Whether they come with this package.
    """

    name: str
    dataset: Literal["cityscapes", "coco"]
    origin: str
    page: str
    attribution: str
    licence: Licence
    files: tuple[File, ...]
    megabytes: int
    bundled: bool = False

    @property
    def file(self) -> File:
        """The published file to get."""
        return self.files[0]

    def published_as(self, md5: str) -> File | None:
        """Return the published file that has this MD5 digest, as far as digits are known."""
        return next((file for file in self.files if file.md5 and md5.startswith(file.md5)), None)


_CC_BY_SA = Licence(
    name="CC BY-SA 3.0",
    url="https://creativecommons.org/licenses/by-sa/3.0/",
    commercial=True,
    summary="Commercial use is allowed. Whoever passes the weights on, or weights fine-tuned from"
    " them, must name the authors, say what was changed, and keep this licence.",
)
_UBER = Licence(
    name="Uber Non-Commercial",
    url="https://github.com/uber-research/UPSNet/blob/master/LICENSE",
    commercial=False,
    summary="Non-commercial use only, of the weights and also of their results. Public use of the"
    " results needs a notice with a link to the work and its licence.",
)
_APACHE = Licence(
    name="Apache-2.0",
    url="https://www.apache.org/licenses/LICENSE-2.0",
    commercial=True,
    summary="Commercial use is allowed. Keep the licence and the notices.",
)

_ZOO = "https://dl.fbaipublicfiles.com/detectron2/COCO-PanopticSegmentation/"
_UPSNET = "https://github.com/uber-research/UPSNet"
_VAL = "COCO val2017"


def _detectron2(name: str, *files: File, megabytes: int) -> Entry:
    return Entry(
        name=name,
        dataset="coco",
        origin="detectron2",
        page="https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md",
        attribution="Panoptic FPN from the detectron2 model zoo: Yuxin Wu, Alexander Kirillov,"
        " Francisco Massa, Wan-Yen Lo and Ross Girshick, Detectron2, 2019",
        licence=_CC_BY_SA,
        files=files,
        megabytes=megabytes,
    )


def _zoo_file(folder: str, md5: str, *, quality: float, schedule: str) -> File:
    name = f"model_final_{md5}.pkl"
    return File(
        name=name,
        url=f"{_ZOO}{folder}/{name}",
        md5=md5,
        quality=quality,
        measured_on=_VAL,
        note=f"{schedule} schedule",
    )


def _upsnet(name: str, file: str, *, quality: float, measured_on: str, megabytes: int) -> Entry:
    return Entry(
        name=name,
        dataset="cityscapes" if name.startswith("cityscapes") else "coco",
        origin="UPSNet",
        page=_UPSNET,
        attribution="UPSNet: Yuwen Xiong, Renjie Liao, Hengshuang Zhao, Rui Hu, Min Bai, Ersin"
        " Yumer and Raquel Urtasun, CVPR 2019; (c) Uber, 2018-2019",
        licence=_UBER,
        files=(File(name=file, url=None, quality=quality, measured_on=measured_on),),
        megabytes=megabytes,
    )


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _detectron2(
            "coco-fpn-r50",
            _zoo_file("panoptic_fpn_R_50_3x/139514569", "c10459", quality=41.5, schedule="3x"),
            _zoo_file("panoptic_fpn_R_50_1x/139514544", "dbfeb4", quality=39.4, schedule="1x"),
            megabytes=184,
        ),
        _detectron2(
            "coco-fpn-r101",
            _zoo_file("panoptic_fpn_R_101_3x/139514519", "cafdb1", quality=43.0, schedule="3x"),
            megabytes=260,
        ),
        _upsnet(
            "cityscapes-r50",
            "upsnet_resnet_50_cityscapes_12000.pth",
            quality=59.3,
            measured_on="Cityscapes val",
            megabytes=178,
        ),
        _upsnet(
            "cityscapes-r101-coco",
            "upsnet_resnet_101_cityscapes_w_coco_3000.pth",
            quality=61.8,
            measured_on="Cityscapes val, at several scales",
            megabytes=255,
        ),
        _upsnet(
            "coco-r50",
            "upsnet_resnet_50_coco_90000.pth",
            quality=42.5,
            measured_on=_VAL,
            megabytes=185,
        ),
        _upsnet(
            "coco-r101-dcn",
            "upsnet_resnet_101_dcn_coco_270000.pth",
            quality=46.6,
            measured_on="COCO test-dev",
            megabytes=266,
        ),
        Entry(
            name="cityscapes-r18",
            dataset="cityscapes",
            origin="upsnet_ros",
            page="upsnet_ros/weights/README.md",
            attribution="upsnet_ros, trained on synthetic street scenes",
            licence=_APACHE,
            files=(
                File(
                    name="cityscapes-r18.safetensors",
                    url=None,
                    quality=36.0,
                    measured_on="synthetic street scenes",
                ),
            ),
            megabytes=29,
            bundled=True,
        ),
    )
}


def find_entry(name: str) -> Entry:
    """Return the weights of that name; underscores count as hyphens.

    Raises:
        SettingsError: There are none; the message has the names.
    """
    entry = CATALOGUE.get(name.replace("_", "-"))
    if entry is None:
        raise SettingsError(
            f"no weights are called {name!r}{similar(name)}; choose from {', '.join(CATALOGUE)}"
        )
    return entry


def similar(name: str) -> str:
    """Return a question with the name that may have been meant, or nothing."""
    return did_you_mean(name.replace("_", "-"), CATALOGUE)


def digest_in(name: str) -> str:
    """Return the first digits of the MD5 that a file of detectron2's zoo has in its name."""
    found = re.search(r"_([0-9a-f]{6,32})\.pkl$", name)
    return found[1] if found else ""
