"""Tokens of transformers: class token, registers and patches."""

import numpy as np
import pytest
import torch
from torchvision.models import VisionTransformer

from sktl import (
    FineTunedCNNClassifier,
    Preprocessing,
    PretrainedFeatureExtractor,
    layer_names,
)
from tests.helpers import each_once, first_and_slow

PLAIN = Preprocessing(
    resize=32, crop=32, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear"
)
SMALL = {
    "preprocessing": PLAIN,
    "precision": "float32",
    "cache": None,
    "batch_size": 2,
}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


def vit():
    torch.manual_seed(0)
    return VisionTransformer(32, 8, 2, 2, 16, 32).eval()


def timm_vit(**settings):
    models = pytest.importorskip("timm.models.vision_transformer")
    torch.manual_seed(0)
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2}
    network = models.VisionTransformer(
        **small, num_heads=2, num_classes=7, **settings
    ).eval()
    for name, token in network.named_parameters():  # some begin at nought
        if name in ("cls_token", "reg_token"):
            torch.nn.init.normal_(token)
    return network


def batch(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 255


def by_encoder(network, images):
    """What torchvision's own encoder gives: `(n, tokens, width)`."""
    with torch.no_grad():
        x = network._process_input(batch(images))
        token = network.class_token.expand(len(x), -1, -1)
        return network.encoder(torch.cat([token, x], dim=1)).numpy()


POOLED = {
    "avg": lambda tokens, n: tokens[:, n:].mean(1),
    "max": lambda tokens, n: tokens[:, n:].max(1),
    "cls": lambda tokens, n: tokens[:, 0],
    "cls+avg": lambda tokens, n: np.hstack([tokens[:, 0], tokens[:, n:].mean(1)]),
    "flatten": lambda tokens, n: tokens.reshape(len(tokens), -1),
}


@pytest.mark.parametrize("pooling", POOLED)
def test_tokens_of_torchvision_are_pooled_without_the_class_token(pooling, images):
    network = vit()
    extractor = PretrainedFeatureExtractor(
        network, layers="encoder.ln", pooling=pooling, **SMALL
    )
    expected = POOLED[pooling](by_encoder(network, images), 1)
    np.testing.assert_allclose(extractor.fit_transform(images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("n_registers", "pooling"), each_once([0, 3], ["avg", "cls", "cls+avg"])
)
def test_tokens_of_timm_are_pooled_without_registers(pooling, n_registers, images):
    network = timm_vit(reg_tokens=n_registers)
    (layer,) = [n for n in layer_names(network) if n in ("norm", "norm.layer_norm")]
    with torch.no_grad():
        tokens = network.forward_features(batch(images)).numpy()
    extractor = PretrainedFeatureExtractor(
        network, layers=layer, pooling=pooling, **SMALL
    )
    expected = POOLED[pooling](tokens, 1 + n_registers)
    np.testing.assert_allclose(extractor.fit_transform(images), expected, atol=1e-5)


@pytest.mark.parametrize("global_pool", ["token", "avg"])
def test_penultimate_is_what_the_head_of_timm_reads(global_pool, images):
    network = timm_vit(global_pool=global_pool)
    with torch.no_grad():
        features = network.forward_features(batch(images))
        expected = network.forward_head(features, pre_logits=True).numpy()
    extractor = PretrainedFeatureExtractor(network, **SMALL)
    np.testing.assert_allclose(extractor.fit_transform(images), expected, atol=1e-5)


@pytest.mark.parametrize("num_classes", first_and_slow([7, 0]))
def test_two_heads_of_distilled_deit_leave_the_mean_of_their_tokens(
    num_classes, images
):
    models = pytest.importorskip("timm.models.deit")
    torch.manual_seed(0)
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2}
    network = models.VisionTransformerDistilled(
        **small, num_heads=2, num_classes=num_classes
    ).eval()
    with torch.no_grad():
        tokens = network.forward_features(batch(images))
        expected = network.forward_head(tokens, pre_logits=True).numpy()
    extractor = PretrainedFeatureExtractor(network, **SMALL)
    np.testing.assert_allclose(extractor.fit_transform(images), expected, atol=1e-5)
    extractor.set_params(pooling="cls")
    np.testing.assert_allclose(
        extractor.fit_transform(images), tokens[:, 0].numpy(), atol=1e-5
    )
    clf = FineTunedCNNClassifier(network, preprocessing=PLAIN, max_epochs=1)
    assert clf.fit(images, [0, 1, 0, 1, 0]).module_.head.in_features == 16


@pytest.mark.parametrize("head", first_and_slow([True, False]))
def test_swin_has_masks_of_five_dimensions_and_channels_last(head, images):
    models = pytest.importorskip("timm.models.swin_transformer")
    torch.manual_seed(0)
    network = models.SwinTransformer(
        32, 2, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 2)
    ).eval()
    with torch.no_grad():
        maps = network.forward_features(batch(images)).numpy()
    if not head:
        network.head = torch.nn.Identity()
    extractor = PretrainedFeatureExtractor(network, **SMALL)
    features = extractor.fit_transform(images)
    np.testing.assert_allclose(features, maps.mean((1, 2)), atol=1e-5)
    clf = FineTunedCNNClassifier(
        network, preprocessing=PLAIN, precision="float32", max_epochs=1, random_state=0
    ).fit(images, [0, 1, 0, 1, 0])
    assert clf.module_.head.in_features == features.shape[1]


class Mixer(torch.nn.Module):
    """Its map has channels last, and is used twice; a view needs them side by side."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 8, 8, 8), torch.nn.LayerNorm(8)
        self.mix, self.head = torch.nn.Linear(8, 8), torch.nn.Linear(8, 2)

    def forward(self, x):
        x = self.norm(self.conv(x).permute(0, 2, 3, 1))
        x = x.flatten(1, 2) + self.mix(x.view(x.shape[0], -1, 8))
        return self.head(x.mean(1))


def test_trained_part_reads_a_map_with_channels_last_as_it_is(images):
    torch.manual_seed(0)
    network = Mixer()
    features = PretrainedFeatureExtractor(network, **SMALL).fit_transform(images)
    clf = FineTunedCNNClassifier(
        network,
        unfreeze_from="last",
        preprocessing=PLAIN,
        precision="float32",
        lr=1e-30,
        max_epochs=1,
    ).fit(images, [0, 1, 0, 1, 0])
    assert clf.frozen_up_to_ == "norm"
    with torch.no_grad():
        expected = clf.module_.head(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(clf.forward(images).numpy(), expected, atol=1e-4)


def test_penultimate_with_a_class_token_is_the_last_layer_that_has_one(images):
    network = vit()
    extractor = PretrainedFeatureExtractor(network, pooling="cls+avg", **SMALL)
    expected = POOLED["cls+avg"](by_encoder(network, images), 1)
    np.testing.assert_allclose(extractor.fit_transform(images), expected, atol=1e-5)
    assert extractor.layers_ == ["encoder.ln"]


def test_class_token_where_there_is_none_is_an_error(images, tiny_network):
    for network in (
        tiny_network,
        timm_vit(class_token=False, reg_tokens=2, global_pool="avg"),
    ):
        extractor = PretrainedFeatureExtractor(network, pooling="cls", **SMALL)
        with pytest.raises(ValueError, match=r"pooling='cls' reads a class token.*avg"):
            extractor.fit(images)


@pytest.mark.parametrize("strategy", first_and_slow(["linear_probe", "lp_ft", "full"]))
def test_classifier_pools_tokens_as_the_extractor_does(strategy, images):
    network = timm_vit(global_pool="")
    network.head = torch.nn.Identity()
    extractor = PretrainedFeatureExtractor(network, **SMALL)
    clf = FineTunedCNNClassifier(
        network,
        strategy=strategy,
        preprocessing=PLAIN,
        precision="float32",
        lr=1e-30,
        max_epochs=1,
        random_state=0,
    )
    clf.fit(images, [0, 1, 0, 1, 0])
    head = clf.module_.head
    with torch.no_grad():
        expected = head(torch.from_numpy(extractor.fit_transform(images))).numpy()
    np.testing.assert_allclose(clf.forward(images).numpy(), expected, atol=1e-4)


# ---- the axis of the channels, wherever a network moves it


class Moving(torch.nn.Module):
    """Channels go to the last axis, and through a Linear there."""

    def __init__(self, move, flatten):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = torch.nn.Conv2d(3, 6, 8, 8), torch.nn.Linear(6, 10)
        self.move, self.start = move, 2 if flatten else -1
        self.gelu, self.head = torch.nn.GELU(), torch.nn.Linear(10, 2)

    def moved(self, x):
        return self.move(self.conv(x).flatten(self.start))

    def forward(self, x):
        x = self.gelu(self.linear(self.moved(x)))
        return self.head(x.flatten(1, -2).mean(1))


TOKEN_MOVES = {
    "transpose, mixed": lambda x: x.transpose(1, -1),
    "transpose, by name": lambda x: x.transpose(dim0=1, dim1=2),
    "permute, by name": lambda x: x.permute(dims=(0, 2, 1)),
    "permute, negative": lambda x: torch.permute(x, (0, -1, 1)),
    "mT": lambda x: x.mT,
    "swapaxes": lambda x: x.swapaxes(1, 2),
    "swapdims": lambda x: torch.swapdims(x, 1, 2),
    "moveaxis": lambda x: torch.moveaxis(x, 1, -1),
    "einsum": lambda x: torch.einsum("bct->btc", x),
}
MAP_MOVES = {
    "movedim": lambda x: x.movedim(1, -1),
    "permute, negative": lambda x: x.permute(0, -2, -1, 1),
    "transpose": lambda x: x.transpose(1, 3),
    "two steps": lambda x: x.transpose(1, 2).transpose(2, 3),
}
MOVES = [(move, True) for move in TOKEN_MOVES.values()]
MOVES += [(move, False) for move in MAP_MOVES.values()]


@pytest.mark.parametrize(
    ("move", "flatten"), MOVES, ids=[*TOKEN_MOVES, *(f"map: {m}" for m in MAP_MOVES)]
)
def test_layers_are_pooled_over_positions_however_channels_were_moved(
    move, flatten, images
):
    network = Moving(move, flatten).eval()
    layers = [name for name in layer_names(network) if name in ("linear", "gelu")]
    extractor = PretrainedFeatureExtractor(network, layers=layers, **SMALL)
    features = extractor.fit_transform(images)
    with torch.no_grad():
        x = network.linear(network.moved(batch(images)))
        expected = [a.flatten(1, -2).mean(1) for a in (x, network.gelu(x))]
    np.testing.assert_allclose(features, np.hstack(expected), atol=1e-5)


def test_channels_that_are_shuffled_stay_first(images):
    extractor = PretrainedFeatureExtractor(
        "shufflenet_v2_x0_5", weights=None, layers="stage4.3.view_1", **SMALL
    )
    assert extractor.fit_transform(images).shape == (5, 192)


class Tokens(torch.nn.Module):
    """A class token, joined and taken off in different ways."""

    def __init__(self, join, take=lambda x: x, scores=lambda x: x[:, 0]):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = torch.nn.Conv2d(3, 8, 8, 8), torch.nn.LayerNorm(8)
        self.token = torch.nn.Parameter(torch.randn(1, 1, 8))
        self.fc = torch.nn.Linear(8, 3)
        self.join, self.take, self.scores = join, take, scores

    def tokens(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        return self.norm(self.take(self.join(self.token.expand(len(x), -1, -1), x)))

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        x = self.join(self.token.expand(x.shape[0], -1, -1), x)
        return self.fc(self.scores(self.norm(self.take(x))))


FIRST = {
    "concat": lambda t, x: torch.concat([t, x], 1),
    "concatenate": lambda t, x: torch.concatenate([t, x], dim=1),
    "by name": lambda t, x: torch.cat(tensors=[t, x], dim=-2),
    "hstack": lambda t, x: torch.hstack([t, x]),
}


@pytest.mark.parametrize("join", FIRST.values(), ids=FIRST.keys())
def test_token_is_found_however_it_is_joined(images, join):
    network = Tokens(join)
    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        expected = network.tokens(pixels)
    for pooling, part in (("avg", expected[:, 1:].mean(1)), ("cls", expected[:, 0])):
        extractor = PretrainedFeatureExtractor(
            network, layers="norm", pooling=pooling, **SMALL
        )
        np.testing.assert_allclose(extractor.fit_transform(images), part, atol=1e-6)


UNCLEAR = {
    "last": (lambda t, x: torch.cat([x, t], 1), lambda x: x, lambda x: x[:, -1]),
    "split": (FIRST["concat"], lambda x: x.split([1, 16], 1)[1], lambda x: x.mean(1)),
    "narrow": (FIRST["concat"], lambda x: x.narrow(1, 1, 16), lambda x: x.mean(1)),
    "from the end": (FIRST["concat"], lambda x: x[:, -16:], lambda x: x.mean(1)),
}


@pytest.mark.parametrize("parts", UNCLEAR.values(), ids=UNCLEAR.keys())
def test_tokens_that_cannot_be_followed_are_not_averaged(images, parts):
    network = Tokens(*parts)
    extractor = PretrainedFeatureExtractor(network, layers="norm", **SMALL)
    with pytest.raises(ValueError, match=r"'norm' holds tokens .* Put them first"):
        extractor.fit_transform(images)
    extractor.set_params(pooling="flatten")
    assert extractor.fit_transform(images).shape[0] == len(images)
