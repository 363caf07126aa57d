"""Photograph files to features faster than torchvision's own way from a folder.

Claim, on two sets of photographs and with the pretrained weights of `shared/weights`:
`PretrainedFeatureExtractor(n_jobs=2, cache=None).transform` takes the JPEG files at
1.5 times the rate or more of an eager loop over `ImageFolder` and `DataLoader`, with
whichever of 0, 1 and 2 workers is fastest; and logistic regression on the features is
as accurate on the validation part, within one point of 100.

Printed beside it, and not claimed: bfloat16, which pays where the CPU computes in it;
and photographs of 3000 x 2000 pixels, where decoding takes most of the time and both
sides decode alike.

Usage: python benchmarks/bench_files.py [--shared PATH] [--repeats N]. Exits with 1 when
the claim fails. About five minutes on two cores.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _shared import argument_parser
from _timing import interleaved, ratio, verdict
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.models import get_model, get_model_weights

from sktl import PretrainedFeatureExtractor

TREES = ("hymenoptera", "flowers17")
WEIGHTS = {
    "squeezenet1_1": "squeezenet1_1-torchvision.fp16.safetensors",
    "mobilenet_v2": "mobilenet_v2-tf2ptq.fp16.safetensors",
}
MAX_IMAGES = 100  # of each part
BATCH_SIZE = 32
WORKERS = (0, 1, 2)
CLAIMED_RATE = 1.5
CLAIMED_POINTS = 1.0
N_LARGE, LARGE = 24, (3000, 2000)


def headless(name, file):
    """The network up to what its last weight layer reads, as one row per image."""
    network = get_model(name, weights=None)
    network.load_state_dict(load_file(file))
    pool = torch.nn.AdaptiveAvgPool2d(1)
    return torch.nn.Sequential(network.features, pool, torch.nn.Flatten()).eval()


def open_part(folder, name, max_images=MAX_IMAGES):
    """Images of a folder of classes, at equal distances: equal shares of each."""
    preset = get_model_weights(name).DEFAULT.transforms()
    part = ImageFolder(folder, transform=preset)
    rows = np.linspace(0, len(part) - 1, min(len(part), max_images)).astype(int)
    return Subset(part, np.unique(rows).tolist())


def samples(parts):
    """Paths and class numbers of the images, in order."""
    return zip(*(p.dataset.samples[i] for p in parts for i in p.indices), strict=True)


def loader_loop(network, data, n_workers):
    """Features as torchvision's documentation leads one to compute them."""
    loader = DataLoader(data, batch_size=BATCH_SIZE, num_workers=n_workers)
    with torch.no_grad():
        return np.concatenate([network(images).numpy() for images, _ in loader])


def make_sides(name, file, parts):
    """{side: function to the features of all images}."""
    network, data = headless(name, file), ConcatDataset(parts)
    files, _ = samples(parts)
    sides = {f"loader {n}": partial(loader_loop, network, data, n) for n in WORKERS}
    for precision in ("float32", "bfloat16"):
        extractor = PretrainedFeatureExtractor(
            name, weights=file, precision=precision, cache=None, n_jobs=2
        )
        sides[precision] = partial(extractor.fit(files[:1]).transform, files)
    return sides


def accuracy(features, parts):
    """Per cent of the last part that a classifier trained on the first gets right."""
    n_train = len(parts[0])
    y = np.array(list(samples(parts))[1])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(features[:n_train], y[:n_train])
    return 100 * model.score(features[n_train:], y[n_train:])


def rates(title, sides, n_repeats):
    """{precision: rate as a multiple of the fastest loader's}, printed too."""
    seconds = interleaved(sides, n_repeats)
    loaders = [side for side in sides if side.startswith("loader")]
    fastest = min(loaders, key=lambda side: np.median(seconds[side]))
    found = {p: ratio(seconds, fastest, p) for p in sides if p not in loaders}
    cells = "  ".join(f"{p} {found[p]!s:20}" for p in found)
    print(f"{title:28} {cells}  fastest: {fastest}", flush=True)
    return found


def compare(tree, folder, name, file, n_repeats):
    """{claim: whether it holds} for one set and one network."""
    parts = [open_part(folder / part, name) for part in ("train", "val")]
    sides = make_sides(name, file, parts)
    # Once each for the features, which also warms everything up.
    points = {side: accuracy(run(), parts) for side, run in sides.items()}
    title = f"{tree}, {name}"
    found = rates(title, sides, n_repeats)
    loader, ours = points["loader 0"], points["float32"]
    print(f"{'':28} accuracy {ours:.1f}, of the loader's features {loader:.1f}")
    return {
        f"{title}: {CLAIMED_RATE} times the rate": (
            found["float32"].median >= CLAIMED_RATE
        ),
        f"{title}: same accuracy": abs(ours - loader) <= CLAIMED_POINTS,
    }


def show_large(source, name, file, n_repeats):
    """Print the rates on large photographs, scaled up from those of a folder."""
    with tempfile.TemporaryDirectory() as folder:
        part = open_part(source, name, N_LARGE)
        files, labels = samples([part])
        for i, (path, label) in enumerate(zip(files, labels, strict=True)):
            target = Path(folder, str(label), f"{i}.jpg")
            target.parent.mkdir(exist_ok=True)
            with Image.open(path) as image:
                large = image.convert("RGB").resize(LARGE, Image.Resampling.BICUBIC)
            large.save(target, quality=90)
        sides = make_sides(name, file, [open_part(folder, name)])
        interleaved(sides, 1)  # warms up
        rates(f"{LARGE[0]} x {LARGE[1]}, {name}", sides, n_repeats)


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print("rate of the extractor as a multiple of that of the fastest loader")
    claims = {}
    for name, file in WEIGHTS.items():
        for tree in TREES:
            folder = args.shared / "data" / tree
            claims |= compare(
                tree, folder, name, args.shared / "weights" / file, args.repeats
            )
    photographs = args.shared / "data" / TREES[0] / "train"
    for name, file in WEIGHTS.items():
        show_large(photographs, name, args.shared / "weights" / file, args.repeats)
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
