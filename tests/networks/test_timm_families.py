"""Networks of timm, untrained: features are timm's own, and the network can be cut.

`benchmarks/bench_timm.py` counts the smallest network of each of timm's families; here
are those that users ask for most, and a sample of the others.
"""

import random
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
efficientnet_b0 tinynet_e regnety_002 mobileone_s0 fastvit_t8 densenet121 mixer_s32_224
resmlp_12_224 edgenext_xx_small efficientformerv2_s0 poolformer_s12 hgnetv2_b0 dla46_c
nfnet_l0 xcit_nano_12_p16_224 inception_next_atto beit_base_patch16_224
coatnet_nano_rw_224 dpn48b vit_tiny_patch16_224 deit_tiny_patch16_224
vit_small_patch16_224 mobilenetv3_small_050 mobilenetv4_conv_small lcnet_035
ghostnetv2_100 starnet_s1 vit_small_patch14_dinov2 vit_small_patch16_dinov3
eva02_tiny_patch14_224 vit_base_patch16_siglip_224 repvit_m0_9 levit_128s
swin_tiny_patch4_window7_224 maxvit_pico_rw_256 mobilevit_xxs
tf_efficientnetv2_b0""".split()
# The smallest of families that are not among these.
OTHERS = """halonet_h1 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
cpubone_nano csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny efficientformer_l1
efficientvit_b0 efficientvit_m0 fasternet_t0 focalnet_tiny_srf gcvit_xxtiny
hardcorenas_b hiera_tiny_224 hrnet_w18_small iformer_t inception_resnet_v2 inception_v3
inception_v4 lcnetv2_small lowformer_b0 mambaout_femto mvitv2_tiny nest_tiny
nextvit_small pit_ti_224 pvt_v2_b0 rdnet_tiny repghostnet_050 res2next50 resnest14d
rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 swiftformer_xs
swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224
tresnet_m twins_svt_small vgg11 visformer_tiny vit_tiny_r_s16_p8_224
vit_srelpos_small_patch16_224 vitamin_small_224 ese_vovnet19b_slim_dw legacy_xception
xception41p""".split()
HEADS = ["deit_tiny_distilled_patch16_224", "volo_d1_224"]  # several, of several tokens
# What computes the same with less: fewer blocks, smaller images.
SMALLER = {
    "beit_base_patch16_224": {"depth": 2},
    "vit_base_patch16_siglip_224": {"depth": 2},
    "vit_small_patch14_dinov2": {"pretrained_cfg_overlay": {"input_size": (3, 98, 98)}},
}
# Its blocks read positions from before them, so none can be split from another.
TRAINED_WHOLE = "vit_small_patch16_dinov3"


@pytest.fixture(scope="module")
def image():
    coarse = np.random.default_rng(0).integers(0, 256, (8, 11, 3), np.uint8)
    return Image.fromarray(coarse).resize((300, 240), Image.BICUBIC)


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED + random.Random(0).sample(OTHERS, 4) + HEADS)
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
    assert not said or name in (TRAINED_WHOLE, *OTHERS)
