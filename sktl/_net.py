"""A skorch net around a network whose first part is frozen.

What skorch leaves to be cured is cured here: rows that influence one another, data in
a fixed order, seeds, Ctrl-C, a loss that is no number, `device="auto"`.
"""

import contextlib
from numbers import Integral

import numpy as np
import torch
from skorch import NeuralNetClassifier
from skorch.dataset import unpack_data
from skorch.utils import to_tensor

from sktl._engine import ONE_AT_A_TIME, make_engine, resolve_device
from sktl._frozen import normalize
from sktl.exceptions import TrainingDivergedError


class FrozenPrefixNet(NeuralNetClassifier):
    """A `skorch.NeuralNetClassifier` that trains on activations of a frozen prefix.

    Its module is a `FineTunedNetwork`; its data sets hold what the prefix gives, or
    8-bit pictures where nothing is frozen.
    """

    @property
    def device(self):
        """The device in use; `get_params` gives the parameter as it was set."""
        return resolve_device(vars(self)["device"])

    @device.setter
    def device(self, device):
        vars(self)["device"] = device

    def __setattr__(self, name, value):
        # skorch takes any torch.nn.Module that is set for a part of the net.
        if name == "backbone":
            vars(self)[name] = value
        else:
            super().__setattr__(name, value)

    def get_params(self, deep=True, **kwargs):
        """Get the parameters as they were set.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the parameters of callbacks.
        **kwargs : dict
            Passed on to skorch.

        Returns
        -------
        params : dict
        """
        params = super().get_params(deep=deep, **kwargs)
        return params | {"device": vars(self)["device"]}

    def _get_param_names(self):
        # The module is ours to build, not a parameter.
        return [name for name in super()._get_param_names() if name != "module"]

    def get_params_for_optimizer(self, prefix, named_parameters):
        """Leave frozen tensors out, and give pretrained ones their lower rate."""
        trainable = [(n, p) for n, p in named_parameters if p.requires_grad]
        (groups,), kwargs = super().get_params_for_optimizer(prefix, trainable)
        if self.strategy == "scratch" or "optimizer__param_groups" in vars(self):
            return (groups,), kwargs
        tail = [p for name, p in trainable if name.startswith("tail.")]
        head = [p for name, p in trainable if not name.startswith("tail.")]
        lr = kwargs["lr"] * self.backbone_lr_ratio
        groups = [{"params": head}, {"params": tail, "lr": lr}]
        return ([group for group in groups if group["params"]],), kwargs

    def get_params_for(self, prefix):
        """As skorch's; a DataLoader takes no NumPy integer as batch size."""
        params = super().get_params_for(prefix)
        if prefix in ("iterator_train", "iterator_valid"):
            params.setdefault("batch_size", int(self.batch_size))
        return params

    def get_iterator(self, dataset, training=False):
        """As skorch's; reading batches in order draws no global random number."""
        loader = super().get_iterator(dataset, training)
        if not training:
            # A DataLoader draws a seed for its workers whenever it is iterated.
            loader.generator = torch.Generator()
        return loader

    def check_data(self, X, y=None):
        """Nothing left to check: `fit` encoded the labels."""

    def infer(self, x, **fit_params):
        """Map a batch of activations, or of 8-bit pictures, to logits."""
        return self._run(self.module_.classify, x, **fit_params)

    def _run(self, part, x, **kwargs):
        """Pass what a data set holds through a part of the module."""
        x = to_tensor(x, device=self.device)
        if x.dtype == torch.uint8:
            preprocessing = self._backbone.preprocessing
            x = normalize(x, preprocessing.mean, preprocessing.std)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with ONE_AT_A_TIME, self._engine().autocast():
            return part(x, **kwargs).float()

    def evaluation_step(self, batch, training=False):
        """Compute logits in batches of one size: rows do not influence one another."""
        x, y = unpack_data(batch)
        n_missing = max(0, self.batch_size - len(x))
        padded = torch.cat([x, x.new_zeros(n_missing, *x.shape[1:])])
        return super().evaluation_step((padded, y), training)[: len(x)].double()

    def on_batch_end(self, net, batch=None, training=False, **kwargs):
        """Stop at the first loss that is no number."""
        loss = kwargs["loss"].item()
        if not np.isfinite(loss):
            raise TrainingDivergedError(
                f"The loss is {loss} in epoch {len(self.history)}. Try a lower lr "
                f"(now {self.lr}), a lower backbone_lr_ratio (now "
                f"{self.backbone_lr_ratio}), or precision='float32'."
            )

    def _engine(self):
        return make_engine(self.device, self.precision, self.batch_size)

    def _train(self, images, codes, **fit_params):
        """As skorch's `partial_fit`, which swallows Ctrl-C and scores what is left."""
        self.notify("on_train_begin", X=images, y=codes)
        self.fit_loop(images, codes, **fit_params)
        self.notify("on_train_end", X=images, y=codes)

    @contextlib.contextmanager
    def _seeded(self):
        """Draw from a generator of our own; the global ones stay as they were."""
        seed = self.random_state
        if seed is None:
            seed = np.random.SeedSequence().entropy % 2**32
        elif not isinstance(seed, Integral):
            seed = seed.randint(2**32 - 1)
        devices = [self.device] if self.device.type == "cuda" else []
        with ONE_AT_A_TIME, torch.random.fork_rng(devices=devices):
            # torch.manual_seed would seed devices too that are not put back.
            torch.default_generator.manual_seed(int(seed))
            if devices:
                torch.cuda.default_generators[self.device.index or 0].manual_seed(
                    int(seed)
                )
            yield

    def __setstate__(self, state):
        # skorch maps tensors to the device named here, and "auto" names none.
        available = "cuda" if torch.cuda.is_available() else "cpu"
        super().__setstate__(state | {"device": available})
        vars(self)["device"] = state["device"]
