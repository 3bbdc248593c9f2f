from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import upsnet_ros
from upsnet_ros import Predictor
from upsnet_ros.errors import (
    CheckpointError,
    DatasetError,
    DivergedError,
    ImageError,
    SettingsError,
    UpsnetError,
)
from upsnet_ros.inference.frame import PanopticFrame
from upsnet_ros.inference.model import Origin, draw_weights_
from upsnet_ros.inference.pipeline import Pipeline
from upsnet_ros.inference.predictor import PREDICTOR_STAGES
from upsnet_ros.network import batched_path
from upsnet_ros.network.batched_operators import KernelOperators
from upsnet_ros.network.checkpoint import save_checkpoint
from upsnet_ros.network.upsnet import UPSNet
from upsnet_ros.network.variants import get_variant
from upsnet_ros.weights import SHIPPED_VARIANT, shipped_weights


def _image(height: int = 120, width: int = 200, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 20 + 1, width // 20 + 1, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((20, 20, 1), np.uint8))[:height, :width].copy()


def _predictor(**options: Any) -> Predictor:
    options = {"variant": "cityscapes-r18", "scale": 128, "allow_random_weights": True} | options
    return Predictor(options.pop("weights", None), device="cpu", **options)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return _predictor(unknown_score=True, semantic=True, measure=True, score_threshold=0.3)


@pytest.fixture(scope="module", params=range(3))
def frame(predictor: Predictor, request: pytest.FixtureRequest) -> PanopticFrame:
    return predictor(_image(seed=request.param))


def test_segments_describe_the_labels(frame: PanopticFrame) -> None:
    segments = {s.id: s for s in (*frame.instances, *frame.stuff)}
    assert set(np.unique(frame.labels)) - {0} == set(segments)
    for segment in segments.values():
        ys, xs = np.nonzero(frame.labels == segment.id)
        assert segment.area == len(ys)
        assert segment.box == (xs.min(), ys.min(), xs.max(), ys.max())


def test_ids_are_public_ones(predictor: Predictor, frame: PanopticFrame) -> None:
    by_id = predictor.taxonomy.by_id
    for stuff in frame.stuff:
        assert stuff.id == stuff.class_id and not by_id[stuff.class_id].is_thing
    for instance in frame.instances:
        assert instance.id // 1000 == instance.class_id and by_id[instance.class_id].is_thing
        assert by_id[instance.class_id].name == instance.class_name
        assert 0.3 < instance.score <= 1
    for class_id in {i.class_id for i in frame.instances}:
        own = [i for i in frame.instances if i.class_id == class_id]
        assert [i.id % 1000 for i in own] == list(range(1, len(own) + 1))
        assert [i.score for i in own] == sorted((i.score for i in own), reverse=True)


def test_there_is_something_to_see(predictor: Predictor) -> None:
    """Or the tests above would hold of empty frames."""
    frames = [predictor(_image(seed=seed)) for seed in range(3)]
    assert any(f.instances for f in frames)
    assert any(f.stuff for f in frames)
    assert any(f.unknown.any() for f in frames)


def test_maps_agree(predictor: Predictor, frame: PanopticFrame) -> None:
    assert frame.labels.dtype == np.int32 and frame.labels.shape == (120, 200)
    assert frame.unknown.dtype == np.bool_
    assert not frame.labels[frame.unknown].any()
    assert frame.unknown_score is not None and frame.semantic is not None
    assert (frame.unknown_score[frame.unknown] >= 128).all()
    assert (frame.unknown_score[~frame.unknown] <= 128).all()
    assert set(np.unique(frame.semantic)) <= set(predictor.taxonomy.by_id)
    assert frame.confidence is not None and frame.confidence.min() > 0


def test_timings_name_every_stage(frame: PanopticFrame) -> None:
    assert tuple(frame.timings) == PREDICTOR_STAGES
    assert all(t >= 0 for t in frame.timings.values())


def test_not_asked_not_measured() -> None:
    frame = _predictor()(_image())
    assert frame.timings == {}
    assert frame.semantic is frame.confidence is frame.unknown_score is None


def test_stream_keeps_the_order(predictor: Predictor) -> None:
    images = [_image(seed=seed) for seed in range(3)]
    streamed = list(predictor.stream(iter(images)))
    for image, frame in zip(images, streamed, strict=True):
        np.testing.assert_array_equal(frame.labels, predictor(image).labels)


def test_paths_and_pil_images_are_segmented_as_their_pixels(
    predictor: Predictor, tmp_path: Path
) -> None:
    image = _image(40, 60)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    want = predictor(image)
    pil = Image.fromarray(image[..., ::-1])
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), pil]
    for frame in (
        *map(predictor, forms),
        *predictor.stream(forms[1:]),
        *predictor.batch(forms[1:]),
    ):
        np.testing.assert_array_equal(frame.labels, want.labels)
    for form in forms:
        with pytest.raises(ImageError, match="rgb8"):
            predictor(form, "rgb8")


@pytest.fixture(scope="module")
def alone(predictor: Predictor) -> list[tuple[npt.NDArray[np.uint8], PanopticFrame]]:
    """Images of two sizes, and their frames computed one by one."""
    images = [_image(64, 90, 0), _image(64, 90, 1), _image(64, 90, 2), _image(40, 60, 3)]
    return [(image, predictor(image)) for image in images]


@pytest.mark.parametrize(("size", "computed"), [(None, [1, 1, 1, 1]), (2, [2, 1, 1])])
def test_batch_computes_neighbours_of_a_size_together(
    predictor: Predictor,
    alone: list[tuple[npt.NDArray[np.uint8], PanopticFrame]],
    size: int | None,
    computed: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    compute = predictor.compute_batch

    def counted(images: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(len(images))
        return compute(images, *arguments, **options)

    monkeypatch.setattr(predictor, "compute_batch", counted)
    frames = predictor.batch((image for image, _ in alone), size=size)
    assert seen == computed
    for frame, (image, want) in zip(frames, alone, strict=True):
        assert frame.labels.shape == image.shape[:2]
        assert (
            frame.labels == want.labels
        ).mean() > 0.99  # a batch's sums may be rounded otherwise
        assert [t.class_id for t in frame.instances] == [t.class_id for t in want.instances]
        assert tuple(frame.timings) == PREDICTOR_STAGES
    assert predictor.batch([]) == []


def test_what_is_no_image_is_refused_before_any_is_segmented(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = _image()
    with pytest.raises(ImageError, match=r"cv2\.imread returns None for a file it cannot read"):
        predictor(cv2.imread(str(tmp_path / "none.png")))
    monkeypatch.setattr(predictor, "compute_batch", None)  # raises if it is called
    for bad in (None, 3, image[..., 0], image.astype(np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ImageError):
            predictor(bad)
        with pytest.raises(ImageError, match=r"images\[1\]: "):
            predictor.batch([image, bad])
        with pytest.raises(ImageError):
            next(predictor.stream([bad]))
    with pytest.raises(DatasetError, match=r"none\.png"):
        predictor.batch([image, tmp_path / "none.png"])
    for single in (str(tmp_path), tmp_path, None, 3):
        with pytest.raises(ImageError, match="a list of images"):
            predictor.batch(single)
        with pytest.raises(ImageError, match="a list of images"):
            next(predictor.stream(single))
    with pytest.raises(DatasetError, match="the path of the image is empty"):
        predictor("")
    with pytest.raises(SettingsError, match="0"):
        predictor.batch([image], size=0)


def test_a_frame_names_its_classes(predictor: Predictor, frame: PanopticFrame) -> None:
    assert frame.taxonomy == predictor.taxonomy
    assert upsnet_ros.draw(_image(), frame).shape == (120, 200, 3)


def test_repr_says_what_runs(predictor: Predictor, tmp_path: Path) -> None:
    assert repr(predictor) == "Predictor(cityscapes-r18, random weights, cpu, fp32, scale 128)"
    assert "bundled weights" in repr(Predictor(device="cpu", scale=96, precision="bf16"))
    network = UPSNet(get_variant("cityscapes-r18"))
    save_checkpoint(network, tmp_path / "mine.safetensors")
    own = _predictor(weights=tmp_path / "mine.safetensors", allow_random_weights=False)
    assert str(tmp_path / "mine.safetensors") in repr(own)


@pytest.mark.parametrize("size", [(33, 47), (128, 128), (64, 900), (300, 20)])
def test_any_size(predictor: Predictor, size: tuple[int, int]) -> None:
    frame = predictor(_image(*size))
    assert frame.labels.shape == frame.unknown.shape == size


def test_rows_of_a_larger_image(predictor: Predictor) -> None:
    """Views with strides of their own are taken as well as contiguous images."""
    image = _image(200, 300)
    view = image[40:160, 50:250]
    np.testing.assert_array_equal(predictor(view).labels, predictor(view.copy()).labels)


def test_threshold_counts_from_the_next_image() -> None:
    predictor = _predictor(score_threshold=0.3)
    before = predictor(_image())
    predictor.set_score_threshold(0.999999)
    assert len(predictor(_image()).instances) == 0 < len(before.instances)


def test_bfloat16_says_much_the_same(predictor: Predictor) -> None:
    image = _image()
    frame, exact = _predictor(precision="bf16", semantic=True)(image), predictor(image)
    assert frame.semantic is not None
    assert (frame.semantic == exact.semantic).mean() > 0.8


def test_weights_from_a_file(tmp_path: Path) -> None:
    network = UPSNet(get_variant("cityscapes-r18"))
    draw_weights_(network, seed=5)
    save_checkpoint(network, tmp_path / "a.safetensors")
    torch.save(network.state_dict(), tmp_path / "a.pth")
    image = _image()
    want = _predictor(seed=5)
    assert want.random_weights
    for name in ("a.safetensors", "a.pth"):
        loaded = _predictor(weights=tmp_path / name, allow_random_weights=False)
        assert not loaded.random_weights
        np.testing.assert_array_equal(loaded(image).labels, want(image).labels)


def test_nothing_named_takes_the_weights_that_ship() -> None:
    predictor = Predictor(device="cpu", scale=128)
    assert predictor.origin is Origin.SHIPPED
    assert predictor.variant.name == SHIPPED_VARIANT
    assert predictor.weights == shipped_weights(SHIPPED_VARIANT)


def test_the_variant_is_told_from_the_weights(tmp_path: Path) -> None:
    save_checkpoint(UPSNet(get_variant("cityscapes-r18")), tmp_path / "a.safetensors")
    assert Predictor(tmp_path / "a.safetensors", device="cpu").variant.name == "cityscapes-r18"
    torch.save({"weight": torch.zeros(3)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"b\.pth .*no variant"):
        Predictor(tmp_path / "b.pth", device="cpu")


def test_a_lower_threshold_finds_more_unknown(predictor: Predictor) -> None:
    image = _image()
    exact = predictor(image)
    assert exact.unknown_score is not None
    for threshold in (0.2, 0.8):
        frame = _predictor(unknown_threshold=threshold, unknown_score=True, score_threshold=0.3)(
            image
        )
        np.testing.assert_array_equal(frame.unknown_score, exact.unknown_score)
        clear = np.abs(exact.unknown_score / 255 - threshold) > 0.003  # it is rounded
        want = exact.unknown_score > 255 * threshold
        np.testing.assert_array_equal(frame.unknown[clear], want[clear])
        assert not frame.labels[frame.unknown].any()


def test_weights_of_another_variant(tmp_path: Path) -> None:
    save_checkpoint(UPSNet(get_variant("cityscapes-r18")), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors does not fit"):
        _predictor(weights=tmp_path / "a.safetensors", variant="cityscapes-r50")


@pytest.mark.parametrize("plain", [False, True])
def test_weights_of_a_diverged_training_are_named(tmp_path: Path, *, plain: bool) -> None:
    network = UPSNet(get_variant("cityscapes-r18"))
    draw_weights_(network, seed=0)
    for name, tensor in network.state_dict().items():
        if name.startswith("fpn.") and name.endswith("weight"):
            tensor.mul_(1e25)  # finite, unlike what the network computes with them
    path = tmp_path / "diverged.safetensors"
    save_checkpoint(network, path)
    predictor = _predictor(weights=path, plain=plain)
    with pytest.raises(DivergedError, match=r"diverged\.safetensors: .*not finite"):
        predictor(_image())
    with Pipeline(predictor) as pipeline:
        futures = [pipeline.submit(_image(seed=seed)) for seed in range(2)]
        for future in futures:  # the pipeline outlives the first failure
            with pytest.raises(DivergedError, match=r"diverged\.safetensors"):
                future.result()


@pytest.mark.parametrize("options", [{}, {"plain": True}, {"merge": "heuristic"}])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_semantic_logits_that_are_not_finite_are_refused(
    options: dict[str, Any], value: float
) -> None:
    predictor = _predictor(**options)

    def spoil(_module: object, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(1, torch.tensor([0]), value)

    hook = predictor.network.fcn_head.register_forward_hook(spoil)
    with pytest.raises(DivergedError, match=r"random weights: .*not finite"):
        predictor(_image())
    hook.remove()
    assert predictor(_image()).labels.any()


def test_on_a_gpu_the_frame_says_that_logits_are_not_finite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There operators do not look, for that would be a wait: a flag comes with the labels."""
    monkeypatch.setattr(batched_path, "Operators", KernelOperators)
    predictor = _predictor()
    image = _image()
    expected = predictor(image)

    def spoil(_module: object, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(1, torch.tensor([0]), float("nan"))

    hook = predictor.network.fcn_head.register_forward_hook(spoil)
    assemblies = predictor.compute_batch([torch.from_numpy(image)], predictor.settings())
    assert not assemblies[0].finite.any()
    for refused in (
        lambda: predictor.frame(assemblies[0]),
        lambda: predictor(image),
        lambda: predictor.prepare(image.shape),
    ):
        with pytest.raises(DivergedError, match=r"random weights: .*not finite"):
            refused()
    with Pipeline(predictor) as pipeline:
        with pytest.raises(DivergedError, match=r"random weights: .*not finite"):
            pipeline.submit(image).result()
        hook.remove()
        frame = pipeline.submit(image).result()
    np.testing.assert_array_equal(frame.labels, expected.labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allow_random_weights": False, "variant": "coco-r50"}, "no weights given"),
        ({"unknown_threshold": 1.0}, "unknown threshold 1.0"),
        ({"variant": "r34"}, "unknown variant"),
        ({"precision": "int8"}, "unknown precision"),
        ({"precision": "fp16"}, "CUDA"),
        ({"scale": 5}, "scale 5"),
        ({"scale": 10**6}, "scale 1000000"),
        ({"scale": "x"}, "scale must be a whole number, not 'x'"),
        ({"scale": True}, "scale must be a whole number"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"weights": 3}, "weights must be .* not 3"),
        ({"label_map": 3}, "label_map must be .* not 3"),
        ({"variant": 3}, "variant must be .* not 3"),
        ({"precision": []}, r"precision must be .* not \[\]"),
        ({"expected_size": 3}, "expected_size must be .* not 3"),
        ({"expected_size": (64, "a")}, "expected_size must be .* not 'a'"),
        ({"expected_size": (0, 64)}, "expected_size must be"),
        ({"unknown_threshold": "x"}, "unknown threshold must be a number"),
        ({"label_resize": "cubic"}, "label_resize"),
        ({"score_threshold": 1.5}, "threshold 1.5"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UpsnetError, match=message):
        _predictor(**options)


def test_impossible_values_after_loading(predictor: Predictor) -> None:
    for size in ("a", 1.5, 0):
        with pytest.raises(SettingsError, match="size of a batch"):
            predictor.batch([_image()], size=size)
    with pytest.raises(SettingsError, match="unknown threshold must be a number, not 'x'"):
        predictor.set_unknown_threshold("x")
    with pytest.raises(SettingsError, match="score threshold nan"):
        predictor.set_score_threshold(float("nan"))
    predictor.set_score_threshold(np.float32(0.3))


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "meta", None])
def test_impossible_device(device: str) -> None:
    with pytest.raises(SettingsError, match="device"):
        Predictor(variant="cityscapes-r18", allow_random_weights=True, device=device)


def test_other_arrays_are_refused(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\)"):
        predictor(np.zeros((4, 4), np.uint8))


def test_smooth_outlines_are_nearly_the_nearest_labels(predictor: Predictor) -> None:
    image = _image(240, 400)
    smooth = _predictor(label_resize="bilinear", score_threshold=0.3)(image)
    nearest = predictor(image)
    assert smooth.labels.shape == nearest.labels.shape
    assert 0.8 < (smooth.unknown == nearest.unknown).mean() < 1
    for segment in (*smooth.instances, *smooth.stuff):
        assert (smooth.labels == segment.id).sum() == segment.area
