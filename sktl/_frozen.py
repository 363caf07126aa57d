"""Images to the activations of a frozen prefix, each image computed once.

The prefix is a pure function of one image, so what it gives is looked up by the
image's content first and computed only when nobody has asked before. Both estimators
get their activations here.
"""

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version

import joblib
import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d
from tqdm import tqdm

from sktl._backbones import Backbone
from sktl._engine import Engine
from sktl._images import decoding_stack, fit_to
from sktl._stages import fuse_batch_norms
from sktl._store import fingerprint, make_key, open_store
from sktl.exceptions import ImageReadError, ImageSizeWarning, warn_caller

# Blocks bound the memory that decoded images take, whatever the length of X.
BATCHES_PER_BLOCK = 8
# Beyond this ratio of a picture's short side to the network's, detail is lost.
MUCH_LARGER = 4
# What most networks see; for those that do, there is hardly a better one to name.
IMAGENET_SIZE = 224


class PixelNetwork(torch.nn.Module):
    """A network that takes 8-bit pictures: normalise, run, pool.

    Parameters
    ----------
    network : torch.nn.Module
        Normalised images `(n, 3, h, w)` to a tuple of activations.
    mean, std : sequence of 3 floats
    pooling : str or None
        How spatial maps become rows; None leaves them as they are.
    channels_last : sequence of bool
        Per activation, whether its channels are on the last axis.
    """

    def __init__(self, network, mean, std, pooling, channels_last):
        super().__init__()
        self.network = network
        self.mean = mean
        self.std = std
        self.pooling = pooling
        self.channels_last = channels_last

    def forward(self, pixels):
        """Map uint8 `(n, h, w, 3)` to one activation per output of the network."""
        activations = self.network(normalize(pixels, self.mean, self.std))
        if self.pooling is None:
            return activations
        pairs = zip(activations, self.channels_last, strict=True)
        return tuple(pool(x, self.pooling, last) for x, last in pairs)


def normalize(pixels, mean, std):
    """Map 8-bit pictures `(n, h, w, 3)` to the floats `(n, 3, h, w)` networks read."""
    images = pixels.permute(0, 3, 1, 2).float().div(255)
    mean, std = (images.new_tensor(value).view(3, 1, 1) for value in (mean, std))
    return (images - mean) / std


def pool(activation, pooling, channels_last=False):
    """Make one row per image of what a cut gives.

    Parameters
    ----------
    activation : torch.Tensor of shape (n, channels, h, w), (n, width, tokens) or (n, d)
    pooling : {"avg", "max", "avgmax", "flatten"}
    channels_last : bool
        Whether channels or width are on the last axis instead.
    """
    if activation.ndim == 2 or pooling == "flatten":
        return activation.flatten(1)
    if channels_last:
        activation = activation.movedim(-1, 1)
    if activation.ndim == 3:  # tokens of a transformer: (n, width, tokens, 1)
        activation = activation.unsqueeze(-1)
    pools = {
        "avg": [adaptive_avg_pool2d],
        "max": [adaptive_max_pool2d],
        "avgmax": [adaptive_avg_pool2d, adaptive_max_pool2d],
    }
    parts = [reduce(activation, 1).flatten(1) for reduce in pools[pooling]]
    return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class FrozenPrefix:
    """The part of a backbone up to some cuts, as a function of images.

    Parameters
    ----------
    backbone : Backbone
    cuts : tuple of str
        All are computed in one pass; nothing after the last one is.
    pooling : {"avg", "max", "avgmax", "flatten"} or None
        None keeps maps.
    engine : Engine
    cache : "memory", path-like or None
    n_jobs : int or None
        Threads that read and decode.
    verbose : int
    """

    backbone: Backbone
    cuts: tuple[str, ...]
    pooling: str | None
    engine: Engine
    cache: object = None
    n_jobs: int | None = None
    verbose: int = 0

    def __call__(self, images, on_error="raise"):
        """Compute, or look up, the activations of all images.

        Parameters
        ----------
        images : Images
        on_error : {"raise", "nan"}
            With `"nan"`, the rows of unreadable images are NaN and one warning lists
            them.

        Returns
        -------
        activations : list of ndarray of shape (n, ...), dtype float32
            One per cut.
        """
        n_block = BATCHES_PER_BLOCK * self.engine.batch_size
        run = _Run(self, images)
        with (
            ThreadPoolExecutor(joblib.effective_n_jobs(self.n_jobs)) as threads,
            tqdm(total=len(images), unit="image", disable=not self.verbose) as bar,
        ):
            for start in range(0, len(images), n_block):
                rows = range(start, min(start + n_block, len(images)))
                run.block(rows, threads.map)
                bar.update(len(rows))
        return run.finish(on_error)

    def output_shapes(self):
        """Shape of one image's activation, per cut; costs a pass of one image."""
        side = self.backbone.preprocessing.geometry.crop
        blank = np.zeros((1, side, side, 3), np.uint8)
        single = Engine(self.engine.device, self.engine.dtype, batch_size=1)
        try:
            outputs = single.run(self._module(), blank)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"backbone={self.backbone.name!r} cannot take images of {side} x "
                f"{side} pixels in 3 channels ({error}). Pass another image_size, or a "
                "network for such images."
            ) from error
        return [out.shape[1:] for out in outputs]

    def compute(self, pixels):
        """Run the network itself on uint8 pictures of its size."""
        if self.cuts == ("",):
            return [pixels]
        return self.engine.run(self._module(), pixels)

    def fingerprints(self):
        """One digest per cut of all that decides the numbers, the image aside."""
        preprocessing = asdict(self.backbone.preprocessing)
        return [
            fingerprint(
                {
                    "network": self.backbone.digest,
                    "cut": cut,
                    # Which norms can be folded depends on what else is asked for.
                    "cuts": list(self.cuts),
                    "pooling": self.pooling,
                    "preprocessing": preprocessing,
                    "device": self.engine.device.type,
                    "precision": str(self.engine.dtype),
                    "batch_size": self.engine.batch_size,
                    "torch": version("torch"),
                    "decoding": decoding_stack(),
                }
            )
            for cut in self.cuts
        ]

    def _module(self):
        mean, std = self.backbone.preprocessing.mean, self.backbone.preprocessing.std
        network = self.backbone.network
        return _place(network, self.cuts, mean, std, self.pooling, self.engine.device)


@functools.lru_cache(maxsize=4)
def _place(network, cuts, mean, std, pooling, device):
    """A copy of the prefix on the device, in the layout convolutions run fastest in."""
    module = fuse_batch_norms(network.prefix(*cuts))
    channels_last = [network.is_channels_last(cut) for cut in cuts]
    module = PixelNetwork(module, mean, std, pooling, channels_last)
    module = module.eval().requires_grad_(False)
    return module.to(device=device, memory_format=torch.channels_last)


class _Run:
    """One pass over the images of one X."""

    def __init__(self, prefix, images):
        self.prefix = prefix
        self.images = images
        # The cut "" freezes nothing: there is nothing worth keeping.
        self.store = open_store(prefix.cache if prefix.cuts != ("",) else None)
        self.fingerprints = prefix.fingerprints()
        self.outputs = None
        # Filled by several threads: list.append and list.extend are atomic.
        self.failures = []
        self.large = []

    def block(self, rows, parallel_map):
        """Fill in some rows of the outputs."""
        pictures = dict(zip(rows, parallel_map(self._read, rows), strict=True))
        pictures = {row: picture for row, picture in pictures.items() if picture}
        keys = {row: self._keys(picture) for row, picture in pictures.items()}
        found = self.store.get([key for row_keys in keys.values() for key in row_keys])
        # One row per content: equal images are computed once.
        missing = {
            row_keys: row
            for row, row_keys in keys.items()
            if not all(key in found for key in row_keys)
        }
        found |= self._compute(missing, pictures, parallel_map)
        for row, row_keys in keys.items():
            if all(key in found for key in row_keys):
                self._write(row, [found[key] for key in row_keys])
            elif row != missing[row_keys]:
                self._decode(pictures[row])  # fails as its equal did; say so too

    def finish(self, on_error):
        """Report what could not be read, and return the outputs."""
        failures = sorted(self.failures)
        if failures and on_error == "raise":
            raise ImageReadError(failures)
        sees_little = self.prefix.backbone.preprocessing.geometry.crop < IMAGENET_SIZE
        if sees_little and len(self.large) > len(self.images) / 2:
            self._warn_large()
        if self.outputs is None:  # not one image could be read
            shapes = self.prefix.output_shapes()
            self._allocate([np.empty(shape, np.float32) for shape in shapes])
        if failures:
            warn_caller(f"{ImageReadError(failures)}", UserWarning)
            for output in self.outputs:
                output[[row for row, _, _ in failures]] = np.nan
        return self.outputs

    def _read(self, row):
        try:
            return self.images[row]
        except ImageReadError as error:
            self.failures.extend(error.failures)

    def _decode(self, picture):
        geometry = self.prefix.backbone.preprocessing.geometry
        try:
            pixels = picture.pixels()
        except ImageReadError as error:
            self.failures.extend(error.failures)
            return None
        if min(pixels.shape[:2]) > MUCH_LARGER * geometry.crop:
            self.large.append(pixels.shape)
        return fit_to(pixels, geometry)

    def _keys(self, picture):
        digest = picture.digest()
        return tuple(make_key(digest, print_) for print_ in self.fingerprints)

    def _compute(self, missing, pictures, parallel_map):
        """Decode and compute what the store does not have, and keep it there."""
        wanted = [pictures[row] for row in missing.values()]
        decoded = list(parallel_map(self._decode, wanted))
        good = [i for i, pixels in enumerate(decoded) if pixels is not None]
        if not good:
            return {}
        outputs = self.prefix.compute(np.stack([decoded[i] for i in good]))
        row_keys = [list(missing)[i] for i in good]
        computed = {
            key: output[n]
            for n, keys in enumerate(row_keys)
            for key, output in zip(keys, outputs, strict=True)
        }
        self.store.put(computed)
        return computed

    def _write(self, row, activations):
        if self.outputs is None:
            self._allocate(activations)
        for output, activation in zip(self.outputs, activations, strict=True):
            output[row] = activation

    def _allocate(self, examples):
        n = len(self.images)
        self.outputs = [np.empty((n, *e.shape), e.dtype) for e in examples]

    def _warn_large(self):
        backbone = self.prefix.backbone
        side = backbone.preprocessing.geometry.crop
        warn_caller(
            f"{len(self.large)} of {len(self.images)} images are more than "
            f"{MUCH_LARGER} times as large as the {side} pixels that "
            f"backbone={backbone.name!r} sees: their detail is lost. Networks such as "
            "'mobilenet_v3_small', 'resnet18' or 'efficientnet_b0' see 224 pixels; or "
            "pass a larger image_size.",
            ImageSizeWarning,
        )
