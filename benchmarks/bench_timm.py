"""Networks of timm: how many of its families work, and give timm's own features.

Claim: of the smallest network of each family (each module of timm.models), 90 in 100
work in both estimators. That is: features equal timm's own (`forward_head(pre_logits=
True)` through `create_transform`) to 1e-4 of their largest, and the network can be
fine-tuned for an epoch. Networks of more than 150 million parameters, or that see more
than 600 pixels, are not tried and count as failures. None gives other features than
timm's without a word. All are untrained, which makes no difference here.

Usage: python benchmarks/bench_timm.py [--names NAME ...]. Exits with 1 when the claim
fails. Some twenty minutes on one core, of which five are for finding the smallest.
"""

import argparse
import sys
import time
import warnings

import numpy as np
import timm
import torch
from _timing import verdict
from PIL import Image

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor, layer_names

MOST_PARAMETERS, MOST_PIXELS, SHARE, TOLERANCE = 150e6, 600, 0.9, 1e-4
WORKS, OTHER = "works", "OTHER FEATURES"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", nargs="*", help="instead of the smallest")
    return parser.parse_args()


def size(name):
    """Numbers of parameters and of pixels along a side; nothing is allocated."""
    with torch.device("meta"):
        network = timm.create_model(name)
    n_parameters = sum(p.numel() for p in network.parameters())
    return n_parameters, network.default_cfg["input_size"][-1]


def smallest_of_each_family():
    for module in timm.list_modules():
        # Those named test_ are timm's own, for its tests.
        names = [n for n in timm.list_models(module=module) if n[:5] != "test_"]
        yield min(names, key=size)


def own_features(network, images):
    config = timm.data.resolve_data_config(model=network)
    transform = timm.data.create_transform(**config, is_training=False)
    batch = torch.stack([transform(image) for image in images])
    with torch.no_grad():
        features = network.forward_features(batch)
        return network.forward_head(features, pre_logits=True)


def try_out(name, images):
    """What comes of a network, and in how many places it can be cut."""
    n_parameters, side = size(name)
    if n_parameters > MOST_PARAMETERS or side > MOST_PIXELS:
        return f"not tried, {n_parameters / 1e6:.0f} million, {side} pixels", 0
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    n_cuts = len(layer_names(network))
    expected = own_features(network, images)
    extractor = PretrainedFeatureExtractor(network, precision="float32", cache=None)
    features = extractor.fit_transform(images)
    if features.shape != expected.shape:
        return OTHER, n_cuts
    error = np.abs(features - expected.numpy()).max() / expected.abs().max()
    if error > TOLERANCE:
        return f"{OTHER}, by {error:.2g}", n_cuts
    clf = FineTunedCNNClassifier(network, max_epochs=1, random_state=0)
    probabilities = clf.fit(images, np.arange(len(images)) % 2).predict_proba(images)
    return WORKS if np.isfinite(probabilities).all() else "not finite", n_cuts


def main():
    names = arguments().names or smallest_of_each_family()
    coarse = np.random.default_rng(0).integers(0, 256, (2, 8, 11, 3), np.uint8)
    images = [Image.fromarray(c).resize((300, 240), Image.BICUBIC) for c in coarse]
    outcomes = []
    for name in names:
        start = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcome, n_cuts = try_out(name, images)
        except ValueError as error:
            outcome, n_cuts = f"refused: {error}", 0
        seconds = time.process_time() - start
        print(f"{name}: {outcome}; {n_cuts} cuts, {seconds:.1f} s", flush=True)
        outcomes.append(outcome)
    n_works = outcomes.count(WORKS)
    print(f"{n_works} of {len(outcomes)} work")
    return verdict(
        {
            f"{SHARE:.0%} work": n_works >= SHARE * len(outcomes),
            "none gives other features": not any(OTHER in o for o in outcomes),
        }
    )


if __name__ == "__main__":
    sys.exit(main())
