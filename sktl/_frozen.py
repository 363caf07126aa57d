"""Images to the activations of a frozen prefix, each image computed once.

The prefix is a pure function of one image, so what it gives is looked up by the
image's content first and computed only when nobody has asked before. Both estimators
get their activations here.
"""

import functools
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import NamedTuple

import joblib
import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d
from tqdm import tqdm

from sktl._backbones import Backbone
from sktl._engine import Engine, is_out_of_memory
from sktl._fusion import fuse_batch_norms
from sktl._images import decoding_stack, fit_to
from sktl._store import fingerprint, make_key, open_store
from sktl.exceptions import (
    BatchSizeWarning,
    ImageReadError,
    ImageSizeWarning,
    warn_caller,
)

# Blocks bound the memory that decoded images take, whatever the length of X; two are
# in memory at a time.
IMAGES_PER_BLOCK = 256
# Beyond this ratio of a picture's short side to the network's, detail is lost.
MUCH_LARGER = 4
# As installed: a local build's is in it.
TORCH_VERSION = version("torch")
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
    images = pixels.permute(0, 3, 1, 2).float()
    mean, std = (images.new_tensor(value).view(3, 1, 1) for value in (mean, std))
    return images.div_(255).sub_(mean).div_(std)


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

        Warns
        -----
        BatchSizeWarning
            If the device had no memory for a batch, so that smaller ones were used.

        Returns
        -------
        activations : list of ndarray of shape (n, ...), dtype float32
            One per cut.
        """
        engine = self.engine
        while (outputs := replace(self, engine=engine)._try(images, on_error)) is None:
            engine = engine.halved()
        if engine != self.engine:
            warn_caller(
                f"Out of memory: batches of {self.engine.batch_size} images do not fit "
                f"on device={str(engine.device)!r}; used {engine.batch_size}. The "
                "numbers differ by rounding only. Pass "
                f"batch_size={engine.batch_size} to begin with that.",
                BatchSizeWarning,
            )
        return outputs

    def _try(self, images, on_error):
        """Run over all images; None if a batch does not fit, whichever it is.

        With a part of the images in larger batches, the bits of a row would depend on
        where in X it stands.
        """
        try:
            return self._run(images, on_error)
        except RuntimeError as error:
            if not is_out_of_memory(error) or self.engine.batch_size == 1:
                raise
        return None

    def _run(self, images, on_error):
        batch_size = self.engine.batch_size
        n_block = -(-IMAGES_PER_BLOCK // batch_size) * batch_size  # in whole batches
        n_threads = joblib.effective_n_jobs(self.n_jobs)
        threads = ThreadPoolExecutor(n_threads)
        bar = tqdm(total=len(images), unit=" images", disable=not self.verbose)
        run, current = _Run(self, images, threads, n_threads), None
        try:
            with bar:
                for start in range(0, len(images), n_block):
                    rows = range(start, min(start + n_block, len(images)))
                    # One block is decoded while the network is busy with another.
                    current, previous = run.begin(rows), current
                    run.complete(previous, bar)
                run.complete(current, bar)
        finally:
            threads.shutdown(cancel_futures=True)
        return run.finish(on_error)

    def output_shapes(self):
        """Shape of one image's activation, per cut; at first a pass of one image."""
        geometry = self.backbone.preprocessing.geometry
        known = _shapes.setdefault(self.backbone.network, {})
        key = self.cuts, self.pooling, geometry.crop
        if key not in known:
            known[key] = self._find_shapes(geometry.crop)
        return known[key]

    def _find_shapes(self, side):
        blank = np.zeros((1, side, side, 3), np.uint8)
        single = Engine(self.engine.device, self.engine.dtype, batch_size=1)
        try:
            outputs = single.run(self._module(), blank)
        except (RuntimeError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
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
                    "torch": TORCH_VERSION,
                    "decoding": decoding_stack(),
                }
            )
            for cut in self.cuts
        ]

    def _module(self):
        mean, std = self.backbone.preprocessing.mean, self.backbone.preprocessing.std
        network = self.backbone.network
        place = self.engine.device, self.engine.dtype
        return _place(network, self.cuts, mean, std, self.pooling, *place)


_shapes = weakref.WeakKeyDictionary()  # network -> {cuts, pooling, side: shapes}


@functools.lru_cache(maxsize=4)
def _place(network, cuts, mean, std, pooling, device, dtype):
    """A copy of the prefix on the device, in the layout convolutions run fastest in."""
    module = fuse_batch_norms(network.prefix(*cuts))
    for layer in module.modules():
        if type(layer) in (torch.nn.Conv2d, torch.nn.Linear):
            # Autocast would convert the weights again for every batch.
            layer.to(dtype)
    channels_last = [network.is_channels_last(cut) for cut in cuts]
    module = PixelNetwork(module, mean, std, pooling, channels_last)
    module = module.eval().requires_grad_(False)
    return module.to(device=device, memory_format=torch.channels_last)


class _Block(NamedTuple):
    """Some rows on their way: what is known of them, and what is being decoded."""

    rows: range
    pictures: dict  # row -> Picture; unreadable ones are absent
    keys: dict  # row -> tuple of keys, one per cut
    found: dict  # key -> activation
    missing: dict  # tuple of keys -> the row that is decoded for it
    decoding: dict  # row -> future of pixels, or of None where that failed


class _Run:
    """One pass over the images of one X, block after block.

    A block begins (read, look up, start decoding) before the one ahead of it is
    completed (compute, keep, write), so at most two are in memory.
    """

    def __init__(self, prefix, images, threads, n_threads):
        self.prefix = prefix
        self.images = images
        self.threads = threads
        # Handing a file's reading to a single thread takes longer than reading it.
        self.map = threads.map if n_threads > 1 else map
        # The cut "" freezes nothing: there is nothing worth keeping.
        self.store = open_store(prefix.cache if prefix.cuts != ("",) else None)
        self.fingerprints = prefix.fingerprints()
        self.outputs = None
        # Filled by several threads: list.append and list.extend are atomic.
        self.failures = []
        self.large = []
        self.computed = {}  # of the last completed block
        self.n_hits = 0

    def begin(self, rows):
        """Read the images of some rows, and decode those that the store lacks."""
        opened = zip(rows, self.map(self._read, rows), strict=True)
        pictures = {row: picture for row, picture in opened if picture}
        keys = {row: self._keys(picture) for row, picture in pictures.items()}
        found = self.store.get([key for row_keys in keys.values() for key in row_keys])
        # One row per content: equal images are computed once.
        missing = {
            row_keys: row
            for row, row_keys in keys.items()
            if not all(key in found for key in row_keys)
        }
        decoding = {
            row: self.threads.submit(self._decode, pictures[row])
            for row in missing.values()
        }
        return _Block(rows, pictures, keys, found, missing, decoding)

    def complete(self, block, bar):
        """Compute what is missing of a block, and fill in its rows of the outputs."""
        if block is None:  # before the first
            return
        known = block.found | self.computed
        self.computed = self._compute(block, known)
        known |= self.computed
        for row, row_keys in block.keys.items():
            if all(key in known for key in row_keys):
                self._write(row, [known[key] for key in row_keys])
            elif row != block.missing[row_keys]:
                self._decode(block.pictures[row])  # fails as its equal did; say so too
        self.n_hits += len(block.keys) - sum(
            row_keys in block.missing for row_keys in block.keys.values()
        )
        bar.set_postfix(hits=self.n_hits, refresh=False)
        bar.update(len(block.rows))

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

    def _compute(self, block, known):
        """Pass through the network what nobody has computed, and keep it."""
        decoded = {
            row_keys: pixels
            for row_keys, row in block.missing.items()
            # The block before may have held an equal image.
            if not all(key in known for key in row_keys)
            and (pixels := block.decoding[row].result()) is not None
        }
        if not decoded:
            return {}
        outputs = self.prefix.compute(np.stack(list(decoded.values())))
        computed = {
            key: output[n]
            for n, row_keys in enumerate(decoded)
            for key, output in zip(row_keys, outputs, strict=True)
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
