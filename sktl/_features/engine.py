"""Run a network over many images: device, precision, batches of one fixed size.

Every batch has exactly `batch_size` rows, the last one padded, because torch promises
equal results for equal shapes only: the same image gives the same bits whatever else
is in `X`.
"""

import functools
import multiprocessing
import re
from collections import deque
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import backends

from sktl._utils.partitions import partition_name
from sktl._utils.torch_state import exact_float32, plain_torch
from sktl._utils.warning import warn_caller

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

# Maps of few images stay in a CPU's caches, and in memory that the allocator reuses:
# eight of 224 pixels at once are 1.4 to 1.7 times as fast as 32 (benchmarks/README.md).
MAX_PIXELS_ON_CPU = 8 * 224**2
# For `is_padded`: what counts as few rows, and a batch that is computed in a moment.
FEW_ROWS = 3
FEW_NUMBERS = 3 * 2**13
# Launched and not yet fetched: one that a GPU computes, one to go on with.
BATCHES_UNDER_WAY = 2


@dataclass(frozen=True)
class Engine:
    """Where and how a network runs.

    Parameters
    ----------
    device : torch.device
    dtype : torch.dtype
        What convolutions and matrix products compute in. Weights and results stay
        float32.
    batch_size : int
    """

    device: torch.device
    dtype: torch.dtype
    batch_size: int

    def run(self, module, rows):
        """Pass each row through `module`, which is on this engine's device.

        Parameters
        ----------
        module : callable
            A float or uint8 tensor of `batch_size` rows to a tuple of tensors.
        rows : ndarray of shape (n, ...)

        Returns
        -------
        outputs : list of ndarray of shape (n, ...), dtype float32
            One per output of `module`.
        """
        parts = [outputs for _, outputs in self.batches(module, rows)]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def batches(self, module, rows):
        """Give what `run` does, batch by batch, while a GPU computes the next ones.

        Yields
        ------
        start : int
            The first of the batch's rows.
        outputs : list of ndarray
        """
        under_way = deque()

        def fetch():
            start, outputs, event = under_way.popleft()
            if event is not None:
                event.synchronize()
            n_rows = min(len(rows) - start, self.batch_size)  # the last was filled up
            return start, [output[:n_rows].cpu().numpy() for output in outputs]

        for start in range(0, len(rows), self.batch_size):
            with torch.inference_mode(), self.autocast():
                batch = self._batch(rows[start : start + self.batch_size])
                under_way.append((start, *self._send_back(module(batch))))
            # The device always has a batch to go on with, and never holds the outputs
            # of many.
            if len(under_way) > BATCHES_UNDER_WAY:
                yield fetch()
        while under_way:
            yield fetch()

    def host_array(self, shape):
        """An uninitialised uint8 array for images on their way to the device."""
        if self.device.type != "cuda":
            return np.empty(shape, np.uint8)
        # From pinned memory they are copied while the device computes.
        like = {"dtype": torch.uint8, "device": "cpu", "pin_memory": True}
        return torch.empty(shape, **like).numpy()

    def _batch(self, rows):
        """A batch of the fixed size on the device."""
        n_missing = self.batch_size - len(rows)
        if n_missing:
            padding = np.zeros((n_missing, *rows.shape[1:]), rows.dtype)
            rows = np.concatenate([rows, padding])
        batch = torch.from_numpy(rows)
        if self.device.type == "cuda":
            # Copied while the batch before is computed; `batches` keeps the rows.
            with torch.cuda.stream(_upload_stream(self.device)):
                batch = batch.pin_memory().to(self.device, non_blocking=True)
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(_upload_stream(self.device))
            batch.record_stream(computing)
            return batch
        return batch.to(self.device)

    def _send_back(self, outputs):
        """Copy outputs to the host; give them with the event that says they are there.

        A copy that the host waits for would wait for the next batch too, where that is
        launched already.
        """
        outputs = [output.float() for output in outputs]
        if self.device.type != "cuda":
            return outputs, None
        hosts = [torch.empty(o.shape, dtype=o.dtype, pin_memory=True) for o in outputs]
        for host, output in zip(hosts, outputs, strict=True):
            host.copy_(output, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return hosts, event

    @contextmanager
    def autocast(self):
        """Use torch alone, to compute in this engine's precision."""
        # A user may have switched it on, so it is switched off too.
        rounds = self.dtype != torch.float32
        rounded = torch.autocast(self.device.type, self.dtype, enabled=rounds)
        with plain_torch(), rounded, self.exact():
            yield

    def exact(self):
        """Context in which products, gradients' too, are in float32 if asked for."""
        return exact_float32() if self.dtype == torch.float32 else nullcontext()

    def numerics(self):
        """Everything about this engine, machine and process that changes numbers.

        Returns
        -------
        fields : dict
            Plain data. The number of threads is left out: it changes the last bits of
            large sums only, and keys must not differ between workers.
        """
        with self.autocast():
            fields = {
                "device": self.device.type,
                "precision": str(self.dtype),
                "batch_size": self.batch_size,
                "torch": str(torch.__version__),
                "deterministic": torch.are_deterministic_algorithms_enabled(),
            }
            on = _cuda_numerics if self.device.type == "cuda" else _cpu_numerics
            return fields | on(self.device)


@functools.cache
def _upload_stream(device):
    return torch.cuda.Stream(device)


def _cuda_numerics(device):
    # Read by the API that never raises (torch 2.9 and later): `allow_tf32` does once a
    # user has set what it stands for by the other one.
    matmul = backends.cuda.matmul
    return {
        "name": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": backends.cudnn.version() if backends.cudnn.enabled else None,
        "cudnn benchmark": backends.cudnn.benchmark,
        "cudnn deterministic": backends.cudnn.deterministic,
        "convolution": _rounding(backends.cudnn.conv),
        "matmul": _rounding(matmul),
        "short sums": [
            str(matmul.allow_fp16_reduced_precision_reduction),
            str(matmul.allow_bf16_reduced_precision_reduction),
            str(matmul.allow_fp16_accumulation),
        ],
    }


def _cpu_numerics(device):
    return {
        "name": backends.cpu.get_cpu_capability(),
        "mkldnn": backends.mkldnn.enabled,
        "convolution": _rounding(backends.mkldnn.conv),
        "matmul": _rounding(backends.mkldnn.matmul),
    }


def _rounding(part):
    """How a backend rounds float32; not at all if nothing was set."""
    return part.fp32_precision.replace("none", "ieee")


def is_padded(n_rows, n_numbers):
    """Whether an `X` is computed in batches of one size, the last one padded.

    Few rows, as when a service is asked for one image, are not: most of the batch would
    be computed for nothing. Unless a whole batch is computed in a moment, or the rows
    are a part of a larger collection.

    Parameters
    ----------
    n_rows : int
    n_numbers : int
        In a whole batch.
    """
    is_part = partition_name.get() is not None
    return n_rows > FEW_ROWS or n_numbers <= FEW_NUMBERS or is_part


def is_out_of_memory(error):
    """Whether torch raised `error` because a device's memory is used up."""
    # Only CUDA's allocator has a class for it; MPS, the CPU's, cuBLAS and cuDNN only
    # say so in the message.
    words = (
        "out of memory",
        "not enough memory",
        "can't allocate memory",
        "STATUS_ALLOC_FAILED",
    )
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(w in str(error) for w in words)
    )


def is_of_device(error):
    """Whether `error` is about the machine or its settings, not about the images."""
    words = "CUDA|CUBLAS|cuDNN|CUDNN|HIP|MPS|no kernel image|[Dd]eterministic"
    return (
        isinstance(error, torch.AcceleratorError)
        or is_out_of_memory(error)
        or re.search(words, str(error)) is not None
    )


def make_engine(device="auto", precision="auto", batch_size=32, side=0):
    """Turn the user's words into an engine, or say what they may be.

    With the `side` of the images, a CPU gets no more of them at once than pays.
    """
    device = resolve_device(device)
    if device.type == "cpu" and side:
        batch_size = max(1, min(batch_size, MAX_PIXELS_ON_CPU // side**2))
    return Engine(device, resolve_precision(precision, device), int(batch_size))


def resolve_device(device):
    """Return the torch.device that `device` means on this machine, with its index.

    Parameters
    ----------
    device : str or torch.device
        `"auto"` is a CUDA device or Apple's MPS where there is one that computes, else
        the CPU. Among several CUDA devices it is torch's current one; worker processes,
        which are numbered, take them in turn. (A worker that was given one, by
        `CUDA_VISIBLE_DEVICES`, sees only that.) A device asked for by name is never
        replaced by another.
    """
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            best = torch.device("cuda", _card_of_this_process())
        elif backends.mps.is_available():
            best = torch.device("mps", 0)
        else:
            return torch.device("cpu")
        return best if _computes(best) else torch.device("cpu")
    try:
        resolved = torch.device(device)
        probe = torch.empty(0, device=resolved)
        probe.cpu()  # "meta" holds no numbers to bring back
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={device!r} cannot be used on this machine ({_reason(error)}). "
            'Pass "cpu", or "auto" for the best that is available.'
        ) from error
    return probe.device


def _card_of_this_process():
    current = torch.cuda.current_device()
    # Such as "LokyProcess-3", "ForkPoolWorker-3", "SpawnProcess-3".
    number = re.search(r"-(\d+)$", multiprocessing.current_process().name)
    if current or not number or multiprocessing.parent_process() is None:
        return current
    return (int(number[1]) - 1) % torch.cuda.device_count()


@functools.cache
def _computes(device):
    """Whether a device computes at all: this torch may have no code for it."""
    try:
        return (torch.ones(1, device=device) + 1).item() == 2
    except (RuntimeError, AssertionError) as error:  # the latter: not compiled for it
        warn_caller(
            f'device="auto": {device} is present but does not work '
            f'({_reason(error)}); the CPU is used. Pass device="cpu" to silence this.',
            UserWarning,
        )
        return False


def _reason(error):
    return re.split(r"\.\s|\n", str(error))[0]


def resolve_precision(precision, device):
    """Return the dtype that `precision` means on `device`.

    `"auto"` is bfloat16 where the hardware has matrix units for it (CUDA from compute
    capability 8.0 on, Intel CPUs with AMX), else float32: elsewhere 16-bit numbers are
    emulated or no faster. `"float32"` is that for all products: TF32, which cuDNN uses
    by default, is off while we compute.
    """
    if precision in _DTYPES:
        return _DTYPES[precision]
    if precision != "auto":
        raise ValueError(
            f"precision={precision!r} must be one of 'auto', "
            f"{', '.join(map(repr, _DTYPES))}."
        )
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        # torch.cpu.get_capabilities() would tell; the oldest torch we support has none.
        fast = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
