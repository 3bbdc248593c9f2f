"""Weights from elsewhere must compute the same here; models are drawn, nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.transforms.v2.functional import normalize

from upsnet_ros.datasets.taxonomy import CITYSCAPES, COCO
from upsnet_ros.errors import CheckpointError
from upsnet_ros.inference.model import draw_weights_
from upsnet_ros.inference.preprocess import FPN_PIXEL_MEANS, PIXEL_MEANS
from upsnet_ros.network.checkpoint import load_checkpoint, save_checkpoint
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.training.initial import (
    COCO_SEMANTIC_OF_CITYSCAPES,
    COCO_THING_OF_CITYSCAPES,
    coco_to_cityscapes,
    load_start_,
    load_torchvision_,
)
from upsnet_ros.training.settings import StartSettings


def _assert_same(got: torch.Tensor, want: torch.Tensor) -> None:
    """Up to the order of sums, which differs with the number of threads."""
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * want.std().item())


def _draw_norms(module: nn.Module) -> None:
    """Give norms statistics that show whether they were taken over."""
    generator = torch.Generator().manual_seed(1)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)


def _stride_in_first(resnet: nn.Module) -> None:
    """Move the stride of torchvision's bottlenecks to where Caffe's and ours have it."""
    for module in resnet.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck) and module.conv2.stride != (
            1,
            1,
        ):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)


def _pixels(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return an image as torchvision's models take it and as ours do.

    Theirs has a border of our means, the grey with which ours is padded: the one difference that
    the weights cannot take in.
    """
    generator = torch.Generator().manual_seed(2)
    bgr = torch.randint(0, 256, (1, 3, height, width), generator=generator).float()
    means = torch.from_numpy(PIXEL_MEANS).float().view(1, 3, 1, 1)
    padded = F.pad(bgr - means, (3, 3, 3, 3)) + means
    transforms = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    return normalize(padded.flip(1) / 255, transforms.mean, transforms.std), bgr - means


@torch.no_grad()
def test_resnet18_gives_the_same_features() -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    _draw_norms(theirs)
    network = UPSNet(get_variant("cityscapes-r18"))
    start = load_torchvision_(network, theirs.state_dict(), source="resnet18", seed=0)
    assert not any(name.startswith("resnet_backbone") for name in start.drawn)
    assert {"fpn.fpn_p2.weight", "fcn_head.score.bias"} <= set(start.drawn)
    assert set(start.unused) == set()

    image, ours = _pixels(64, 96)
    theirs.conv1.padding = (0, 0)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    layers = (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)
    for layer, got in zip(layers, network.resnet_backbone(ours), strict=True):
        x = layer(x)
        _assert_same(got, x)


@torch.no_grad()
def test_mask_rcnn_gives_the_same_heads() -> None:
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, rpn_pre_nms_top_n_test=50
    ).eval()
    # As torchvision's COCO weights are used: norms without epsilon, and never trained.
    for module in theirs.modules():
        if isinstance(module, torchvision.ops.FrozenBatchNorm2d):
            module.eps = 0.0
    _draw_norms(theirs)
    _stride_in_first(theirs)
    network = UPSNet(get_variant("coco-r50"))
    start = load_torchvision_(network, theirs.state_dict(), source="mask r-cnn", seed=0)
    assert {name.split(".")[0] for name in start.drawn} == {"fcn_head", "fpn"}
    assert [name for name in start.drawn if name.startswith("fpn")] == [
        "fpn.fpn_gap.weight",
        "fpn.fpn_gap.bias",
    ]
    assert start.unused == ()

    network.fpn.fpn_gap = None
    image, ours = _pixels(128, 128)
    theirs.backbone.body.conv1.padding = (0, 0)
    want_pyramid = theirs.backbone(image)
    pyramid = network.fpn(network.resnet_backbone(ours))
    for got, want in zip(pyramid, want_pyramid.values(), strict=True):
        _assert_same(got, want)
    logits, deltas = theirs.rpn.head(list(pyramid))
    for (got_logits, got_deltas), want_logits, want_deltas in zip(
        network.rpn(pyramid), logits, deltas, strict=True
    ):
        _assert_same(got_logits, want_logits)
        _assert_same(got_deltas, want_deltas)

    boxes = torch.tensor([[8.0, 10.0, 60.0, 70.0], [30.0, 20.0, 120.0, 100.0]])
    named = dict(zip(("0", "1", "2", "3"), pyramid, strict=False))
    pooled = theirs.roi_heads.box_roi_pool(named, [boxes], [(128, 128)])
    want_logits, want_deltas = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(pooled))
    got_logits, got_deltas = network.rcnn(pyramid, boxes)
    ids = [0, *(info.id for info in COCO.classes[COCO.num_stuff :])]
    _assert_same(got_logits, want_logits[:, ids])
    want_deltas = want_deltas.view(2, -1, 4)[:, ids].flatten(1)
    _assert_same(got_deltas, want_deltas)

    pooled = theirs.roi_heads.mask_roi_pool(named, [boxes], [(128, 128)])
    masks = theirs.roi_heads.mask_predictor(theirs.roi_heads.mask_head(pooled))
    classes = torch.tensor([1, 80])
    got = network.mask_branch(pyramid, boxes, classes)
    want = torch.stack([masks[i, ids[c]] for i, c in enumerate(classes.tolist())])
    _assert_same(got, want)


@pytest.fixture(scope="module")
def panoptic_fpn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sampled weights of coco-fpn-r50 in a file."""
    network = UPSNet(get_variant("coco-fpn-r50"))
    draw_weights_(network, seed=0)
    path = tmp_path_factory.mktemp("fpn") / "fpn.safetensors"
    save_checkpoint(network, path)
    return path


@torch.no_grad()
def test_panoptic_fpn_gives_the_same_heads(panoptic_fpn: Path) -> None:
    theirs = UPSNet(get_variant("coco-fpn-r50"))
    load_checkpoint(theirs, panoptic_fpn)
    network = UPSNet(get_variant("coco-r50"))
    settings = StartSettings(kind="coco_fpn", weights=str(panoptic_fpn))
    start = load_start_(network, settings, seed=0)
    assert {name.split(".")[0] for name in start.drawn} == {"fcn_head", "fpn"}
    assert {name.split(".")[1] for name in start.drawn if name.startswith("fpn")} == {"fpn_gap"}
    assert all(name.startswith("fcn_head.") for name in start.unused)
    assert start.licence["licence"] == "CC BY-SA 3.0"
    assert "Detectron2" in start.licence["attribution"]
    assert panoptic_fpn.name in start.licence["changes"]

    # Without padding at the image's border, the one thing that the norm cannot absorb.
    for one in (theirs, network):
        one.resnet_backbone.conv1.conv1.padding = (0, 0)
    network.fpn.fpn_gap = None
    pixels = 255 * torch.rand(1, 3, 133, 133, generator=torch.Generator().manual_seed(0))
    means = [torch.tensor(x).float().view(3, 1, 1) for x in (FPN_PIXEL_MEANS, PIXEL_MEANS.tolist())]
    pyramids = [
        one.fpn(one.resnet_backbone(pixels - mean))
        for one, mean in zip((theirs, network), means, strict=True)
    ]
    for want, got in zip(*pyramids, strict=True):
        _assert_same(got, want)
    pyramid = pyramids[0]
    for got, want in zip(network.rpn(pyramid), theirs.rpn(pyramid), strict=True):
        _assert_same(got[0], want[0])
        _assert_same(got[1], want[1])
    pooled = torch.randn(3, 256, 7, 7)
    for got, want in zip(network.rcnn.classify(pooled), theirs.rcnn.classify(pooled), strict=True):
        _assert_same(got, want)
    pooled, classes = torch.randn(3, 256, 14, 14), torch.tensor([1, 40, 80])
    _assert_same(
        network.mask_branch.logits(pooled, classes), theirs.mask_branch.logits(pooled, classes)
    )


def test_panoptic_fpn_starts_cityscapes(panoptic_fpn: Path) -> None:
    theirs = UPSNet(get_variant("coco-fpn-r50"))
    load_checkpoint(theirs, panoptic_fpn)
    network = UPSNet(get_variant("cityscapes-r50"))
    settings = StartSettings(kind="coco_fpn", weights=str(panoptic_fpn))
    start = load_start_(network, settings, seed=0)
    assert {name.split(".")[0] for name in start.drawn} == {"fcn_head"}
    rcnn, want = network.rcnn, theirs.rcnn
    assert torch.equal(rcnn.cls_score.weight[3], want.cls_score.weight[3])  # car
    assert torch.equal(rcnn.bbox_pred.weight[16:20], want.bbox_pred.weight[32:36])  # truck
    assert torch.equal(
        network.mask_branch.mask_score.bias[8], theirs.mask_branch.mask_score.bias[2]
    )  # bicycle


def test_panoptic_fpn_and_other_weights_are_told_apart(panoptic_fpn: Path, tmp_path: Path) -> None:
    network = UPSNet(get_variant("cityscapes-r50"))
    checkpoint = StartSettings(kind="checkpoint", weights=str(panoptic_fpn))
    with pytest.raises(CheckpointError, match=r"set start\.kind to coco_fpn"):
        load_start_(network, checkpoint, seed=0)
    path = tmp_path / "small.safetensors"
    small = UPSNet(get_variant("cityscapes-r18"))
    save_checkpoint(small, path)
    with pytest.raises(CheckpointError, match="holds weights of cityscapes-r18"):
        load_start_(network, StartSettings(kind="coco_fpn", weights=str(path)), seed=0)
    with pytest.raises(CheckpointError, match="another backbone than cityscapes-r18"):
        load_start_(small, StartSettings(kind="coco_fpn", weights=str(panoptic_fpn)), seed=0)


def test_transferred_classes_mean_the_same() -> None:
    things = {info.name for info in COCO.classes[COCO.num_stuff :]}
    for ours, theirs in zip(
        CITYSCAPES.classes[CITYSCAPES.num_stuff :], COCO_THING_OF_CITYSCAPES[1:], strict=True
    ):
        if theirs is None:
            assert ours.name not in things
        else:
            assert COCO.classes[COCO.num_stuff + theirs - 1].name == ours.name
    for ours, theirs in zip(CITYSCAPES.classes, COCO_SEMANTIC_OF_CITYSCAPES, strict=True):
        if ours.is_thing and theirs is not None:
            assert COCO.classes[theirs].name == ours.name


def test_coco_checkpoint_starts_cityscapes(tmp_path: Path) -> None:
    source = UPSNet(get_variant("coco-r50"))
    network = UPSNet(get_variant("cityscapes-r50"))
    path = tmp_path / "coco.safetensors"
    save_checkpoint(source, path)
    start = load_start_(network, StartSettings(kind="checkpoint", weights=str(path)), seed=0)
    assert {name.rpartition(".")[0] for name in start.drawn} == {
        # Three layers there and two here, so that channels are reduced one layer later there.
        "fcn_head.fcn_subnet.conv.0.0.conv",
        "fcn_head.fcn_subnet.conv.1.0.conv",
        "fcn_head.fcn_subnet.conv.1.0.conv_offset",
    }
    rcnn, want = network.rcnn, source.rcnn
    assert torch.equal(rcnn.cls_score.weight[3], want.cls_score.weight[3])  # car
    assert torch.equal(rcnn.cls_score.bias[8], want.cls_score.bias[2])  # bicycle
    assert torch.equal(rcnn.bbox_pred.weight[16:20], want.bbox_pred.weight[32:36])  # truck
    assert torch.equal(
        network.mask_branch.mask_score.weight[1], source.mask_branch.mask_score.weight[1]
    )
    assert torch.equal(network.fcn_head.score.weight[0], source.fcn_head.score.weight[20])  # road
    rider = coco_to_cityscapes(source.state_dict(), seed=0)["rcnn.cls_score.weight"][2]
    spread = source.rcnn.cls_score.weight.std()
    assert rider.std() == pytest.approx(float(spread.detach()), rel=0.1)
    assert torch.equal(network.rcnn.cls_score.weight[2], rider)


def test_checkpoint_of_another_variant_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_checkpoint(UPSNet(get_variant("cityscapes-r18")), path)
    network = UPSNet(get_variant("cityscapes-r50"))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_start_(network, StartSettings(kind="checkpoint", weights=str(path)), seed=0)


def test_caffe_backbone(tmp_path: Path) -> None:
    resnet = torchvision.models.resnet50(weights=None)
    _draw_norms(resnet)
    path = tmp_path / "resnet.pth"
    torch.save(resnet.state_dict(), path)
    network = UPSNet(get_variant("cityscapes-r50"))
    start = load_start_(network, StartSettings(kind="caffe", weights=str(path)), seed=0)
    assert not any(name.startswith("resnet_backbone") for name in start.drawn)
    backbone = network.resnet_backbone
    assert torch.equal(backbone.conv1.conv1.weight, resnet.conv1.weight)
    assert torch.equal(backbone.res4.layers[2].bn3.running_var, resnet.layer3[2].bn3.running_var)
    other = UPSNet(get_variant("cityscapes-r101-coco"))
    with pytest.raises(CheckpointError, match=r"another backbone than cityscapes-r101-coco"):
        load_start_(other, StartSettings(kind="caffe", weights=str(path)), seed=0)


def test_unknown_torchvision_model_is_named() -> None:
    network = UPSNet(get_variant("cityscapes-r18"))
    start = StartSettings(kind="torchvision", model="resnet5", weights="DEFAULT")
    with pytest.raises(CheckpointError, match="no model 'resnet5'"):
        load_start_(network, start, seed=0)
