"""What the axes of activations hold: where the channels are, which tokens are extra.

Averages and maxima are taken over positions: so not over the channels, which some
networks move to the last axis, nor over tokens that are no part of the image.
"""

import operator
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from types import FunctionType

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from sktl._networks.heads import is_token, layer_of
from sktl._utils.digests import is_of_library
from sktl._utils.torch_state import seeded

# The length of each axis of the tensors that nodes are tried on.
PROBE = 4
UNCLEAR = ("",)  # extra tokens of which it is not known where they stand


@dataclass(frozen=True)
class _Axes:
    """How many axes a tensor has, and which of them holds its channels."""

    n: int
    channels: int
    were_last: bool = False  # the channels, as far as they have not been moved away
    in_parts: bool = False  # it is a tuple of such tensors

    @property
    def are_last(self):
        return self.n > 2 and self.channels == self.n - 1

    def moved(self, n, channels):
        were_last = self.were_last or self.are_last
        return _Axes(n, channels, were_last)

    def last(self):
        return self.moved(self.n, self.n - 1)


def find_channels_last(graph, module):
    """The nodes whose channels are on the last axis.

    Where a node moves them is seen by running it alone, however it is spelled; one that
    cannot be run alone leaves them first or last.
    """
    axes = {}
    with seeded(0):
        for node in graph.nodes:
            known = {n: axes[n] for n in node.all_input_nodes if n in axes}
            if node.op == "placeholder":
                axes[node] = _Axes(4, 1)
            elif known:
                after = _axes_after(node, layer_of(node, module), known)
                axes |= {node: after} if after else {}
    return {node for node, found in axes.items() if found.are_last}


def _axes_after(node, layer, known):
    """The axes of what a node makes of its inputs; None if that is no tensor."""
    before = max(known.values(), key=lambda found: (found.n, found.are_last))
    if node.target is operator.getitem and before.in_parts:
        return replace(before, in_parts=False)
    if isinstance(layer, _ConvNd):
        return _Axes(before.n, 1)
    if isinstance(layer, nn.LayerNorm) or node.target is nn.functional.layer_norm:
        return before.last()
    if isinstance(layer, nn.Linear) or node.target is nn.functional.linear:
        # A mixer moves the channels away for the one that mixes its tokens.
        mixes_tokens = before.were_last and not before.are_last
        return before if mixes_tokens else before.last()
    try:
        found = _run_alone(node, layer, known)
    except Exception:  # such as a number of channels that is not that of the probe
        n = _n_axes_of_view(node) or before.n
        after = before.moved(n, n - 1 if before.are_last else 1)
        return replace(after if n != before.n else before, in_parts=is_tuple(node))
    in_parts = isinstance(found, tuple) and not isinstance(found, torch.Size)
    found = found[0] if in_parts else found
    if not isinstance(found, torch.Tensor):
        return None
    varying = [axis for axis in range(found.ndim) if found.diff(dim=axis).any()]
    if len(varying) != 1:
        varying = [found.ndim - 1 if before.are_last else 1]
    return replace(before.moved(found.ndim, *varying), in_parts=in_parts)


def _run_alone(node, layer, known):
    """What a node makes of small tensors that vary along their channels only."""
    (n, channels), *others = {(found.n, found.channels) for found in known.values()}
    if (
        others
        or len(known) < len(node.all_input_nodes)
        or not _is_operation(node, layer)
    ):
        raise NotImplementedError
    values = torch.arange(PROBE, dtype=torch.float64)
    shape = [PROBE if axis == channels else 1 for axis in range(n)]
    probe = values.reshape(shape).expand([PROBE] * n)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda _: probe.clone())
    if layer is not None:
        return layer.forward(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)


def _is_operation(node, layer):
    """Whether a node is one of torch's operations, without weights."""
    if layer is not None:
        return is_of_library(type(layer)) and not layer.state_dict()
    is_function = isinstance(node.target, FunctionType)
    return not is_function or is_of_library(node.target)


def _n_axes_of_view(node):
    """How many axes a view or reshape asks for; None for what is neither."""
    if node.target not in ("view", "reshape", torch.reshape):
        return None
    sizes = node.args[1:]
    return len(sizes[0]) if sizes and isinstance(sizes[0], tuple | list) else len(sizes)


def find_extra_tokens(graph, module):
    """By node, the names of tokens that are parameters, in the order of their axis.

    A concatenation along the tokens, axis 1, puts them before those of the image; what
    selects or averages tokens takes them out again. Where that cannot be followed, or
    they stand elsewhere, they are `UNCLEAR`.
    """
    tokens = {}
    for node in graph.nodes:
        known = [tokens.get(source, ()) for source in node.all_input_nodes]
        found = max(known, key=len, default=())
        found = UNCLEAR if UNCLEAR in known else found
        name = getattr(node.target, "__name__", node.target)
        index = node.args[1] if len(node.args) > 1 else None
        if name in ("cat", "concat", "concatenate", "hstack"):
            found = _concatenated(node, module, found)
        elif is_token(node):
            found = ()
        elif node.target is operator.getitem and isinstance(index, tuple):
            if len(index) > 1 and isinstance(index[1], slice):
                start = index[1].start or 0
                if not isinstance(start, int):
                    found = ()
                elif start < 0 and found:
                    found = UNCLEAR
                else:
                    found = found[start:]
        elif name in ("split", "tensor_split", "chunk", "narrow", "index_select"):
            axes = {node.kwargs.get("dim"), *node.args[1:]}
            found = UNCLEAR if found and axes & {1, -2} else found
        elif name in ("mean", "amax", "sum"):
            found = ()
        if found and node.op != "get_attr":
            tokens[node] = found
    return tokens


def _concatenated(node, module, found):
    """The extra tokens of what a concatenation gives."""
    parts = node.args[0] if node.args else node.kwargs["tensors"]
    axes = {*node.args[1:], node.kwargs.get("dim"), node.kwargs.get("axis")}
    is_along = node.target is torch.hstack or axes & {1, -2}
    if not is_along or not isinstance(parts, tuple | list):
        return found
    names = [_token_names(part, module) for part in parts]
    n_first = sum(1 for _ in takewhile(bool, names))
    if any(names[n_first:]):
        return UNCLEAR
    return (*chain.from_iterable(names[:n_first]), *found)


def _token_names(node, module):
    """The name of the parameter that a node repeats for each image, once a token."""
    while node.op == "call_method" and node.target in ("expand", "repeat"):
        node = node.args[0]
    if not is_constant(node):
        return ()
    tensor = tensor_of(node, module)
    return (node.target,) * tensor.shape[1] if tensor.ndim == 3 else ()


def tensor_of(node, module):
    """The parameter or buffer that a node reads."""
    parent, _, name = node.target.rpartition(".")
    return getattr(module.get_submodule(parent), name)


def is_constant(node):
    """Whether a node reads a parameter or buffer."""
    return node.op == "get_attr"


def is_tuple(node):
    """Whether the node gives several tensors, such as a chunk: they are taken apart."""
    return bool(node.users) and all(
        user.target is operator.getitem and isinstance(user.args[1], int)
        for user in node.users
    )
