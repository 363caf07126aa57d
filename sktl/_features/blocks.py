"""Images on their way to a network: read, looked up, decoded, one block ahead of it.

An image is *read*: a file's bytes or an array's pixels, and their digest. Its digest,
with that of all else that decides the numbers, makes keys, one per cut, which are
*looked up* in the cache. What is missing goes on in blocks of a few batches: images are
*decoded* to the pixels that the network sees.

All of it is done by threads, while the thread that called computes the block before.
Only pixels in memory, for a network on the CPU, are prepared between two blocks: they
take little time, and the network has all cores.
"""

import time
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import joblib
import numpy as np

from sktl._features.cache import N_LOCKS, Cache, make_key
from sktl._features.engine import Engine
from sktl._images.forms import Images
from sktl._images.geometry import Geometry
from sktl._images.value_range import brightest
from sktl.exceptions import ImageReadError

# However long X is, at most twice these amounts of it are in memory: of what was read
# (files' bytes, or pixels), and of what was decoded.
MAX_BYTES_READ = 2**27
MAX_BYTES_DECODED = 2**25
MAX_IMAGES = 1024
# A GPU waits between two blocks, about as long as for a part of a batch.
MIN_BATCHES_ON_GPU = 6
# So that several processes find work in what each of them has read.
BLOCKS_PER_READING = 16
# Handing an array to a thread takes longer than reading it.
MAX_IMAGES_PER_TASK = 8
# An array takes a tenth of a millisecond, and holds Python's lock for a part of that:
# on 16 cores, 4 threads prepared 13,500 images of 224 pixels a second, 16 only 7,500.
MAX_THREADS_FOR_ARRAYS = 4
# No block should take longer; a process that hangs must not keep the others for ever.
LOCK_SECONDS = 600
# Detail is lost where an image's short side is more than so many times the network's.
MUCH_LARGER = 4


@dataclass(eq=False)
class Content:
    """What one image shows, on its way to the rows of `X` that show it."""

    digest: bytes
    keys: tuple[bytes, ...]  # one per cut
    images: list = field(default_factory=list)  # (row, Image), of equal content
    known: dict = field(default_factory=dict)  # key -> activation

    def missing(self):
        return [key for key in self.keys if key not in self.known]

    def lock(self):
        return self.digest[0] % N_LOCKS


@dataclass(eq=False)
class Block:
    """Images that go through the network together, or are known already.

    Parameters
    ----------
    contents : list of Content
    pixels : ndarray of shape (n, side, side, 3), dtype uint8, or None
        What the network sees of them; None where all are known.
    errors : dict of int to ImageReadError
        Why rows of `X` could not be read.
    n_large : int
        Number of images of which detail was lost.
    peaks : list of (bits, peak)
        What `brightest` gives, for each row that was decoded.
    patience : float
        Seconds to wait for another process that computes some of them.
    """

    contents: list[Content]
    pixels: np.ndarray | None = None
    errors: dict[int, ImageReadError] = field(default_factory=dict)
    n_large: int = 0
    peaks: list[tuple] = field(default_factory=list)
    patience: float = 0


@dataclass
class Blocks:
    """All blocks of some images, prepared by threads; close it, or use `with`.

    Parameters
    ----------
    images : Images
    fingerprints : sequence of bytes
        One per cut.
    geometry : Geometry
    engine : Engine
        That blocks are for.
    cache : Cache
    n_jobs : int or None
        Threads that read and decode.
    """

    images: Images
    fingerprints: list[bytes]
    geometry: Geometry
    engine: Engine
    cache: Cache
    n_jobs: int | None = None

    def __post_init__(self):
        self.n_threads = joblib.effective_n_jobs(self.n_jobs)
        if self.images.is_array:
            self.n_threads = min(self.n_threads, MAX_THREADS_FOR_ARRAYS)
        n_images = min(MAX_IMAGES, MAX_BYTES_DECODED // (3 * self.geometry.crop**2))
        batch_size = self.engine.batch_size
        least = MIN_BATCHES_ON_GPU if self.engine.device.type == "cuda" else 1
        self._size = max(least, n_images // batch_size) * batch_size
        is_little = self.images.is_array and self.engine.device.type == "cpu"
        self._looks_ahead = len(self.images) > batch_size and not is_little
        self._threads = ThreadPoolExecutor(self.n_threads)
        self._ahead = ThreadPoolExecutor(1)
        self._postponed = deque()
        self.seconds_waited = 0.0

    def max_threads(self):
        """Return how many threads `n_jobs=-1` would give."""
        n_cores = joblib.cpu_count()  # -1 makes a Dask worker warn
        return min(n_cores, MAX_THREADS_FOR_ARRAYS) if self.images.is_array else n_cores

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._threads.shutdown(cancel_futures=True)
        self._ahead.shutdown()

    def __iter__(self):
        """Give each block; while the network computes it, prepare the next."""
        prepare = partial(next, self._prepare_all(), None)
        block = prepare()
        while block:
            overlaps = self._looks_ahead and block.pixels is not None
            ahead = self._ahead.submit(prepare) if overlaps else None
            yield block
            start = time.perf_counter()
            block = ahead.result() if ahead else prepare()
            self.seconds_waited += time.perf_counter() - start
        while self._postponed:
            yield self._prepare_postponed()

    def postpone(self, block):
        """Put off a block that another process is computing."""
        self._postponed.append(block)

    def _prepare_postponed(self):
        return self._prepare(self._postponed.popleft().contents, LOCK_SECONDS)

    def _prepare_all(self):
        most = self._size * (BLOCKS_PER_READING if self.cache.is_shared else 1)
        stop = 0
        while stop < len(self.images):
            n_rows = most
            if self._looks_ahead:
                # The network begins with the first batch, and never waits later.
                n_rows = min(max(stop, self.engine.batch_size), most)
            rows = range(stop, min(stop + n_rows, len(self.images)))
            contents, errors, stop = self._read(rows)
            look_up(contents, self.cache)
            known = [content for content in contents if not content.missing()]
            if known or errors:
                yield Block(known, errors=errors)
            parts = deque(self._divide([c for c in contents if c.missing()]))
            del contents, known  # a block's activations go with the block
            while parts:
                yield self._prepare(parts.popleft())
            while self._postponed:
                yield self._prepare_postponed()

    def _read(self, rows):
        """Read the first of some rows, as many as memory should hold, and digest them.

        Returns
        -------
        contents : list of Content
            Equal images are one.
        errors : dict of int to ImageReadError
            By row.
        stop : int
            The first row that was not read.
        """
        contents, errors = {}, {}
        start, n_bytes, largest = rows.start, 0, MAX_BYTES_READ
        while start < rows.stop and n_bytes < MAX_BYTES_READ:
            # As many at once as fit if they are like those before.
            n = max((MAX_BYTES_READ - n_bytes) // largest, self.n_threads)
            some = range(start, min(start + n, rows.stop))
            for row, image, digest, error in self._map(self._open, some):
                if error:
                    errors[row] = error
                    continue
                if digest not in contents:
                    keys = tuple(make_key(digest, f) for f in self.fingerprints)
                    contents[digest] = Content(digest, keys)
                contents[digest].images.append((row, image))
                n_bytes += image.n_bytes
            largest = max(1, n_bytes // (some.stop - rows.start))
            start = some.stop
        return list(contents.values()), errors, start

    def _open(self, row):
        """Read one image; give it, its digest, and what went wrong."""
        try:
            image = self.images[row]
            return row, image, image.digest(), None
        except ImageReadError as error:
            return row, None, None, error

    def _divide(self, contents):
        """Put images in blocks; images of one lock together, as others may have it."""
        size = self._size
        if not self.cache.is_shared:
            return [contents[i : i + size] for i in range(0, len(contents), size)]
        # A few for each process, if they are not for a batch or two.
        batch_size = self.engine.batch_size
        n_batches = -(-len(contents) // (4 * batch_size))
        size = min(size, max(n_batches, 4) * batch_size)
        by_lock, blocks = defaultdict(list), []
        for content in contents:
            by_lock[content.lock()].append(content)
        # The largest first, each where it fits: so nearly all blocks are whole batches.
        for group in sorted(by_lock.values(), key=len, reverse=True):
            fitting = (b for b in blocks if len(b) + len(group) <= size)
            block = next(fitting, None)
            if block is None:
                blocks.append(block := [])
            block.extend(group)
        return blocks

    def _prepare(self, contents, patience=0):
        """Decode the images of a block that are still unknown."""
        if self.cache.is_shared:
            look_up(contents, self.cache, again=True)
        missing = [content for content in contents if content.missing()]
        side = self.geometry.crop
        pixels = self.engine.host_array((len(missing), side, side, 3))
        decode = partial(self._decode, pixels)
        decoded = list(self._map(decode, list(enumerate(missing))))
        errors = {row: error for found, *_ in decoded for row, error in found}
        if errors:
            for content in missing:
                content.images = [(r, i) for r, i in content.images if r not in errors]
            readable = [n for n, content in enumerate(missing) if content.images]
            pixels = pixels[readable]
            contents = [content for content in contents if content.images]
        n_large = sum(is_large for _, is_large, _ in decoded)
        peaks = [
            peak
            for content, (*_, peak) in zip(missing, decoded, strict=True)
            for _ in content.images
        ]
        return Block(contents, pixels, errors, n_large, peaks, patience)

    def _decode(self, pixels, numbered):
        """Write what the network sees of an image to its place in `pixels`.

        Returns
        -------
        errors : list of (row, ImageReadError)
            Every row that shows an unreadable image has its own.
        is_large : bool
            Whether the network sees much less than there is.
        peak : (bits, peak)
            As in `Block.peaks`.
        """
        number, content = numbered
        errors = []
        for row, image in content.images:
            try:
                pixels[number], size, bits = image.fit_to(self.geometry)
            except ImageReadError as error:
                errors.append((row, error))
                continue
            is_large = min(size) > MUCH_LARGER * self.geometry.crop
            return errors, is_large, brightest(pixels[number], bits)
        return errors, False, None  # and no row is left

    def _map(self, function, items):
        """Map by threads, in order."""
        if self.n_threads == 1:
            return map(function, items)
        n = len(items) // (4 * self.n_threads)
        n = max(1, min(n, MAX_IMAGES_PER_TASK))
        tasks = [items[i : i + n] for i in range(0, len(items), n)]
        if len(tasks) < 2:
            return map(function, items)
        done = self._threads.map(lambda task: list(map(function, task)), tasks)
        return chain.from_iterable(done)


def look_up(contents, cache, again=False):
    """Look up what is missing in the cache; looking `again` is not counted."""
    wanted = [(content, key) for content in contents for key in content.missing()]
    found = cache.get([key for _, key in wanted], again)
    for content, key in wanted:
        if key in found:
            content.known[key] = found[key]
