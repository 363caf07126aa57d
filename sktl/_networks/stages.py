"""Cut a network into stages, and split it at a cut.

A traced network is a list of nodes in the order in which they run. A node is a *cut*
when no other value is alive across it: what comes after needs its output and nothing
else. So a network is a chain between cuts, and a cut splits it into a prefix and a
tail that together compute what the whole computes, bit for bit. Cuts are named as
`torchvision.models.feature_extraction.get_graph_node_names` names them.
"""

import fnmatch
import functools
import hashlib
import reprlib
from dataclasses import dataclass
from numbers import Integral
from types import FunctionType

import torch
from torch import fx
from torch.nn.modules.batchnorm import _BatchNorm

from sktl._networks.axes import (
    UNCLEAR,
    find_channels_last,
    find_extra_tokens,
    is_constant,
    is_tuple,
    tensor_of,
)
from sktl._networks.heads import find_ending, is_matrix_layer, layer_of
from sktl._networks.tracing import describe_leaf, trace
from sktl._networks.weight_files import state_digest
from sktl._utils.digests import digest_of, is_of_library
from sktl._utils.torch_state import plain_torch
from sktl._utils.warning import warn_caller
from sktl.exceptions import UnknownLayerError, UnknownStageError

# Beyond this share of the parameters, a warning says how much "last" trains.
ALMOST_ALL = 0.9


@dataclass(frozen=True)
class Stage:
    """A run of consecutive cuts whose weights are frozen or trained together."""

    name: str
    start: str  # the cut that feeds the stage; "" for the first stage: the image
    others: tuple[str, ...] = ()  # what begins at the same cut, in running order


class StagedNetwork:
    """A network traced once, in eval mode, with its cuts, stages and penultimate cut.

    Parameters
    ----------
    module : torch.nn.Module
        Images `(n, 3, h, w)` to scores, or to features where it has no head. It is put
        in eval mode; its parameters are shared, not copied, by whatever is split from
        it.

    Attributes
    ----------
    heads : list of str
        Module paths of the layers that make scores: one, several beside each other, or
        none where the output is features.
    doubt : str
        Why it may be otherwise; "" where that is clear.
    cuts : list of str
        Names of the cuts in running order.
    penultimate : str
        The cut that the head reads; without a head, the last one.
    stages : list of Stage
        From the image to `penultimate`.
    """

    def __init__(self, module):
        self.module = module.eval()
        self._graph, names = trace(module)
        self._traced = fx.Graph()  # as it is before its ending is made simpler
        self._traced.output(self._traced.graph_copy(self._graph, {}))
        ending = find_ending(self._graph, module)
        self._names = {n: names.get(n, n.name) for n in self._graph.nodes}
        self._heads = ending.heads
        self.heads = [node.target for node in ending.heads]
        self.doubt = ending.doubt
        _refuse_batch_statistics(self._graph, module)
        self._channels_last = find_channels_last(self._graph, module)
        self._extra_tokens = find_extra_tokens(self._graph, module)
        self._cuts = {self._names[node]: node for node in _cut_nodes(self._graph)}
        self.cuts = list(self._cuts)
        self.penultimate = self._find_penultimate(ending)
        self.stages = self._list_stages()
        self._warned = set()

    def _find_penultimate(self, ending):
        """The cut after which only heads have weights."""
        order, name = list(self._graph.nodes), type(self.module).__name__
        layers = [node for node in order if is_matrix_layer(node, self.module)]
        others = [node for node in layers if node not in ending.heads]
        if not others:
            raise ValueError(
                f"backbone={name} has no penultimate layer: a layer with weights "
                "before the classification layer. Pass a network that ends in a Linear "
                "or convolution, with other layers before it; or one without a "
                "classification layer, whose output is features."
            )
        cut = self._names[ending.features]
        if ending.heads and cut not in self._cuts:
            cut = self._cut_before(ending.heads[0])
        if cut not in self._cuts or order.index(others[-1]) > order.index(
            self._cuts[cut]
        ):
            if len(ending.heads) > 1:
                raise ValueError(
                    f"backbone={name}: its heads {self.heads} read different layers, "
                    "so no single layer holds its features. Pass a network with one "
                    "head, or without any (num_classes=0 in timm), so that its output "
                    "is features."
                )
            raise ValueError(
                f"backbone={name}: after {cut or 'the image'!r}, its output depends on "
                "more than the input of its last layer, which therefore cannot be its "
                "features. Write its forward so that nothing else is used there, not "
                "even shapes: x.flatten(1) instead of x.view(n, -1)."
            )
        return cut

    def n_features(self, side):
        """Width of what the head reads, units or channels, for images of this side."""
        if len(self._heads) == 1:
            (head,) = self._heads
            if self._names[head.all_input_nodes[0]] == self.penultimate:
                # (out, in) of a Linear, (out, in, h, w) of a convolution.
                layer = self.module.get_submodule(head.target)
                return layer.weight.shape[1] * getattr(layer, "groups", 1)
        parameter = next(self.module.parameters())
        image = torch.zeros(1, 3, side, side, device=parameter.device)
        with plain_torch(), torch.inference_mode():
            (activation,) = self.prefix(self.penultimate)(image)
        return activation.shape[-1 if self.is_channels_last(self.penultimate) else 1]

    def load(self, state):
        """Load the tensors that fit; if those of the head do not, there is no head."""
        own = self.module.state_dict()
        fitting = {
            k: v for k, v in state.items() if k in own and own[k].shape == v.shape
        }
        self.module.load_state_dict(fitting, strict=False)
        vars(self).pop("digest", None)
        if any(f"{head}.weight" not in fitting for head in self.heads):
            self.cuts = self.cuts[: self.cuts.index(self.penultimate) + 1]

    def __deepcopy__(self, memo):
        # It is shared within the process, and nobody changes it. (torch.fx copies a
        # graph's nodes apart from what else knows them: torch/fx/graph.py, 2.14.)
        return self

    def check_cut(self, name):
        """Return `name` if it is a cut, or raise with the nearest names."""
        if name not in self.cuts:
            note, end = "", self.stage_ends().get(name)
            if end is not None:
                note = f"{name!r} is a stage; its last layer is {end!r}."
            elif any(cut.startswith(f"{name}.") for cut in self.cuts):
                note = f"{name!r} is a block; that is its last layer."
            raise UnknownLayerError("layers", name, self.cuts, note)
        return name

    def describe(self):
        """Text that differs whenever the computation does, weights aside.

        The traced code holds every function call and constant; what tracing does not
        enter, torch's own layers above all, is described beside it.
        """
        parts, digest = {}, functools.partial(digest_of, members=True)
        for node in self._graph.nodes:
            if node.op == "call_module":
                layer = self.module.get_submodule(node.target)
                parts[node.target] = self._described(node.target, describe_leaf, layer)
            elif isinstance(node.target, FunctionType):
                if not is_of_library(node.target):  # torch.fx.wrap
                    name = node.target.__qualname__
                    parts[name] = self._described(name, digest, node.target)
        return f"{self._graph.python_code('self').src}\n{parts}"

    def _described(self, name, describe, part):
        try:
            return describe(part)
        except Exception as error:
            raise ValueError(
                f"backbone={type(self.module).__name__}: {name!r} holds something that "
                f"has no digest: {error}. So the cache could not tell this network "
                "from others. Remove it from there (a hook by its handle.remove()), or "
                "put it into a module around that layer."
            ) from error

    def tensors(self):
        """Every tensor that decides the output, by name.

        Besides the state dict: buffers that are not saved, and tensors that are plain
        attributes.
        """
        module = self.module
        plain = {
            node.target: tensor_of(node, module)
            for node in self._graph.nodes
            if is_constant(node)
        }
        named = [*module.named_parameters(), *module.named_buffers()]
        return plain | dict(named)

    @functools.cached_property
    def structure(self):
        """SHA-256 of what is computed, weights aside."""
        return hashlib.sha256(self.describe().encode()).hexdigest()

    @functools.cached_property
    def digest(self):
        """SHA-256 of everything that decides the output."""
        text = f"{self.describe()}\n{state_digest(self.tensors())}"
        return hashlib.sha256(text.encode()).hexdigest()

    def is_channels_last(self, cut):
        """Whether the channels of what `cut` gives are on its last axis."""
        return self._node(cut) in self._channels_last

    def extra_tokens(self, cut):
        """Names of the parameters that a transformer puts before its patches there."""
        tokens = self._extra_tokens.get(self._node(cut), ())
        if tokens == UNCLEAR:
            raise ValueError(
                f"Layer {cut!r} holds tokens that are parameters, and it cannot be "
                "told where they stand among those of the patches. Put them first, by "
                "torch.cat([token, patches], dim=1), and take them off by x[:, 1:]; "
                "or choose another layer, or pooling='flatten'."
            )
        return tokens

    def has_class_token(self, cut):
        """Whether the first of the tokens that `cut` gives is a class token."""
        tokens = self._extra_tokens.get(self._node(cut), ())
        if tokens == UNCLEAR:
            return False
        return bool(tokens) and "reg" not in tokens[0].rpartition(".")[2]

    def prefix(self, *cuts):
        """Build the part from the image to the last of `cuts`.

        Returns
        -------
        prefix : torch.fx.GraphModule
            Images to a tuple with one activation per cut, in the order of `cuts`.
            Nothing after the last cut is in it.
        """
        outputs = [self._node(cut) for cut in cuts]
        *earlier, _ = sorted(outputs, key=list(self._graph.nodes).index)
        graph = fx.Graph()
        copies, kept = {}, {}
        for node in self._nodes_up_to(outputs):
            kept[node] = copies[node] = graph.node_copy(node, copies.__getitem__)
            if node in earlier:  # a ReLU that works in place would write into it
                kept[node] = graph.call_method("clone", (copies[node],))
        graph.output(tuple(kept[node] for node in outputs))
        return fx.GraphModule(self.module, graph)

    def whole(self):
        """Build all of it, as it was traced."""
        return fx.GraphModule(self.module, self._traced)

    def feeds_a_norm(self, cut):
        """Whether a batch norm reads what `cut` gives."""
        layers = [layer_of(node, self.module) for node in self._node(cut).users]
        return any(isinstance(layer, _BatchNorm) for layer in layers)

    def tail(self, cut):
        """Build the part after `cut`, up to `penultimate`.

        `cut=""` starts at the image. Where both are the same, it passes its input on.
        """
        order = list(self._graph.nodes)
        start = self._node(cut)
        stop = self._node(self.penultimate)
        graph = fx.Graph()
        copies = {start: graph.placeholder("activation")}
        later = order[order.index(start) + 1 : order.index(stop) + 1]
        constants = [
            node
            for node in order[: order.index(start)]
            if is_constant(node) and not set(node.users).isdisjoint(later)
        ]
        for node in constants + later:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(copies[stop])
        return fx.GraphModule(self.module, graph)

    def resolve_stage(self, stage, parameter="unfreeze_from"):
        """Turn the user's word for a stage into the cut that it begins after.

        Parameters
        ----------
        stage : str or int
            A stage name, the path of any block inside one (`"layer4.1"`), a glob over
            these (a stage goes first, then the earliest match counts), `"first"`,
            `"last"`, or a number of stages counted from the head.
        parameter : str
            What the user calls it.

        Returns
        -------
        cut : str
            `""` when the whole network is to be trained.

        Warns
        -----
        UserWarning
            If more is trained than was asked for.
        """
        cut, more = self._resolve_stage(stage, parameter)
        if more:
            cuts = self.cuts[: self.cuts.index(self.penultimate)]
            warn_caller(
                f"{parameter}={stage!r}: the network cannot be split right before "
                f"this, so {reprlib.repr(more) if cut else 'everything'} is trained "
                f"too. It can be split after {reprlib.repr(cuts)}; its stages are "
                f"{[stage.name for stage in self.stages]}.",
                UserWarning,
                self._warned,
            )
        return cut

    def _resolve_stage(self, stage, parameter):
        """The cut, and the layers between it and the stage, which are trained too."""
        names = [stage.name for stage in self.stages]
        if not names:
            raise ValueError(
                "This network has no stage that could be unfrozen: no layer with "
                'weights before its classification layer. Use strategy="linear_probe" '
                'or "full".'
            )
        if stage == "first":
            return "", []
        if stage == "last":
            found = self.stages[-1]
            if not found.start:
                return "", names
            # Such as blocks that all read the position: none can be split from another.
            is_most = self.share_after(found.start) > ALMOST_ALL
            return found.start, [found.name, *found.others][:-1] if is_most else []
        if isinstance(stage, Integral) and not isinstance(stage, bool):
            return self._stage_from_head(stage, parameter).start, []
        if not isinstance(stage, str):
            raise UnknownStageError(parameter, stage, names)
        for known in self.stages:
            if fnmatch.fnmatchcase(known.name, stage):
                return known.start, []

        def is_meant(name):
            globs = stage, f"{stage}.*"
            return is_within(name, stage) or any(
                fnmatch.fnmatchcase(name, glob) for glob in globs
            )

        if any(is_meant(name) for name, _ in self.module.named_parameters()):
            cuts, cut, earlier = set(self._cuts.values()), "", []
            for node in self._nodes_up_to([self._cuts[self.penultimate]]):
                if is_meant(self._names[node]):
                    return cut, earlier
                if is_matrix_layer(node, self.module):
                    earlier.append(node.target)
                if node in cuts:
                    cut, earlier = self._names[node], []
        ends = self.stage_ends().items()
        order = self.cuts.index
        within = [n for n, e in ends if stage in self.cuts and order(stage) <= order(e)]
        note = f"{stage!r} is a layer of the stage {within[0]!r}." if within else ""
        raise UnknownStageError(parameter, stage, names, note)

    def share_after(self, cut):
        """Share of the parameters before the head that come after `cut`."""
        trained, whole = (
            sum(p.numel() for p in self.tail(start).parameters()) for start in (cut, "")
        )
        return trained / whole

    def stage_ends(self):
        """The cut at which each stage ends, by its name, in running order."""
        ends = [*(stage.start for stage in self.stages[1:]), self.penultimate]
        names = [stage.name for stage in self.stages]
        return dict(zip(names, ends[-len(names) :], strict=True)) if names else {}

    def stage_tensors(self, cut=""):
        """Names of what is used after `cut`, by the stage that it belongs to.

        Returns
        -------
        tensors : dict of {str: list of str}
            From the image to the head: tensors, and layers that have none, such as a
            dropout. What several stages use is listed for the first.
        """
        starts = {stage.start: stage.name for stage in self.stages}
        begun, tensors, seen = not cut, {}, set()
        stage = self.stages[0].name if self.stages else ""
        for node in self._nodes_up_to([self._cuts[self.penultimate]]):
            names = set(self._names_used(node)) - seen if begun else ()
            if names:
                tensors.setdefault(stage, []).extend(sorted(names))
                seen |= names
            begun = begun or self._names[node] == cut
            stage = starts.get(self._names[node], stage)
        return tensors

    def _names_used(self, node):
        if node.op == "call_module":
            layer = self.module.get_submodule(node.target)
            named = [*layer.named_parameters(), *layer.named_buffers()]
            return [f"{node.target}.{name}" for name, _ in named] or [node.target]
        return [node.target] if is_constant(node) else []

    def _node(self, cut):
        """The node of a cut; "" is the image."""
        return self._cuts[self.check_cut(cut)] if cut else next(iter(self._graph.nodes))

    def _stage_from_head(self, n_stages, parameter):
        if not 1 <= n_stages <= len(self.stages):
            raise ValueError(
                f"{parameter}={n_stages!r} must be between 1 and {len(self.stages)}, "
                "the number of stages of this network, counted from the head; they are "
                f"{[stage.name for stage in self.stages]}. To train the head alone, "
                'use strategy="linear_probe".'
            )
        return self.stages[-n_stages]

    def _nodes_up_to(self, outputs):
        """Nodes up to the last of `outputs`, in running order."""
        remaining = set(outputs)
        for node in self._graph.nodes:
            yield node
            remaining.discard(node)
            if not remaining:
                return

    def _cut_before(self, node):
        """The last cut that runs before `node`; "" is the image."""
        cuts = {node: name for name, node in self._cuts.items()}
        last = ""
        for earlier in self._graph.nodes:
            if earlier is node:
                return last
            last = cuts.get(earlier, last)
        return last

    def _list_stages(self):
        """Group weight layers by module path, as coarsely as still gives three groups.

        For `resnet18` that is conv1, layer1, ..., layer4; for networks that keep
        everything in one `features` container, its children.
        """
        nodes = list(self._nodes_up_to([self._cuts[self.penultimate]]))
        layers = [node for node in nodes if is_matrix_layer(node, self.module)]
        for depth in range(1, 5):
            names = list(dict.fromkeys(_parent(self._names[n], depth) for n in layers))
            if len(names) >= 3:
                break
        firsts = {}
        for node in reversed(nodes):
            firsts[_parent(self._names[node], depth)] = node
        starts = {name: self._cut_before(firsts[name]) for name in names}
        # Parallel branches may begin at one cut: they are trained together.
        unique = {}
        for name, start in starts.items():
            unique.setdefault(start, []).append(name)
        return [Stage(name, start, tuple(o)) for start, (name, *o) in unique.items()]


def _refuse_batch_statistics(graph, module):
    """Refuse batch norms that go on using the statistics of each batch."""
    for node in graph.nodes:
        layer = layer_of(node, module)
        if isinstance(layer, _BatchNorm) and layer.running_mean is None:
            raise ValueError(
                f"backbone={type(module).__name__}: the batch norm {node.target!r} has "
                "no running statistics, so an image's features would depend on the "
                "rest of its batch. Build it with track_running_stats=True."
            )


def _cut_nodes(graph):
    """Yield the nodes across which no other value is alive."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    last_use = {
        node: max((order[user] for user in node.users), default=i)
        for node, i in order.items()
    }
    alive_until = 0
    for node, i in order.items():
        if node.op == "output":
            return
        # `alive_until` covers the nodes before this one.
        is_value = not is_constant(node)
        if alive_until <= i and is_value and node.op != "placeholder":
            if not is_tuple(node):
                yield node
        if is_value:
            alive_until = max(alive_until, last_use[node])


def _parent(name, depth):
    return ".".join(name.split(".")[:depth])


def is_within(name, path):
    return name == path or name.startswith(f"{path}.")
