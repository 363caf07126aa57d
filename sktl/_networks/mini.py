"""`sktl_mini`: the small network that ships inside the package."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models.resnet import BasicBlock

# How an image reaches the network, in training and ever after: uint8 RGB,
# stretched to SIZE x SIZE by PIL's bilinear filter, divided by 255, minus MEAN,
# over STD (one value per channel).
SIZE = 64
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)

# The digest of weights/sktl_mini.safetensors, compared at every load.
WEIGHTS_SHA256 = "0e991e3089124ee913a64052841ac5ac876f65b1ab5086b18dcb55e9eb735bc9"

STEM_WIDTHS = (32, 48)
WIDTHS = (48, 128, 192)
STRIDES = (1, 2, 2)
N_FEATURES = 512


class SktlMini(nn.Module):
    """Residual network for small images: 1.9 million parameters.

    ========= ============================================ ==================
    stage     what it is                                   output at 64 px
    ========= ============================================ ==================
    stem      two 3x3 convolutions of stride 2             48 x 16 x 16
    layer1    two residual blocks                          48 x 16 x 16
    layer2    two residual blocks, the first of stride 2   128 x 8 x 8
    layer3    two residual blocks, the first of stride 2,  192 x 4 x 4
              and a 1x1 convolution                        512 x 4 x 4
    avgpool   mean over the whole map                      512 x 1 x 1
    flatten   the penultimate features                     512
    fc        linear layer                                 num_classes
    ========= ============================================ ==================

    Batch norm and ReLU follow each convolution.

    Parameters
    ----------
    num_classes : int, default=1000
        Outputs of `fc`. Published weight files hold every tensor but those of
        `fc`, so they load into a network of any `num_classes`.

    Notes
    -----
    Input: normalised RGB floats `(n, 3, h, w)`, `h` and `w` at least 16.
    Without `fc` the network has 1,948,000 parameters.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        first, second = STEM_WIDTHS
        self.stem = nn.Sequential(
            _convolution(3, first, 3, stride=2),
            _convolution(first, second, 3, stride=2),
        )
        n_in = (second, *WIDTHS[:-1])
        stages = zip(n_in, WIDTHS, STRIDES, strict=True)
        self.layer1, self.layer2, self.layer3 = (_stage(*args) for args in stages)
        self.layer3.append(_convolution(WIDTHS[-1], N_FEATURES, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(N_FEATURES, num_classes)
        _initialize(self)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(self.flatten(self.avgpool(x)))


def _convolution(n_in: int, n_out: int, size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, size, stride, padding=size // 2, bias=False)
    parts = [("conv", conv), ("bn", nn.BatchNorm2d(n_out)), ("relu", nn.ReLU())]
    return nn.Sequential(OrderedDict(parts))


def _stage(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    shortcut = nn.Sequential(
        nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out)
    )
    first = BasicBlock(n_in, n_out, stride, shortcut)
    return nn.Sequential(first, BasicBlock(n_out, n_out))


def _initialize(network: nn.Module) -> None:
    """He's initialisation, as torchvision's own residual networks have it."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
