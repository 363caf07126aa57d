"""Images to the activations of a frozen prefix, each image computed once.

The prefix is a pure function of one image, so what it gives is looked up by the
image's content first and computed only when nobody has asked before. Both estimators
get their activations here.

From `X` to a row, an image takes six steps. It is *read*: a file's bytes or an array's
pixels, and their digest. Its digest, with that of all else that decides the numbers,
makes keys, one per cut, which are *looked up* in the cache. What is missing goes on in
batches: images are *decoded* to the size of the network (one batch ahead, by threads);
the batch is *computed*; what comes out is *kept* in the cache; and *written* to the
rows of the result that show this image.

Processes that share a cache directory share the work. An image's digest names one of a
few file locks, and a process computes an image only while it has that lock, after it
has looked the image up once more. It waits for a lock at most as long as another one
computes a batch, and while it has one it waits for nothing: the lock of the process's
own threads comes first.

An `X` of up to three rows takes a short path. Batches of a fixed size, filled up with
blank images, give a row the same bits in any company (`engine`); for one image that
would take eight times as long. So these few are computed by themselves, which changes
them by rounding, and are not kept; where longer ones have kept them, they are found.
Where a whole batch has few pixels, and so takes but a moment, nothing is cut short.
"""

import functools
import secrets
import weakref
from collections import defaultdict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace

import joblib
import numpy as np
import torch
from tqdm import tqdm

from sktl._features.cache import N_LOCKS, fingerprint, make_key, open_cache
from sktl._features.engine import Engine, is_of_device, is_out_of_memory
from sktl._features.pixel_network import place
from sktl._images.decoding import decoding_stack
from sktl._images.geometry import fit_to
from sktl._networks.backbones import Backbone
from sktl._utils.torch_state import plain_torch
from sktl.exceptions import (
    BatchSizeWarning,
    ImageReadError,
    ImageSizeWarning,
    warn_caller,
)

# Whatever the length of X, at most twice so much of it is in memory: of what was read
# (files' bytes, or pixels), and of what was decoded.
MAX_BYTES_READ = 2**27
MAX_BYTES_DECODED = 2**25
MAX_IMAGES = 1024
# So that several processes find work in what each has read.
BLOCKS_PER_READING = 16
# No block should take longer; a process that hangs must not keep the others for ever.
LOCK_SECONDS = 600
# Up to so many rows of `X`, as when a service is asked for one image, a batch has no
# other rows.
FEW_ROWS = 3
# ... unless a whole batch has no more pixels than this.
SMALL_BATCH = 2**13
# Beyond this ratio of an image's short side to the network's, detail is lost.
MUCH_LARGER = 4
# What most networks see; for those that do, there is hardly a better one to name.
IMAGENET_SIZE = 224

_shapes = weakref.WeakKeyDictionary()  # network -> {cuts, poolings, side: shapes}


@dataclass(eq=False)
class _Content:
    """What one image shows, on its way to the rows of `X` that show it."""

    digest: bytes
    keys: tuple[bytes, ...]  # one per cut
    images: list = field(default_factory=list)  # (row, Image), of equal content
    known: dict = field(default_factory=dict)  # key -> activation
    decoding: Future | None = None

    def missing(self):
        return [key for key in self.keys if key not in self.known]

    def lock(self):
        return self.digest[0] % N_LOCKS


class _Result:
    """The rows of all cuts, as far as they are known, and why others are not."""

    def __init__(self, n_rows, bar):
        self.n_rows = n_rows
        self.outputs = None  # made once it is known what an activation is
        self.failures = {}  # row -> ImageReadError
        self.n_large = 0
        self.bar = bar

    def write(self, content):
        activations = [content.known[key] for key in content.keys]
        if self.outputs is None:
            shapes = [(self.n_rows, *a.shape) for a in activations]
            self.outputs = list(map(np.empty, shapes, [a.dtype for a in activations]))
        for row, _ in content.images:
            for output, activation in zip(self.outputs, activations, strict=True):
                output[row] = activation
        self.bar.update(len(content.images))

    def fail(self, row, error):
        self.failures[row] = error
        self.bar.update(1)


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
        engine, outputs = self.engine, None
        # All of X again: with a part of the images in larger batches, the bits of a row
        # would depend on where in X it stands.
        while outputs is None:
            try:
                outputs = replace(self, engine=engine)._pass(images, on_error)
            except RuntimeError as error:
                if not is_out_of_memory(error) or engine.batch_size == 1:
                    raise
                engine = engine.halved()
        if engine != self.engine:
            warn_caller(
                f"Out of memory: batches of {self.engine.batch_size} images do not fit "
                f"on device={str(engine.device)!r}; used {engine.batch_size}. "
                "Results differ by rounding only. Pass "
                f"batch_size={engine.batch_size} to start with that size.",
                BatchSizeWarning,
            )
        return outputs

    def _pass(self, images, on_error):
        # The cut "" freezes nothing: there is nothing worth keeping.
        cache = open_cache(None if self.cuts == ("",) else self.cache)
        n_threads = joblib.effective_n_jobs(self.n_jobs)
        threads = ThreadPoolExecutor(n_threads)
        # Handing a file's reading to a single thread takes longer than reading it.
        apply = threads.map if n_threads > 1 else map
        side, batch_size = (
            self.backbone.preprocessing.geometry.crop,
            self.engine.batch_size,
        )
        n_images = min(MAX_IMAGES, MAX_BYTES_DECODED // (3 * side**2))
        size = max(1, n_images // batch_size) * batch_size
        bar = tqdm(total=len(images), unit=" images", disable=not self.verbose)
        result = _Result(len(images), bar)
        n_rows = size * (BLOCKS_PER_READING if cache.is_shared else 1)
        readings = self._read(images, n_rows, 8 * n_threads, apply, result)
        blocks = deque()  # of images that are missing, with seconds to wait for a lock
        n_hits = 0

        def begin_next():
            nonlocal n_hits
            while not blocks and (contents := next(readings, None)) is not None:
                missing = self._look_up(contents, cache)
                for content in contents:
                    if not content.missing():
                        n_hits += len(content.images)
                        result.write(content)
                bar.set_postfix(hits=n_hits, refresh=False)
                divided = self._divide(missing, size, cache.is_shared)
                blocks.extend((block, 0) for block in divided)
            if not blocks:
                return None
            block, patience = blocks.popleft()
            missing = self._look_up(block, cache, True) if cache.is_shared else block
            for content in missing:
                (_, image), *_ = content.images
                content.decoding = threads.submit(self._decode, image)
            return block, patience

        try:
            with bar:
                current = begin_next()
                while current:
                    # One block is decoded while the network is busy with another.
                    following = begin_next()
                    if not self._compute(*current, cache, result):
                        # Another process is here: go on somewhere else, come back.
                        blocks.rotate(secrets.randbelow(len(blocks) + 1))
                        blocks.append((current[0], LOCK_SECONDS))
                    current = following or begin_next()
        finally:
            threads.shutdown(cancel_futures=True)
        return self._finish(result, on_error)

    def _read(self, images, n_rows, n_at_once, apply, result):
        """Read as many images at a time as memory should hold, and their digests.

        Yields
        ------
        contents : list of _Content
            Equal images are one.
        """
        fingerprints = self.fingerprints()
        contents, n_read, n_bytes = {}, 0, 0
        for start in range(0, len(images), n_at_once):
            rows = range(start, min(start + n_at_once, len(images)))
            opened = apply(functools.partial(_open, images), rows)
            for row, (image, digest, error) in zip(rows, opened, strict=True):
                if error:
                    result.fail(row, error)
                    continue
                if digest not in contents:
                    keys = tuple(make_key(digest, print_) for print_ in fingerprints)
                    contents[digest] = _Content(digest, keys)
                contents[digest].images.append((row, image))
                n_bytes += image.n_bytes
            n_read += len(rows)
            if n_read >= n_rows or n_bytes >= MAX_BYTES_READ:
                yield list(contents.values())
                contents, n_read, n_bytes = {}, 0, 0
        yield list(contents.values())

    def _look_up(self, contents, cache, again=False):
        """Learn what is known, counted at the first time, and return what is not."""
        found = cache.get([key for c in contents for key in c.missing()], again)
        for content in contents:
            known = {key: found[key] for key in content.missing() if key in found}
            content.known |= known
        return [content for content in contents if content.missing()]

    def _divide(self, contents, size, is_shared):
        """Put images in blocks, for other processes' sake those of a lock in one."""
        if not is_shared:
            return [contents[i : i + size] for i in range(0, len(contents), size)]
        # A few for each process, if they are not for a batch or two.
        batch_size = self.engine.batch_size
        n_batches = -(-len(contents) // (4 * batch_size))
        size = min(size, max(n_batches, 4) * batch_size)
        by_lock, blocks = defaultdict(list), [[]]
        for content in contents:
            by_lock[content.lock()].append(content)
        for group in by_lock.values():
            if len(blocks[-1]) + len(group) > size:
                blocks.append([])
            blocks[-1].extend(group)
        return [block for block in blocks if block]

    def _decode(self, image):
        """Give the pixels that the network sees, and whether that leaves detail out."""
        geometry = self.backbone.preprocessing.geometry
        pixels = image.pixels()
        is_large = min(pixels.shape[:2]) > MUCH_LARGER * geometry.crop
        return fit_to(pixels, geometry), is_large

    def _compute(self, block, patience, cache, result):
        """Compute, keep and write a block; False if another process is computing it."""
        decoded = {}
        for content in list(block):
            if content.missing():
                try:
                    decoded[content] = content.decoding.result()
                except ImageReadError as error:
                    block.remove(content)
                    self._fail(content, error, result)
        side = self.backbone.preprocessing.geometry.crop
        is_small = self.engine.batch_size * side**2 <= SMALL_BATCH
        is_short = result.n_rows <= FEW_ROWS and not is_small
        locks = {content.lock() for content in decoded if not is_short}
        with plain_torch(), cache.locked(locks, patience) as is_ours:
            if not is_ours and not patience:
                return False
            if wanted := self._look_up(decoded, cache, again=True):
                pixels = np.stack([decoded[content][0] for content in wanted])
                prefix = self
                if is_short:
                    engine = replace(self.engine, batch_size=len(wanted))
                    prefix = replace(self, engine=engine)
                outputs = prefix.compute(pixels)
                computed = {}
                for content, *activations in zip(wanted, *outputs, strict=True):
                    values = dict(zip(content.keys, activations, strict=True))
                    computed |= {key: values[key] for key in content.missing()}
                    content.known = values | content.known
                if not is_short:
                    cache.put(computed)
        for content in block:
            result.write(content)
        result.n_large += sum(is_large for _, is_large in decoded.values())
        return True

    def _fail(self, content, error, result):
        """Every row that shows an unreadable image needs its own verdict."""
        (row, _), *others = content.images
        result.fail(row, error)
        for row, image in others:
            try:
                self._decode(image)
            except ImageReadError as same_error:
                result.fail(row, same_error)

    def _finish(self, result, on_error):
        """Report what could not be read, and return the outputs."""
        failed = sorted(result.failures)
        failures = [f for row in failed for f in result.failures[row].failures]
        if failures and on_error == "raise":
            raise ImageReadError(failures)
        sees_little = self.backbone.preprocessing.geometry.crop < IMAGENET_SIZE
        if sees_little and result.n_large > result.n_rows / 2:
            self._warn_large(result)
        if result.outputs is None:  # not one image could be read
            shapes = self.output_shapes()
            result.outputs = [np.empty((result.n_rows, *s), np.float32) for s in shapes]
        if failures:
            warn_caller(f"{ImageReadError(failures)}", UserWarning)
            for output in result.outputs:
                output[failed] = np.nan
        return result.outputs

    def _warn_large(self, result):
        side = self.backbone.preprocessing.geometry.crop
        warn_caller(
            f"{result.n_large} of {result.n_rows} images are more than "
            f"{MUCH_LARGER} times as large as the {side} pixels that "
            f"backbone={self.backbone.name!r} sees, so fine detail is lost. Use a "
            "network that sees 224 pixels, such as 'mobilenet_v3_small', 'resnet18' "
            "or 'efficientnet_b0', or pass a larger image_size.",
            ImageSizeWarning,
        )

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
            raise ValueError(
                f"backbone={self.backbone.name!r} cannot take images of {side} x "
                f"{side} pixels in 3 channels ({error}). Pass another image_size, or a "
                "network that takes such images."
            ) from error
        return [out.shape[1:] for out in outputs]

    def compute(self, pixels):
        """Run the network itself on uint8 images of its size."""
        if self.cuts == ("",):
            return [pixels]
        outputs = self.engine.run(self._module(), pixels)
        if self.engine.dtype == torch.float16 and not all(map(_is_finite, outputs)):
            raise ValueError(
                f"Activations of backbone={self.backbone.name!r} are too large for "
                "precision='float16', whose largest number is 65504. Pass "
                "precision='bfloat16' or 'float32'. None of these features were cached."
            )
        return outputs

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
                    "numerics": self.engine.numerics(),
                    "decoding": decoding_stack(),
                }
            )
            for cut, pooling in zip(self.cuts, self.poolings, strict=True)
        ]

    def _module(self):
        mean, std = self.backbone.preprocessing.mean, self.backbone.preprocessing.std
        network, engine = self.backbone.network, self.engine
        where = engine.device, engine.dtype
        return place(network, self.cuts, mean, std, self.poolings, *where)


def _open(images, row):
    """Read one image; give it, its digest, and what went wrong."""
    try:
        image = images[row]
        return image, image.digest(), None
    except ImageReadError as error:
        return None, None, error


def _is_finite(array):
    return np.isfinite(array).all()
