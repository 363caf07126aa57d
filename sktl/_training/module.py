"""The torch module that is trained: a frozen prefix, a trainable tail, a new head."""

import copy
import functools
import itertools

import torch

from sktl._features.pixel_network import channels_last, pool, to_channels_last


class FineTunedModule(torch.nn.Module):
    """A backbone split at a cut, with a new head behind its penultimate layer.

    What a strategy never trains is frozen here, once and for all, by being the prefix:
    its parameters ask for no gradient, so that no optimiser is given them, and `train`
    leaves it in eval mode, whoever calls that. What a strategy trains later than other
    parts lies in the tail, and waits by means of `sktl.callbacks.GradualUnfreeze`, as
    in any skorch net.

    Parameters
    ----------
    network : StagedNetwork
        Its tensors are copied.
    cut : str
        Everything up to this cut is frozen; `""` freezes nothing.
    n_outputs : int
    side : int
        Of the images, in pixels.
    hidden_units : sequence of int
        Widths of ReLU layers between features and logits.
    dropout : float
        Dropout probability before each layer of the head.
    keep_statistics : bool
        Whether batch norms of the tail go on normalising by the statistics they came
        with. Those of a few dozen images are worse than those of a large source task,
        and with them what is trained is the function that predicts.

    Attributes
    ----------
    prefix, tail, head : torch.nn.Module
        The names of the tensors in `prefix` and `tail` are those of `network`.
    """

    def __init__(
        self,
        network,
        cut,
        n_outputs,
        side,
        *,
        hidden_units=(),
        dropout=0.0,
        keep_statistics=True,
    ):
        super().__init__()
        prefix, tail = network.prefix(cut), network.tail(cut)
        _refuse_shared(prefix, tail, cut)
        self.prefix = copy.deepcopy(prefix).requires_grad_(False)
        self.tail = copy.deepcopy(tail).requires_grad_(True)
        self.head = make_head(
            [network.n_features(side), *hidden_units, n_outputs], dropout
        )
        self.keep_statistics = keep_statistics
        # Batch norms that normalise by the batch cannot do so for a single row.
        self.needs_two_rows = not keep_statistics and any(map(_is_norm, self.modules()))
        self._reads_channels_last = network.is_channels_last(cut)
        # How the penultimate layer's output becomes rows.
        self._channels_last = network.is_channels_last(network.penultimate)
        self._n_extra = len(network.extra_tokens(network.penultimate))
        self._frozen_modules = tuple(self.prefix.modules())
        # Tracing makes buffers of plain attributes; the network itself has none.
        self.saved_names = frozenset(network.module.state_dict())
        to_channels_last(self)
        for module in filter(_overruns, self.tail.modules()):
            module.register_forward_pre_hook(functools.partial(_skip, module.stride))
            module.stride = (1, 1)

    def forward(self, images):
        """Map normalised images `(n, 3, h, w)` to logits `(n, n_outputs)`."""
        return self.classify(*self.prefix(images))

    def classify(self, activations):
        """Map what `prefix` gives to logits `(n, n_outputs)`."""
        return self.head(self.features(activations))

    def features(self, activations):
        """Map what `prefix` gives to the rows that the head reads."""
        if not self._reads_channels_last:
            activations = channels_last(activations)
        rows = self.tail(activations)
        return pool(rows, "avg", self._channels_last, self._n_extra)

    def train(self, mode=True):
        """Set the mode of what is trained; the rest stays in eval mode."""
        self.training = mode
        self.tail.train(mode)
        self.head.train(mode)
        # skorch calls this at every step, and setting an attribute of a module takes
        # longer than looking at a hundred.
        for module in self._frozen_modules:
            if module.training:
                module.training = False
        if self.keep_statistics:
            for module in self.tail.modules():
                if _is_norm(module):
                    module.eval()
        return self

    def backbone_state(self):
        """Tensors of everything but the head, by the names the backbone gives them."""
        state = self.prefix.state_dict() | self.tail.state_dict()
        return {name: state[name] for name in state if name in self.saved_names}


def _refuse_shared(prefix, tail, cut):
    """Refuse tensors of both parts: a layer used twice, or weights that are tied."""
    frozen, trained = prefix.state_dict(), tail.state_dict()
    names = {tensor.data_ptr(): name for name, tensor in trained.items()}
    for name, tensor in frozen.items():
        other = name if name in trained else names.get(tensor.data_ptr())
        if other is not None and tensor.numel():
            tied = "" if other == name else f" (there as {other!r})"
            raise ValueError(
                f"The network uses {name!r} both before and after {cut!r}{tied}, so it "
                "would have to be both frozen and trained. Choose another "
                "unfreeze_from, or strategy='linear_probe' or 'full'."
            )


def _is_norm(module):
    return isinstance(module, torch.nn.modules.batchnorm._NormBase)


def _overruns(module):
    """Whether oneDNN writes beyond the gradient of this layer's weights.

    So it does, in channels last, for kernels of one pixel with strides that read fewer
    than 16 channels, and the process dies (torch 2.14.1 on a CPU with AVX-512). RepVGG
    and MobileOne begin with such a layer. Without strides it does not.
    """
    return (
        isinstance(module, torch.nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.padding in ((0, 0), "valid")
        and module.in_channels < 16
    )


def _skip(strides, module, inputs):
    """Leave out the pixels that a kernel of one pixel steps over."""
    (images,) = inputs
    return images[..., :: strides[0], :: strides[1]]


def make_head(widths, dropout):
    """Build linear layers of these widths, with ReLU between and dropout before each.

    One layer without dropout is a plain `torch.nn.Linear`.
    """
    layers = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [torch.nn.Dropout(dropout)] if dropout else []
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    layers = layers[:-1]  # no ReLU behind the logits
    return layers[0] if len(layers) == 1 else torch.nn.Sequential(*layers)


def linear_layer(head):
    """The only linear layer of a head without hidden units."""
    (layer,) = (m for m in head.modules() if isinstance(m, torch.nn.Linear))
    return layer
