"""Make the weights of `sktl_mini`, the backbone that ships with sktl.

The network learns from random weights, and three things at once: to see in crops of
photographs what a teacher, MobileNetV2 with ImageNet weights, sees in them; to tell the
ten classes of CIFAR-10 apart; and to tell letters apart (`letters.py`). It never sees a
digit.

    python examples/tools/make_sktl_mini.py --photographs FOLDER --out FILE

FOLDER holds photographs of anything: a thousand will do, as each is cropped many times.
Images, targets and the state after each epoch are kept in `--work`: a run that was
stopped goes on where it was. Seeds are fixed. About 30 minutes on one core that has
bfloat16 instructions.
"""

# %% 1. Imports, and the training in numbers
import argparse
import io
import itertools
import json
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from letters import make_letters, to_input
from PIL import Image
from safetensors.torch import save_file
from sklearn.decomposition import PCA
from torchvision.datasets import CIFAR10
from torchvision.transforms import v2

from sktl import PretrainedFeatureExtractor
from sktl._networks.mini import MEAN, SIZE, STD, SktlMini

# The training: components of what the teacher sees, side of the images in each epoch
# (small ones first, they cost less), images per step, and the highest learning rate.
N_TARGETS = 256
SIZES = (32, 32, 32, 48, 48, 48, 64, 64)
BATCH = 128
RATE = 4e-3
CHUNK = 2500


# %% 2. Photographs
def read_cifar(path):
    """Return CIFAR-10's training images (n, 32, 32, 3) and their class names."""
    if path is None:
        data = CIFAR10("cifar10", train=True, download=True)
        return data.data, np.array(data.classes)[data.targets]
    with np.load(path) as file:
        encoded, offsets = file["train_jpeg"].tobytes(), file["train_offsets"]
        labels = file["classes"][file["train_labels"]]
    bounds = itertools.pairwise(offsets)
    images = [Image.open(io.BytesIO(encoded[a:b])).convert("RGB") for a, b in bounds]
    return np.stack([np.asarray(image) for image in images]), labels


def read_photographs(folder):
    """Return all images below the folder, in the order of their names."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def cropper(smallest):
    """Cut and recolour; `smallest` is the least share of the image's area."""
    colours = v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3)
    return v2.Compose(
        [
            v2.RandomResizedCrop(224, scale=(smallest, 1)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([colours], 0.5),
            v2.RandomGrayscale(0.1),
        ]
    )


def mix(crops, share, rng):
    """Lay the next crop over each of a `share` of them, half transparent."""
    rows = np.flatnonzero(rng.random(len(crops)) < share)
    weights = rng.uniform(0.3, 0.7, (len(rows), 1, 1, 1)).astype(np.float32)
    mixed = weights * crops[rows] + (1 - weights) * crops[(rows + 1) % len(crops)]
    crops[rows] = np.rint(mixed)


def make_crops(images, rows, smallest, mixed, teacher, seed):
    """Cut one crop from each image of `rows` and show it to the teacher.

    Returns the crops as the student sees them, and the square roots of what the
    teacher's last layer reads.
    """
    torch.manual_seed(seed)
    rng, crop = np.random.default_rng(seed), cropper(smallest)
    crops = np.stack([np.asarray(crop(Image.fromarray(images[i]))) for i in rows])
    mix(crops, mixed, rng)
    features = teacher.fit_transform(crops)
    return {
        "X": np.stack([to_input(crop) for crop in crops]),
        "features": np.sqrt(np.maximum(features, 0)).astype(np.float16),
    }


# %% 3. All images, kept in files of CHUNK each
def kept(path, make, *args):
    """Return the arrays in the file; make and write them where there is none."""
    if not path.exists():
        print("making", path.name, flush=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, **make(*args))
        part.rename(path)
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def photograph_parts(args, teacher):
    """Yield crops of the photographs, a quarter of them of two at once."""
    images = read_photographs(args.photographs)
    for k in range(args.crops // CHUNK):
        rows = np.arange(k * CHUNK, (k + 1) * CHUNK) % len(images)
        path = args.work / f"photographs_{k:03}.npz"
        yield kept(path, make_crops, images, rows, 0.08, 0.25, teacher, k)


def cifar_parts(args, teacher, images, names):
    """Yield a crop each of a part of CIFAR-10, and their class names."""
    order = np.random.default_rng(0).permutation(len(images))
    for k, rows in enumerate(order[: args.small].reshape(-1, CHUNK)):
        path = args.work / f"cifar_{k:03}.npz"
        part = kept(path, make_crops, images, rows, 0.4, 0, teacher, 1000 + k)
        yield part | {"names": names[rows]}


def letter_parts(args, grounds):
    """Yield letters, on plain ground or on one of the images `grounds`."""
    for k in range(args.letters // 5000):
        path, rng = args.work / f"letters_{k:03}.npz", np.random.default_rng([5, k])
        yield kept(path, make_letters, 5000, grounds, rng)


def join(parts, name):
    return np.concatenate([part[name] for part in parts])


def make_targets(features):
    """Return principal components, all scaled by one number to a mean square of 1."""
    pca = PCA(N_TARGETS, svd_solver="randomized", random_state=0)
    pca.fit(features[:20_000].astype(np.float32))
    chunks = np.array_split(features, len(features) // 5000)
    targets = np.concatenate([pca.transform(c.astype(np.float32)) for c in chunks])
    return (targets / np.sqrt((targets**2).mean())).astype(np.float32)


def make_images(args):
    """Return X uint8 (n, 64, 64, 3), targets, and classes as numbers and as names.

    Images that the teacher has seen come first: `targets` has rows for those only.
    Class -1 is none.
    """
    teacher = PretrainedFeatureExtractor(
        "mobilenet_v2",
        weights=args.teacher,
        image_size=224,
        precision="bfloat16",
        cache=None,
    )
    cifar, names = read_cifar(args.cifar)
    photographs = list(photograph_parts(args, teacher))
    small = list(cifar_parts(args, teacher, cifar, names))
    letters = list(letter_parts(args, cifar))
    X = join(photographs + small + letters, "X")
    targets = make_targets(join(photographs + small, "features"))
    labels = [f"cifar_{name}" for name in join(small, "names")]
    labels += [f"letter_{letter}" for letter in join(letters, "letters")]
    classes, numbers = np.unique(labels, return_inverse=True)
    none = np.full(len(X) - len(labels), -1)
    return X, targets, np.concatenate([none, numbers]), classes


# %% 4. Training
def vary(x, may_flip):
    """Mirror, shift and recolour images (n, 3, 64, 64)."""
    n = len(x)
    flipped = may_flip & (torch.rand(n) < 0.5)
    x[flipped] = x[flipped].flip(3)
    top, left = torch.randint(0, 9, (2,)).tolist()
    x = F.pad(x, (4, 4, 4, 4), mode="reflect")
    x = x[:, :, top : top + SIZE, left : left + SIZE]
    contrast = torch.empty(n, 1, 1, 1).uniform_(0.75, 1.3)
    light = torch.empty(n, 1, 1, 1).uniform_(-0.4, 0.4)
    return x * contrast + light + torch.empty(n, 3, 1, 1).uniform_(-0.2, 0.2)


def prepare(X):
    """From uint8 (n, 64, 64, 3) to the network's input."""
    x = (torch.from_numpy(X) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return x.permute(0, 3, 1, 2)


def shrink(x, size):
    if size == SIZE:
        return x.contiguous(memory_format=torch.channels_last)
    return F.interpolate(x, (size, size), mode="bilinear", antialias=True)


def loss_of(outputs, targets, classes):
    """Squared error where there is a target, cross-entropy where there is a class.

    `targets` has rows for the first images only; the first columns of `outputs` are
    the guesses at them.
    """
    guesses, scores = outputs[: len(targets), :N_TARGETS], outputs[:, N_TARGETS:]
    error = F.mse_loss(guesses, targets)
    return 5 * error + F.cross_entropy(scores, classes, ignore_index=-1), error


def batches(n, n_seen, rng):
    """Yield rows of a batch, those of images that the teacher has seen first."""
    order = rng.permutation(n)[: n // BATCH * BATCH]
    for rows in order.reshape(-1, BATCH):
        seen = rows < n_seen
        yield np.concatenate([rows[seen], rows[~seen]]), seen.sum()


def train_epoch(network, optimizer, schedule, data, size, seed):
    """Show all images once, at `size` pixels."""
    X, targets, classes = data
    torch.manual_seed(seed)
    rng, errors = np.random.default_rng(seed), []
    for rows, n_seen in batches(len(X), len(targets), rng):
        x = vary(prepare(X[rows]), torch.arange(BATCH) < n_seen)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(shrink(x, size))
        target = torch.from_numpy(targets[rows[:n_seen]])
        loss, error = loss_of(outputs.float(), target, torch.from_numpy(classes[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        errors.append((loss.item(), error.item()))
    return np.mean(errors[-100:], axis=0)


def train(network, data, path):
    """Train for an epoch per entry of SIZES; go on from the state in `path`, if any."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=len(data[0]) // BATCH * len(SIZES), pct_start=0.2
    )
    parts, done = {"network": network, "optimizer": optimizer, "schedule": schedule}, 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        done = state.pop("epochs")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    for epoch in range(done, len(SIZES)):
        start = time.monotonic()
        loss, error = train_epoch(*parts.values(), data, SIZES[epoch], epoch)
        state = {name: part.state_dict() for name, part in parts.items()}
        torch.save(state | {"epochs": epoch + 1}, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
        minutes = (time.monotonic() - start) / 60
        print(f"epoch {epoch + 1}: loss {loss:.3f}, error {error:.3f}", end=" ")
        print(f"in {minutes:.1f} minutes", flush=True)


def save(network, classes, path):
    """Write all but the last layer, in float16."""
    state = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith("fc.")
    }
    metadata = {"backbone": "sktl_mini", "sktl": version("sktl")}
    save_file(state, path, metadata | {"classes": json.dumps(classes.tolist())})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", required=True, help="folder of images")
    parser.add_argument("--out", default="sktl_mini.safetensors", help="file to write")
    parser.add_argument("--work", type=Path, default=Path("sktl_mini_work"))
    parser.add_argument("--teacher", default="DEFAULT", help="weights of mobilenet_v2")
    parser.add_argument("--cifar", help="npz of CIFAR-10 as JPEG; else it is fetched")
    parser.add_argument("--crops", type=int, default=60_000)
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--letters", type=int, default=40_000)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    *data, classes = make_images(args)
    print(f"{len(data[0])} images, {len(classes)} classes", flush=True)
    torch.manual_seed(0)
    network = SktlMini(N_TARGETS + len(classes)).to(memory_format=torch.channels_last)
    train(network, data, args.work / "training.pt")
    save(network, classes, args.out)


if __name__ == "__main__":
    main()
