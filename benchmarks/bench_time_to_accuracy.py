"""The accuracy of PyTorch's transfer-learning tutorial is reached sooner.

Claim, for two sets of photographs and SqueezeNet 1.1 with real weights: the seconds
until `FineTunedCNNClassifier(unfreeze_from="last")` has the accuracy on held-out
images that the tutorial's loop ends with are fewer than the loop needs for it; the
median ratio is at least 2. That is claimed against both of the tutorial's loops:
fine-tuning of all layers, and the network as a fixed feature extractor.

The loops are those of PyTorch's "Transfer Learning for Computer Vision Tutorial" (by S.
Chilamkurthy): batches of 4, SGD with lr 0.001, momentum 0.9 and StepLR(7, 0.1), random
resized crops and flips, 4 processes that load. They run for 10 epochs
(hymenoptera) and 5 (flowers17) instead of 25, to keep the benchmark short: an easier
target, in fewer seconds. SqueezeNet takes the place of ResNet-18, with a new last
convolution, as the weights at hand are its own. On fewer than 4 cores there are as many
processes as cores.

Time is training alone, from files on disk: evaluation after each epoch is left out, on
both sides, and sktl begins with an empty cache. Who reaches the target when is the
first epoch at its accuracy or above; sktl's first point is the fitted head, before any
epoch. One that never arrives counts as infinitely slow.

Usage: python benchmarks/bench_time_to_accuracy.py [--shared PATH] [--epochs N]
[--repeats N]. Exits with 1 when the claim fails. Twelve to twenty minutes on two cores.
"""

import math
import os
import sys
import time
from statistics import median

import torch
from _shared import argument_parser, images_and_labels
from _timing import Ratio, verdict
from safetensors.torch import load_file
from skorch.callbacks import Callback
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import squeezenet1_1

from sktl import FineTunedCNNClassifier, clear_cache

# Tree -> epochs of the tutorial's loops; an epoch of flowers17 is three times as long.
EPOCHS = {"hymenoptera": 10, "flowers17": 5}
WEIGHTS = "squeezenet1_1-torchvision.fp16.safetensors"
LOOPS = {"fine-tuning": False, "feature extractor": True}  # is the network frozen?
SKTL = "sktl"
CLAIMED_RATIO = 2.0
# The tutorial's four are more than torch advises on fewer cores.
N_WORKERS = min(4, os.cpu_count())
NORMALIZE = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
TRANSFORMS = {
    "train": transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            NORMALIZE,
        ]
    ),
    "val": transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            NORMALIZE,
        ]
    ),
}


class Curve(Callback):
    """Accuracy on held-out images over seconds of training.

    As a skorch callback it notes the fitted head and the end of each epoch.
    """

    def __init__(self, evaluate):
        self.evaluate = evaluate
        self.points = []  # (seconds, accuracy)
        self.outside = 0.0  # seconds of evaluation
        self.start = time.perf_counter()

    def note(self, model):
        """Add a point; the evaluation takes no time."""
        seconds = time.perf_counter() - self.start - self.outside
        self.points.append((seconds, self.evaluate(model)))
        self.outside = time.perf_counter() - self.start - seconds

    def on_epoch_begin(self, net, **kwargs):
        """Note the fitted head."""
        if not self.points:
            self.note(net)

    def on_epoch_end(self, net, **kwargs):
        """Note the network after an epoch."""
        self.note(net)

    def seconds_to(self, accuracy):
        """Seconds to the first point that is as good."""
        return next((s for s, a in self.points if a >= accuracy), math.inf)


def new_network(weights, n_classes, frozen):
    """SqueezeNet with a new last convolution; the others frozen or not."""
    network = squeezenet1_1(weights=None)
    network.load_state_dict(load_file(weights))
    network.requires_grad_(not frozen)
    network.classifier[1] = torch.nn.Conv2d(512, n_classes, kernel_size=1)
    return network


def accuracy_of(network, loader):
    network.eval()
    with torch.no_grad():
        right = [(network(X).argmax(1) == y).sum().item() for X, y in loader]
    return sum(right) / len(loader.dataset)


def tutorial_curve(folder, weights, frozen, n_epochs):
    """The tutorial's `train_model`, as on its page."""
    sets = {part: ImageFolder(folder / part, t) for part, t in TRANSFORMS.items()}
    loaders = {
        part: DataLoader(images, batch_size=4, shuffle=True, num_workers=N_WORKERS)
        for part, images in sets.items()
    }
    curve = Curve(lambda network: accuracy_of(network, loaders["val"]))
    network = new_network(weights, len(sets["train"].classes), frozen)
    criterion = torch.nn.CrossEntropyLoss()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.001, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    for _ in range(n_epochs):
        network.train()
        for X, y in loaders["train"]:
            optimizer.zero_grad()
            criterion(network(X), y).backward()
            optimizer.step()
        scheduler.step()
        curve.note(network)
    return curve


def sktl_curve(folder, weights, seed):
    """The classifier with its defaults."""
    clear_cache()
    X_val, y_val = images_and_labels(folder, "val")
    curve = Curve(lambda net: net.score(X_val, y_val))
    classifier = FineTunedCNNClassifier(
        "squeezenet1_1",
        weights=weights,
        unfreeze_from="last",
        device="cpu",
        random_state=seed,
    )
    classifier.set_params(callbacks=[curve]).fit(*images_and_labels(folder))
    return curve


def repeat(folder, weights, n_epochs, seed):
    """One curve per side; every second repeat takes them backwards."""
    curves = {}
    for side in [*LOOPS, SKTL][:: -1 if seed % 2 else 1]:
        if side == SKTL:
            curves[side] = sktl_curve(folder, weights, seed)
        else:
            torch.manual_seed(seed)
            curves[side] = tutorial_curve(folder, weights, LOOPS[side], n_epochs)
    return curves


def show(side, curve):
    """Print the first, the middle and the last point, and the best."""
    points = curve.points
    chosen = {
        "first": points[0],
        "middle": points[len(points) // 2],
        "last": points[-1],
        "best": max(points, key=lambda point: point[1]),
    }
    text = ", ".join(f"{k} {a:.3f} at {s:.1f} s" for k, (s, a) in chosen.items())
    print(f"  {side}: {text}", flush=True)


def compare(folder, weights, n_epochs, n_repeats):
    """Ratio of seconds to the accuracy each loop ends with: the loop's to sktl's."""
    ratios = {loop: [] for loop in LOOPS}
    for seed in range(n_repeats):
        curves = repeat(folder, weights, n_epochs, seed)
        for side in (*LOOPS, SKTL):
            show(side, curves[side])
        for loop, found in ratios.items():
            target = curves[loop].points[-1][1]
            seconds = curves[SKTL].seconds_to(target)
            found.append(curves[loop].seconds_to(target) / seconds)
            print(f"  {target:.3f} of {loop}: {SKTL} after {seconds:.1f} s")
    return {loop: Ratio(median(r), min(r), max(r)) for loop, r in ratios.items()}


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--epochs", type=int, help="of the tutorial's loops, both sets")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    claims = {}
    for tree, n_epochs in EPOCHS.items():
        n_epochs = args.epochs or n_epochs
        print(f"{tree}, the tutorial's loops for {n_epochs} of its 25 epochs")
        folder, weights = args.shared / "data" / tree, args.shared / "weights" / WEIGHTS
        found = compare(folder, weights, n_epochs, args.repeats)
        for loop, times in found.items():
            print(f"{tree}: {loop} takes {times} times as long")
            claim = f"{tree}: {loop} takes at least {CLAIMED_RATIO} times as long"
            claims[claim] = times.median >= CLAIMED_RATIO
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
