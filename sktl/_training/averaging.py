"""Fine-tuned weights, averaged with those that training began with."""

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
        begins = len(net.history) == 1
        if begins and net.plan.starts_good and net.initial_share:
            named = net.module_.named_parameters()
            self.start_ = {n: p.detach().clone() for n, p in named if p.requires_grad}

    @torch.no_grad()
    def on_train_end(self, net, y=None, **kwargs):
        """Average, and drop the copy."""
        if self.start_ is None:
            return
        share = net.initial_share
        if share == "auto":
            share = share_for(len(y))
        for name, parameter in net.module_.named_parameters():
            if name in self.start_:
                start = self.start_[name].to(parameter.device)  # of a checkpoint: CPU
                parameter.lerp_(start, share)
        self.start_ = None


def share_for(n_rows):
    """Share of the first weights by default: 0.4 for many rows, more for few.

    As if the first weights counted for ten rows (`bench_finetuning` in
    `benchmarks/README.md` says how this was chosen).
    """
    return 1 - 0.6 * n_rows / (n_rows + 10)
