"""Networks of timm, untrained: features are timm's own, and the network can be cut.

`benchmarks/bench_timm.py` counts the smallest network of each of timm's families; here
are those that users ask for most.
"""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

timm = pytest.importorskip("timm")

from sktl import PretrainedFeatureExtractor  # noqa: E402
from sktl._networks.backbones import load_backbone  # noqa: E402
from tests.helpers import timm_features  # noqa: E402

LISTED = """resnet18 resnetv2_50 convnext_atto convnextv2_atto efficientnet_lite0
efficientnet_b0 regnety_002 mobileone_s0 fastvit_t8 densenet121 mixer_s32_224
edgenext_xx_small efficientformerv2_s0 poolformer_s12 hgnetv2_b0 dla46_c nfnet_l0
xcit_nano_12_p16_224 inception_next_atto beit_base_patch16_224 coatnet_nano_rw_224
dpn48b vit_tiny_patch16_224 deit_tiny_patch16_224 mobilenetv3_small_050
mobilenetv4_conv_small lcnet_035 ghostnetv2_100 starnet_s1 vit_small_patch14_dinov2
vit_small_patch16_dinov3 eva02_tiny_patch14_224 vit_base_patch16_siglip_224 repvit_m0_9
levit_128s swin_tiny_patch4_window7_224 maxvit_pico_rw_256 mobilevit_xxs""".split()
HEADS = ["deit_tiny_distilled_patch16_224", "volo_d1_224"]  # several, of several tokens
# What computes the same with less: fewer blocks, smaller images.
TWO_BLOCKS = """beit_base_patch16_224 deit_tiny_distilled_patch16_224
deit_tiny_patch16_224 eva02_tiny_patch14_224 vit_base_patch16_siglip_224
vit_small_patch16_dinov3 vit_tiny_patch16_224 xcit_nano_12_p16_224""".split()
FEW_OF_EACH_STAGE = """coatnet_nano_rw_224 efficientformerv2_s0 inception_next_atto
maxvit_pico_rw_256 nfnet_l0 swin_tiny_patch4_window7_224""".split()
SMALLER = {
    **{name: {"depth": 2} for name in TWO_BLOCKS},
    **{name: {"depths": (2, 1, 1, 1)} for name in FEW_OF_EACH_STAGE},
    "vit_small_patch14_dinov2": {
        "depth": 2,
        "pretrained_cfg_overlay": {"input_size": (3, 98, 98)},
    },
    "densenet121": {"block_config": (2, 2, 2, 2)},
    "fastvit_t8": {"layers": (2, 1, 1, 1)},
    "resnetv2_50": {"layers": (2, 1, 1, 1)},
}
# Its blocks read positions from before them, so none can be split from another.
TRAINED_WHOLE = "vit_small_patch16_dinov3"


@pytest.fixture(scope="module")
def image():
    coarse = np.random.default_rng(0).integers(0, 256, (8, 11, 3), np.uint8)
    return Image.fromarray(coarse).resize((300, 240), Image.BICUBIC)


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED + HEADS)
def test_features_are_those_of_timm_and_the_network_can_be_cut(name, image):
    """The default of each family is what timm's own head reads."""
    torch.manual_seed(0)
    network = timm.create_model(name, **SMALLER.get(name, {})).eval()
    expected = timm_features(network, [image])

    extractor = PretrainedFeatureExtractor(network, precision="float32", cache=None)
    features = extractor.fit_transform([image])

    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())
    backbone = load_backbone(network)
    staged, side = backbone.network, backbone.preprocessing.geometry.crop
    assert staged.n_features(side) == features.shape[1]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cut = staged.resolve_stage("last")
    assert cut or said
    assert not said or name == TRAINED_WHOLE
