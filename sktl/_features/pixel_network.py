"""The network as it runs: on its device, from 8-bit images to pooled activations."""

import weakref

import torch
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from sktl._networks.fusion import fuse_batch_norms
from sktl._networks.kept import keep


def place(network, cuts, mean, std, poolings, device, dtype):
    """A copy of the prefix on the device, in the layout convolutions run fastest in."""
    # By a weak reference: a copy does not outlive the network that it was made of.
    key = weakref.ref(network), cuts, mean, std, poolings, device, dtype
    return keep(key, lambda: _place(network, *key[1:]))


def _place(network, cuts, mean, std, poolings, device, dtype):
    module = fuse_batch_norms(network.prefix(*cuts))
    for layer in module.modules():
        if type(layer) in (torch.nn.Conv2d, torch.nn.Linear):
            # Autocast would convert the weights again for every batch.
            layer.to(dtype)
    channels_last = [network.is_channels_last(cut) for cut in cuts]
    n_extra = [
        0 if pooling in (None, "flatten") else len(network.extra_tokens(cut))
        for cut, pooling in zip(cuts, poolings, strict=True)
    ]
    module = PixelNetwork(module, cuts, mean, std, poolings, channels_last, n_extra)
    module = module.eval().requires_grad_(False)
    return to_channels_last(module.to(device=device))


def to_channels_last(module):
    """Lay out the 4-D tensors of a module as convolutions run fastest.

    As `module.to(memory_format=...)`, which fails for tensors of five dimensions: the
    masks of timm's Swin (torch/nn/modules/module.py, 2.14).
    """
    return module._apply(channels_last)


def channels_last(tensor):
    """Lay out a tensor of four dimensions `(n, channels, h, w)` as `(n, h, w, c)`."""
    is_map = tensor.ndim == 4
    return tensor.contiguous(memory_format=torch.channels_last) if is_map else tensor


class PixelNetwork(torch.nn.Module):
    """A network that takes 8-bit images: normalise, run, pool.

    Parameters
    ----------
    network : torch.nn.Module
        Normalised images `(n, 3, h, w)` to a tuple of activations.
    cuts : sequence of str
        What these are called.
    mean, std : sequence of 3 floats
    poolings : sequence of str or None
        Per activation, how a spatial map becomes a row; None leaves it as it is.
    channels_last : sequence of bool
        Per activation, whether its channels are on the last axis.
    n_extra : sequence of int
        Per activation, how many tokens stand before those of the patches.
    """

    def __init__(self, network, cuts, mean, std, poolings, channels_last, n_extra):
        super().__init__()
        self.network = network
        self.cuts = cuts
        # On the device: as plain numbers they would be sent there with every batch.
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.poolings = poolings
        self.channels_last = channels_last
        self.n_extra = n_extra

    def forward(self, pixels):
        """Map uint8 `(n, h, w, 3)` to one activation per output of the network."""
        activations = self.network(normalize(pixels, self.mean, self.std))
        for cut, x in zip(self.cuts, activations, strict=True):
            if x.shape[:1] != pixels.shape[:1]:
                raise ValueError(
                    f"Layer {cut!r} gives a tensor of shape {tuple(x.shape)} for "
                    f"{len(pixels)} image(s), so it has no row for each of them. "
                    "Choose another layer, or keep the images on the first axis there "
                    "(batch_first=True in torch's transformers)."
                )
        forms = zip(self.poolings, self.channels_last, self.n_extra, strict=True)
        return tuple(
            x if form[0] is None else pool(x, *form)
            for x, form in zip(activations, forms, strict=True)
        )


def normalize(pixels, mean, std):
    """Map 8-bit images `(n, h, w, 3)` to the floats `(n, 3, h, w)` networks read."""
    images = pixels.permute(0, 3, 1, 2).float().div_(255)
    like = {"dtype": images.dtype, "device": images.device}
    mean, std = (torch.as_tensor(v, **like).view(3, 1, 1) for v in (mean, std))
    return images.sub_(mean).div_(std)


def pool(activation, pooling, channels_last=False, n_extra=0):
    """Make one row per image of what a cut gives.

    Parameters
    ----------
    activation : torch.Tensor of shape (n, channels, h, w), (n, width, tokens) or (n, d)
    pooling : {"avg", "max", "avgmax", "cls", "cls+avg", "flatten"}
    channels_last : bool
        Whether channels or width are on the last axis instead.
    n_extra : int
        How many tokens, the class token first, stand before those of the patches.
    """
    if activation.ndim == 2 or pooling == "flatten":
        return activation.flatten(1)
    if channels_last:
        activation = activation.movedim(-1, 1)
    first = activation
    if activation.ndim == 3:  # tokens of a transformer: (n, width, tokens, 1)
        first = activation[:, :, 0]
        activation = activation[:, :, n_extra:].unsqueeze(-1)
    pools = {
        "avg": [adaptive_avg_pool2d],
        "max": [adaptive_max_pool2d],
        "avgmax": [adaptive_avg_pool2d, adaptive_max_pool2d],
        "cls": [],
        "cls+avg": [adaptive_avg_pool2d],
    }
    parts = [reduce(activation, 1).flatten(1) for reduce in pools[pooling]]
    return torch.cat([first, *parts] if "cls" in pooling else parts, dim=1)
