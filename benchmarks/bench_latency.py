"""One image, as a service is asked for it, costs about one forward pass.

Claims, as multiples of a bare forward pass of that one image (the same network in plain
torch, batch norms folded, the image decoded and normalised before):

* `PretrainedFeatureExtractor.transform` of one image that is not in the cache: at most
  1.5, and 1.2 with `batch_size=1`; of one that is: at most 0.05;
* a pipeline of the extractor and logistic regression: at most 1.5;
* `FineTunedCNNClassifier.predict` with the whole network trained: at most 1.5.

Ten images, which make whole batches, are shown without a claim. ResNet-18 and VGG-16
with random weights, at 224 pixels.

Usage: python benchmarks/bench_latency.py [--networks NAME [NAME ...]] [--repeats N].
Exits with 1 when a claim fails. About two minutes on two cores.
"""

import argparse
import sys

import numpy as np
import torch
from _timing import interleaved, ratio, verdict
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch.fx.experimental.optimization import fuse
from torchvision import models

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor, clear_cache

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BOUNDS = {
    "extractor": 1.5,
    "extractor, batch_size=1": 1.2,
    "extractor, cached": 0.05,
    "pipeline": 1.5,
    "classifier, all trained": 1.5,
}
SIZE = 224


class Images:
    """Images never seen before, one after the other."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def new(self, n=1):
        """Draw some."""
        return self.rng.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)


def bare_forward(name):
    """Pass images through the plain network; they are normalised before."""
    torch.manual_seed(0)
    network = fuse(getattr(models, name)(weights=None).eval()).requires_grad_(False)
    network = network.to(memory_format=torch.channels_last)

    def normal(images):
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)

    def forward(x):
        with torch.inference_mode():
            return network(x)

    return normal, forward


def make_sides(name, images):
    """{side: function}: each takes new images, drawn outside of what is measured."""
    settings = {"weights": None, "image_size": SIZE, "device": "cpu"}
    settings |= {"precision": "float32", "backbone": name}
    X, y = images.new(8), np.arange(8) % 2
    extractor = PretrainedFeatureExtractor(**settings, cache=None).fit(X)
    single = PretrainedFeatureExtractor(**settings, cache=None, batch_size=1).fit(X)
    cached = PretrainedFeatureExtractor(**settings, cache="memory").fit(X)
    known = np.concatenate([X, X])[:10]
    cached.transform(known)
    pipeline = make_pipeline(extractor, LogisticRegression()).fit(X, y)
    tuned = FineTunedCNNClassifier(
        **settings, strategy="full", max_epochs=1, batch_size=4, random_state=0
    ).fit(X, y)
    normal, forward = bare_forward(name)
    n_new = {"one": 1, "ten": 10}
    now = {}

    def draw():
        for count, n in n_new.items():
            now[count] = images.new(n)
            now[f"normal {count}"] = normal(now[count])

    sides = {}
    for count, n in n_new.items():

        def add(side, function, key=count, count=count):
            sides[side, count] = lambda: function(now[key])

        add("bare forward", forward, f"normal {count}")
        add("extractor", extractor.transform)
        add("extractor, batch_size=1", single.transform)
        sides["extractor, cached", count] = lambda n=n: cached.transform(known[:n])
        add("pipeline", pipeline.predict)
        add("classifier, all trained", tuned.predict)
    return sides, draw


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet18", "vgg16"])
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    claims = {}
    print("seconds as multiples of the bare forward pass of as many images:")
    for name in args.networks:
        clear_cache()
        sides, draw = make_sides(name, Images())
        interleaved(sides, 2, draw)
        seconds = interleaved(sides, args.repeats, draw)
        for side, count in sides:
            if side == "bare forward":
                continue
            found = ratio(seconds, (side, count), ("bare forward", count))
            print(f"{name:10} {count:4} {side:24} {found}", flush=True)
            if count == "one":
                bound = BOUNDS[side]
                claims[f"{name}, {side}: at most {bound}"] = found.median <= bound
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
