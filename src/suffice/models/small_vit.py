"""A vision transformer for MNIST, untrained: attention maps on a network that is trained in minutes.

`suffice train-classifier mnist --model suffice.models.small_vit:mnist` trains it; 139,018 weights, patches of 4 pixels,
four layers of four heads.

>>> import torch
>>> mnist().logits(torch.zeros(1, 1, 28, 28)).shape
torch.Size([1, 10])
"""

from __future__ import annotations

from suffice.classifier import Classifier
from suffice.engine import seeded
from suffice.models.mnist import mnist_classifier


def mnist() -> Classifier:
    """For digits of 28 x 28 pixels in one channel; zero after normalisation is black, the digits' own background."""
    from timm.models.vision_transformer import VisionTransformer

    with seeded(0):
        network = VisionTransformer(
            img_size=28, patch_size=4, in_chans=1, num_classes=10, embed_dim=64, depth=4, num_heads=4, mlp_ratio=2.0
        )
    return mnist_classifier(network, "suffice.models.small_vit:mnist")
