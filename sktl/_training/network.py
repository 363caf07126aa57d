"""The network that is trained: a frozen prefix, a trainable tail, a new head."""

import copy
import itertools

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sktl._features.prefix import pool

# Largest slope at which the head counts as solved; scikit-learn's 1e-4 is seen in the
# third digit of logits.
SLOPE = 1e-8
# How far below the others the logit of a class without examples is put.
ABSENT = 5.0


class FineTunedNetwork(torch.nn.Module):
    """A backbone split at a cut, with a new head behind its penultimate layer.

    Frozen means: always in eval mode, without gradients, and not among the trainable
    parameters. A training loop that calls `train()` before each step, as skorch does,
    does not thaw it.

    Parameters
    ----------
    network : StagedNetwork
        Its tensors are copied.
    cut : str
        Everything up to this cut is frozen; `""` freezes nothing.
    n_classes : int
    hidden_units : sequence of int
        Widths of ReLU layers between features and logits.
    dropout : float
        Share of what each layer of the head reads that training leaves out.
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
        n_classes,
        *,
        hidden_units=(),
        dropout=0.0,
        keep_statistics=True,
    ):
        super().__init__()
        self.prefix = copy.deepcopy(network.prefix(cut)).requires_grad_(False)
        self.tail = copy.deepcopy(network.tail(cut)).requires_grad_(True)
        self.head = make_head([network.n_features, *hidden_units, n_classes], dropout)
        shared = self.prefix.state_dict().keys() & self.tail.state_dict().keys()
        if shared:
            raise ValueError(
                f"The network uses {sorted(shared)[0]!r} both before and after "
                f"{cut!r}, so it cannot be frozen before and trained after. Choose "
                "another unfreeze_from, or strategy='linear_probe' or 'full'."
            )
        self.keep_statistics = keep_statistics
        self._frozen_modules = tuple(self.prefix.modules())
        # Tracing makes buffers of plain attributes; the network itself has none.
        self.saved_names = frozenset(network.module.state_dict())
        self.to(memory_format=torch.channels_last)

    def forward(self, images):
        """Map normalised images `(n, 3, h, w)` to logits `(n, n_classes)`."""
        return self.classify(*self.prefix(images))

    def classify(self, activations):
        """Map what `prefix` gives to logits `(n, n_classes)`."""
        return self.head(self.features(activations))

    def features(self, activations):
        """Map what `prefix` gives to the rows that the head reads."""
        return pool(self.tail(activations), "avg")

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
                if isinstance(module, torch.nn.modules.batchnorm._NormBase):
                    module.eval()
        return self

    def backbone_state(self):
        """Tensors of everything but the head, by the names the backbone gives them."""
        state = self.prefix.state_dict() | self.tail.state_dict()
        return {name: state[name] for name in state if name in self.saved_names}


def make_head(widths, dropout):
    """Build linear layers of these widths, with ReLU between and dropout before each.

    One layer without dropout is a plain `torch.nn.Linear`.
    """
    layers = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [torch.nn.Dropout(dropout)] if dropout else []
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    layers = layers[:-1]  # logits are not bent
    return layers[0] if len(layers) == 1 else torch.nn.Sequential(*layers)


def linear_layer(head):
    """The only linear layer of a head, which can be solved; None if there are more."""
    layers = [m for m in head.modules() if isinstance(m, torch.nn.Linear)]
    return layers[0] if len(layers) == 1 else None


def solve_head(head, features, codes, weights=None, class_weights=None):
    """Set `head` to the logistic regression of `codes` on `features`.

    The problem is convex, so this is where training a linear head ends, reached at
    once. Features are standardised first, and the scaling folded into the weights.

    Parameters
    ----------
    head : torch.nn.Linear
    features : ndarray of shape (n, head.in_features)
    codes : ndarray of shape (n,)
        Class numbers.
    weights : ndarray of shape (n,) or None
        A weight of k is the same as k equal rows.
    class_weights : ndarray of shape (n,) or None
        What of these is the class's weight: it has no part in the scaling, which would
        follow the heaviest class.
    """
    if len(np.unique(codes)) < 2:
        return  # nothing to tell apart yet: the first batch of a stream
    features = features.astype(np.float64)
    rows = weights
    if class_weights is not None:
        rows = np.divide(
            weights, class_weights, out=np.zeros(len(codes)), where=class_weights > 0
        )
    scaler = StandardScaler().fit(features, sample_weight=rows)
    model = LogisticRegression(tol=SLOPE, max_iter=10_000)
    model.fit(scaler.transform(features), codes, weights)
    coef, intercept = model.coef_, model.intercept_
    if len(coef) == 1:  # two classes: one logit, shared out
        coef, intercept = coef / 2 * [[-1], [1]], intercept / 2 * [-1, 1]
    coef = coef / scaler.scale_
    intercept = intercept - coef @ scaler.mean_
    with torch.no_grad():
        # Classes that are not there get no weight and an unlikely logit.
        head.weight.zero_()
        head.bias.fill_(intercept.min() - ABSENT)
        head.weight[model.classes_] = torch.tensor(coef).to(head.weight)
        head.bias[model.classes_] = torch.tensor(intercept).to(head.bias)
