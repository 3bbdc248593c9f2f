"""How many prepared samples a second the data loader gives: a GPU must not wait for it.

python benchmarks/loading.py config/train/cityscapes-r50.yaml --workers 8 --samples 200
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from upsnet_ros.training.loading import TrainingImages, load_steps, open_dataset, positions_of_steps
from upsnet_ros.training.settings import load_settings


def measure(config: Path, overrides: Sequence[str], *, workers: int, samples: int) -> float:
    """Return samples a second, after the workers have started."""
    settings = load_settings(config, overrides)
    images = TrainingImages(
        open_dataset(settings.train, variant=settings.variant),
        augment=settings.augment,
        quirks=settings.quirks,
        seed=settings.seed,
    )
    # As many again before the clock starts: importing torch takes each worker seconds.
    warm_up = 4 * max(workers, 1)
    steps = positions_of_steps(range(warm_up + samples), batch_size=1, rank=0, processes=1)
    batches = load_steps(images, steps, images_per_pass=1, workers=workers, pin_memory=False)
    for _ in range(warm_up):
        next(batches)
    start = time.perf_counter()
    count = sum(len(batch) for (batch,) in batches)
    return count / (time.perf_counter() - start)


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    rate = measure(
        arguments.config,
        arguments.overrides,
        workers=arguments.workers,
        samples=arguments.samples,
    )
    print(f"{rate:.1f} samples a second with {arguments.workers} workers")


if __name__ == "__main__":
    main()
