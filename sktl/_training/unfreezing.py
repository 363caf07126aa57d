"""Unfreezing the stages that a strategy names."""

import math

from sktl.callbacks import GradualUnfreeze


class UnfreezeByStrategy(GradualUnfreeze):
    """A `GradualUnfreeze` that asks the net for its stages when training begins.

    Not earlier, as they are known once there is a network, and as skorch makes new
    callbacks whenever one of their parameters is set. What the user sets stays.
    """

    # Whether `max_epochs` are all there will be, which have to reach every stage.
    is_complete_ = False

    def __init__(self, stages=None, epochs_per_stage=None, layer_decay=1.0):
        super().__init__(stages, epochs_per_stage, layer_decay)

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        """Fill in what nobody has set."""
        if not self.stages:
            module = net.module_
            known = {*dict(module.named_parameters()), *dict(module.named_modules())}
            self.stages = net.plan.stages(net.backbone_.network, known)
        super().on_train_begin(net, X, y, **kwargs)

    def _n_due(self, n_before, n_stages, n_planned):
        if not self.is_complete_:
            return super()._n_due(n_before, n_stages, n_planned)
        if n_planned >= n_stages:
            return math.ceil((n_before + 1) * n_stages / n_planned)
        # The last stage alone at first, and all in the end.
        return 1 + math.ceil(n_before * (n_stages - 1) / max(1, n_planned - 1))
