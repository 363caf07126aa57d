"""What is done for a GPU overlaps with what the GPU does.

Claim: from uint8 arrays of 224 pixels to features, a pass takes at most 1.1 times the
longer of two things: all that the host does (copies, digests, keys, blocks, writing),
and what the card takes.

No card is needed. A stand-in takes each batch when it is sent to the device, and keeps
one pixel of each image. What is computed of these is there at once, and its numbers can
be had only after so many microseconds for each image, as from a card. Of the host's own
time, the pass with a stand-in that takes no time tells. Nothing is cached, so that
every image is read, digested and prepared.

Usage: python benchmarks/bench_pipeline.py [--images N] [--n-jobs N] [--repeats N]
[--microseconds N [N ...]]. Exits with 1 when the claim fails. About a minute.
"""

import argparse
import sys
import time
from functools import partial

import numpy as np
import torch
from _timing import interleaved, ratio, verdict
from torch import nn
from torch.overrides import TorchFunctionMode

from sktl import Preprocessing, PretrainedFeatureExtractor

CLAIMED = 1.1
N_FEATURES = 512


class Late(torch.Tensor):
    """What is on the card: to bring its numbers back is to wait for them."""

    done_at = 0.0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """Call `function`; what it makes of late tensors is late."""
        result = super().__torch_function__(function, types, args, kwargs or {})
        parts = args[0] if isinstance(args[0], list | tuple) else args  # of torch.cat
        done_at = max(part.done_at for part in parts if isinstance(part, cls))
        if function is torch.Tensor.cpu:
            time.sleep(max(0.0, done_at - time.perf_counter()))
            return result.as_subclass(torch.Tensor)
        if isinstance(result, cls):
            result.done_at = done_at
        return result


class Card(TorchFunctionMode):
    """Computes one batch of images after the other, `seconds` an image."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.free_at = seconds, 0.0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Take a batch that is sent to the device; leave all else as it is."""
        is_batch = function is torch.Tensor.to and args[0].dtype == torch.uint8
        if not is_batch:
            return function(*args, **kwargs or {})
        corners = args[0][:, :1, :1].as_subclass(Late)
        self.free_at = max(time.perf_counter(), self.free_at)
        self.free_at += self.seconds * len(corners)
        corners.done_at = self.free_at
        return corners


def with_card(extractor, X, seconds):
    """Features of all images by a card of that speed."""
    with Card(seconds):
        assert extractor.transform(X).shape == (len(X), N_FEATURES)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--n-jobs", type=int, default=-1, help="threads, -1 for all")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--microseconds", type=int, nargs="+", default=[100, 200, 400, 800]
    )
    args = parser.parse_args()
    # The card computes. With more threads, the stand-in's sums of a few numbers would
    # wait for cores on which images are being prepared.
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    # A list, as arrays are prepared between two blocks if the network is on the CPU.
    X = list(rng.integers(0, 256, (args.images, 224, 224, 3), dtype=np.uint8))
    hidden, last = nn.Linear(3, N_FEATURES), nn.Linear(N_FEATURES, 2)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), hidden, last)
    preprocessing = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), resize=224, crop=224)
    extractor = PretrainedFeatureExtractor(
        network,
        layers="2",
        preprocessing=preprocessing,
        cache=None,
        n_jobs=args.n_jobs,
    ).fit(X[:1])
    sides = {0: partial(with_card, extractor, X, 0.0)}
    sides |= {m: partial(with_card, extractor, X, m * 1e-6) for m in args.microseconds}
    interleaved(sides, 1)
    seconds = interleaved(sides, args.repeats)
    own = [1e6 * s / args.images for s in seconds[0]]
    print(
        f"{args.images} images; the host alone takes {np.median(own):.0f} us an image"
    )
    claims = {}
    for m in args.microseconds:
        card = [m * 1e-6 * args.images] * args.repeats
        longer = {"longer": [max(a, b) for a, b in zip(seconds[0], card, strict=True)]}
        found = ratio(longer | {"pass": seconds[m]}, "pass", "longer")
        print(f"card of {m} us an image: the pass is {found} times the longer of both")
        claims[f"card of {m} us: at most {CLAIMED}"] = found.median <= CLAIMED
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
