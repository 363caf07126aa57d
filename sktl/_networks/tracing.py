"""From a network to the graph of what it computes, by torch.fx.

Tracing records the path that evaluation takes, so branches that only run in training
(the auxiliary heads of GoogLeNet) are not part of it. It does not enter torch's own
layers, nor those that are kinds of Linear and convolution, nor what timm says not to
trace: such a *leaf* is one node.
"""

import inspect
import sys

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torchvision.models.feature_extraction import NodePathTracer

from sktl._utils.digests import digest_of_class


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
        hint = (
            "Networks of the transformers package cannot be traced; timm has most of "
            "those for images (timm.create_model)."
            if type(module).__module__.startswith("transformers.")
            else "Pass a network whose forward does not branch on tensor values."
        )
        raise ValueError(
            f"backbone={type(module).__name__} could not be traced by torch.fx "
            f"({error}). {hint}"
        ) from error
    # Constants are not in the tracer's table; they take no part in naming.
    names = {node: tracer.node_to_qualname.get(node, node.name) for node in graph.nodes}
    return graph, names


class _Tracer(NodePathTracer):
    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """As torch's, for the image alone: what else there is keeps its defaults."""
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
    that is not torch's.
    """
    kinds = bool | int | float | str | tuple | None
    plain = {k: v for k, v in sorted(vars(layer).items()) if isinstance(v, kinds)}
    is_torchs = type(layer).__module__.partition(".")[0] == "torch"
    code = "" if is_torchs else digest_of_class(type(layer))
    return f"{layer!r} {plain} {code}"
