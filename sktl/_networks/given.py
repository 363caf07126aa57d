"""Networks that users give as modules: traced once, and again when they changed.

A network is theirs to train or rebuild between two calls, and nothing tells us. So it
is compared at every call with what was traced: each number with our copy's, and what
decides the graph with a *blueprint* of it. That costs a fraction of tracing, copying
and hashing. Whatever may hide a change has no blueprint: then it is traced again.
"""

import copy
import functools
import inspect
import weakref
from collections.abc import Mapping

import torch
from torch import nn

from sktl._networks.architecture import Architecture
from sktl._networks.preprocessing import IMAGENET, from_timm
from sktl._networks.stages import StagedNetwork
from sktl._networks.tracing import OF_EVERY_LAYER
from sktl._networks.weight_files import impossible
from sktl._utils.digests import digest_of
from sktl._utils.torch_state import seeded
from sktl._utils.warning import warn_caller
from sktl.exceptions import WeightsMismatchError

_warned = set()
_checked = set()  # structures, with the side of their images
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
    """Refuse a network of the user's that could not be copied, traced or computed."""
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
        raise ValueError(
            f"backbone is a {name}, compiled by torch.jit or "
            "torch.compile, and cannot be split into layers. Pass the network itself."
        )
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(
            f"backbone is a {name}, which spreads a network over devices. Pass the "
            "network in it: backbone.module."
        )
    if type(module).forward is nn.Module.forward:
        raise ValueError(
            f"backbone={name} has no forward, so it computes nothing. Pass a network: "
            "of layers in a row, torch.nn.Sequential(*layers)."
        )
    first, *others = [*inspect.signature(module.forward).parameters.values()] or [None]
    variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    needed = [p.name for p in others if p.default is p.empty and p.kind not in variable]
    if first is None or needed:
        raise ValueError(
            f"backbone={name} has a forward that takes "
            f"{f'{needed} besides the images' if first else 'no images'}. Pass a "
            "network whose forward takes images; all else needs a default."
        )
    _check_tensors(module, name)
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if hooks or "forward" in vars(module):
        raise ValueError(
            f"backbone={name} has {'forward hooks' if hooks else 'another forward'} on "
            "the object itself, which tracing by torch.fx does not see. Pass "
            "torch.nn.Sequential(network), where it does, or write it into the forward "
            "of the class."
        )


def _check_tensors(module, name):
    kinds = {path: type(layer) for path, layer in module.named_modules()}
    quantised = [p for p, k in kinds.items() if ".nn.quantized" in k.__module__]
    if quantised:
        raise ValueError(
            f"backbone={name} is quantised, such as its layer {quantised[0]!r}. Pass "
            "the network as it was before that, in float32, and set precision to "
            "choose the number format of the computation."
        )
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    lazy = [key for key, tensor in tensors.items() if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise ValueError(
            f"backbone={name} has weights without a shape, such as {lazy[0]!r}, as "
            "lazy layers have before their first use. Call the network on a batch of "
            "images first."
        )
    meta = [key for key, tensor in tensors.items() if tensor.is_meta]
    if meta:
        raise ValueError(
            f"backbone={name} has weights without numbers, on the device 'meta', such "
            f"as {meta[0]!r}. Call network.to_empty(device='cpu') and load its weights."
        )
    wrong = {str(p.dtype) for p in module.parameters() if p.dtype != torch.float32}
    if wrong:
        raise ValueError(
            f"backbone={name} has weights in {', '.join(wrong)}. Pass "
            "it in float32 (network.float()), and set precision to choose the number "
            "format of the computation."
        )
    for path, layer in module.named_modules():
        for key, value in vars(layer).items():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                raise ValueError(
                    f"backbone={name}: {key!r} of the layer {path!r} was computed "
                    "from other tensors and cannot be copied, as after "
                    "torch.nn.utils.prune or weight_norm. Make it a weight again by "
                    f"prune.remove(layer, {key!r}) or remove_weight_norm(layer)."
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


def module_architecture(module):
    """The architecture of a user's network; timm's say how to prepare their images."""
    configs = [
        getattr(module, f"{kind}_cfg", None) for kind in ("pretrained", "default")
    ]
    known = [c for c in configs if isinstance(c, Mapping) and "input_size" in c]
    name = type(module).__name__
    return Architecture(
        name,
        functools.partial(reset_copy, module),
        from_timm(known[0]) if known else IMAGENET,
        is_named=False,
        doubt="" if known else f"backbone={name} does not say",
        build_blank=functools.partial(copy.deepcopy, module),
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


def check_independence(network, side):
    """Refuse a network whose rows are not each a function of one image.

    Images are passed through it twice, among other ones; once in a process for each
    network, apart from its weights.

    Parameters
    ----------
    network : StagedNetwork
    side : int
        Of the images that it is to see, in pixels.
    """
    key = network.structure, side
    if key in _checked:
        return
    prefix = network.prefix(network.penultimate)
    device = next(network.module.parameters()).device
    with seeded(0, device), torch.inference_mode():
        # Of one colour each, like all images that we make ourselves.
        images = torch.randn(7, 3, 1, 1).expand(-1, -1, side, side)

        def rows(*which):
            return prefix(images[list(which)].to(device))[0]

        try:
            first, second, again = rows(0, 1, 2, 3, 4), rows(5, 1, 2, 3, 6), None
        except Exception:
            return  # its first use will say which images it cannot take
        name = f"backbone={type(network.module).__name__}"
        if first.ndim < 2 or len(first) != 5:
            raise ValueError(
                f"{name}: for five images, {network.penultimate!r} gives a tensor of "
                f"shape {tuple(first.shape)}, which has no row of features for each. "
                "Pass a network that gives shape (n, ...) for n images."
            )
        if first.ndim > 2 and not first.is_floating_point():
            raise ValueError(
                f"{name}: {network.penultimate!r} gives {first.dtype}, which cannot be "
                "averaged. Pass a network whose output is floats."
            )
        if not _are_alike(first[1:4], second[1:4]):
            again = rows(5, 1, 2, 3, 6)
    if again is not None and _are_alike(second, again):
        raise ValueError(
            f"{name}: the features of an image depend on the other images in its batch "
            "(as by F.batch_norm(training=True), or a mean or softmax over axis 0). "
            "Let its forward compute each row from one image."
        )
    if again is not None:
        raise ValueError(
            f"{name}: its features are random: two passes of the same images differ "
            "(as by F.dropout without training=self.training, or torch.randn). Let its "
            "forward draw numbers in training only."
        )
    _check_trace(network, images, name)
    _checked.add(key)


def _check_trace(network, images, name):
    """Refuse a network of which torch.fx has recorded something else in silence."""
    device = next(network.module.parameters()).device
    with seeded(0, device), torch.inference_mode():
        try:  # each of them may write into the images it gets
            expected = network.module(images[[0, 1]].to(device))
        except Exception:
            return  # as above
        traced = network.whole()(images[[0, 1]].to(device))
    traced, expected = _tensors_in(traced), _tensors_in(expected)
    if len(traced) != len(expected) or not all(map(_are_alike, traced, expected)):
        raise ValueError(
            f"{name}: the copy that torch.fx traces computes something else than the "
            "network itself. Usual causes: a forward that checks types, as by "
            "isinstance(x, torch.Tensor), that catches errors, or that writes x += y "
            "to an x used elsewhere; or a class with a __call__ of its own. Rewrite "
            "the network without these."
        )


def _tensors_in(output):
    """The tensors in what a network gives: one, or any nest of dicts and sequences."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = output.values()
    elif not isinstance(output, tuple | list):
        return []
    return [tensor for part in output for tensor in _tensors_in(part)]


def _are_alike(first, second):
    """Whether two tensors differ by rounding at most."""
    if first.shape != second.shape:
        return False
    if not first.is_floating_point():
        return torch.equal(first, second)
    finite = first[first.isfinite()].abs()
    size = 1e-4 * float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(first, second, rtol=0, atol=size, equal_nan=True)


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


def make_blueprint(module):
    """Digest all that decides a network's graph; None if it may hide more.

    The plain attributes of each layer, and its class.
    """
    tensors = "_parameters", "_buffers", "_modules"
    blueprint = []
    for name, layer in module.named_modules(remove_duplicate=False):
        found = vars(layer)
        has = [(k, v is None) for part in tensors for k, v in found[part].items()]
        plain = [
            (k, v)
            for k, v in found.items()
            if k not in (*tensors, "training") and not (k in OF_EVERY_LAYER and not v)
        ]
        blueprint.append((name, type(layer), has, plain))
    try:
        return digest_of(blueprint, members=True, modules=False)
    except Exception:  # of anyone's __reduce__
        return None
