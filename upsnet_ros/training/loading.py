"""Which images a step sees, read and prepared by worker processes.

Everything random about an image follows from the run's seed and the image's position, its number
in the endless sequence of images. So it does not matter which process or worker makes it, nor
whether the run was interrupted before it.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import cast

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from upsnet_ros.datasets.base import Dataset, DatasetError
from upsnet_ros.training.augment import augment
from upsnet_ros.training.prepare import Prepared, prepare
from upsnet_ros.training.run_settings import SettingsError
from upsnet_ros.training.settings import AugmentSettings, Quirks

#: A batch of 16 has some 200 tensors, and each worker holds two batches ready.
_OPEN_FILES = 65536


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng((seed, epoch)).permutation(count).tolist())


def index_at(position: int, *, seed: int, count: int) -> int:
    """Return which of ``count`` images comes at a position: every one once in each epoch."""
    epoch, place = divmod(position, count)
    return _epoch_order(seed, epoch, count)[place]


def seed_at(position: int, *, seed: int) -> int:
    """Return the seed of the random changes and choices at a position."""
    return int(np.random.SeedSequence((seed, position)).generate_state(1, np.uint64)[0] >> 1)


class TrainingImages(TorchDataset["Prepared | DatasetError"]):
    """The endless sequence of prepared images, by position."""

    def __init__(
        self, dataset: Dataset, *, augment: AugmentSettings, quirks: Quirks, seed: int
    ) -> None:
        if len(dataset) == 0:
            raise DatasetError("the training set is empty")
        self._dataset = dataset
        self._augment = augment
        self._quirks = quirks
        self._seed = seed

    def __getitem__(self, position: int) -> Prepared | DatasetError:
        """Return an image, or the error that kept it from being read.

        An exception raised in a worker would arrive as the text of its traceback.
        """
        index = index_at(position, seed=self._seed, count=len(self._dataset))
        try:
            sample = self._dataset[index]
        except DatasetError as error:
            return error
        seed = seed_at(position, seed=self._seed)
        sample, geometry = augment(sample, self._augment, seed=seed)
        return prepare(
            sample,
            geometry,
            num_stuff=self._dataset.taxonomy.num_stuff,
            seed=seed,
            quirks=self._quirks,
        )


class Steps(Sampler[list[int]]):
    """The positions of one process's images in each of a range of steps.

    Args:
        iterations: The steps.
        batch_size: Images in a step, over all processes.
        rank: Number of this process.
        processes: How many there are.

    Raises:
        SettingsError: The batch cannot be shared equally.
    """

    def __init__(self, iterations: range, *, batch_size: int, rank: int, processes: int) -> None:
        if batch_size % processes:
            raise SettingsError(
                f"batch_size {batch_size} cannot be shared by {processes} processes equally"
            )
        self._iterations = iterations
        self._batch_size = batch_size
        self._share = batch_size // processes
        self._rank = rank

    def __len__(self) -> int:
        return len(self._iterations)

    def __iter__(self) -> Iterator[list[int]]:
        for iteration in self._iterations:
            first = iteration * self._batch_size + self._rank * self._share
            yield list(range(first, first + self._share))


def _single_threaded(_: int) -> None:
    # Workers share the cores among themselves.
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _as_list(items: Sequence[Prepared | DatasetError]) -> list[Prepared | DatasetError]:
    return list(items)


def _allow_open_files() -> None:
    """Raise this process's limit of open files as far as it may; workers inherit it.

    Every tensor that comes from a worker is an open file until it is freed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def load_steps(
    images: TrainingImages, steps: Steps, *, workers: int, pin_memory: bool
) -> Iterator[list[Prepared]]:
    """Yield the prepared images of each step.

    Raises:
        DatasetError: An image cannot be read.
    """
    if workers:
        _allow_open_files()
    loader = DataLoader(
        images,
        batch_sampler=steps,
        num_workers=workers,
        collate_fn=_as_list,
        worker_init_fn=_single_threaded,
        pin_memory=pin_memory,
        prefetch_factor=2 if workers else None,
        # A forked worker would take over locks of OpenCV's and torch's threads; one from a fork
        # server would live on, with the server, where this process is killed.
        multiprocessing_context="spawn" if workers else None,
    )
    for items in loader:
        for item in items:
            if isinstance(item, DatasetError):
                raise item
        yield cast("list[Prepared]", items)
