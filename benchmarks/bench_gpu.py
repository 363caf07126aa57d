"""On a GPU, arrays to features nearly as fast as the network alone can go.

Claim, for resnet50 in bfloat16: from uint8 arrays in the host's memory to features in
it, nothing cached, `PretrainedFeatureExtractor.transform` reaches at least 0.90 of the
rate of the resident forward: the same network, batch norms folded, channels last, all
in bfloat16, over images that are on the device already, normalised and converted.
That one copies, converts and hashes nothing: no way from the host can be faster.

Usage: python benchmarks/bench_gpu.py [--images N] [--batch-size N] [--n-jobs N]
[--repeats N]. Exits with 1 when the claim fails, and with 2 where there is no CUDA
device. About a minute.
"""

import argparse
import sys
from functools import partial

import numpy as np
import torch
from _timing import interleaved, ratio, verdict
from torch.fx.experimental.optimization import fuse
from torchvision.models import resnet50

from sktl import PretrainedFeatureExtractor

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLAIMED_RATE = 0.90
TOLERANCE = 5e-2  # largest difference of features, by the size of the largest of them
DTYPE = torch.bfloat16


def random_images(n):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 224, 224, 3), dtype=np.uint8)


def headless(device):
    """The network up to its last layer, tuned by hand."""
    torch.manual_seed(0)  # as PretrainedFeatureExtractor(weights=None) does
    network = resnet50(weights=None).eval()
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


def make_sides(args, device):
    """{side: function to the features of all images}."""
    X = random_images(args.images)
    extractor = PretrainedFeatureExtractor(
        "resnet50",
        weights=None,
        image_size=224,  # images of this size are taken as they are
        batch_size=args.batch_size,
        device=device,
        precision="bfloat16",
        cache=None,
        n_jobs=args.n_jobs,
    )
    batches = place(X, device, args.batch_size)
    return {
        # Its features are NumPy arrays: they are there when it returns.
        "sktl": partial(extractor.fit(X[:1]).transform, X),
        "resident": partial(resident_forward, headless(device), batches),
    }


def check_equal(sides):
    """Both give the same features; this also warms both up."""
    ours, theirs = sides["sktl"](), sides["resident"]().float().cpu().numpy()
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if not difference <= TOLERANCE:
        sys.exit(f"the features differ by {difference:.1e} of their size")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--n-jobs", type=int, default=-1, help="threads, -1 for all")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    if args.images % args.batch_size:
        parser.error("--images has to be a multiple of --batch-size")
    if not torch.cuda.is_available():
        print("no CUDA device on this machine: nothing was measured", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    sides = make_sides(args, device)
    check_equal(sides)
    interleaved(sides, 1)  # the clocks of an idle device take a while to rise
    found = ratio(interleaved(sides, args.repeats), "resident", "sktl")
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    print(f"{args.images} images in batches of {args.batch_size}")
    print(f"rate of the extractor as a multiple of the resident forward's: {found}")
    return verdict(
        {f"at least {CLAIMED_RATE} of the rate": found.median >= CLAIMED_RATE}
    )


if __name__ == "__main__":
    sys.exit(main())
