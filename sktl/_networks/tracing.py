"""From a network to the graph of what it computes, by torch.fx.

Tracing records the path that evaluation takes, so branches that only run in training
(the auxiliary heads of GoogLeNet) are not part of it. It does not enter torch's own
layers, nor those that are kinds of Linear and convolution, nor what timm says not to
trace: such a *leaf* is one node.
"""

import inspect
import secrets
import sys
import weakref
from types import BuiltinFunctionType, FunctionType, ModuleType

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torchvision.models.feature_extraction import NodePathTracer

from sktl._utils.digests import digest_of, globals_read, is_of_library, is_of_user

OF_EVERY_LAYER = frozenset(vars(nn.Module()))
_marks = weakref.WeakKeyDictionary()  # hook -> what no other has


def trace(module):
    """Trace a network.

    Returns
    -------
    graph : torch.fx.Graph
    names : dict of {torch.fx.Node: str}
        As `torchvision.models.feature_extraction.get_graph_node_names` gives them.
    """
    timm = sys.modules.get("timm.layers")  # imported already, if this is one of timm's
    tracer = _Tracer(
        leaf_modules=(
            nn.Linear,
            _ConvNd,
            *(timm.get_notrace_modules() if timm else ()),
        ),
        autowrap_functions=tuple(timm.get_notrace_functions()) if timm else (),
    )
    try:
        graph = tracer.trace(module)
    except Exception as error:
        raise ValueError(
            f"backbone={type(module).__name__} could not be traced by torch.fx "
            f"({error}). {_hint(module, error)}"
        ) from error
    _keep_rows(graph)
    _read_results_in_place(graph, module)
    # Constants are not in the tracer's table; they take no part in naming.
    names = {node: tracer.node_to_qualname.get(node, node.name) for node in graph.nodes}
    return graph, names


def _hint(module, error):
    if type(module).__module__.startswith("transformers."):
        return (
            "Networks of the transformers package cannot be traced; timm has most of "
            "those for images (timm.create_model)."
        )
    if "control flow" in str(error):
        return "Pass a network whose forward does not branch on tensor values or sizes."
    if "not installed as a submodule" in str(error):
        return (
            "Pass a network that makes all its layers in __init__, and loops over them "
            "one by one: not nn.ReLU()(x) in forward, nor self.blocks[:2](x)."
        )
    return (
        "Pass a network whose forward makes no Python numbers of tensors and sizes: "
        "x.shape[0] instead of len(x) or int(x.shape[0]); no float(x), x.item() or "
        "loop over x; x.new_zeros(x.shape[0], 1) instead of torch.zeros(x.shape[0], 1)."
    )


def _keep_rows(graph):
    """Keep the axis of a single image where axes of length 1 are dropped.

    And let a view be a reshape: maps whose channels lie last in memory have no view.
    """
    for node in graph.nodes:
        is_call = node.op in ("call_method", "call_function")
        if is_call and node.target in ("squeeze", torch.squeeze):
            if len(node.args) == 1 and not node.kwargs:
                node.op, node.target = "call_function", squeeze
        elif node.op == "call_method" and node.target == "view":
            if not any(isinstance(arg, torch.dtype) for arg in node.args):
                node.target = "reshape"


def _read_results_in_place(graph, module):
    """Let what follows a statement such as `relu_(x)` read its result, not `x`.

    Both are the same tensor; but a part of the network that ends with `x`, or leaves
    out what nobody reads, would lose the statement.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        if node.users or not isinstance(source, torch.fx.Node):
            continue
        if _works_in_place(node, module):
            for user in list(source.users):
                if order[user] > order[node]:
                    user.replace_input_with(source, node)


def _works_in_place(node, module):
    if node.op == "call_module":
        return getattr(module.get_submodule(node.target), "inplace", False) is True
    if node.op not in ("call_method", "call_function"):
        return False
    name = str(getattr(node.target, "__name__", node.target))
    is_relu = node.target is nn.functional.relu and node.args[1:] == (True,)
    return (
        is_relu or node.kwargs.get("inplace") is True or name.strip("_") + "_" == name
    )


def squeeze(x):
    """Drop the axes of length 1, but not that of the images."""
    return x.squeeze(tuple(range(1, x.ndim)))


class _Tracer(NodePathTracer):
    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """As torch's, for the image alone: other arguments keep their defaults."""
        parameters = list(inspect.signature(root_fn).parameters.values())[1:]
        first, *others = parameters or [None]
        has_defaults = all(
            p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            for p in others
        )
        if not others or first.kind is first.VAR_POSITIONAL or not has_defaults:
            return super().create_args_for_root(root_fn, is_module, concrete_args)
        image = self.create_proxy("placeholder", first.name, (), {})
        return root_fn, [self.root, image]


def describe_leaf(layer):
    """Text that differs whenever what a leaf computes does, weights aside.

    Plain attributes, for its repr leaves some out; and the code of its class, where
    that is not torch's. Where more decides it, such as a hook, a list, a function or a
    layer inside it, a digest of that is added.

    Raises
    ------
    ValueError
        If there is something of which no digest can be made.
    """
    digests = {}
    for path, part in layer.named_modules():
        values = dict(_other_than_plain(part))
        if part is not layer:
            values |= _unsaid(part)
        for name, value in values.items():
            where = ".".join(filter(None, (path, name)))
            try:
                digests[where] = digest_of(value, members=True)
            except Exception as error:
                raise ValueError(f"{where!r} ({error})") from error
    # A class that torch made for parametrizations is torch's by its name, too.
    packages = {kind.__module__.partition(".")[0] for kind in type(layer).__mro__}
    is_torchs = packages <= {"torch", "builtins", "typing", "abc"}
    code = "" if is_torchs else digest_of(type(layer), members=True)
    described = f"{layer!r} {_plain(layer)} {code}"
    return f"{described} {digests}" if digests else described


def _plain(layer):
    return {k: v for k, v in sorted(vars(layer).items()) if _is_plain(v)}


def _is_plain(value):
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | None)


def _other_than_plain(part):
    """Yield what decides a layer besides plain attributes and the code of its class."""
    own = [kind for kind in type(part).__mro__ if not is_of_library(kind)]
    for name, value in vars(part).items():
        if name in ("_forward_pre_hooks", "_forward_hooks"):
            value = tuple(map(_hook, value.values()))
        elif name in OF_EVERY_LAYER or not (own or callable(value)):
            continue  # what else libraries keep there follows from the rest
        if not _is_plain(value):
            yield name, value


def _hook(hook):
    """What tells a hook from others.

    A function that shares values with other code may keep there what it sees, or have
    it changed between two calls: it is known by itself, and in this process only.
    """
    if not isinstance(hook, FunctionType):
        return hook
    if not _shares(hook):
        return hook
    read = globals_read(hook)
    plain = {k: getattr(v, "__code__", v) for k, v in read.items() if _stays(v)}
    return [_marks.setdefault(hook, secrets.token_hex()), hook.__code__, plain]


def _shares(function, callers=()):
    """Whether a function, or one that it reads, shares values with other code."""
    if function in callers or not is_of_user(function):
        return False
    read = globals_read(function).values()
    return (
        function.__closure__ is not None
        or not all(map(_stays, read))
        or any(
            _shares(value, (*callers, function))
            for value in read
            if isinstance(value, FunctionType)
        )
    )


def _stays(value):
    return _is_plain(value) or _is_code(value)


def _is_code(value):
    return isinstance(value, FunctionType | BuiltinFunctionType | ModuleType | type)


def _unsaid(part):
    """What no repr shows: plain attributes, and the code of a user's layer."""
    own = not all(map(is_of_library, type(part).__mro__))
    unsaid = {"code": digest_of(type(part), members=True)} if own else {}
    if isinstance(part, _ConvNd) and not own:
        return unsaid  # its repr says all
    said = repr(part)
    for name, value in _plain(part).items():
        is_said = name == "inplace" or f"{name}={value!r}" in said
        if name not in OF_EVERY_LAYER and not is_said:
            unsaid[name] = value
    return unsaid
