"""Run a network over many images: device, precision, batches of one fixed size.

Every batch has exactly `batch_size` rows, the last one padded, because torch promises
equal results for equal shapes only: the same image gives the same bits whatever else
is in `X`.
"""

import re
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from sktl._utils.torch_state import exact_float32, plain_torch

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

# Maps of few images stay in a CPU's caches, and in memory that the allocator reuses:
# eight of 224 pixels at once are 1.4 to 1.7 times as fast as 32 (benchmarks/README.md).
MAX_PIXELS_ON_CPU = 8 * 224**2


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
        with torch.inference_mode(), self.autocast():
            batches = [
                module(self._batch(rows[start : start + self.batch_size]))
                for start in range(0, len(rows), self.batch_size)
            ]
            # Brought back all at once: until here nothing waits for the device.
            return [
                torch.cat(parts)[: len(rows)].float().cpu().numpy()
                for parts in zip(*batches, strict=True)
            ]

    def _batch(self, rows):
        """A batch of the fixed size on the device."""
        n_missing = self.batch_size - len(rows)
        if n_missing:
            padding = np.zeros((n_missing, *rows.shape[1:]), rows.dtype)
            rows = np.concatenate([rows, padding])
        batch = torch.from_numpy(rows)
        if self.device.type == "cuda":
            # From pinned memory the copy runs while the device computes.
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch.to(self.device)

    def halved(self):
        """The engine to go on with when batches of this size do not fit."""
        return replace(self, batch_size=self.batch_size // 2)

    @contextmanager
    def autocast(self):
        """Use torch alone, to compute in this engine's precision."""
        exact = self.dtype == torch.float32
        # Disabled it says so too: a user may have switched it on.
        rounded = torch.autocast(self.device.type, self.dtype, enabled=not exact)
        with plain_torch(), rounded, exact_float32() if exact else nullcontext():
            yield


def is_out_of_memory(error):
    """Whether torch raised `error` because a device's memory is used up."""
    # Only CUDA has a class for it; MPS and the CPU's allocator have words.
    words = ("out of memory", "DefaultCPUAllocator: can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(w in str(error) for w in words)
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
    """Return the torch.device that `device` means on this machine.

    Parameters
    ----------
    device : str or torch.device
        `"auto"` is the first CUDA device or Apple's MPS where there is one, else the
        CPU. A device asked for by name is never replaced by another.
    """
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        has_mps = torch.backends.mps.is_available()
        return torch.device("mps" if has_mps else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved).cpu()  # "meta" holds no numbers to bring back
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = re.split(r"\.\s|\n", str(error))[0]
        raise ValueError(
            f"device={device!r} cannot be used on this machine ({reason}). Pass "
            '"cpu", or "auto" for the best there is.'
        ) from error
    return resolved


def resolve_precision(precision, device):
    """Return the dtype that `precision` means on `device`.

    `"auto"` is bfloat16 where the hardware has matrix units for it (CUDA from compute
    capability 8.0 on, Intel CPUs with AMX), else float32: elsewhere 16-bit numbers are
    emulated or no faster.
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
        # torch.cpu.get_capabilities() would tell, but not in the oldest torch we take.
        fast = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
