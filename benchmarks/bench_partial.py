"""Training the last stage is faster than with frozen layers that still run.

Claim, for SqueezeNet 1.1 with real weights, photographs, and the last stage unfrozen
for ten epochs: `FineTunedCNNClassifier(strategy="lp_ft")` is at least 1.6 times as fast
as skorch with its `Freezer` on the same layers, both in float32, and at least 3 times
with `precision="auto"`. On held-out images it is at most two points less accurate.

skorch gets its images ready in memory, as float tensors that torchvision's transforms
made beforehand. Its network is torchvision's with a new classifier, its layout, rows,
optimizer, batch size and number of epochs the same as sktl's, and so is the learning
rate of the last stage; the classifier's is ten times that, as it is not fitted first.
sktl reads and decodes the files within the time taken, fits the head by logistic
regression first, and begins with an empty cache.

What `"auto"` means is decided by the machine. On a CPU without matrix units for
bfloat16 (AMX) it is float32: both bounds are then set to the same figure.

Printed beside it, and not claimed: bfloat16; and ResNet-18 with random weights, whose
last stage is a quarter of the network's work, and more once gradients are counted.

Usage: python benchmarks/bench_partial.py [--shared PATH] [--images N] [--epochs N]
[--repeats N]. Exits with 1 when the claim fails. About five minutes on two cores.
"""

import sys
from functools import partial
from statistics import median

import numpy as np
import torch
from _shared import argument_parser, images_and_labels
from _timing import interleaved, ratio, verdict
from PIL import Image
from safetensors.torch import load_file
from sklearn.base import clone
from skorch import NeuralNetClassifier
from skorch.callbacks import Freezer
from torchvision.models import get_model
from torchvision.transforms import v2

from sktl import FineTunedCNNClassifier, clear_cache

TREE = "hymenoptera"
SQUEEZENET, RESNET = "squeezenet1_1", "resnet18"
WEIGHTS = "squeezenet1_1-torchvision.fp16.safetensors"
# What both sides train: the last stage, and the new classifier.
LAST_STAGE = {SQUEEZENET: "features.12.", RESNET: "layer4."}
CLASSIFIER = {SQUEEZENET: "classifier.", RESNET: "fc."}
N_RESNET_IMAGES = 64
LR, BACKBONE_LR, BATCH_SIZE = 1e-3, 1e-4, 32
CLAIMED_FLOAT32, CLAIMED_AUTO, CLAIMED_POINTS = 1.6, 3.0, 2.0
FREEZER = "skorch with Freezer"
SKTL = {name: f"sktl, {name}" for name in ("float32", "auto", "bfloat16")}


def arguments():
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, default=244, help="at most 244")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def images_and_classes(folder, part, n=None):
    paths, names = images_and_labels(folder, part, n)
    return paths, np.unique(names, return_inverse=True)[1]


def ready_tensors(paths):
    """Normalised float images of shape (n, 3, 224, 224)."""
    transform = v2.Compose(
        [
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])


def new_network(name, state, n_classes):
    """torchvision's network with a new classifier behind pretrained layers."""
    network = get_model(name, weights=None, num_classes=n_classes)
    kept = {k: v for k, v in state.items() if not k.startswith(CLASSIFIER[name])}
    network.load_state_dict(kept, strict=False)
    return network


def skorch_net(name, state, n_classes, epochs):
    """As skorch's documentation freezes layers."""
    trained = LAST_STAGE[name], CLASSIFIER[name]
    return NeuralNetClassifier(
        new_network,
        module__name=name,
        module__state=state,
        module__n_classes=n_classes,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        optimizer__param_groups=[(f"{LAST_STAGE[name]}*", {"lr": BACKBONE_LR})],
        lr=LR,
        batch_size=BATCH_SIZE,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[Freezer(lambda parameter: not parameter.startswith(trained))],
        device="cpu",
        verbose=0,
    )


def sktl_classifier(name, weights, precision, epochs):
    return FineTunedCNNClassifier(
        name,
        weights=weights,
        strategy="lp_ft",
        unfreeze_from="last",
        lr=LR,
        backbone_lr_ratio=BACKBONE_LR / LR,
        batch_size=BATCH_SIZE,
        max_epochs=epochs,
        optimizer=torch.optim.AdamW,
        precision=precision,
        device="cpu",
    )


def check_same_layers(name, net, classifier):
    """Both sides train the same tensors of the backbone."""
    theirs, ours = (
        {
            n.removeprefix("tail.")
            for n, p in model.named_parameters()
            if p.requires_grad
        }
        for model in (net.module_, classifier.module_)
    )
    heads = CLASSIFIER[name], "head."
    theirs, ours = ({n for n in s if not n.startswith(heads)} for s in (theirs, ours))
    assert theirs == ours, theirs ^ ours


def compare(name, weights, train, args, sktl_sides=SKTL):
    """Seconds of every side, and the models it fitted, one per repeat."""
    paths, y = train
    state = load_file(weights) if weights else {}
    models = {FREEZER: skorch_net(name, state, y.max() + 1, args.epochs)}
    models |= {
        side: sktl_classifier(name, weights, precision, args.epochs)
        for precision, side in sktl_sides.items()
    }
    tensors = ready_tensors(paths)
    fitted = {side: [] for side in models}

    def fit(side):
        model, seed = clone(models[side]), len(fitted[side])
        if side == FREEZER:
            torch.manual_seed(seed)
            model.fit(tensors, torch.from_numpy(y))
        else:
            model.set_params(random_state=seed).fit(paths, y)
        fitted[side].append(model)

    sides = {side: partial(fit, side) for side in models}
    seconds = interleaved(sides, args.repeats, before=clear_cache)
    check_same_layers(name, *[fitted[side][0] for side in list(models)[:2]])
    return seconds, fitted


def accuracies(fitted, val):
    """Mean accuracy of each side on held-out images, over the repeats."""
    paths, y = val
    X = dict.fromkeys(fitted, paths) | {FREEZER: ready_tensors(paths)}
    return {
        side: np.mean([model.score(X[side], y) for model in models])
        for side, models in fitted.items()
    }


def show_resnet(train, args):
    """Print the ratio for a network without real weights."""
    side = {"float32": SKTL["float32"]}
    seconds, _ = compare(RESNET, None, train, args, side)
    found = ratio(seconds, FREEZER, SKTL["float32"])
    print(f"{RESNET}, {len(train[0])} images: {FREEZER} / {SKTL['float32']} {found}")


def main():
    args = arguments()
    folder = args.shared / "data" / TREE
    train = images_and_classes(folder, "train", args.images)
    weights = args.shared / "weights" / WEIGHTS
    print(f"{SQUEEZENET}, {len(train[0])} images of {TREE}, {args.epochs} epochs")
    seconds, fitted = compare(SQUEEZENET, weights, train, args)
    accuracy = accuracies(fitted, images_and_classes(folder, "val"))
    speed = {side: ratio(seconds, FREEZER, side) for side in SKTL.values()}
    for side, found in accuracy.items():
        faster = f", times as fast {speed[side]}" if side in speed else ""
        print(f"{side}: {median(seconds[side]):.1f} s, accuracy {found:.3f}{faster}")
    show_resnet(images_and_classes(folder, "train", N_RESNET_IMAGES), args)
    least = min(accuracy["sktl, float32"], accuracy[SKTL["auto"]])
    return verdict(
        {
            f"float32 at least {CLAIMED_FLOAT32} times as fast": (
                speed[SKTL["float32"]].median >= CLAIMED_FLOAT32
            ),
            f"'auto' at least {CLAIMED_AUTO} times as fast": (
                speed[SKTL["auto"]].median >= CLAIMED_AUTO
            ),
            f"at most {CLAIMED_POINTS} points less accurate": (
                100 * (accuracy[FREEZER] - least) <= CLAIMED_POINTS
            ),
        }
    )


if __name__ == "__main__":
    sys.exit(main())
