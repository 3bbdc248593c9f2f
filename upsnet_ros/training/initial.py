"""Initial weights of a run: random initialisation, and conversion of other networks' weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from upsnet_ros.datasets.taxonomy import COCO
from upsnet_ros.errors import CheckpointError
from upsnet_ros.inference.preprocess import FPN_PIXEL_MEANS, PIXEL_MEANS
from upsnet_ros.network.checkpoint import load_state_dict, recognise_variant
from upsnet_ros.network.semantic_head import DeformConv2d
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import Variant
from upsnet_ros.network.weights_file import read_state_dict
from upsnet_ros.training.settings import StartSettings
from upsnet_ros.weights import find_weights
from upsnet_ros.weights.catalogue import CATALOGUE
from upsnet_ros.weights.install import read_metadata

#: COCO class to copy for each Cityscapes class of the box and mask heads; 0 is background.
COCO_THING_OF_CITYSCAPES = (0, 1, None, 3, 8, 6, 7, 4, 2)
#: COCO class to copy for each Cityscapes class of the semantic head; None if there is none.
COCO_SEMANTIC_OF_CITYSCAPES = (
    20, 43, 49, 51, 37, None, 62, None, 36, None, 39, 53, None, 55, 60, 58, 59, 56, 54,
)  # fmt: skip

#: Layers with a row (four for boxes) for each class of the box and mask heads.
_INSTANCE_LAYERS = ("rcnn.cls_score", "rcnn.bbox_pred", "mask_branch.mask_score")

#: torchvision's normalisation of RGB in [0, 1].
_TORCHVISION_MEAN = (0.485, 0.456, 0.406)
_TORCHVISION_STD = (0.229, 0.224, 0.225)
_EPS = 1e-5

#: Standard deviations of output layers: small, so that initial predictions are uninformative.
_OUTPUT_DEVIATIONS = {
    "rpn.cls_score": 0.01,
    "rpn.bbox_pred": 0.01,
    "rcnn.cls_score": 0.01,
    "rcnn.bbox_pred": 0.001,
    "mask_branch.mask_score": 0.01,
    "fcn_head.score": 0.01,
}


def take_rows(
    source: Tensor, rows: Sequence[int | None], *, generator: torch.Generator, group: int = 1
) -> Tensor:
    """Gather rows of a tensor; missing rows are sampled.

    Args:
        source: (R * group, ...).
        rows: Source row for each row of the result; None samples a row from a normal distribution
            with the mean and standard deviation of the whole source.
        generator: Random generator of the sampled rows.
        group: Number of consecutive entries per row: 4 for boxes.

    Returns:
        (len(rows) * group, ...), dtype of ``source``.
    """
    grouped = source.unflatten(0, (-1, group))
    drawn = torch.randn((len(rows), *grouped.shape[1:]), generator=generator)
    taken = drawn * source.std() + source.mean()
    for row, from_row in enumerate(rows):
        if from_row is not None:
            taken[row] = grouped[from_row]
    return taken.flatten(0, 1).to(source.dtype)


def _with_classes(
    tensors: Mapping[str, Tensor],
    rows: Mapping[str, Sequence[int | None]],
    *,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return the tensors with other classes; ``rows`` has those of each layer: see `take_rows`."""
    result = dict(tensors)
    for kind in ("weight", "bias"):
        for name, chosen in rows.items():
            key, group = f"{name}.{kind}", 4 if name == "rcnn.bbox_pred" else 1
            result[key] = take_rows(tensors[key], chosen, generator=generator, group=group)
    return result


def coco_to_cityscapes(tensors: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Convert the weights of a UPSNet trained on COCO to the classes of Cityscapes.

    Classes that COCO has too keep their weights; the others are sampled.
    """
    rows: dict[str, Sequence[int | None]] = dict.fromkeys(
        _INSTANCE_LAYERS, COCO_THING_OF_CITYSCAPES
    )
    rows["fcn_head.score"] = COCO_SEMANTIC_OF_CITYSCAPES
    return _with_classes(tensors, rows, generator=torch.Generator().manual_seed(seed))


def is_coco(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors are those of a UPSNet with COCO's classes."""
    things, pixels = tensors.get("rcnn.cls_score.bias"), tensors.get("fcn_head.score.bias")
    return (
        things is not None
        and pixels is not None
        and len(things) == COCO.num_things + 1
        and len(pixels) == COCO.num_classes
    )


def backbone_of_resnet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a classification ResNet; the classifier is dropped.

    torchvision's bottlenecks have the stride in the 3x3 convolution, UPSNet's in the first 1x1
    convolution: the shapes agree, and fine-tuning compensates for the difference.
    """
    renamed = {}
    for name, tensor in tensors.items():
        stage, _, rest = name.partition(".")
        if stage in ("conv1", "bn1"):
            renamed[f"resnet_backbone.conv1.{name}"] = tensor
        elif stage.startswith("layer"):
            renamed[f"resnet_backbone.res{int(stage[5:]) + 1}.layers.{rest}"] = tensor
    return renamed


def with_our_pixels(backbone: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a backbone from torchvision's normalisation to UPSNet's (BGR, 0 to 255, means only).

    The first convolution absorbs the standard deviations and the channel order. The difference of
    the means is a constant at its output and is absorbed by the mean of the following norm. Only
    the zero padding at the image border differs slightly.
    """
    conv, mean = "resnet_backbone.conv1.conv1.weight", "resnet_backbone.conv1.bn1.running_mean"
    deviation = 255 * torch.tensor(_TORCHVISION_STD).view(1, 3, 1, 1)
    weight = (backbone[conv] / deviation).flip(1)
    theirs = 255 * torch.tensor(_TORCHVISION_MEAN).flip(0)
    return dict(backbone) | {conv: weight, mean: backbone[mean] - _constant(weight, theirs)}


def _constant(weight: Tensor, theirs: Tensor) -> Tensor:
    """Return by how much a convolution's output differs for pixels less our means, not theirs."""
    shift = torch.from_numpy(PIXEL_MEANS).float() - theirs
    return (weight.sum(dim=(2, 3)) * shift).sum(dim=1)


def without_epsilon(backbone: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adapt frozen norms that were trained with epsilon 0 to an epsilon of 1e-5.

    torchvision's COCO detectors use epsilon 0 in their backbones.
    """
    result = dict(backbone)
    for name, variance in backbone.items():
        if name.endswith("running_var"):
            weight = name.removesuffix("running_var") + "weight"
            safe = variance.clamp(min=1e-12)
            result[weight] = backbone[weight] * torch.sqrt((variance + _EPS) / safe)
    return result


def upsnet_of_mask_rcnn(
    tensors: Mapping[str, Tensor], *, coco_ids: Sequence[int | None], generator: torch.Generator
) -> dict[str, Tensor]:
    """Convert the weights of a torchvision Mask R-CNN, which has no semantic head.

    Args:
        tensors: State dict of ``maskrcnn_resnet50_fpn``.
        coco_ids: COCO category id of each class of the box and mask heads: 0 for background, None
            if COCO has no such class.
        generator: Random generator for classes that COCO does not have.
    """
    prefix = "backbone.body."
    body = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    result = with_our_pixels(without_epsilon(backbone_of_resnet(body)))
    names = {"rpn.head.conv.0.0": "rpn.conv_proposal.0", "rpn.head.cls_logits": "rpn.cls_score"}
    names |= {"rpn.head.bbox_pred": "rpn.bbox_pred"}
    for level in range(4):
        names[f"backbone.fpn.inner_blocks.{level}.0"] = f"fpn.fpn_p{level + 2}_1x1"
        names[f"backbone.fpn.layer_blocks.{level}.0"] = f"fpn.fpn_p{level + 2}"
        names[f"roi_heads.mask_head.{level}.0"] = f"mask_branch.mask_conv{level + 1}.0"
    names["roi_heads.box_head.fc6"] = "rcnn.fc6.0"
    names["roi_heads.box_head.fc7"] = "rcnn.fc7.0"
    names["roi_heads.mask_predictor.conv5_mask"] = "mask_branch.mask_deconv1.0"
    names["roi_heads.box_predictor.cls_score"] = "rcnn.cls_score"
    names["roi_heads.box_predictor.bbox_pred"] = "rcnn.bbox_pred"
    names["roi_heads.mask_predictor.mask_fcn_logits"] = "mask_branch.mask_score"
    for kind in ("weight", "bias"):
        for theirs, ours in names.items():
            result[f"{ours}.{kind}"] = tensors[f"{theirs}.{kind}"]
    return _with_classes(result, dict.fromkeys(_INSTANCE_LAYERS, coco_ids), generator=generator)


def upsnet_of_panoptic_fpn(
    tensors: Mapping[str, Tensor], *, classes: Sequence[int | None], generator: torch.Generator
) -> dict[str, Tensor]:
    """Convert the weights of a Panoptic FPN: all but its semantic head.

    The difference of the pixel means is absorbed by the stem's norm. Anchors, boxes and RoIAlign
    differ by up to a pixel, for which fine-tuning compensates.

    Args:
        tensors: State dict of a ``coco-fpn-*`` variant.
        classes: Class of the source for each class of the box and mask heads: 0 for background,
            None if COCO has no such class.
        generator: Random generator for classes that COCO does not have.
    """
    result = {n: tensor for n, tensor in tensors.items() if not n.startswith("fcn_head.")}
    conv, mean = "resnet_backbone.conv1.conv1.weight", "resnet_backbone.conv1.bn1.running_mean"
    theirs = torch.tensor(FPN_PIXEL_MEANS)
    result[mean] = tensors[mean] - _constant(tensors[conv].float(), theirs)
    return _with_classes(result, dict.fromkeys(_INSTANCE_LAYERS, classes), generator=generator)


@torch.no_grad()
def draw_initial_weights_(network: UPSNet, *, seed: int) -> None:
    """Initialise all weights randomly, in place (He et al., ICCV 2015).

    Norms are initialised to the identity, offsets of deformable convolutions to zero.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            module.reset_running_stats()
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | DeformConv2d):
            if name in _OUTPUT_DEVIATIONS:
                deviation = _OUTPUT_DEVIATIONS[name]
                module.weight.normal_(0, deviation, generator=generator)
            elif name.endswith("_offset"):
                module.weight.zero_()
            else:
                # The FPN is not followed by a ReLU, so half of He's variance preserves variances.
                gain = 1.0 if name.startswith("fpn.") else 2.0
                fan_in = module.weight[0].numel()
                if isinstance(module, nn.ConvTranspose2d):
                    fan_in = module.weight.shape[0]  # stride equals kernel size: one tap each
                module.weight.normal_(0, (gain / fan_in) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.zero_()


@dataclass(frozen=True, slots=True)
class Start:
    """Report of how the initial weights were used.

    Attributes:
        drawn: Names of the network's tensors that were initialised randomly.
        unused: Names of the given tensors that the network does not have.
        licence: Whom to credit for the given weights and under which licence they are, by the names
            that safetensors metadata has for it; empty if unknown. It holds for what is trained
            from them too.
    """

    drawn: tuple[str, ...]
    unused: tuple[str, ...]
    licence: Mapping[str, str] = field(default_factory=dict)


#: Metadata of weights that passes on to what is trained from them.
_LICENCE_KEYS = ("licence", "licence_url", "attribution", "page")


def licence_of(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the licence of a weights file: `Start.licence`.

    Panoptic FPN has the licence of detectron2's model zoo, whatever the file says of itself.
    """
    known: dict[str, str] = {}
    if path.suffix == ".safetensors":
        metadata = read_metadata(path)
        known = {key: metadata[key] for key in _LICENCE_KEYS if metadata.get(key)}
    variant = recognise_variant(tensors)
    if not known and variant is not None and variant.family == "panoptic_fpn":
        entry = CATALOGUE[variant.name]
        texts = (entry.licence.name, entry.licence.url, entry.attribution, entry.page)
        known = dict(zip(_LICENCE_KEYS, texts, strict=True))
    if known:
        known["changes"] = f"Trained further by upsnet_ros, starting from {path.name}."
    return known


def load_start_(network: UPSNet, start: StartSettings, *, seed: int) -> Start:
    """Load the initial weights of a run into a network, in place.

    A UPSNet checkpoint must match exactly; of other weights only the backbone must match.

    Args:
        network: The network to initialise.
        start: The weights to load.
        seed: Seed of random initialisation.

    Raises:
        CheckpointError: If the weights are missing or do not match.
    """
    draw_initial_weights_(network, seed=seed)
    if start.kind == "nothing":
        return Start(tuple(network.state_dict()), ())
    assert start.weights is not None  # checked by StartSettings
    if start.kind == "torchvision":
        assert start.model is not None
        tensors = _read_torchvision(start.model, start.weights)
        return load_torchvision_(network, tensors, source=start.model, seed=seed)
    path = find_weights(start.weights)
    tensors = read_state_dict(path)
    loaded = _load_(network, tensors, start, seed=seed)
    return replace(loaded, licence=licence_of(path, tensors))


def _load_(
    network: UPSNet, tensors: Mapping[str, Tensor], start: StartSettings, *, seed: int
) -> Start:
    """Load what a file holds, by the kind of start."""
    assert start.weights is not None
    if start.kind == "caffe":
        return _load_part_(network, backbone_of_resnet(tensors), source=start.weights)
    variant = recognise_variant(tensors)
    is_fpn = variant is not None and variant.family == "panoptic_fpn"
    if start.kind == "coco_fpn":
        if not is_fpn:
            what = f"weights of {variant.name}" if variant else "other weights"
            raise CheckpointError(
                f"start.kind coco_fpn needs weights of coco-fpn-r50 or coco-fpn-r101, but"
                f" {start.weights} holds {what}"
            )
        return load_panoptic_fpn_(network, tensors, source=start.weights, seed=seed)
    if is_fpn:
        raise CheckpointError(
            f"{start.weights} holds Panoptic FPN weights: set start.kind to coco_fpn"
        )
    if network.variant.dataset == "cityscapes" and is_coco(tensors):
        # Networks for COCO have some additional layers, which the published transfer drops.
        transferred = coco_to_cityscapes(tensors, seed=seed)
        return _load_part_(network, transferred, source=start.weights)
    load_state_dict(network, tensors, source=start.weights)
    return Start((), ())


def load_torchvision_(
    network: UPSNet, tensors: Mapping[str, Tensor], *, source: str, seed: int
) -> Start:
    """Load the matching weights of a torchvision ResNet or Mask R-CNN, in place.

    Raises:
        CheckpointError: If the backbones differ.
    """
    if any(name.startswith("roi_heads.") for name in tensors):
        generator = torch.Generator().manual_seed(seed)
        coco_ids = _coco_ids(network.variant)
        part = upsnet_of_mask_rcnn(tensors, coco_ids=coco_ids, generator=generator)
    else:
        part = with_our_pixels(backbone_of_resnet(tensors))
    return _load_part_(network, part, source=source)


def load_panoptic_fpn_(
    network: UPSNet, tensors: Mapping[str, Tensor], *, source: str, seed: int
) -> Start:
    """Load the matching weights of a Panoptic FPN, in place.

    Raises:
        CheckpointError: If the backbones differ.
    """
    generator = torch.Generator().manual_seed(seed)
    of_coco = network.variant.dataset == "coco"
    classes = range(COCO.num_things + 1) if of_coco else COCO_THING_OF_CITYSCAPES
    part = upsnet_of_panoptic_fpn(tensors, classes=classes, generator=generator)
    loaded = _load_part_(network, part, source=source)
    dropped = (n for n in tensors if n.startswith("fcn_head."))
    return replace(loaded, unused=(*loaded.unused, *dropped))


def _coco_ids(variant: Variant) -> tuple[int | None, ...]:
    """Return the COCO category id of each class of the box head."""
    things = [info.id for info in COCO.classes[COCO.num_stuff :]]
    if variant.dataset == "coco":
        return (0, *things)
    return tuple(things[c - 1] if c else c for c in COCO_THING_OF_CITYSCAPES)


def _read_torchvision(model: str, weights: str) -> Mapping[str, Tensor]:
    try:
        builder = torchvision.models.get_model_builder(model)
        chosen = torchvision.models.get_model_weights(builder)[weights]
    except (KeyError, ValueError):
        raise CheckpointError(
            f"torchvision has no model {model!r} with weights {weights!r}"
        ) from None
    return chosen.get_state_dict(progress=True, check_hash=True)


def _load_part_(network: UPSNet, part: Mapping[str, Tensor], *, source: str) -> Start:
    """Load the tensors that match; the backbone must match, except for deformable offsets."""
    own = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    fitting = {n: t for n, t in part.items() if n in own and t.shape == own[n].shape}
    drawn = tuple(n for n in own if n not in fitting)
    needed = [n for n in drawn if n.startswith("resnet_backbone.") and "_offset." not in n]
    if needed:
        raise CheckpointError(
            f"{source} has another backbone than {network.variant.name}: missing or of another"
            f" shape: {needed[0]}"
            + (f" and {len(needed) - 1} more tensors" if len(needed) > 1 else "")
        )
    network.load_state_dict(fitting, strict=False)
    surplus = (n for n in part if n not in fitting and not n.endswith("num_batches_tracked"))
    return Start(drawn, tuple(surplus))
