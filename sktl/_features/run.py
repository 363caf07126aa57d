"""One pass over the images of one X: what is known is looked up, the rest computed."""

from collections.abc import Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from sktl._features.cache import make_key, open_store
from sktl._features.claims import Claims
from sktl._images.forms import fit_to
from sktl._utils.torch_state import plain_torch
from sktl.exceptions import ImageReadError, ImageSizeWarning, warn_caller

# Beyond this ratio of an image's short side to the network's, detail is lost.
MUCH_LARGER = 4
# What most networks see; for those that do, there is hardly a better one to name.
IMAGENET_SIZE = 224


class _Block(NamedTuple):
    """Some rows on their way: what is known of them, and what is being decoded."""

    rows: Sequence[int]
    images: dict  # row -> Image; unreadable ones are absent
    keys: dict  # row -> tuple of keys, one per cut
    found: dict  # key -> activation
    missing: dict  # tuple of keys -> the row that stands for it
    decoding: dict  # such a row, if it is ours -> future of pixels; None if that failed


class Run:
    """One pass over the images of one X, block after block.

    A block begins (read, look up, start decoding) before the one ahead of it is
    completed (compute, keep, write), so at most two are in memory. Rows that another
    process is computing are left for the end.
    """

    def __init__(self, prefix, images, threads, n_threads, bar):
        self.prefix = prefix
        self.images = images
        self.threads = threads
        self.bar = bar
        # Handing a file's reading to a single thread takes longer than reading it.
        self.map = threads.map if n_threads > 1 else map
        # The cut "" freezes nothing: there is nothing worth keeping.
        self.store = open_store(prefix.cache if prefix.cuts != ("",) else None)
        self.claims = Claims(self.store)
        self.fingerprints = prefix.fingerprints()
        self.outputs = None
        # Filled by several threads: list.append and list.extend are atomic.
        self.failures = []
        self.large = []
        self.computed = {}  # of the last completed block
        self.left = {}  # row -> tuple of keys, while another process computes it
        self.n_hits = 0

    def begin(self, rows, again=False):
        """Read the images of some rows, and decode those that nobody has computed."""
        opened = zip(rows, self.map(self._read, rows), strict=True)
        images = {row: image for row, image in opened if image}
        keys = {row: self._keys(image) for row, image in images.items()}
        found = self.store.get(list(chain(*keys.values())), again)
        # One row per content: equal images are computed once.
        missing = {
            row_keys: row
            for row, row_keys in keys.items()
            if not all(key in found for key in row_keys)
        }
        # All cuts of an image are computed together: one key stands for the others.
        ours = self.claims.take(row_keys[0] for row_keys in missing)
        decoding = {
            row: self.threads.submit(self._decode, images[row])
            for row_keys, row in missing.items()
            if row_keys[0] in ours
        }
        return _Block(rows, images, keys, found, missing, decoding)

    def begin_left(self, n_rows):
        """Begin with some of the rows that were left to other processes."""
        first = dict(islice(self.left.items(), n_rows))
        free = self.claims.wait(row_keys[0] for row_keys in first.values())
        rows = [row for row, row_keys in first.items() if row_keys[0] in free]
        for row in rows:
            del self.left[row]
        # Read again, for a file may be another one by now.
        return self.begin(rows, again=True)

    def complete(self, block):
        """Compute what is ours of a block, and fill in its rows of the outputs."""
        if block is None:  # before the first
            return
        known = block.found | self.computed
        self.computed = self._compute(block, known)
        known |= self.computed
        n_left = len(self.left)
        for row, row_keys in block.keys.items():
            if all(key in known for key in row_keys):
                self._write(row, [known[key] for key in row_keys])
            elif (stand_in := block.missing[row_keys]) not in block.decoding:
                self.left[row] = row_keys
            elif row != stand_in:
                self._decode(block.images[row])  # fails as its equal did; say so too
        self.claims.drop(row_keys[0] for row_keys in block.keys.values())
        n_left = len(self.left) - n_left
        n_missed = sum(row_keys in block.missing for row_keys in block.keys.values())
        self.n_hits += len(block.keys) - n_missed
        self.bar.set_postfix(hits=self.n_hits, refresh=False)
        self.bar.update(len(block.rows) - n_left)

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

    def _decode(self, image):
        geometry = self.prefix.backbone.preprocessing.geometry
        try:
            pixels = image.pixels()
        except ImageReadError as error:
            self.failures.extend(error.failures)
            return None
        if min(pixels.shape[:2]) > MUCH_LARGER * geometry.crop:
            self.large.append(pixels.shape)
        return fit_to(pixels, geometry)

    def _keys(self, image):
        digest = image.digest()
        return tuple(make_key(digest, print_) for print_ in self.fingerprints)

    def _compute(self, block, known):
        """Pass through the network what nobody has computed, and keep it."""
        decoded = {
            row_keys: pixels
            for row_keys, row in block.missing.items()
            # The block before may have held an equal image.
            if row in block.decoding
            and not all(key in known for key in row_keys)
            and (pixels := block.decoding[row].result()) is not None
        }
        # Of two threads that meet the same image, the second finds it.
        with plain_torch():
            found = self.store.get(list(chain(*decoded)), again=True)
            wanted = [ks for ks in decoded if not all(key in found for key in ks)]
            if not wanted:
                return found
            outputs = self.prefix.compute(np.stack([decoded[ks] for ks in wanted]))
            computed = {
                key: output[n]
                for n, row_keys in enumerate(wanted)
                for key, output in zip(row_keys, outputs, strict=True)
            }
            self.store.put(computed)
        return found | computed

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
