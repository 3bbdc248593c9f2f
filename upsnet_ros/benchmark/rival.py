"""torchvision's Mask R-CNN (R50-FPN), the yardstick: UPSNet is that plus a semantic head."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn


class MaskRCNN:
    """Mask R-CNN on the pixels that UPSNet's network sees, from the same bytes.

    Args:
        size: Height and width that the network runs at, before padding.
        device: Where it runs.
        dtype: Float32, or a half precision. Weights are cast to it once; autocast, which does what
            is not made for it in float32, would else cast them at each call.
        seed: Of its random weights.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
        seed: int = 0,
    ) -> None:
        self._device = device
        self._dtype = dtype
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = maskrcnn_resnet50_fpn(
                weights=None,
                weights_backbone=None,
                min_size=min(size),
                max_size=max(size),
            )
        self.network.eval().to(device, dtype, memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, image: npt.NDArray[np.uint8], *, detections: int) -> int:
        """Segment an image to full-size masks.

        Args:
            image: uint8 (H, W, 3), BGR.
            detections: Boxes to segment at most. With random weights more than a hundred pass
                torchvision's threshold of 0.05, so this is how many there are.

        Returns:
            How many were segmented.
        """
        self.network.roi_heads.detections_per_img = detections
        pixels = torch.from_numpy(image).to(self._device)
        pixels = pixels.flip(2).permute(2, 0, 1).float() / 255
        half = self._dtype != torch.float32
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=half):
            result: dict[str, Tensor] = self.network([pixels])[0]
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return len(result["masks"])
