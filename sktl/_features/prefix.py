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

import joblib
import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d
from tqdm import tqdm

from sktl._features.cache import fingerprint
from sktl._features.engine import Engine, is_out_of_memory
from sktl._features.run import Run
from sktl._images.forms import decoding_stack
from sktl._networks.backbones import Backbone
from sktl._networks.fusion import fuse_batch_norms
from sktl._utils.torch_state import building
from sktl.exceptions import BatchSizeWarning, warn_caller

# Blocks bound the memory that decoded images take, whatever the length of X; two are
# in memory at a time.
IMAGES_PER_BLOCK = 256
# As installed: a local build's is in it.
TORCH_VERSION = version("torch")


class PixelNetwork(torch.nn.Module):
    """A network that takes 8-bit images: normalise, run, pool.

    Parameters
    ----------
    network : torch.nn.Module
        Normalised images `(n, 3, h, w)` to a tuple of activations.
    mean, std : sequence of 3 floats
    poolings : sequence of str or None
        Per activation, how a spatial map becomes a row; None leaves it as it is.
    channels_last : sequence of bool
        Per activation, whether its channels are on the last axis.
    """

    def __init__(self, network, mean, std, poolings, channels_last):
        super().__init__()
        self.network = network
        self.mean = mean
        self.std = std
        self.poolings = poolings
        self.channels_last = channels_last

    def forward(self, pixels):
        """Map uint8 `(n, h, w, 3)` to one activation per output of the network."""
        activations = self.network(normalize(pixels, self.mean, self.std))
        outputs = zip(activations, self.poolings, self.channels_last, strict=True)
        return tuple(
            x if pooling is None else pool(x, pooling, last)
            for x, pooling, last in outputs
        )


def normalize(pixels, mean, std):
    """Map 8-bit images `(n, h, w, 3)` to the floats `(n, 3, h, w)` networks read."""
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
    poolings : tuple of {"avg", "max", "avgmax", "flatten"} or None
        One per cut; None keeps maps.
    engine : Engine
    cache : "memory", path-like or None
    n_jobs : int or None
        Threads that read and decode.
    verbose : int
    """

    backbone: Backbone
    cuts: tuple[str, ...]
    poolings: tuple[str | None, ...]
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
        run, current = Run(self, images, threads, n_threads, bar), None
        try:
            with bar, run.claims:
                for start in range(0, len(images), n_block):
                    rows = range(start, min(start + n_block, len(images)))
                    # One block is decoded while the network is busy with another.
                    current, previous = run.begin(rows), current
                    run.complete(previous)
                run.complete(current)
                while run.left:
                    run.complete(run.begin_left(n_block))
        finally:
            threads.shutdown(cancel_futures=True)
        return run.finish(on_error)

    def output_shapes(self):
        """Shape of one image's activation, per cut; at first a pass of one image."""
        geometry = self.backbone.preprocessing.geometry
        known = _shapes.setdefault(self.backbone.network, {})
        key = self.cuts, self.poolings, geometry.crop
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
        """Run the network itself on uint8 images of its size."""
        if self.cuts == ("",):
            return [pixels]
        return self.engine.run(self._module(), pixels)

    def fingerprints(self):
        """One digest per cut of all that decides the numbers, the image aside."""
        preprocessing = asdict(self.backbone.preprocessing)
        network = self.backbone.network
        # A norm whose input is asked for is not folded into the layer before it, which
        # changes the rounding of all that follows.
        unfolded = [cut for cut in sorted(self.cuts) if network.feeds_a_norm(cut)]
        return [
            fingerprint(
                {
                    "network": self.backbone.digest,
                    "cut": cut,
                    "unfolded": unfolded,
                    "pooling": pooling,
                    "preprocessing": preprocessing,
                    "device": self.engine.device.type,
                    "precision": str(self.engine.dtype),
                    "batch_size": self.engine.batch_size,
                    "torch": TORCH_VERSION,
                    "decoding": decoding_stack(),
                }
            )
            for cut, pooling in zip(self.cuts, self.poolings, strict=True)
        ]

    def _module(self):
        mean, std = self.backbone.preprocessing.mean, self.backbone.preprocessing.std
        network = self.backbone.network
        place = self.engine.device, self.engine.dtype
        return _place(network, self.cuts, mean, std, self.poolings, *place)


_shapes = weakref.WeakKeyDictionary()  # network -> {cuts, poolings, side: shapes}


@functools.lru_cache(maxsize=4)
@building()
def _place(network, cuts, mean, std, poolings, device, dtype):
    """A copy of the prefix on the device, in the layout convolutions run fastest in."""
    module = fuse_batch_norms(network.prefix(*cuts))
    for layer in module.modules():
        if type(layer) in (torch.nn.Conv2d, torch.nn.Linear):
            # Autocast would convert the weights again for every batch.
            layer.to(dtype)
    channels_last = [network.is_channels_last(cut) for cut in cuts]
    module = PixelNetwork(module, mean, std, poolings, channels_last)
    module = module.eval().requires_grad_(False)
    return module.to(device=device, memory_format=torch.channels_last)
