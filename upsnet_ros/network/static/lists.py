"""Lists of fixed length, one for each image of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from upsnet_ros.network.instance_head import Detections


def there(numbers: Tensor, length: int) -> Tensor:
    """Return which entries of lists (B, length) are no padding: bool, the first `numbers` (B,)."""
    return torch.arange(length, device=numbers.device) < numbers[:, None]


def take(values: Tensor, place: Tensor) -> Tensor:
    """Return the entries of lists (B, N, ...) at places int64 (B, M): (B, M, ...)."""
    index = place.view(*place.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(*place.shape, *values.shape[2:]))


@dataclass(frozen=True, slots=True)
class ProposalLists:
    """Proposals of each image, best first.

    Attributes:
        boxes: float32 (B, K, 4) in pixels of the network's input; zeros in the padding.
        numbers: int32 (B,), how many are there.
    """

    boxes: Tensor
    numbers: Tensor


@dataclass(frozen=True, slots=True)
class DetectionLists:
    """Detected things of each image, best first; zeros in the padding.

    Attributes:
        boxes: float32 (B, N, 4) in pixels of the network's input.
        scores: float32 (B, N), class probabilities.
        classes: int64 (B, N), 1 .. num_classes - 1.
        numbers: int32 (B,), how many are there.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    numbers: Tensor

    def at(self, place: Tensor, numbers: Tensor) -> DetectionLists:
        """Return lists of the entries at int64 places (B, M), of which `numbers` are there."""
        inside = there(numbers, place.shape[1])
        boxes, scores, classes = (take(x, place) for x in (self.boxes, self.scores, self.classes))
        return DetectionLists(boxes * inside[..., None], scores * inside, classes * inside, numbers)

    def cut(self, length: int) -> DetectionLists:
        """Return the first entries of the lists."""
        boxes, scores, classes = (x[:, :length] for x in (self.boxes, self.scores, self.classes))
        return DetectionLists(boxes, scores, classes, self.numbers)

    def of_image(self, image: int) -> Detections:
        """Return one image's list without its padding, but at least one entry; on the host only."""
        number = max(1, int(self.numbers[image]))
        fields = (self.boxes, self.scores, self.classes)
        return Detections(*(x[image, :number] for x in fields))
