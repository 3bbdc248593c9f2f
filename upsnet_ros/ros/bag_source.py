"""The camera of a bag as a source of frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from upsnet_ros.bags import BagError, open_bag
from upsnet_ros.ros.image_codec import ImageError, to_bgr
from upsnet_ros.ros.replay_topics import TRUTH, TopicError, topics_of
from upsnet_ros.ros.sources import FOLDER_RATE_HZ, SourceError, SourceFrame

__all__ = ["BagImages"]


class BagImages:
    """The images of a bag's only camera, at the times at which the bag received them.

    `upsnet replay` plays everything in a bag, and its messages as they are; this is for those who
    want nothing but pictures.

    Raises:
        SourceError: If it is no bag, or has no camera, or several; while iterating, if an image
            cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            self._topic = topics_of(path, truth=(TRUTH,)).camera
            with open_bag(path, topics=[self._topic]) as bag:
                self.length = next(one.count for one in bag.topics if one.name == self._topic)
                seconds = (bag.end_time - bag.start_time) / 1e9
        except (BagError, TopicError) as error:
            raise SourceError(str(error)) from error
        self.rate_hz = (self.length - 1) / seconds if seconds > 0 else 0.0
        self.rate_hz = self.rate_hz or FOLDER_RATE_HZ

    def __iter__(self) -> Iterator[SourceFrame]:
        first_ns: int | None = None
        try:
            with open_bag(self.name, topics=[self._topic]) as bag:
                for index, record in enumerate(bag):
                    first_ns = record.time_ns if first_ns is None else first_ns
                    yield SourceFrame(
                        image=to_bgr(record.message),
                        name=f"{Path(self.name).name}#{index}",
                        time_ns=record.time_ns - first_ns,
                    )
        except ImageError as error:
            raise SourceError(f"{self.name}: {self._topic}: {error}") from error
        except BagError as error:
            raise SourceError(str(error)) from error
