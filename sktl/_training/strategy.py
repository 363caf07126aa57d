"""A strategy: which layers are trained, in which order, at which rates."""

from dataclasses import dataclass, fields, replace

STRATEGIES = ("linear_probe", "lp_ft", "full", "gradual", "scratch")
PROBE_FIRST = ("linear_probe", "lp_ft", "gradual")
# What decides how the network is built.
BUILDS = ("strategy", "unfreeze_from", "reinit_from", "hidden_units")


@dataclass(frozen=True)
class Strategy:
    """What the parameters of a fine-tuned network say about its training.

    A plain object without a network: asked about one, it answers by names.

    Parameters
    ----------
    strategy, unfreeze_from, reinit_from, hidden_units : object
    max_epochs, backbone_lr_ratio, layer_decay : int, float, float
        As in `FineTunedCNNClassifier`, checked.
    """

    strategy: str
    unfreeze_from: str | int
    reinit_from: str | int | None
    hidden_units: tuple
    max_epochs: int
    backbone_lr_ratio: float
    layer_decay: float

    @classmethod
    def of(cls, estimator):
        """Read the parameters of an estimator."""
        return cls(**{f.name: getattr(estimator, f.name) for f in fields(cls)})

    def on_network_of(self, other):
        """The same epochs and rates for a network that another strategy has built."""
        return replace(self, **{name: getattr(other, name) for name in BUILDS})

    @property
    def from_scratch(self):
        """Whether everything begins with random weights."""
        return self.strategy == "scratch"

    @property
    def solves_head(self):
        """Whether it begins with the best head on frozen features, of one layer."""
        return self.strategy in PROBE_FIRST and not self.hidden_units

    @property
    def starts_good(self):
        """Whether it begins with good weights only: a fitted head, and none random."""
        return self.solves_head and self.reinit_from is None

    @property
    def has_epochs(self):
        """Whether training is by epochs, and solving the head is not all."""
        return self.strategy != "linear_probe" or not self.solves_head

    @property
    def by_turns(self):
        """Whether the epochs unfreeze one stage after another."""
        return self.strategy == "gradual"

    @property
    def n_epochs(self):
        """Epochs that are planned."""
        return self.max_epochs if self.has_epochs else 0

    def cut(self, network):
        """The cut of a `StagedNetwork` up to which it stays frozen; "" freezes none."""
        if self.strategy == "linear_probe":
            return network.penultimate
        if self.strategy in ("lp_ft", "gradual"):
            return network.resolve_stage(self.unfreeze_from)
        return ""

    def reinitialized(self, network):
        """Names of the network's tensors that begin with random weights again."""
        if self.reinit_from is None or self.from_scratch:
            return set()
        saved = network.module.state_dict()  # tracing makes buffers of attributes
        cut = network.resolve_stage(self.reinit_from, "reinit_from")
        stages = network.stage_tensors(cut).values()
        random = {name for names in stages for name in names if name in saved}
        frozen = self.cut(network)
        trained = network.stage_tensors(frozen).values()
        if not random <= {name for names in trained for name in names}:
            raise ValueError(
                f"reinit_from={self.reinit_from!r} begins before what "
                f"strategy={self.strategy!r} trains (after {frozen!r}), so random "
                "weights would stay random. Pass a later stage, or unfreeze more."
            )
        return random

    def groups(self, network, named_parameters, lr):
        """Group parameters for an optimiser by their learning rate.

        Parameters
        ----------
        network : StagedNetwork
        named_parameters : iterable of (str, torch.nn.Parameter)
            Those that are trained, by the names that a `FineTunedModule` gives them.
        lr : float
            Of what begins with random weights.

        Returns
        -------
        groups : list of dict
        """
        rates, groups = self._rates(network, lr), {}
        for name, parameter in named_parameters:
            rate = rates.get("head" if name.startswith("head.") else name, lr)
            group = groups.setdefault(rate, {"params": [], "lr": rate})
            group["params"].append(parameter)
        return list(groups.values())

    def _rates(self, network, lr):
        """Learning rates of what begins with good weights."""
        if self.from_scratch:
            return {}
        stages = network.stage_tensors(self.cut(network))
        random = self.reinitialized(network)
        lr = lr * self.backbone_lr_ratio
        rates = {
            f"tail.{name}": lr * self.layer_decay**depth
            for depth, names in enumerate(reversed(stages.values()))
            for name in names
            if name not in random
        }
        # A fitted head is where training would bring it: larger steps lead away.
        return rates | ({"head": lr} if self.starts_good else {})

    def stages(self, network, known):
        """What is trained in turn, the last stage first.

        Parameters
        ----------
        network : StagedNetwork
        known : set of str
            Names of parameters and submodules of the `FineTunedModule`.

        Returns
        -------
        stages : dict of {str: list of str}
            From the image to the head, as `GradualUnfreeze` takes it.
        """
        stages = {}
        for stage, names in network.stage_tensors(self.cut(network)).items():
            names = [f"tail.{name}" for name in names if f"tail.{name}" in known]
            stages |= {stage: names} if names else {}
        if self.strategy == "lp_ft":
            names = [name for names in stages.values() for name in names]
            ends = dict.fromkeys([next(iter(stages)), next(reversed(stages))])
            stages = {" to ".join(ends): names}
        if not self.solves_head:
            stages["head"] = ["head"]  # trained alone first
        return stages
