"""Images to the activations of a frozen prefix, each image computed once.

The prefix is a pure function of one image, so what it gives is looked up by the
image's content first and computed only when nobody has asked before. All estimators get
their activations here.

From `X` to a row, an image takes six steps. It is *read*, *looked up* by its keys and,
if they are unknown, *decoded*, all of which `blocks` does by threads, a block of images
ahead. The block is *computed*; what comes out is *kept* in the cache, and *written* to
the rows of the result that show these images.

Processes that share a cache directory share the work. An image's digest names one of a
few file locks, and a process computes an image only while it has that lock, after it
has looked the image up once more. It waits for a lock at most as long as another one
computes a batch, and while it has one it waits for nothing: the lock of the process's
own threads comes first.

An `X` of up to three rows takes a short path. Batches of a fixed size, filled up with
blank images, give a row the same bits in any company (`engine`); for one image that
would take eight times as long. So these few are computed by themselves, which changes
them by rounding, and are not kept; where longer ones have kept them, they are found.
Where a whole batch has few pixels, and so takes but a moment, nothing is cut short; nor
is it for a partition of a collection, whose rows have the bits that all of `X` gives.
"""

import sys
import weakref
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from tqdm import tqdm

from sktl._features.blocks import MUCH_LARGER, Blocks, look_up
from sktl._features.cache import fingerprint, open_cache
from sktl._features.engine import Engine, is_of_device, is_out_of_memory, is_padded
from sktl._features.pixel_network import place
from sktl._images.decoding import decoding_stack
from sktl._images.forms import report_unreadable
from sktl._images.value_range import warn_of_darkness
from sktl._networks.backbones import Backbone
from sktl._utils.torch_state import plain_torch
from sktl._utils.warning import warn_caller
from sktl.exceptions import BatchSizeWarning, ImageSizeWarning

# What most networks see; for these, no other network is suggested.
IMAGENET_SIZE = 224

_shapes = weakref.WeakKeyDictionary()  # network -> {cuts, poolings, side: shapes}


class _Result:
    """The rows of all cuts that are known so far, and why others are missing."""

    def __init__(self, n_rows, bar):
        self.n_rows = n_rows
        self.outputs = None  # made once it is known what an activation is
        self.failures = {}  # row -> ImageReadError
        self.n_large = self.n_hits = 0
        self.peaks = []
        self.bar = bar

    def write(self, contents):
        """Write images whose activations are known by now."""
        for content in contents:
            activations = [content.known[key] for key in content.keys]
            if self.outputs is None:
                shapes = [(self.n_rows, *a.shape) for a in activations]
                dtypes = [a.dtype for a in activations]
                self.outputs = list(map(np.empty, shapes, dtypes))
            for row, _ in content.images:
                for output, activation in zip(self.outputs, activations, strict=True):
                    output[row] = activation
            self.bar.update(len(content.images))

    def hit(self, contents):
        """Write images that were found in the cache."""
        self.n_hits += sum(len(content.images) for content in contents)
        self.bar.set_postfix(hits=self.n_hits, refresh=False)
        self.write(contents)

    def fail(self, errors):
        """Note why rows could not be read."""
        self.failures |= errors
        self.bar.update(len(errors))


@dataclass(frozen=True)
class FrozenPrefix:
    """The part of a backbone up to some cuts, as a function of images.

    Parameters
    ----------
    backbone : Backbone
    cuts : tuple of str
        All are computed in one pass; nothing after the last one is.
    poolings : tuple of {"avg", "max", "avgmax", "cls", "cls+avg", "flatten"} or None
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
        engine, outputs = self.engine, None
        # All of X again: with a part of the images in larger batches, the bits of a row
        # would depend on where in X it stands.
        while outputs is None:
            try:
                outputs = replace(self, engine=engine)._pass(images, on_error)
            except (RuntimeError, AssertionError) as error:
                if not is_out_of_memory(error) or engine.batch_size == 1:
                    self.refuse_side(error)
                    raise
                engine = replace(engine, batch_size=engine.batch_size // 2)
        if engine != self.engine:
            warn_caller(
                f"Out of memory: batches of {self.engine.batch_size} images do not fit "
                f"on device={str(engine.device)!r}; used {engine.batch_size}. "
                "Results differ by rounding only. A PretrainedFeatureExtractor with "
                f"batch_size={engine.batch_size} starts with that size.",
                BatchSizeWarning,
            )
        return outputs

    def _pass(self, images, on_error):
        cache = open_cache(self.cache if self._freezes else None)
        geometry = self.backbone.preprocessing.geometry
        prints = self.fingerprints()
        bar = tqdm(total=len(images), unit=" images", disable=not self.verbose)
        result = _Result(len(images), bar)
        blocks = Blocks(images, prints, geometry, self.engine, cache, self.n_jobs)
        with bar, blocks:
            for block in blocks:
                result.fail(block.errors)  # a block that comes back has none
                if block.pixels is None:
                    result.hit(block.contents)
                elif self._compute(block, cache, result):
                    result.n_large += block.n_large
                    result.peaks += block.peaks
                else:
                    blocks.postpone(block)  # go on somewhere else, and come back
            if self.verbose:
                self._tell_what_limits(blocks, bar)
        return self._finish(result, on_error)

    def _compute(self, block, cache, result):
        """Compute, keep and write a block; False if another process is computing it."""
        missing = [content for content in block.contents if content.missing()]
        n_numbers = self.engine.batch_size * 3 * self._side() ** 2
        is_short = not is_padded(result.n_rows, n_numbers)
        locks = {content.lock() for content in missing if not is_short}
        computed = {}
        with plain_torch(), cache.locked(locks, block.patience) as is_ours:
            if not is_ours and not block.patience:
                return False
            look_up(missing, cache, again=True)
            places = [n for n, content in enumerate(missing) if content.missing()]
            wanted = [missing[n] for n in places]
            is_all = len(wanted) == len(missing)
            pixels = block.pixels if is_all else block.pixels[places]
            for start, outputs in self._run(pixels, is_short):
                some = wanted[start : start + len(outputs[0])]
                computed |= _distribute(self._check_finite(outputs), some)
                if not (is_short or cache.is_shared):  # one write a block to a file
                    cache.put(computed)
                    computed = {}
                result.write(some)
            if computed and not is_short:
                cache.put(computed)
        computed_here = set(wanted)
        result.write([c for c in block.contents if c not in computed_here])
        return True

    def _run(self, pixels, is_short):
        """Run the network itself on uint8 images of its size, batch by batch."""
        if not self._freezes:
            return [(0, [pixels])]
        if is_short:
            engine = replace(self.engine, batch_size=max(1, len(pixels)))
        else:
            engine = self.engine
        return engine.batches(self._module(), pixels)

    def _check_finite(self, outputs):
        if all(map(_is_finite, outputs)):
            return outputs
        if self.engine.dtype == torch.float16:
            raise ValueError(
                f"Activations of backbone={self.backbone.name!r} are too large for "
                "precision='float16', whose largest number is 65504. Pass "
                "precision='bfloat16' or 'float32'. Such features are not cached."
            )
        raise ValueError(
            f"Activations of backbone={self.backbone.name!r} are NaN or infinite, for "
            "instance because its forward divides or takes a logarithm, or because its "
            "training diverged. Pass a network that gives finite numbers for all "
            "images. Such features are not cached."
        )

    def _tell_what_limits(self, blocks, bar):
        n_threads, n_cores = blocks.n_threads, blocks.max_threads()
        share = blocks.seconds_waited / max(bar.format_dict["elapsed"], 1)
        if share > 0.5 and n_threads < n_cores:
            bar.write(
                f"The network waited {share:.0%} of the time for images to be read "
                f"and decoded (n_jobs={self.n_jobs}, threads: {n_threads}). Set "
                f"n_jobs=-1 to use {n_cores} threads for that.",
                file=sys.stderr,
            )

    def _finish(self, result, on_error):
        """Report what could not be read, and return the outputs."""
        # First what the other images are like: they are in the cache then, and will not
        # be looked at again.
        sees_little = self._side() < IMAGENET_SIZE
        if sees_little and result.n_large > result.n_rows / 2:
            self._warn_large(result)
        warn_of_darkness(result.n_rows, result.peaks)
        if self._side() < self.backbone.least_size:
            self._warn_small()
        report_unreadable(result.failures, on_error)
        if result.outputs is None:  # not one image could be read
            shapes = self.output_shapes()
            result.outputs = [np.empty((result.n_rows, *s), np.float32) for s in shapes]
        if result.failures:
            for output in result.outputs:
                output[[*result.failures]] = np.nan
        return result.outputs

    def _warn_large(self, result):
        side, name = self._side(), self.backbone.name
        shipped = "'sktl_photo', which needs no download, or " * (name == "sktl_mini")
        warn_caller(
            f"{result.n_large} of {result.n_rows} images are more than "
            f"{MUCH_LARGER} times as large as the {side} pixels that backbone={name!r} "
            f"sees, so fine detail is lost. Use {shipped}a network that sees 224 "
            "pixels, such as 'mobilenet_v3_small', 'resnet18' or 'efficientnet_b0', or "
            "pass a larger image_size.",
            ImageSizeWarning,
            about=("large images", side, name),
        )

    def _warn_small(self):
        name, least = self.backbone.name, self.backbone.least_size
        warn_caller(
            f"Images reach backbone={name!r} with {self._side()} pixels. Most of its "
            f"last features are then 0: its weights need at least {least} pixels, and "
            "64 or more are better. Leave image_size out, or pass a larger one; for "
            "small images, 'sktl_mini' is another choice.",
            ImageSizeWarning,
        )

    def refuse_side(self, error):
        """Say so if a failure is that the network cannot take images of this side."""
        if self._freezes and not is_of_device(error):
            self.output_shapes()

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
            if is_of_device(error):
                raise
            grey = "; for grey ones, let its forward begin with x.mean(1, keepdim=True)"
            grey = grey if "to have 1 channels" in str(error) else ""
            raise ValueError(
                f"backbone={self.backbone.name!r} cannot take images of {side} x "
                f"{side} pixels in 3 channels ({error}). Pass another image_size, or a "
                f"network that takes such images{grey}."
            ) from error
        return [out.shape[1:] for out in outputs]

    def fingerprints(self):
        """One digest per cut of all that decides the numbers, the image aside."""
        network = self.backbone.network
        # A norm whose input is asked for is not folded into the layer before it, which
        # changes the rounding of all that follows.
        unfolded = [cut for cut in sorted(self.cuts) if network.feeds_a_norm(cut)]
        shared = {
            "network": self.backbone.digest,
            "unfolded": unfolded,
            "preprocessing": asdict(self.backbone.preprocessing),
            "numerics": self.engine.numerics(),
            "decoding": decoding_stack(),
        }
        return [
            fingerprint(shared | {"cut": cut, "pooling": pooling})
            for cut, pooling in zip(self.cuts, self.poolings, strict=True)
        ]

    @property
    def _freezes(self):
        """Whether there is anything to compute: the cut "" freezes nothing."""
        return self.cuts != ("",)

    def _side(self):
        return self.backbone.preprocessing.geometry.crop

    def _module(self):
        mean, std = self.backbone.preprocessing.mean, self.backbone.preprocessing.std
        network, engine = self.backbone.network, self.engine
        where = engine.device, engine.dtype
        return place(network, self.cuts, mean, std, self.poolings, *where)


def _distribute(outputs, contents):
    """Tell images their activations; give those that are new, by their keys."""
    computed = {}
    for content, *activations in zip(contents, *outputs, strict=True):
        values = dict(zip(content.keys, activations, strict=True))
        computed |= {key: values[key] for key in content.missing()}
        content.known = values | content.known
    return computed


def _is_finite(array):
    return np.isfinite(array).all()
