"""What is done for a GPU overlaps with what the GPU does.

Claim: from uint8 arrays of 224 pixels to features, a pass takes at most 1.1 times the
longer of two things: all that the host does (copies, digests, keys, blocks, writing),
and what the card takes.

No card is needed. A stand-in takes the place of the network: it is given a batch, comes
back at once, and has its result after so many microseconds for each image, as a card.
Of the host's own time, the pass with a stand-in that takes no time tells. Nothing is
cached, so that every image is read, digested and prepared.

Usage: python benchmarks/bench_pipeline.py [--images N] [--n-jobs N] [--repeats N]
[--microseconds N [N ...]]. Exits with 1 when the claim fails. About a minute.
"""

import argparse
import sys
import time
from collections import deque
from functools import partial

import numpy as np
from _timing import interleaved, ratio, verdict

from sktl import PretrainedFeatureExtractor
from sktl._features.engine import BATCHES_UNDER_WAY, Engine

CLAIMED = 1.1
N_FEATURES = 512


class Card:
    """Computes one batch after the other, `seconds` an image; one may wait in line."""

    def __init__(self, seconds):
        self.seconds, self.free_at = seconds, 0.0

    def batches(self, engine, module, rows):
        """As `Engine.batches` does; `module` is not called."""
        line = deque()

        def fetch():
            start, n_rows, done_at = line.popleft()
            time.sleep(max(0.0, done_at - time.perf_counter()))
            return start, [np.zeros((n_rows, N_FEATURES), np.float32)]

        for start in range(0, len(rows), engine.batch_size):
            n_rows = min(engine.batch_size, len(rows) - start)
            self.free_at = max(time.perf_counter(), self.free_at)
            self.free_at += self.seconds * n_rows
            line.append((start, n_rows, self.free_at))
            if len(line) > BATCHES_UNDER_WAY:
                yield fetch()
        while line:
            yield fetch()


def with_card(extractor, X, seconds):
    """Features of all images by a card of that speed."""
    card = Card(seconds)
    Engine.batches = lambda engine, module, rows: card.batches(engine, module, rows)
    assert extractor.transform(X).shape == (len(X), N_FEATURES)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--n-jobs", type=int, default=-1, help="threads, -1 for all")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--microseconds", type=int, nargs="+", default=[100, 200])
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    # A list, as arrays are prepared between two blocks if the network is on the CPU.
    X = list(rng.integers(0, 256, (args.images, 224, 224, 3), dtype=np.uint8))
    extractor = PretrainedFeatureExtractor(
        "resnet18", weights=None, image_size=224, cache=None, n_jobs=args.n_jobs
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
