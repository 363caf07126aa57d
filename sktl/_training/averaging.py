"""Fine-tuned weights, averaged with those that training began with."""

import numpy as np
import torch
from skorch.callbacks import Callback


class AverageWithStart(Callback):
    """At the end of training, move what was trained back towards its first weights.

    Only where training began with good ones: with a fitted head on a pretrained
    network, nothing of it random, and not in the middle of a training that goes on.

    Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022 (WiSE-FT).
    """

    start_ = None

    def on_epoch_begin(self, net, **kwargs):
        """Before the first epoch, copy the weights."""
        if len(net.history) == 1 and net.initial_share_:
            named = net.module_.named_parameters()
            self.start_ = {n: p.detach().clone() for n, p in named if p.requires_grad}

    @torch.no_grad()
    def on_train_end(self, net, **kwargs):
        """Average, and drop the copy."""
        for name, parameter in net.module_.named_parameters():
            if name in (self.start_ or {}):
                start = self.start_[name].to(parameter.device)  # of a checkpoint: CPU
                parameter.lerp_(start, net.initial_share_)
        self.start_ = None


def share_for(features):
    """Share of the first weights by default: 0.4 for many images, more for few.

    As if the first weights counted for ten images (`bench_finetuning` in
    `benchmarks/README.md` says how this was chosen). Equal images count once, so that a
    weight of two is the same as two rows.

    Parameters
    ----------
    features : ndarray of shape (n_images, n_features)
    """
    n_images = len(np.unique(features, axis=0))
    return 1 - 0.6 * n_images / (n_images + 10)
