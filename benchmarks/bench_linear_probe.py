"""A linear probe costs one pass of the images through the network, and little more.

Claim, for photographs in files and two networks with real weights: fitting
`FineTunedCNNClassifier(strategy="linear_probe")` takes at most 1.2 times as long as
`PretrainedFeatureExtractor.transform` of the same images with `cache=None`. That
holds for the default, whose head is fitted directly, and for a head with a hidden
layer (`hidden_units=(64,)`), which is trained for 30 epochs in batches of 32. A loop
that does not keep what the frozen part gives would need 30 passes for that. With the
default `batch_size=8` there are four times as many steps; what these cost is printed,
and nothing is claimed of it.

Every repeat begins with an empty cache. Both sides read and decode the files.

Usage: python benchmarks/bench_linear_probe.py [--shared PATH] [--images N]
[--repeats N]. Exits with 1 when the claim fails. About two minutes on two cores.
"""

import sys
from functools import partial

from _shared import argument_parser, images_and_labels
from _timing import interleaved, ratio, verdict

from sktl import FineTunedCNNClassifier, PretrainedFeatureExtractor, clear_cache

TREE = "hymenoptera"
WEIGHTS = {
    "squeezenet1_1": "squeezenet1_1-torchvision.fp16.safetensors",
    "mobilenet_v2": "mobilenet_v2-tf2ptq.fp16.safetensors",
}
EPOCHS = 30
CLAIMED_RATIO = 1.2
ONE_PASS = "one pass"
HIDDEN = {"hidden_units": (64,), "max_epochs": EPOCHS}
CLAIMED = {
    "fitted head": {},
    f"hidden layer, {EPOCHS} epochs": {**HIDDEN, "batch_size": 32},
}
PROBES = {**CLAIMED, f"hidden layer, {EPOCHS} epochs in batches of 8": HIDDEN}


def arguments():
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=244, help="at most 244")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def compare(name, weights, X, y, repeats):
    """Ratio of each probe's time to that of one pass."""
    extractor = PretrainedFeatureExtractor(name, weights=weights, cache=None).fit(X)
    probes = {
        kind: FineTunedCNNClassifier(
            name, weights=weights, strategy="linear_probe", random_state=0, **options
        )
        for kind, options in PROBES.items()
    }
    sides = {ONE_PASS: partial(extractor.transform, X)}
    sides |= {kind: partial(probe.fit, X, y) for kind, probe in probes.items()}
    for side in sides.values():  # loads the network
        clear_cache()
        side()
    seconds = interleaved(sides, repeats, before=clear_cache)
    for probe in probes.values():
        expected = probe.max_epochs if probe.hidden_units else 0
        assert len(probe.history) == expected, "other epochs than asked for"
    return {kind: ratio(seconds, kind, ONE_PASS) for kind in PROBES}


def main():
    args = arguments()
    X, y = images_and_labels(args.shared / "data" / TREE, n=args.images)
    print(f"{len(X)} images of {TREE}, {args.repeats} repeats")
    claims = {}
    for name, file in WEIGHTS.items():
        weights = args.shared / "weights" / file
        for kind, found in compare(name, weights, X, y, args.repeats).items():
            print(f"{name}, {kind}: fit / {ONE_PASS} {found}", flush=True)
            if kind in CLAIMED:
                claim = f"{name}, {kind}: at most {CLAIMED_RATIO}"
                claims[claim] = found.median <= CLAIMED_RATIO
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
