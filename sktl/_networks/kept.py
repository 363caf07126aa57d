"""Networks that a process keeps, because the next call will want them again."""

import itertools
import weakref
from collections import OrderedDict

from sktl._networks import given
from sktl._utils.torch_state import building

# For all networks together, on whatever device: a VGG takes half of a gibibyte.
MAX_BYTES = 2 * 2**30

_kept = OrderedDict()  # key -> (network, bytes)


def keep(key, make):
    """Return the network kept under `key`; `make` it where there is none.

    A key is a tuple. One that begins with a weak reference goes with what it refers to.
    What was used least recently goes first when they are too large together. The last
    two stay however large they are: a network, and its copy on a device.
    """
    with building():
        for known in [k for k in _kept if isinstance(k[0], weakref.ref) and not k[0]()]:
            del _kept[known]
        if key not in _kept:
            network = make()
            _kept[key] = network, _n_bytes(network)
        _kept.move_to_end(key)
        while len(_kept) > 2 and sum(size for _, size in _kept.values()) > MAX_BYTES:
            _kept.popitem(last=False)
        return _kept[key][0]


def free_networks():
    """Give up all of them, and the copies of networks that users gave."""
    with building():
        _kept.clear()
        given.forget()


def _n_bytes(network):
    module = getattr(network, "module", network)
    tensors = itertools.chain(module.parameters(), module.buffers())
    return sum(tensor.nbytes for tensor in tensors)
