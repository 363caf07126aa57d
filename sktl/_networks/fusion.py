"""Rewrite a split-off part so that it computes the same in fewer steps."""

import copy

import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sktl._networks.stages import is_within


def fuse_batch_norms(module):
    """Copy a split-off part with each batch norm folded into the convolution before it.

    In eval mode a batch norm is an affine map, so this changes rounding only (relative
    error about 4e-7) and saves a pass over every map (Jacob et al., CVPR 2018, 3.2).
    """
    module = copy.deepcopy(module)
    for node in list(module.graph.nodes):
        if not _is_fusible(node, module):
            continue
        (conv,) = node.all_input_nodes
        fused = fuse_conv_bn_eval(
            module.get_submodule(conv.target), module.get_submodule(node.target)
        )
        parent, _, name = conv.target.rpartition(".")
        setattr(module.get_submodule(parent), name, fused)
        node.replace_all_uses_with(conv)
        module.graph.erase_node(node)
    module.recompile()
    return module


def _is_fusible(node, module):
    """Whether the node is a plain batch norm, the only reader of a plain convolution.

    Hooks and parametrizations would be lost; a convolution that runs twice, or whose
    weight something else reads, would be changed for the other use too.
    """
    if not _is_plain(node, module, torch.nn.BatchNorm2d):
        return False
    (conv,) = node.all_input_nodes
    if not _is_plain(conv, module, torch.nn.Conv2d) or len(conv.users) > 1:
        return False
    uses = [n for n in conv.graph.nodes if is_within(str(n.target), conv.target)]
    return len(uses) == 1


def _is_plain(node, module, kind):
    """Whether the node is a layer of just this kind, without hooks."""
    if node.op != "call_module":
        return False
    layer = module.get_submodule(node.target)
    hooks = layer._forward_hooks | layer._forward_pre_hooks
    return type(layer) is kind and not hooks and "forward" not in vars(layer)
