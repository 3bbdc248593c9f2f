"""Opens the dataset, augments images, and loads them in worker processes.

All random choices for an image depend only on the run's seed and the image's position, its index in
the endless sequence of images. They do not depend on the process or worker that loads it, or on
whether the run was interrupted before.
"""

from __future__ import annotations

import atexit
import math
import multiprocessing
import os
import resource
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from upsnet_ros.datasets.base import VOID, Bitmask, Dataset, Sample, Shape, Thing
from upsnet_ros.datasets.readers import Cityscapes, Folder
from upsnet_ros.errors import DatasetError, SettingsError
from upsnet_ros.inference.preprocess import Geometry, preprocess
from upsnet_ros.network.variants import get_variant
from upsnet_ros.processes.child_processes import (
    end_with_parent,
    kill_workers,
    process_context,
    starting_workers,
)
from upsnet_ros.training.settings import (
    AugmentSettings,
    CityscapesSettings,
    CocoPanopticSettings,
    DatasetSettings,
    FolderSettings,
    Quirks,
)

#: Side length of mask targets and of the region-wise semantic loss, bins.
MASK_SIZE = 28
#: Stride of the semantic and panoptic heads with respect to the network input.
QUARTER = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Images with their ground truth, padded at the bottom and on the right to a common size.

    B images have at most N objects each, and M objects in total that are not crowds. What the host
    needs stays in its memory (tuples and arrays), so that it need not wait for the device.

    Attributes:
        names: Names of the samples.
        seeds: Seeds of all random choices, one for each image.
        geometries: Mappings from the labelled images to the network input.
        shapes: Shapes of the objects of each image.
        crowds: Whether each object of each image is a crowd.
        data: float32 (B, 3, H, W), the network input.
        scales: float32 (B, 1, 1), factors from the labelled images to the network input.
        sizes: float32 (B, 1, 2), height and width of the unpadded images.
        boxes: float32 (B, N, 4) of all objects, in pixels of the labelled images; N >= 1.
        classes: int64 (B, N), class of each object, from 1; 0 in the padding.
        crowd: bool (B, N), whether the object is a crowd.
        members: int64 (2, M), image and index of the objects that are not crowds.
        semantic: uint8 (B, H, W), class of each pixel, `VOID` in the padding.
        semantic_quarter: uint8 (B, H / 4, W / 4), the same at a quarter of the size.
        unknown_quarter: bool (B, H / 4, W / 4), pixels of objects outside the taxonomy.
        crowd_quarter: bool (B, H / 4, W / 4), pixels of crowds.
        roi_semantic: uint8 (M, 28, 28), ``semantic`` inside the boxes of the members.
        masks_quarter: uint8 (M, H / 4, W / 4), 1 inside the member.
    """

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    geometries: tuple[Geometry, ...]
    shapes: tuple[tuple[Shape, ...], ...]
    crowds: tuple[npt.NDArray[np.bool_], ...]
    data: Tensor
    scales: Tensor
    sizes: Tensor
    boxes: Tensor
    classes: Tensor
    crowd: Tensor
    members: Tensor
    semantic: Tensor
    semantic_quarter: Tensor
    unknown_quarter: Tensor
    crowd_quarter: Tensor
    roi_semantic: Tensor
    masks_quarter: Tensor

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def join(cls, batches: Sequence[Batch]) -> Batch:
        """Return one batch of the images of several batches in the host's memory."""
        sizes = (batch.semantic.shape[1:] for batch in batches)
        full = tuple(max(sides) for sides in zip(*sizes, strict=True))
        quarter = tuple(side // QUARTER for side in full)
        most = max(batch.boxes.shape[1] for batch in batches)
        starts = np.cumsum([0, *(len(batch) for batch in batches)]).tolist()
        shifts = (torch.tensor([[start], [0]]) for start in starts)
        members = [batch.members + shift for batch, shift in zip(batches, shifts, strict=False)]

        def joined(name: str, size: tuple[int, ...], fill: int = 0) -> Tensor:
            return torch.cat([_padded(getattr(batch, name), size, fill) for batch in batches])

        return cls(
            names=tuple(name for batch in batches for name in batch.names),
            seeds=tuple(seed for batch in batches for seed in batch.seeds),
            geometries=tuple(geometry for batch in batches for geometry in batch.geometries),
            shapes=tuple(shapes for batch in batches for shapes in batch.shapes),
            crowds=tuple(crowds for batch in batches for crowds in batch.crowds),
            data=joined("data", full),
            scales=joined("scales", ()),
            sizes=joined("sizes", ()),
            boxes=joined("boxes", (most, 4)),
            classes=joined("classes", (most,)),
            crowd=joined("crowd", (most,)),
            members=torch.cat(members, dim=1),
            semantic=joined("semantic", full, VOID),
            semantic_quarter=joined("semantic_quarter", quarter, VOID),
            unknown_quarter=joined("unknown_quarter", quarter),
            crowd_quarter=joined("crowd_quarter", quarter),
            roi_semantic=joined("roi_semantic", ()),
            masks_quarter=joined("masks_quarter", quarter, VOID),
        )

    def to(self, device: torch.device) -> Batch:
        """Return a copy with all tensors on the device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return a copy in pinned memory; called by the data loader."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {
            entry.name: change(value)
            for entry in fields(self)
            if isinstance(value := getattr(self, entry.name), Tensor)
        }
        return replace(self, **changed)


def _padded(x: Tensor, size: Sequence[int], fill: int = 0) -> Tensor:
    """Return a tensor whose last dimensions are padded at their ends to ``size``."""
    sides = zip(reversed(size), reversed(x.shape), strict=False)  # leading dimensions stay
    pads = [pad for new, old in sides for pad in (0, new - old)]
    return F.pad(x, pads, value=fill) if any(pads) else x


def nearest_index(length: int, factor: float) -> npt.NDArray[np.intp]:
    """Return the source index of each pixel of a line of ``length`` pixels resized by ``factor``.

    Follows OpenCV's INTER_NEAREST, with which the original resized labels.
    """
    positions = np.arange(max(1, round(length * factor))) * (1 / factor)
    return np.minimum(np.floor(positions).astype(np.intp), length - 1)


def _roi_semantic(
    semantic: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32], scale: float
) -> npt.NDArray[np.uint8]:
    """Crop and resize the labels inside boxes to (N, 28, 28).

    As in the original, x2 and y2 are exclusive unless the crop would be empty.

    Args:
        semantic: uint8 (H, W), labels at network resolution, not padded.
        boxes: float32 (N, 4) in pixels of the labelled image.
        scale: Factor from the labelled image to network resolution.
    """
    height, width = semantic.shape
    crops = np.empty((len(boxes), MASK_SIZE, MASK_SIZE), np.uint8)
    corners = np.around(boxes * np.float32(scale)).astype(int)
    for (x1, y1, x2, y2), crop in zip(corners.tolist(), crops, strict=True):
        x1, y1 = min(x1, width - 1), min(y1, height - 1)
        part = semantic[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
        cv2.resize(part, (MASK_SIZE, MASK_SIZE), dst=crop, interpolation=cv2.INTER_NEAREST)
    return crops


def _outlined(thing: Thing) -> Thing:
    shape = thing.shape
    return replace(thing, shape=shape.outline()) if isinstance(shape, Bitmask) else thing


def prepare(
    sample: Sample, geometry: Geometry, *, num_stuff: int, seed: int, quirks: Quirks
) -> Batch:
    """Return a batch of one image, resized with its labels to the network's input size.

    Args:
        sample: The labelled image, already augmented.
        geometry: Mapping from the sample's size to the network input.
        num_stuff: Number of stuff classes.
        seed: Seed of the random choices for this image.
        quirks: Faults of the original to reproduce.
    """
    scale, padded = geometry.scale, geometry.padded
    things: Sequence[Thing] = sample.things
    if quirks.masks_by_bounds:
        things = [_outlined(thing) for thing in things]
    boxes = np.array([thing.box for thing in things], np.float32).reshape(-1, 4)
    classes = [thing.semantic_id - num_stuff + 1 for thing in things]
    crowd = np.array([thing.crowd for thing in things], bool)

    rows, columns = (nearest_index(side, scale) for side in sample.size)
    semantic = sample.semantic[np.ix_(rows, columns)]
    quarter_rows = rows[nearest_index(len(rows), 1 / QUARTER)]
    quarter_columns = columns[nearest_index(len(columns), 1 / QUARTER)]
    on_quarter = np.ix_(quarter_rows, quarter_columns)
    quarter = (padded[0] // QUARTER, padded[1] // QUARTER)

    painted = list(things) if quirks.crowd_shifts_panoptic_masks else []
    painted = (painted or [thing for thing in things if not thing.crowd])[: int((~crowd).sum())]
    masks = np.zeros((len(painted), len(quarter_rows), len(quarter_columns)), np.uint8)
    for mask, thing in zip(masks, painted, strict=True):
        mask[:] = thing.shape.paint(quarter_rows, quarter_columns)
    groups = np.zeros(masks.shape[1:], bool)
    for thing in things:
        if thing.crowd:
            groups |= thing.shape.paint(quarter_rows, quarter_columns).astype(bool)
    unknown = np.zeros_like(groups) if sample.unknown is None else sample.unknown[on_quarter]

    def one(values: npt.NDArray[Any], size: tuple[int, ...], fill: int = 0) -> Tensor:
        return _padded(torch.from_numpy(values)[None], size, fill)

    most, members = max(1, len(things)), np.flatnonzero(~crowd)
    image = torch.from_numpy(np.ascontiguousarray(sample.image))
    return Batch(
        names=(sample.name,),
        seeds=(seed,),
        geometries=(geometry,),
        shapes=(tuple(thing.shape for thing in things),),
        crowds=(crowd,),
        data=preprocess(image, geometry, dtype=torch.float32),
        scales=torch.tensor([[[scale]]]),
        sizes=torch.tensor([[geometry.size]], dtype=torch.float32),
        boxes=one(boxes, (most, 4)),
        classes=one(np.array(classes, np.int64), (most,)),
        crowd=one(crowd, (most,)),
        members=torch.from_numpy(np.stack((np.zeros_like(members), members))),
        semantic=one(semantic, padded, VOID),
        semantic_quarter=one(sample.semantic[on_quarter], quarter, VOID),
        unknown_quarter=one(unknown, quarter),
        crowd_quarter=one(groups, quarter),
        roi_semantic=torch.from_numpy(_roi_semantic(semantic, boxes[~crowd], scale)),
        masks_quarter=_padded(torch.from_numpy(masks), quarter, VOID),
    )


#: A batch of 16 has about 200 tensors, and each worker prefetches two batches.
_OPEN_FILES = 65536


def recoloured(image: npt.NDArray[np.uint8], strength: float) -> npt.NDArray[np.uint8]:
    """Return a BGR image with random changes of brightness, contrast, saturation and hue."""
    jitter = v2.ColorJitter(
        brightness=strength, contrast=strength, saturation=strength, hue=min(0.1 * strength, 0.5)
    )
    rgb = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)
    changed = jitter(tv_tensors.Image(rgb)).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(changed[..., ::-1])


def _random_int(limit: int) -> int:
    """Return a random integer from 0 to ``limit``, inclusive."""
    return int(torch.randint(limit + 1, ()))


def augment(sample: Sample, settings: AugmentSettings, *, seed: int) -> tuple[Sample, Geometry]:
    """Augment a sample randomly; the result depends only on the arguments.

    Returns:
        The augmented sample, not yet resized, and the geometry for resizing it.
    """
    # torchvision uses the global generator, so seed that one and restore its state afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scale = settings.scales[_random_int(len(settings.scales) - 1)]
        geometry = Geometry.of(sample.size, scale=scale, max_size=settings.max_size)
        if settings.crop is not None:
            # Round down, so that the resized crop is not larger than requested.
            height, width = (
                min(side, math.floor(wanted / geometry.scale))
                for side, wanted in zip(sample.size, settings.crop, strict=True)
            )
            y1 = _random_int(sample.size[0] - height)
            x1 = _random_int(sample.size[1] - width)
            sample = sample.cropped(x1=x1, y1=y1, x2=x1 + width, y2=y1 + height)
            geometry = geometry.of_part((height, width))
        if float(torch.rand(())) < settings.flip:
            sample = sample.mirrored()
        if settings.color > 0:
            sample = replace(sample, image=recoloured(sample.image, settings.color))
    return sample, geometry


def open_dataset(settings: DatasetSettings, *, variant: str) -> Dataset:
    """Open a dataset and check that it has the classes of the network.

    Raises:
        DatasetError: If it cannot be read, or has other classes.
    """
    dataset: Dataset
    if isinstance(settings, CityscapesSettings):
        dataset = Cityscapes(settings.root, split=settings.split, images=settings.images)
    elif isinstance(settings, CocoPanopticSettings):
        from upsnet_ros.datasets.readers import CocoPanoptic  # needs kornia_rs

        dataset = CocoPanoptic(settings.images, settings.annotations, segments=settings.segments)
    elif isinstance(settings, FolderSettings):
        dataset = Folder(
            settings.images,
            settings.labels,
            taxonomy=settings.taxonomy,
            classes=settings.classes,
            min_area=settings.min_area,
        )
    else:
        # Imported here because it takes half a second.
        from upsnet_ros.synthetic.dataset import SceneDataset

        dataset = SceneDataset(
            split=settings.split,
            seed=settings.seed,
            length=settings.length,
            size=settings.size,
            cache=settings.cache,
        )
    wanted = get_variant(variant).dataset
    if dataset.taxonomy.name != wanted:
        raise DatasetError(
            f"{settings.kind} has the classes of {dataset.taxonomy.name}, but {variant} those of"
            f" {wanted}"
        )
    return dataset


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng((seed, epoch)).permutation(count).tolist())


def index_at(position: int, *, seed: int, count: int) -> int:
    """Return the index of the image at a position; each of ``count`` occurs once per epoch."""
    epoch, offset = divmod(position, count)
    return _epoch_order(seed, epoch, count)[offset]


def seed_at(position: int, *, seed: int) -> int:
    """Return the seed of all random choices for the image at a position."""
    return int(np.random.SeedSequence((seed, position)).generate_state(1, np.uint64)[0] >> 1)


class TrainingImages(TorchDataset["Batch | DatasetError"]):
    """The endless sequence of training images, batches of one, indexed by position.

    Args:
        dataset: The training set.
        augment: Random augmentation.
        quirks: Faults of the original to reproduce.
        seed: Seed of the run.

    Raises:
        DatasetError: If the dataset is empty.
    """

    def __init__(
        self, dataset: Dataset, *, augment: AugmentSettings, quirks: Quirks, seed: int
    ) -> None:
        if len(dataset) == 0:
            raise DatasetError("the training set is empty")
        self._dataset = dataset
        self._augment = augment
        self._quirks = quirks
        self._seed = seed

    def __getitem__(self, position: int) -> Batch | DatasetError:
        """Return an image, or the error if it cannot be read.

        Errors are returned because torch passes on an exception of a worker only as text.
        """
        index = index_at(position, seed=self._seed, count=len(self._dataset))
        try:
            sample = self._dataset[index]
        except DatasetError as error:
            return error
        except SettingsError as error:  # of the limit on pixels
            return DatasetError(str(error))
        seed = seed_at(position, seed=self._seed)
        sample, geometry = augment(sample, self._augment, seed=seed)
        return prepare(
            sample,
            geometry,
            num_stuff=self._dataset.taxonomy.num_stuff,
            seed=seed,
            quirks=self._quirks,
        )


def positions_of_steps(
    iterations: range, *, batch_size: int, rank: int, processes: int
) -> Iterator[list[int]]:
    """Return an iterator over the positions of one process's images, for each optimiser step.

    Args:
        iterations: The steps.
        batch_size: Images per step, over all processes.
        rank: Rank of this process.
        processes: Number of processes.

    Raises:
        SettingsError: If the batch size is not divisible by the number of processes.
    """
    share, rest = divmod(batch_size, processes)
    if rest:
        raise SettingsError(
            f"batch_size {batch_size} cannot be divided equally among {processes} processes"
        )
    starts = (iteration * batch_size + rank * share for iteration in iterations)
    return (list(range(start, start + share)) for start in starts)


def _prepare_worker(_: int) -> None:
    # Torch's workers look for their parent too, but then wait for their thread that sends images,
    # which nobody receives.
    end_with_parent()
    # The workers themselves are the parallelism.
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _break_off_at_exit()


def _break_off_at_exit() -> None:
    # A worker that is told to end does not wait for its thread that sends images. Python would
    # break off that thread inside torch: "terminate called without an active exception".
    atexit.register(os._exit, 0)


def _passes(items: Sequence[Batch | DatasetError], *, size: int) -> list[Batch] | DatasetError:
    images = []
    for item in items:
        if isinstance(item, DatasetError):
            return item
        images.append(item)
    return [Batch.join(images[start : start + size]) for start in range(0, len(images), size)]


def _allow_open_files() -> None:
    """Raise this process's limit of open files as far as allowed; workers inherit it.

    Every tensor received from a worker is an open file until it is freed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def load_steps(
    images: TrainingImages,
    steps: Iterable[list[int]],
    *,
    images_per_pass: int,
    workers: int,
    pin_memory: bool,
) -> Generator[list[Batch], None, None]:
    """Yield the images at the positions of each step, in batches of at most ``images_per_pass``.

    Raises:
        DatasetError: If an image cannot be read.
    """
    if workers:
        _allow_open_files()
    loader = DataLoader(
        images,
        batch_sampler=steps,
        num_workers=workers,
        collate_fn=partial(_passes, size=images_per_pass),
        worker_init_fn=_prepare_worker,
        pin_memory=pin_memory,
        prefetch_factor=2 if workers else None,
        # A forked worker would inherit locks held by OpenCV's and torch's threads; a worker of a
        # fork server would survive, with the server, if this process is killed.
        multiprocessing_context=process_context("spawn") if workers else None,
    )
    others = multiprocessing.active_children()
    with starting_workers():
        batches = iter(loader)
    starting = [one for one in multiprocessing.active_children() if one not in others]
    try:
        for passes in batches:
            starting.clear()
            if isinstance(passes, DatasetError):
                raise passes
            yield passes
    finally:
        kill_workers(starting)
