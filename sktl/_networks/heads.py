"""Where a network's features end and its scores begin.

A network may end in a *head*, a layer that makes class scores: then the penultimate
layer, what the head reads, is what other tasks want. Or the head was taken off
(`fc = Identity()`, `Sequential(*children[:-1])`, `.features`, timm's `num_classes=0`):
then the output is the penultimate layer. Which it is shows in what lies between the
output and the last layers that have a matrix of weights, Linear or convolutions:

* Nothing but what leaves scores scores (reshaping, averaging, dropout, softmax or
  sigmoid): those layers are heads. There may be several Linear ones beside each other
  whose scores are added up: networks that were trained by distillation have two. Where
  they read different tokens, the features are the mean of those that are read singly,
  as timm has it: of the two of DeiT, the first of VOLO.
* A ReLU and then the average over all positions, behind a 1x1 convolution that reads a
  dropout: that is a head too (SqueezeNet's).
* Anything else, such as a norm, another activation, a sum or a concatenation: the
  network has no head.

Where that may be wrong, `Ending.doubt` says so.
"""

import functools
import operator
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

KEEP_MODULES = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.Softmax,
    nn.Softmax2d,
    nn.LogSoftmax,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    _DropoutNd,
)
KEEP_CALLS = set(
    "flatten squeeze unsqueeze view reshape permute transpose getitem getattr size "
    "contiguous float to softmax log_softmax sigmoid dropout mean avg_pool2d "
    "adaptive_avg_pool2d mul truediv div".split()
)
# How scores of several heads or positions are joined: the mean, a weighted sum, or the
# largest.
JOIN_CALLS = {"add", "iadd", "stack", "sum", "max", "amax"}
PRODUCTS = {"linear", "matmul", "conv1d", "conv2d", "bilinear", "einsum", "addmm"}
AVERAGES = {"mean", "avg_pool2d", "adaptive_avg_pool2d"}


@dataclass(frozen=True)
class Ending:
    """How a network ends.

    Attributes
    ----------
    heads : list of fx.Node
        The layers that make scores; none where the network has no head.
    features : fx.Node
        What the first head reads; the output where there is no head, or where heads
        read several tokens.
    doubt : str
        What else a reader might have taken for the features; "" where that is clear.
    """

    heads: list[fx.Node]
    features: fx.Node
    doubt: str = ""


def find_ending(graph, module):
    """Find out how a network ends.

    Parameters
    ----------
    graph : fx.Graph
        All outputs but the deepest are removed from it, and heads that read several
        tokens.
    module : torch.nn.Module

    Returns
    -------
    ending : Ending
    """
    output, n_outputs = _single_output(graph)
    behind, sources = _behind(output, module)
    doubt = ""
    if n_outputs > 1:
        doubt = f"it has {n_outputs} outputs, and the deepest is used"
    if (conv := _squeezed_head(sources, behind, module)) is not None:
        if not _is_dropout(conv.all_input_nodes[0], module):
            doubt = f"it ends in a convolution, {conv.target!r}, a ReLU and an average"
        return Ending([conv], conv.all_input_nodes[0], doubt)
    _refuse_functions(sources, module)
    if not sources or not all(is_matrix_layer(s, module) for s in sources):
        return Ending([], output, doubt)
    if len(sources) > 1 and not _are_twins(sources, module):
        return Ending([], output, doubt)
    layer = module.get_submodule(sources[0].target)
    features = sources[0].all_input_nodes[0]
    before, _ = _behind(features, module)
    if isinstance(layer, _ConvNd) and not _averages(behind + before, module):
        doubt = f"it ends in a convolution, {sources[0].target!r}, without an average"
    if tokens := _tokens_read(sources, module):
        features = _mean_in_place_of_scores(graph, tokens)
    return Ending(sources, features, doubt)


def is_matrix_layer(node, module):
    """Whether the node is a Linear, a convolution or the like (norms have vectors)."""
    weight = getattr(layer_of(node, module), "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim >= 2


def layer_of(node, module):
    """The layer that a node calls; None where it calls something else."""
    is_layer = node.op == "call_module"
    return module.get_submodule(node.target) if is_layer else None


def _single_output(graph):
    """Leave one output, the deepest, and tell how many there were."""
    *nodes, end = graph.nodes
    given = end.all_input_nodes
    output = max(given, key=nodes.index)
    end.args = (output,)
    if len(given) > 1:
        graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return output, len(given)


def _behind(output, module):
    """The last nodes, all of which leave scores scores, and the nodes they read."""
    behind, sources, waiting = [], [], [output]
    joins = False
    while waiting:
        node = waiting.pop()
        if node in behind or node in sources or node.op == "get_attr":
            continue
        joins = joins or _name(node) in JOIN_CALLS
        if _keeps_scores(node, module):
            behind.append(node)
            waiting += node.all_input_nodes
        else:
            sources.append(node)
    if joins and not all(isinstance(layer_of(s, module), nn.Linear) for s in sources):
        return [], [output]
    order = list(output.graph.nodes)
    return behind, sorted(sources, key=order.index)


def _keeps_scores(node, module):
    known = isinstance(layer_of(node, module), KEEP_MODULES)
    return known or _name(node) in KEEP_CALLS | JOIN_CALLS


def _name(node):
    """The name of the function or method that a node calls, else ''."""
    if node.op == "call_function":
        return getattr(node.target, "__name__", "").strip("_")
    return node.target if node.op == "call_method" else ""


def _is_dropout(node, module):
    is_layer = isinstance(layer_of(node, module), _DropoutNd)
    return is_layer or _name(node) == "dropout"


def _averages(behind, module):
    pools = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
    return any(
        _name(node) in AVERAGES or isinstance(layer_of(node, module), pools)
        for node in behind
    )


def _squeezed_head(sources, behind, module):
    """The 1x1 convolution behind whose ReLU all positions are averaged, else None."""
    if len(sources) != 1 or not _averages(behind, module):
        return None
    (relu,) = sources
    is_layer = type(layer_of(relu, module)) is nn.ReLU
    if not is_layer and _name(relu) not in ("relu", "relu_"):
        return None
    (conv, *_) = relu.all_input_nodes
    layer = layer_of(conv, module)
    is_pointwise = isinstance(layer, nn.Conv2d) and set(layer.kernel_size) == {1}
    return conv if is_pointwise else None


def _are_twins(sources, module):
    """Whether none of these layers feeds another, and all give as many numbers."""
    for node in sources:
        seen, waiting = set(), list(node.all_input_nodes)
        while waiting:
            earlier = waiting.pop()
            if earlier in sources:
                return False
            if earlier not in seen:
                seen.add(earlier)
                waiting += earlier.all_input_nodes
    return len({len(module.get_submodule(s.target).weight) for s in sources}) == 1


def _tokens_read(heads, module):
    """The single tokens of one sequence that several heads read; else none."""
    read = dict.fromkeys(head.all_input_nodes[0] for head in heads)
    tokens = {}
    for node in read:
        selected = node
        while _is_dropout(selected, module):
            selected = selected.all_input_nodes[0]
        if is_token(selected):
            tokens[node] = selected.args[0]
    return list(tokens) if len(read) > 1 and len(set(tokens.values())) == 1 else []


def is_token(node):
    """Whether the node selects one token of all, which are on axis 1."""
    if node.target is not operator.getitem or not isinstance(node.args[1], tuple):
        return False
    return len(node.args[1]) > 1 and isinstance(node.args[1][1], int)


def _mean_in_place_of_scores(graph, nodes):
    """Make a network return the mean of these nodes."""
    *_, end = graph.nodes
    with graph.inserting_before(end):
        mean = functools.reduce(
            lambda a, b: graph.call_function(operator.add, (a, b)), nodes
        )
        if len(nodes) > 1:
            mean = graph.call_function(operator.truediv, (mean, len(nodes)))
    end.args = (mean,)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return mean


def _refuse_functions(sources, module):
    """Refuse a network that ends in a function of weights: no layer can be named."""
    for source in sources:
        weights = [n for n in source.all_input_nodes if n.op == "get_attr"]
        if _name(source) in PRODUCTS and weights:
            raise ValueError(
                f"backbone={type(module).__name__} ends in a function that uses the "
                f"weights {weights[0].target!r}, so it is not clear what its last "
                "layer is. Make it a Linear or convolution layer."
            )
