"""On a GPU, arrays to features nearly as fast as the network alone can go.

Claim, for resnet50 in bfloat16: from uint8 arrays in the host's memory to features in
it, nothing cached, `PretrainedFeatureExtractor.transform` reaches at least 0.90 of the
rate of the resident forward: the same network, batch norms folded, channels last, all
in bfloat16, over images that are on the device already, normalised and converted.
That one copies, converts and hashes nothing: no way from the host can be faster.

Shown beside it, without a claim: resnet18, whose forward takes a third of that; JPEG
files of 500 x 375 pixels, which the cores of the host have to decode; and both found in
the cache in memory.

Usage: python benchmarks/bench_gpu.py [--images N] [--files N] [--batch-size N]
[--n-jobs N] [--repeats N]. Exits with 1 when the claim fails, and with 2 where there is
no CUDA device. Two minutes.
"""

import argparse
import io
import os
import sys
from functools import partial

import numpy as np
import torch
import torchvision
from _timing import interleaved, ratio, verdict
from PIL import Image
from torch.fx.experimental.optimization import fuse
from torchvision import models

from sktl import PretrainedFeatureExtractor, clear_cache

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLAIMED_RATE = 0.90
TOLERANCE = 5e-2  # largest difference of features, by the size of the largest of them
DTYPE = torch.bfloat16


def random_images(n):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 224, 224, 3), dtype=np.uint8)


def jpegs(n):
    """Bytes of JPEG files, no two alike, of 64 smooth images of 500 x 375 pixels."""
    rng = np.random.default_rng(0)
    files = []
    for small in rng.integers(0, 256, (min(n, 64), 24, 32, 3), dtype=np.uint8):
        image = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    # A comment of four bytes after the first marker makes them differ.
    tell_apart = [b"\xff\xfe\x00\x06" + k.to_bytes(4, "big") for k in range(n)]
    return [files[k % 64][:2] + tell_apart[k] + files[k % 64][2:] for k in range(n)]


def headless(name, device):
    """The network up to its last layer, tuned by hand."""
    torch.manual_seed(0)  # as PretrainedFeatureExtractor(weights=None) does
    network = getattr(models, name)(weights=None).eval()
    network.fc = torch.nn.Identity()
    network = fuse(network).to(device, DTYPE, memory_format=torch.channels_last)
    return network.requires_grad_(False)


def place(X, device, batch_size):
    """Batches on the device, ready to be passed through the network."""
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))
    batches = []
    for start in range(0, len(X), batch_size):
        # (n, h, w, c) in memory is (n, c, h, w) with channels last.
        batch = torch.from_numpy(X[start : start + batch_size]).to(device)
        images = (batch.permute(0, 3, 1, 2).float() / 255 - mean) / std
        batches.append(images.to(DTYPE, memory_format=torch.channels_last))
    return batches


def resident_forward(network, batches):
    """Features on the device; comes back when all are computed."""
    with torch.inference_mode():
        features = torch.cat([network(images) for images in batches])
    torch.cuda.synchronize()
    return features


def make_sides(name, args, device):
    """{side: function to the features of all images}, and how many images each has."""
    X, files = random_images(args.images), jpegs(args.files)

    def extract(images, cache):
        extractor = PretrainedFeatureExtractor(
            name,
            weights=None,
            image_size=224,  # arrays of this size are taken as they are
            batch_size=args.batch_size,
            device=device,
            precision="bfloat16",
            cache=cache,
            n_jobs=args.n_jobs,
        )
        # Its features are NumPy arrays: they are there when it returns.
        return partial(extractor.fit(images[:1]).transform, images)

    batches = place(X, device, args.batch_size)
    sides = {
        "resident": partial(resident_forward, headless(name, device), batches),
        "arrays": extract(X, None),
        "arrays, cached": extract(X, "memory"),
    }
    if args.files:
        sides["files"] = extract(files, None)
        sides["files, cached"] = extract(files, "memory")
    n = {side: args.files if "files" in side else args.images for side in sides}
    return sides, n


def check_equal(sides):
    """Both give the same features; this also warms both up."""
    ours, theirs = sides["arrays"](), sides["resident"]().float().cpu().numpy()
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if not difference <= TOLERANCE:
        sys.exit(f"the features differ by {difference:.1e} of their size")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--files", type=int, default=10_000, help="JPEGs; 0 for none")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--n-jobs", type=int, default=-1, help="threads, -1 for all")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.images % args.batch_size:
        parser.error("--images has to be a multiple of --batch-size")
    if not torch.cuda.is_available():
        print("no CUDA device on this machine: nothing was measured", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    print(
        f"{torch.cuda.get_device_name(device)}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}, torchvision {torchvision.__version__}; batches of "
        f"{args.batch_size}, {args.images} arrays, {args.files} files"
    )
    claims = {}
    for name in ("resnet50", "resnet18"):
        clear_cache()
        sides, n = make_sides(name, args, device)
        check_equal(sides)
        interleaved(sides, 1)  # clocks rise, caches fill
        seconds = interleaved(sides, args.repeats)
        per_image = {s: [t / n[s] for t in seconds[s]] for s in sides}
        resident = 1e6 * np.median(per_image["resident"])
        print(f"{name}: the resident forward takes {resident:.0f} us an image;")
        print("  rate as a multiple of its:")
        for side in list(sides)[1:]:
            found = ratio(per_image, "resident", side)
            print(f"  {side:15} {found}", flush=True)
            if (name, side) == ("resnet50", "arrays"):
                claim = f"resnet50, arrays: at least {CLAIMED_RATE} of the rate"
                claims[claim] = found.median >= CLAIMED_RATE
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
