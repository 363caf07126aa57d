"""torch's state that all of a process shares: used by one thread at a time, put back.

Whoever computes, builds, traces or draws with torch does it in one of these contexts,
so that what a user has set for the process changes none of our numbers, and what we
set changes none of theirs.
"""

import contextlib
import os
import threading

import torch
from torch import backends

_lock = threading.RLock()


@contextlib.contextmanager
def plain_torch():
    """Use torch alone, with the dtype, device and precision that it starts with.

    Tracing patches `torch.nn.Module` for all threads, and random draws come from one
    generator per process: of our own threads, one at a time uses torch. It computes
    with all cores anyway.
    """
    with _lock, contextlib.ExitStack() as stack:
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in filter(torch.is_autocast_enabled, ("cpu", "cuda", "mps", "xpu")):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextlib.contextmanager
def building():
    """Use torch alone to make tensors that may be trained later."""
    with plain_torch(), torch.inference_mode(False), torch.enable_grad():
        yield


@contextlib.contextmanager
def seeded(seed, device=None):
    """Build and draw by a generator of our own; the global ones stay as they were.

    Parameters
    ----------
    seed : int
    device : torch.device, default=None
        Where besides the CPU numbers are drawn; a CUDA device with its index.
    """
    kind = "cpu" if device is None else device.type
    devices = [device] if kind == "cuda" else []
    with (
        building(),
        torch.random.fork_rng(devices=devices),
        contextlib.ExitStack() as stack,
    ):
        # torch.manual_seed would seed devices too that are not put back.
        torch.default_generator.manual_seed(seed)
        for cuda in devices:
            torch.cuda.default_generators[cuda.index].manual_seed(seed)
        if kind == "mps":  # has one generator, which fork_rng does not know
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
            torch.mps.manual_seed(seed)
        yield


@contextlib.contextmanager
def exact_float32():
    """Compute products of float32 in float32.

    By default cuDNN's convolutions round what they read to ten bits (TF32), which
    moves results by 1e-3 of their size; matrix products do when a user asks for it.
    """
    # What is set for a backend reaches those of its operations that have no setting
    # of their own. (mkldnn's own setter would set all backends: torch 2.14.)
    parts = [backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn]
    parts += [backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul]
    exact = ("ieee", "none")
    with _lock, contextlib.ExitStack() as stack:
        if any(part.fp32_precision not in exact for part in parts[1:4]):
            _set_precision(stack, parts[0])
        for part in parts[1:]:
            if part.fp32_precision not in exact:
                _set_precision(stack, part)
        yield


def _set_precision(stack, part):
    def put_back(precision=part.fp32_precision):
        part.fp32_precision = "none"  # it may have come from above
        if part.fp32_precision != precision:
            part.fp32_precision = precision

    part.fp32_precision = "ieee"
    stack.callback(put_back)


def _after_fork_in_child():
    """Renew what may be held by threads that do not exist here."""
    global _lock
    _lock = threading.RLock()
    # OpenMP's other threads are not here either, and it would wait for them for ever.
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
