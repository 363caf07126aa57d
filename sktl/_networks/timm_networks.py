"""Networks of timm by name: `"timm/resnet50.a1_in1k"`.

What comes after "timm/" is a name of `timm.list_models`, with or without the tag of its
weights. timm knows how a network is built, how its images are prepared, and how the
tensors of a published file are brought into the network's own form; the files are
fetched by huggingface_hub, which keeps them and resumes what broke off.
"""

import functools

from sktl._networks.architecture import Architecture
from sktl._networks.preprocessing import from_timm
from sktl._networks.weight_files import WeightsFile, hashed_file
from sktl.exceptions import UnknownBackboneError

PREFIX = "timm/"


def list_timm(pretrained, pattern):
    """Names of timm's networks, or of those with weights, that match a glob."""
    pattern = pattern.removeprefix(PREFIX)
    names = _timm().list_models(pattern, pretrained=pretrained)
    return [f"{PREFIX}{name}" for name in names]


def timm_architecture(name):
    """The architecture of a name that begins with "timm/"."""
    timm, model = _timm(), name.removeprefix(PREFIX)
    tagged = timm.list_models(pretrained=True)
    if model not in tagged and model not in timm.list_models():
        known = [*timm.list_models(), *tagged]
        raise UnknownBackboneError("backbone", name, [f"{PREFIX}{n}" for n in known])
    config = timm.models.get_pretrained_cfg(model)
    preset = from_timm(config.to_dict())
    files = {"DEFAULT": _file(config)} if config.has_weights else {}
    return Architecture(
        name,
        functools.partial(timm.create_model, model),
        preset,
        files,
        dict.fromkeys(files, preset),
        convert=functools.partial(_convert, model),
    )


def _file(config):
    if config.hf_hub_id:
        name = config.hf_hub_filename or "model.safetensors"
        return WeightsFile(name, hub=config.hf_hub_id, license=config.license)
    return hashed_file(config.url, license=config.license)


def _convert(model, state):
    """The tensors of a published file as the network has them."""
    source = {"state_dict": state}
    network = _timm().create_model(
        model, pretrained=True, pretrained_cfg_overlay=source
    )
    return network.state_dict()


def _timm():
    try:
        import timm
        import timm.models
    except ImportError as error:
        raise ImportError(
            "Networks named 'timm/...' need the package timm: pip install timm."
        ) from error
    return timm
