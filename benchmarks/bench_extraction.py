"""Arrays to features as fast as a loop tuned by hand, without writing that loop.

Claim, for each of five networks and uint8 images in memory, nothing cached: the rate
of `PretrainedFeatureExtractor.transform` is at least 0.90 of that of a torch loop tuned
by hand in the same precision (batch norms folded, channels last, inference mode, the
whole network in bfloat16), and at least 1.5 (float32) or 3.5 (bfloat16) times that of
the plain loop, which is eager, float32 and in torch's own layout. Loops and extractor
have a batch size of 32, normalise, and give equal features; weights are random.

How much bfloat16 gains is decided by the CPU: with matrix units for it (AMX) the most.
Printed beside it, and not claimed: the tuned loop with batches of 8, which suit the
caches of a CPU better (the extractor sees to that by itself); and float32 against
embetter's `ImageLoader` and `TimmEncoder` on PNG files of the same images, where both
libraries are installed.

Usage: python benchmarks/bench_extraction.py [--networks NAME ...] [--images N]
[--repeats N]. Exits with 1 when the claim fails. About five minutes on two cores.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _timing import interleaved, ratio, verdict
from PIL import Image
from torch.fx.experimental.optimization import fuse
from torchvision.models import get_model

from sktl import PretrainedFeatureExtractor

try:
    import timm
    from embetter.vision import ImageLoader, TimmEncoder
except ImportError:
    TimmEncoder = object

BATCH_SIZE, SMALL_BATCH_SIZE = 32, 8
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLAIMED_OF_TUNED = 0.90
# Precision -> how many times the rate of the plain loop.
CLAIMED_OF_PLAIN = {"float32": 1.5, "bfloat16": 3.5}
# Largest difference of features, by the size of the largest of them.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
# Torchvision's name -> timm's; timm has no SqueezeNet.
NETWORKS = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "mobilenet_v2": "mobilenetv2_100",
    "squeezenet1_1": None,
    "efficientnet_b0": "efficientnet_b0",
}
N_EMBETTER = 32  # it passes images one by one


def random_images(n):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 224, 224, 3), dtype=np.uint8)


def headless(name):
    """The network up to what its last weight layer reads, as one row per image."""
    torch.manual_seed(0)  # as PretrainedFeatureExtractor(name, weights=None) does
    network = get_model(name, weights=None).eval()
    if name.startswith("squeezenet"):  # its last weight layer is a convolution
        pool = torch.nn.AdaptiveAvgPool2d(1)
        return torch.nn.Sequential(network.features, pool, torch.nn.Flatten())
    setattr(
        network, "fc" if hasattr(network, "fc") else "classifier", torch.nn.Identity()
    )
    return network.eval()


def plain_loop(network, X):
    """Features as a tutorial computes them."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    features = []
    with torch.no_grad():
        for start in range(0, len(X), BATCH_SIZE):
            images = torch.from_numpy(X[start : start + BATCH_SIZE])
            images = images.permute(0, 3, 1, 2).contiguous().float() / 255
            features.append(network((images - mean) / std).numpy())
    return np.concatenate(features)


def tune(network, dtype):
    """Fold the batch norms, then lay out and convert the weights once."""
    return fuse(network).to(dtype).to(memory_format=torch.channels_last)


def tuned_loop(network, dtype, batch_size, X):
    """Features as somebody who knows torch well computes them."""
    # Division by 255 and normalisation as one multiplication and one addition.
    scale = (1 / (255 * torch.tensor(STD))).view(1, 3, 1, 1)
    shift = -(torch.tensor(MEAN) / torch.tensor(STD)).view(1, 3, 1, 1)
    features = []
    with torch.inference_mode():
        for start in range(0, len(X), batch_size):
            # (n, h, w, c) in memory is (n, c, h, w) with channels last: nothing moves.
            images = torch.from_numpy(X[start : start + batch_size]).permute(0, 3, 1, 2)
            images = images.float().mul_(scale).add_(shift).to(dtype)
            features.append(network(images).float().numpy())
    return np.concatenate(features)


def make_extractor(name, precision, X, image_size=None):
    extractor = PretrainedFeatureExtractor(
        name,
        weights=None,
        precision=precision,
        image_size=image_size,
        batch_size=BATCH_SIZE,
        cache=None,
    )
    return extractor.fit(X[:1])


def make_sides(name, X):
    """{side: function to the features of X}."""
    sides = {"plain": partial(plain_loop, headless(name), X)}
    for precision in CLAIMED_OF_PLAIN:
        dtype = getattr(torch, precision)
        network = tune(headless(name), dtype)
        for side, size in {"tuned": BATCH_SIZE, "small": SMALL_BATCH_SIZE}.items():
            sides[f"{side} {precision}"] = partial(tuned_loop, network, dtype, size, X)
        # At this size images of 224 x 224 pixels are taken as they are.
        extractor = make_extractor(name, precision, X, image_size=224)
        sides[f"sktl {precision}"] = partial(extractor.transform, X)
    return sides


def check_equal(name, sides):
    """Run each side once, which also warms it up; all must give the same features."""
    expected = sides["plain"]()
    for side, run in sides.items():
        difference = np.abs(run() - expected).max() / np.abs(expected).max()
        allowed = TOLERANCE[side.split()[-1]] if side != "plain" else 0
        if not difference <= allowed:
            sys.exit(
                f"{name}: {side} differs by {difference:.1e} of the features' size"
            )


def show(name, precision, *columns):
    cells = " ".join(f"{column!s:22}" for column in columns)
    print(f"{name:15} {precision:8} {cells}", flush=True)


def compare(name, X, n_repeats):
    """{claim: whether it holds} for one network."""
    sides = make_sides(name, X)
    check_equal(name, sides)
    seconds = interleaved(sides, n_repeats)
    claims = {}
    for precision, of_plain in CLAIMED_OF_PLAIN.items():
        ours = f"sktl {precision}"
        tuned = ratio(seconds, f"tuned {precision}", ours)
        plain = ratio(seconds, "plain", ours)
        small = ratio(seconds, f"small {precision}", ours)
        show(name, precision, tuned, plain, small)
        claim = f"{name}, {precision}"
        claims[f"{claim}: {CLAIMED_OF_TUNED} of tuned"] = (
            tuned.median >= CLAIMED_OF_TUNED
        )
        claims[f"{claim}: {of_plain} times plain"] = plain.median >= of_plain
    return claims


class UntrainedTimmEncoder(TimmEncoder):
    """Embetter's encoder; its constructor fetches weights, which this one does not."""

    def __init__(self, name):
        self.model = timm.create_model(name, pretrained=False, num_classes=0)
        config = timm.data.resolve_data_config({}, model=self.model)
        self.transform_img = timm.data.create_transform(**config)


def embetter_features(encoder, files):
    return encoder.transform(ImageLoader().transform(files))


def show_embetter(names, n_repeats):
    """Print the ratio of its time to ours, from the same files."""
    if TimmEncoder is object:
        print("embetter: not installed (it takes embetter and timm)")
        return
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, f"{i}.png")) for i in range(N_EMBETTER)]
        for image, file in zip(random_images(N_EMBETTER), files, strict=True):
            Image.fromarray(image).save(file)
        for name in filter(NETWORKS.get, names):
            encoder = UntrainedTimmEncoder(NETWORKS[name])
            extractor = make_extractor(name, "float32", files)
            sides = {
                "embetter": partial(embetter_features, encoder, files),
                "sktl": partial(extractor.transform, files),
            }
            interleaved(sides, 1)  # warms up
            found = ratio(interleaved(sides, n_repeats), "embetter", "sktl")
            print(f"{name:15} float32  times the rate of embetter: {found}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    X = random_images(args.images)
    print(f"{len(X)} images, {args.repeats} repeats, {torch.get_num_threads()} threads")
    print("rate of the extractor as a multiple of that of the loops")
    show("", "", "tuned", "plain", f"tuned, batches of {SMALL_BATCH_SIZE}")
    claims = {}
    for name in args.networks:
        claims |= compare(name, X, args.repeats)
    show_embetter(args.networks, args.repeats)
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
