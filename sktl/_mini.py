"""`sktl_mini`: the small network that ships inside the package."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models.resnet import BasicBlock

# How a picture reaches the network, in training and ever after: uint8 RGB,
# stretched to SIZE x SIZE by PIL's bilinear filter, divided by 255, minus MEAN,
# over STD (one value per channel).
SIZE = 32
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)

# Of weights/sktl_mini.safetensors, compared at every load.
WEIGHTS_SHA256 = "84547140f0290080e4ebf70a2a2736cad9ad3e03c846a30008d00ff0803ce827"

STEM_WIDTH = 32
WIDTHS = (48, 96, 256)
BLOCKS = (2, 2, 1)
STRIDES = (1, 2, 2)
N_FEATURES = WIDTHS[-1]


class SktlMini(nn.Module):
    """Residual network for small, simple pictures: 1.2 million parameters.

    ========= ============================================ ==================
    stage     what it is                                   output at 32 px
    ========= ============================================ ==================
    stem      3x3 convolution, stride 2, batch norm, ReLU  32 x 16 x 16
    layer1    two residual blocks                          48 x 16 x 16
    layer2    two residual blocks, the first of stride 2   96 x 8 x 8
    layer3    one residual block of stride 2               256 x 4 x 4
    avgpool   mean over the whole map                      256 x 1 x 1
    flatten   the penultimate features                     256
    fc        linear layer                                 num_classes
    ========= ============================================ ==================

    Parameters
    ----------
    num_classes : int, default=1000
        Outputs of `fc`. Published weight files hold every tensor but those of
        `fc`, so they load into a network of any `num_classes`.

    Notes
    -----
    Input: normalised RGB floats `(n, 3, h, w)`, `h` and `w` at least 16.
    Without `fc` the network has 1,211,968 parameters.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = _stem(3, STEM_WIDTH)
        n_in = (STEM_WIDTH, *WIDTHS[:-1])
        stages = zip(n_in, WIDTHS, BLOCKS, STRIDES, strict=True)
        self.layer1, self.layer2, self.layer3 = (_stage(*args) for args in stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(N_FEATURES, num_classes)
        _initialize(self)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(self.flatten(self.avgpool(x)))


def _stem(n_in: int, n_out: int) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False)
    parts = [("conv", conv), ("bn", nn.BatchNorm2d(n_out)), ("relu", nn.ReLU())]
    return nn.Sequential(OrderedDict(parts))


def _stage(n_in: int, n_out: int, n_blocks: int, stride: int) -> nn.Sequential:
    shortcut = nn.Sequential(
        nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out)
    )
    first = BasicBlock(n_in, n_out, stride, shortcut)
    rest = [BasicBlock(n_out, n_out) for _ in range(n_blocks - 1)]
    return nn.Sequential(first, *rest)


def _initialize(network: nn.Module) -> None:
    """He's initialisation, as torchvision's own residual networks have it."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
