"""Networks that users give as modules: traced once, and again when they changed.

A network is theirs to train or rebuild between two calls, and nothing tells us. So it
is compared at every call with what was traced: each number with our copy's, and what
decides the graph with a *blueprint* of it. That costs a fraction of tracing, copying
and hashing. Whatever may hide a change has no blueprint: then it is traced again.
"""

import copy
import functools
import types
import weakref
from collections.abc import Mapping

import torch

from sktl._networks.stages import StagedNetwork
from sktl._networks.weight_files import impossible
from sktl._utils.digests import is_of_library
from sktl._utils.warning import warn_caller
from sktl.exceptions import WeightsMismatchError

_warned = set()
_known = weakref.WeakKeyDictionary()  # module -> (its blueprint, StagedNetwork)


def given_network(module):
    """Trace a copy of the user's network; the same one until theirs has changed.

    Parameters
    ----------
    module : torch.nn.Module

    Warns
    -----
    UserWarning
        If it is not clear whether its last layer makes scores.
    """
    blueprint = make_blueprint(module)
    known, network = _known.get(module, (None, None))
    if known is None or known != blueprint or not _same_tensors(network.module, module):
        network = StagedNetwork(copy.deepcopy(module).requires_grad_(False))
        _warn_of_doubt(network, type(module).__name__)
        _check_numbers(network.module, type(module).__name__)
        _known[module] = blueprint, network
    return network


def forget():
    """Drop all copies."""
    _known.clear()


def check_given(module):
    """Refuse a network of the user's that is compiled, or not in float32."""
    if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
        raise ValueError(
            f"backbone is a {type(module).__name__}, compiled by torch.jit or "
            "torch.compile, and cannot be split into layers. Pass the network itself."
        )
    wrong = {str(p.dtype) for p in module.parameters() if p.dtype != torch.float32}
    if wrong:
        raise ValueError(
            f"backbone={type(module).__name__} has weights in {', '.join(wrong)}. Pass "
            "it in float32 (network.float()), and set precision to choose the number "
            "format of the computation."
        )


def _warn_of_doubt(network, name):
    if network.doubt:
        warn_caller(
            f"backbone={name}: {network.doubt}. Its features are taken from "
            f"{network.penultimate!r}. If that is wrong, let the network end in a "
            "Linear layer if its output is class scores, and in a norm or activation "
            "if its output is features.",
            UserWarning,
            _warned,
        )


def _check_numbers(module, name):
    faults = impossible(module, module.state_dict())
    if faults:
        raise WeightsMismatchError(
            f"backbone={name} has NaN, infinity or a negative variance in "
            f"{', '.join(faults[:3])}, so its features would not be numbers. Pass a "
            "network whose training did not diverge."
        )


def reset_copy(module):
    """A copy of the user's network with fresh random weights."""
    module = copy.deepcopy(module)
    for name, child in module.named_modules():
        if next(child.parameters(recurse=False), None) is None:
            continue
        if not hasattr(child, "reset_parameters"):
            raise ValueError(
                f"weights=None asks for random weights, but layer {name!r} of the "
                f"given network, a {type(child).__name__}, has no method "
                "reset_parameters() to draw them. Add one to its class."
            )
        child.reset_parameters()
    return module


# ---- has it changed?


def _same_tensors(first, second):
    """Whether all parameters and buffers are the same, bit for bit."""
    pairs = zip(_tensors(first), _tensors(second), strict=True)  # equal blueprints
    return all(_same_bits(a, b) for a, b in pairs)


def _tensors(module):
    return [*module.parameters(), *module.buffers()]


def _same_bits(a, b):
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    if (a.dtype, a.shape, a.layout) != (b.dtype, b.shape, b.layout):
        return False
    if a.device != b.device or a.layout != torch.strided or a.itemsize not in bits:
        return False
    a, b = (x.detach().view(bits[x.itemsize]) for x in (a, b))
    return torch.equal(a, b)  # as whole numbers: NaN is itself, and 0.0 is not -0.0


class _Unsure(Exception):
    """Something whose content cannot be compared."""


def make_blueprint(module):
    """All that decides a network's graph, comparable by ==; None if it may hide more.

    Plain attributes of each layer, and the functions of classes that are not torch's
    or torchvision's, with the plain values that these find in closures and globals.
    """
    parts = ("_parameters", "_buffers", "_modules")
    ignored = (*parts, "training")
    blueprint = []
    try:
        for name, layer in module.named_modules(remove_duplicate=False):
            found = vars(layer)
            has = [(k, v is None) for part in parts for k, v in found[part].items()]
            plain = {k: _token(v) for k, v in found.items() if k not in ignored}
            blueprint.append((name, _class_token(type(layer)), has, plain))
    except (_Unsure, RecursionError, ValueError):
        return None  # functions that call themselves, or with a cell that is empty
    return blueprint


def _class_token(kind):
    """The class, and what is in those of its bases that are not of a library."""
    bases = [base for base in kind.__mro__ if not is_of_library(base)]
    return kind, [
        {k: _token(v) for k, v in vars(base).items() if not k.startswith("__")}
        for base in bases
    ]


def _token(value):
    """Something that equals another one's only where the values are alike."""
    if isinstance(value, float):
        return repr(value)  # 0.0 is not -0.0
    if value is None or isinstance(
        value, bool | int | str | bytes | complex | type | torch.dtype | torch.device
    ):
        return type(value), value
    if isinstance(value, types.BuiltinFunctionType | types.ModuleType):
        return value
    if isinstance(value, set | frozenset) and all(isinstance(v, str) for v in value):
        return frozenset(value)
    if isinstance(value, torch.fx.Graph):
        return value.python_code("self").src
    if isinstance(value, tuple | list):
        return type(value), [_token(item) for item in value]
    if isinstance(value, Mapping):
        return type(value), [(_token(k), _token(v)) for k, v in value.items()]
    if isinstance(value, staticmethod | classmethod):
        return _token(value.__func__)
    if isinstance(value, property):
        return _token([value.fget])
    if isinstance(value, functools.partial):
        return _token([value.func, value.args, value.keywords])
    if isinstance(value, types.FunctionType):
        return _function_token(value)
    raise _Unsure


def _function_token(function):
    """A function, and the values it takes from around it."""
    if is_of_library(function):
        return function
    code, around = function.__code__, function.__globals__
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    values = [around[name] for name in code.co_names if name in around]
    return (
        function,
        code,
        _token([function.__defaults__, function.__kwdefaults__, cells, values]),
    )
