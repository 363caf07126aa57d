"""How learning rates change while a network is trained."""

import math

from skorch.callbacks import Callback, LRScheduler

# Share of the steps in which rates rise; torch's OneCycleLR has 0.3, fastai 0.25.
RISE = 0.25


class OneCycle(Callback):
    """Raise learning rates from zero along a line, and lower them along half a cosine.

    Step by step, over all epochs that are planned. The first steps are small because
    a fitted head, whose gradients are nearly zero, would be lost to full ones: Adam
    divides gradients by their own size. After training the rates are what
    they were. Does nothing where the net has a learning rate scheduler of the user's.

    Smith and Topin, Super-convergence, 2018; Howard and Gugger, fastai, 2020.
    """

    def on_train_begin(self, net, **kwargs):
        """Count from here, in a training that goes on too."""
        users = any(isinstance(callback, LRScheduler) for _, callback in net.callbacks_)
        self.n_epochs_ = 0 if users else net.max_epochs
        self.n_before_ = len(net.history)
        for group in net.optimizer_.param_groups if self.n_epochs_ else ():
            group.pop("initial_lr", None)  # of a scheduler in an earlier fit

    def on_epoch_begin(self, net, dataset_train=None, **kwargs):
        """Count the steps of an epoch."""
        self.step_ = 0
        if self.n_epochs_:
            self.n_steps_ = max(1, len(net.get_iterator(dataset_train, training=True)))

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        """Set the rates of a step."""
        if not (training and self.n_epochs_):
            return
        epoch = len(net.history) - 1 - self.n_before_
        n_done = epoch * self.n_steps_ + self.step_
        factor = _factor(n_done, self.n_epochs_ * self.n_steps_)
        self.step_ += 1
        for group in net.optimizer_.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def on_train_end(self, net, **kwargs):
        """Put the full rates back."""
        if self.n_epochs_:
            for group in net.optimizer_.param_groups:
                group["lr"] = group.pop("initial_lr", group["lr"])


def _factor(n_done, n_steps):
    """What a rate is multiplied by after so many of all steps."""
    top = RISE * n_steps
    if n_done < top:
        return (n_done + 1) / (top + 1)
    done = min(1, (n_done - top) / (n_steps - top))
    return (1 + math.cos(math.pi * done)) / 2
