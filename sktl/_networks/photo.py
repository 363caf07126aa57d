"""`sktl_photo`: the network for photographs that ships inside the package."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

# How an image reaches the network, as in mini.py.
SIZE = 112
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
# From this size on, the last maps have more than one pixel. With one, their 5x5 filters
# read mostly padding, and most features are zero: on digits, the accuracy was 0.22 with
# 32 pixels, and 0.97 with 33.
LEAST_SIZE = 33

# The digest of weights/sktl_photo.safetensors, compared at every load.
WEIGHTS_SHA256 = "4bef40b35ad6b21bc8c826518ffddc32519be51fc76f93cd7642a3231267068a"

N_FEATURES = 512

# The blocks of each stage: channels, side of the kernel, stride, and the factor by
# which a block widens what it is given.
STEM_WIDTH = 32
STAGES = {
    "stem": [(16, 3, 1, 1), (24, 3, 2, 6), (24, 3, 1, 6)],
    "layer1": [(40, 5, 2, 6), (40, 5, 1, 6)],
    "layer2": [(80, 3, 2, 6), *[(80, 3, 1, 6)] * 2, *[(112, 5, 1, 6)] * 3],
    "layer3": [(192, 5, 2, 6), *[(192, 5, 1, 6)] * 2, (320, 3, 1, 6)],
}


class SktlPhoto(nn.Module):
    """EfficientNet-Lite0, shortened, for photographs: 2.6 million parameters.

    ========= ============================================ ==================
    stage     what it is                                   output at 112 px
    ========= ============================================ ==================
    stem      a 3x3 convolution of stride 2 and three      24 x 28 x 28
              blocks, the second of stride 2
    layer1    two blocks, the first of stride 2            40 x 14 x 14
    layer2    six blocks, the first of stride 2            112 x 7 x 7
    layer3    four blocks, the first of stride 2,          320 x 4 x 4
              and a 1x1 convolution                        512 x 4 x 4
    avgpool   mean over the whole map                      512 x 1 x 1
    flatten   the penultimate features                     512
    fc        linear layer                                 num_classes
    ========= ============================================ ==================

    A block widens its input by a 1x1 convolution, filters each channel by itself (3x3
    or 5x5), and narrows it again by a 1x1 convolution; its input is added where it has
    the same shape [1]_. Batch norm follows each convolution, ReLU6 all but the
    narrowing ones.

    Parameters
    ----------
    num_classes : int, default=1000
        Outputs of `fc`. Published weight files hold every tensor but those of
        `fc`, so they load into a network of any `num_classes`.

    Notes
    -----
    Input: normalised RGB floats `(n, 3, h, w)`, `h` and `w` at least 16.
    Without `fc` the network has 2,647,552 parameters.

    References
    ----------
    .. [1] Sandler et al., MobileNetV2: inverted residuals and linear bottlenecks,
       CVPR 2018; Tan and Le, EfficientNet, ICML 2019.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        n_in = STEM_WIDTH
        for name, blocks in STAGES.items():
            stage = nn.Sequential()
            for n_out, *shape in blocks:
                stage.append(_Block(n_in, n_out, *shape))
                n_in = n_out
            self.add_module(name, stage)
        self.stem.insert(0, _convolution(3, STEM_WIDTH, 3, stride=2))
        self.layer3.append(_convolution(n_in, N_FEATURES, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(N_FEATURES, num_classes)
        _initialize(self)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(self.flatten(self.avgpool(x)))


class _Block(nn.Module):
    def __init__(self, n_in, n_out, size, stride, expansion):
        super().__init__()
        width = n_in * expansion
        self.is_residual = stride == 1 and n_in == n_out
        self.expand = _convolution(n_in, width, 1) if expansion > 1 else nn.Identity()
        self.filter = _convolution(width, width, size, stride, groups=width)
        self.project = _convolution(width, n_out, 1)
        del self.project.relu

    def forward(self, x):
        y = self.project(self.filter(self.expand(x)))
        return x + y if self.is_residual else y


def _convolution(n_in, n_out, size, stride=1, groups=1):
    conv = nn.Conv2d(
        n_in, n_out, size, stride, padding=size // 2, groups=groups, bias=False
    )
    bn = nn.BatchNorm2d(n_out, eps=1e-3)  # EfficientNet's
    parts = [("conv", conv), ("bn", bn), ("relu", nn.ReLU6())]
    return nn.Sequential(OrderedDict(parts))


def _initialize(network: nn.Module) -> None:
    """He's initialisation, counting groups; residual blocks begin as the identity.

    torch's `kaiming_normal_` overlooks groups (2.14, torch/nn/init.py), so filters of
    single channels begin too small, and training overruns them. timm counts as here
    (1.0.31, timm/models/_efficientnet_builder.py, `_init_weight_goog`). Zero weights of
    a block's last batch norm: Goyal et al., Accurate, large minibatch SGD, 2017.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            n_weights = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 * module.groups / n_weights))
        elif isinstance(module, _Block) and module.is_residual:
            nn.init.zeros_(module.project.bn.weight)
