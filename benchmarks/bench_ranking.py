"""LogME orders networks as a cross-validated probe does.

Claim: over the photograph sets of `shared/data` (120 images of each), Kendall's tau
between the order of eight networks by `method="logme"` and their order by five-fold
probe accuracy is at least 0.5, mean over sets. For `method="hscore"` and "knn" the same
figures are printed and nothing is claimed: with fewer images than features the H-score
favours wide networks. The eight are four pretrained networks and the same four
untrained. That the untrained ones lose is the easier half of the claim, so tau among
the pretrained four is printed too; of six pairs, it is coarse.

Usage: python benchmarks/bench_ranking.py [--shared PATH]. Exits with 1 when the claim
fails. About six minutes on two cores.
"""

import sys
import time
import warnings

import numpy as np
from _shared import argument_parser, images_and_labels
from scipy.stats import kendalltau
from sklearn.model_selection import StratifiedKFold

from sktl import PretrainedFeatureExtractor, rank_backbones
from sktl.exceptions import ImageSizeWarning

TREES = ("hymenoptera", "flowers17", "rsscn7", "sign_digits")
N_IMAGES = 120
FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)
CLAIMED_TAU = 0.5
WEIGHTS = {
    "squeezenet1_0": "squeezenet1_0-deepcompression.fp16.safetensors",
    "squeezenet1_1": "squeezenet1_1-torchvision.fp16.safetensors",
    "mobilenet_v2": "mobilenet_v2-tf2ptq.fp16.safetensors",
    "sktl_mini": None,  # ships inside the package
}


def candidates(folder):
    networks = {}
    for name, file in WEIGHTS.items():
        weights = folder / file if file else "DEFAULT"
        networks[name] = PretrainedFeatureExtractor(name, weights=weights, n_jobs=2)
        networks[f"{name}, untrained"] = PretrainedFeatureExtractor(
            name, weights=None, n_jobs=2
        )
    return networks


def data_sets(folder):
    """(name, images, labels) of each set: the same number of images of each."""
    for name in TREES:
        yield name, *images_and_labels(folder / name, n=N_IMAGES)
    with np.load(folder / "cifar10" / "cifar10_jpeg.npz") as file:
        jpeg, offsets = file["train_jpeg"], file["train_offsets"]
        rows = np.linspace(0, len(offsets) - 2, N_IMAGES).astype(int)
        images = [jpeg[offsets[i] : offsets[i + 1]].tobytes() for i in rows]
        yield "cifar10", images, file["train_labels"][rows].tolist()


def scores_by(method, images, labels, networks):
    start = time.perf_counter()
    ranking = rank_backbones(images, labels, networks, method=method, cv=FOLDS)
    seconds = time.perf_counter() - start
    found = dict(
        zip(ranking.results_["backbone"], ranking.results_["score"], strict=True)
    )
    return np.array([found[name] for name in networks]), seconds


def tau(scores, probe):
    return kendalltau(scores, probe).statistic


def show(name, networks, scores):
    width = max(map(len, networks))
    methods = list(scores)
    print(f"\n{name:{width}}  " + "  ".join(f"{m:>8}" for m in methods))
    for i, network in enumerate(networks):
        numbers = "  ".join(f"{scores[m][0][i]:8.3f}" for m in methods)
        print(f"{network:{width}}  {numbers}")
    seconds = "  ".join(f"{scores[m][1]:8.1f}" for m in methods)
    print(f"{'seconds':{width}}  {seconds}", flush=True)


def main():
    shared = argument_parser(__doc__).parse_args().shared
    warnings.simplefilter("ignore", ImageSizeWarning)  # sktl_mini on photographs
    networks = candidates(shared / "weights")
    pretrained = np.array(["untrained" not in name for name in networks])
    taus = {"logme": [], "hscore": [], "knn": []}
    print("probe computes the features, the others find them in the cache")
    for name, images, labels in data_sets(shared / "data"):
        scores = {
            method: scores_by(method, images, labels, networks)
            for method in ("probe", *taus)
        }
        show(name, networks, scores)
        probe = scores["probe"][0]
        for method, found in taus.items():
            by_method = scores[method][0]
            among = tau(by_method[pretrained], probe[pretrained])
            found.append((tau(by_method, probe), among))
            print(f"tau of {method} {found[-1][0]:.2f}, among pretrained {among:.2f}")
    means = {method: np.mean(found, axis=0) for method, found in taus.items()}
    print()
    for method, (mean, among) in means.items():
        print(f"mean tau of {method}: {mean:.2f}, among pretrained {among:.2f}")
    holds = means["logme"][0] >= CLAIMED_TAU
    verdict = "holds" if holds else "FAILS"
    print(f"claim (mean tau of logme at least {CLAIMED_TAU}): {verdict}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
