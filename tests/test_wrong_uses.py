"""What newcomers get wrong: each message names it, says what came, and what to do."""

import re

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
import torchvision
from PIL import Image
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError

from sktl import (
    FineTunedCNNClassifier,
    PretrainedFeatureExtractor,
    RawPixels,
    cache_info,
    check_images,
    clear_cache,
    compare_transfer,
    layer_names,
)
from sktl.exceptions import (
    ImageLayoutError,
    ImageReadError,
    TrainingDivergedError,
    UnknownBackboneError,
    UnknownLayerError,
    WeightsMismatchError,
    WeightsNotAvailableError,
)

N = 6


class Desk:
    """Data and files on a newcomer's desk."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        self.folder = folder
        self.photos = rng.integers(0, 256, (N, 12, 12, 3), dtype=np.uint8)
        self.rows = rng.integers(0, 17, (N, 64)).astype(float)
        self.y = np.arange(N) % 2
        self.good = self.save("good.png", self.photos[0])
        self.text = self.write("text.png", b"hello world")
        self.empty = self.write("empty.png", b"")
        self.cut = self.write("cut.png", (folder / "good.png").read_bytes()[:-90])
        self.frame = pd.DataFrame({"path": [self.good] * N, "age": np.arange(N)})
        self.other = folder / "other.pth"
        torch.save({"a": torch.ones(2)}, self.other)
        self.whole = folder / "whole.pth"
        torch.save(torch.nn.Linear(2, 2), self.whole)
        self.junk = self.write("junk.safetensors", b"x" * 20)

    def save(self, name, pixels):
        Image.fromarray(pixels).save(self.folder / name)
        return str(self.folder / name)

    def write(self, name, content):
        (self.folder / name).write_bytes(content)
        return str(self.folder / name)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return Desk(tmp_path_factory.mktemp("desk"))


class Branching(torch.nn.Module):
    """A forward that torch.fx cannot follow."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def forward(self, images):
        return self.head(images.mean((2, 3)) if images.sum() > 0 else images.amax())


POOLED = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)


class _Masked(torch.nn.Sequential):
    def forward(self, x, mask):
        return super().forward(x * mask)


def extract(X="photos", **params):
    """Compute features of an attribute of the desk, or of what is given."""

    def call(desk):
        data = getattr(desk, X) if isinstance(X, str) else X
        data = data(desk) if callable(data) else data
        given = {
            k: v(desk) if k == "weights" and callable(v) else v
            for k, v in params.items()
        }
        given = {"backbone": "sktl_mini"} | given
        return PretrainedFeatureExtractor(**given).fit_transform(data)

    return call


def train(y="y", X="photos", **params):
    def call(desk):
        target = getattr(desk, y) if isinstance(y, str) else y
        data = X(desk) if callable(X) else getattr(desk, X)
        quick = {"backbone": "sktl_mini", "strategy": "linear_probe", "max_epochs": 2}
        return FineTunedCNNClassifier(**quick | params).fit(data, target)

    return call


def compare(*args, **params):
    return lambda desk: compare_transfer(desk.photos, desk.y, *args, **params)


def parameter(name, value, accepted, owner="PretrainedFeatureExtractor"):
    """The words of scikit-learn for a parameter of a wrong type or value."""
    return f"'{name}' parameter of {owner} must be .*{accepted}.*Got {value} instead"


CLASSIFIER = "FineTunedCNNClassifier"

BACKBONE = [
    (
        "typo",
        extract(backbone="resnet-18"),
        UnknownBackboneError,
        r"backbone='resnet-18' .*Closest: 'resnet18'.*list_backbones\(\)",
    ),
    (
        "no classifier",
        extract(backbone="fcn_resnet50"),
        UnknownBackboneError,
        r"backbone='fcn_resnet50' .*Closest: 'resnet50'.*torch.nn.Module",
    ),
    (
        "builder, not network",
        extract(backbone=torchvision.models.resnet18),
        ValueError,
        parameter("backbone", "<function resnet18.*", "'str'.*Module'"),
    ),
    (
        "class, not instance",
        extract(backbone=torch.nn.Linear),
        ValueError,
        parameter("backbone", "<class .*Linear'>", "'str'.*Module'"),
    ),
    (
        "branches on values",
        extract(backbone=Branching()),
        ValueError,
        r"backbone=Branching could not be traced .*control flow.*Pass a network whose",
    ),
    (
        "no weights",
        extract(backbone=torch.nn.ReLU()),
        ValueError,
        r"backbone=ReLU has no penultimate layer.*Pass a network that ends in",
    ),
    (
        "takes rows",
        extract(
            backbone=torch.nn.Sequential(torch.nn.Linear(9, 5), torch.nn.Linear(5, 2))
        ),
        ValueError,
        r"backbone='Sequential' cannot take images of 224 x 224 .*9.*that takes such",
    ),
    (
        "takes images and a mask",
        extract(backbone=_Masked()),
        ValueError,
        r"backbone=_Masked has a forward that takes \['mask'\] besides the images",
    ),
    (
        "takes grey, trained",
        train(backbone=torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), *POOLED)),
        ValueError,
        r"backbone='Sequential' cannot take images of .*1 channels.*x\.mean",
    ),
    (
        "takes grey, trained by epochs",
        train(
            backbone=torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), *POOLED),
            strategy="full",
        ),
        ValueError,
        r"backbone='Sequential' cannot take images of .*1 channels.*x\.mean",
    ),
    (
        "takes grey",
        extract(
            backbone=torch.nn.Sequential(
                torch.nn.Conv2d(1, 4, 3),
                torch.nn.AdaptiveAvgPool2d(1),
                torch.nn.Flatten(),
                torch.nn.Linear(4, 2),
            )
        ),
        ValueError,
        r"backbone='Sequential' cannot take .* 3 channels .*1 channel.*network that",
    ),
    (
        "classifier's typo",
        train(backbone="resnet_18"),
        UnknownBackboneError,
        r"backbone='resnet_18' .*Closest: 'resnet18'",
    ),
    (
        "compare_transfer's typo",
        compare(cv=2, backbone="resnet99"),
        UnknownBackboneError,
        r"backbone='resnet99' .*Closest: .*list_backbones\(\)",
    ),
    (
        "layer_names of a family",
        lambda d: layer_names("resnet"),
        UnknownBackboneError,
        r"backbone='resnet' .*Closest: 'resnet50'.*list_backbones\(\)",
    ),
    (
        "layer_names of a number",
        lambda d: layer_names(18),
        UnknownBackboneError,
        r"backbone=18 .*Closest: 'resnet18'.*list_backbones\(\)",
    ),
]

WEIGHTS = [
    (
        "data set's name",
        extract(backbone="resnet18", weights="imagenet"),
        WeightsMismatchError,
        r"weights='imagenet' .*backbone='resnet18'.*Accepted: 'IMAGENET1K_V1'.*\.pth",
    ),
    (
        "True, as in old torchvision",
        extract(backbone="resnet18", weights=True),
        WeightsMismatchError,
        r"weights=True is not known.*Accepted: 'IMAGENET1K_V1'",
    ),
    (
        "of another network",
        extract(
            backbone="squeezenet1_1",
            weights=torchvision.models.ResNet18_Weights.DEFAULT,
        ),
        WeightsMismatchError,
        r"weights=ResNet18_Weights.*'squeezenet1_1'.*Accepted: ",
    ),
    (
        "ImageNet for sktl_mini",
        train(weights="IMAGENET1K_V1"),
        WeightsMismatchError,
        r"weights='IMAGENET1K_V1' .*backbone='sktl_mini'.*Accepted: 'DEFAULT'",
    ),
    (
        "file that is not there",
        extract(backbone="resnet18", weights="no.pth"),
        WeightsNotAvailableError,
        r"weights='no.pth' could not be read \(.*No such file.*Pass the path",
    ),
    (
        "tensors of another network",
        extract(backbone="squeezenet1_1", weights=lambda d: d.other),
        WeightsMismatchError,
        r"other.pth' do not fit .*missing tensors \(\d+\): .*does not have \(1\): a\. "
        "Pass the backbone these",
    ),
    (
        "whole network, pickled",
        extract(backbone="squeezenet1_1", weights=lambda d: d.whole),
        WeightsMismatchError,
        r"whole.pth' is not a readable state dict.*torch.save\(network.state_dict\(\)",
    ),
    (
        "damaged file",
        extract(backbone="squeezenet1_1", weights=lambda d: d.junk),
        WeightsMismatchError,
        r"junk.safetensors' is not a readable state dict.*Pass a",
    ),
]

PARAMETERS = [
    (
        "layers typo",
        extract(layers="layer2"),
        UnknownLayerError,
        r"layers='layer2' .*Closest: 'layer2\.1\.relu_1'\. .*layer_names\(backbone\)",
    ),
    (
        "layers index",
        extract(layers=3),
        ValueError,
        parameter("layers", "3", "'str', .*'list'"),
    ),
    (
        "layers list of indices",
        extract(layers=[3]),
        UnknownLayerError,
        r"layers=3 is not one of .*layer_names\(backbone\)",
    ),
    (
        "layers empty",
        extract(layers=[]),
        ValueError,
        r"layers=\[\] is empty.*layer_names\(backbone\)",
    ),
    (
        "layers twice",
        extract(layers=["flatten", "penultimate"]),
        ValueError,
        r"layers=\['flatten', 'penultimate'\] lists a layer twice.*"
        r"\['flatten', 'flatten'\].*Pass each layer once",
    ),
    (
        "pooling",
        extract(pooling="mean"),
        ValueError,
        parameter("pooling", "'mean'", "'avg'"),
    ),
    (
        "image_size for a fixed network",
        extract(backbone="vit_b_32", weights=None, image_size=48),
        ValueError,
        r"backbone='vit_b_32' cannot take images of 48 x 48 .*224.*another image_size",
    ),
    (
        "image_size too small",
        extract(backbone="alexnet", weights=None, image_size=8),
        ValueError,
        r"backbone='alexnet' cannot take images of 8 x 8 .*too small.*image_size",
    ),
    (
        "image_size pair",
        extract(image_size=(224, 224)),
        ValueError,
        parameter("image_size", r"\(224, 224\)", "an int"),
    ),
    (
        "size of raw pixels",
        lambda d: RawPixels(image_size=(8, 8)).fit(d.photos),
        ValueError,
        parameter("image_size", r"\(8, 8\)", "an int", "RawPixels"),
    ),
    (
        "batch_size 0",
        extract(batch_size=0),
        ValueError,
        parameter("batch_size", "0", r"\[1, inf\)"),
    ),
    (
        "batch_size float",
        extract(batch_size=32.0),
        ValueError,
        parameter("batch_size", "32.0", "an int"),
    ),
    (
        "device gpu",
        extract(device="gpu"),
        ValueError,
        r"device='gpu' cannot be used on this machine \(.*\"cpu\", or \"auto\"",
    ),
    (
        "device absent",
        extract(device="cuda:99"),
        ValueError,
        r"device='cuda:99' cannot be used on this machine \(.*\"cpu\", or \"auto\"",
    ),
    (
        "device without numbers",
        extract(device="meta"),
        ValueError,
        r"device='meta' cannot be used on this machine \(.*\"cpu\", or \"auto\"",
    ),
    (
        "device number",
        extract(device=0),
        ValueError,
        parameter("device", "0", "'str'.*'torch.device'"),
    ),
    (
        "precision",
        extract(precision="fp16"),
        ValueError,
        parameter("precision", "'fp16'", "'float16'"),
    ),
    (
        "precision type",
        extract(precision=torch.float16),
        ValueError,
        parameter("precision", "torch.float16", "'float16'"),
    ),
    (
        "cache flag",
        extract(cache=True),
        ValueError,
        parameter("cache", "True", "'str', .*PathLike.* or None"),
    ),
    (
        "cache object",
        extract(cache=joblib.Memory(None)),
        ValueError,
        parameter("cache", r"Memory\(location=None\)", "'str', .*PathLike.* or None"),
    ),
    (
        "on_error",
        extract(on_error="ignore"),
        ValueError,
        parameter("on_error", "'ignore'", "'nan'"),
    ),
    (
        "n_jobs 0",
        extract(n_jobs=0),
        ValueError,
        parameter("n_jobs", "0", r"-1\].*\[1, inf\) or None"),
    ),
    (
        "n_jobs word",
        extract(n_jobs="all"),
        ValueError,
        parameter("n_jobs", "'all'", "an int"),
    ),
    (
        "unknown parameter",
        lambda d: PretrainedFeatureExtractor("sktl_mini").set_params(layer="x"),
        ValueError,
        r"Invalid parameter 'layer' for .*Valid parameters are: .*'layers'",
    ),
    (
        "strategy",
        train(strategy="finetune"),
        ValueError,
        parameter("strategy", "'finetune'", "'lp_ft'", CLASSIFIER),
    ),
    (
        "unfreeze_from typo",
        train(strategy="lp_ft", unfreeze_from="layer9"),
        UnknownLayerError,
        r"unfreeze_from='layer9' .*Closest: 'layer",
    ),
    (
        "unfreeze_from the head",
        train(strategy="lp_ft", unfreeze_from="head"),
        UnknownLayerError,
        r"unfreeze_from='head' .*strategy='linear_probe' trains the head alone",
    ),
    (
        "unfreeze_from 0",
        train(strategy="lp_ft", unfreeze_from=0),
        ValueError,
        r"unfreeze_from=0 must be between 1 and 4.*'stem'.*strategy=\"linear_probe\"",
    ),
    (
        "hidden_units 0",
        train(hidden_units=(64, 0)),
        ValueError,
        r"hidden_units=\(64, 0\) holds 0\. Pass the widths.*\(\) for none",
    ),
    (
        "dropout 1",
        train(dropout=1.0),
        ValueError,
        parameter("dropout", "1.0", r"\[0.0, 1.0\)", CLASSIFIER),
    ),
    (
        "augment typo",
        train(augment=("flip", "crops")),
        ValueError,
        r"'crops' is not known\. Pass None, one of 'flip', 'crop', 'color'",
    ),
    (
        "class_weight word",
        train(class_weight="balance"),
        ValueError,
        parameter("class_weight", "'balance'", "'balanced'", CLASSIFIER),
    ),
    (
        "refit and warm_start",
        train(refit=True, warm_start=True),
        ValueError,
        r"warm_start=True continues .* refit=True starts over\. Set one",
    ),
    (
        "compiled network",
        train(compile=True),
        ValueError,
        r"compile=True is not supported: .* Leave it out\.",
    ),
    (
        "callbacks switched off as a whole",
        train(callbacks="disable"),
        ValueError,
        r"callbacks='disable' .* name them, as in callbacks__print_log=None",
    ),
    (
        "checkpoint without a seed",
        train(checkpoint="run.safetensors"),
        ValueError,
        r"checkpoint='run.safetensors' with random_state=None.*Pass an int",
    ),
    ("lr 0", train(lr=0), ValueError, parameter("lr", "0", "inf", CLASSIFIER)),
    (
        "lr text",
        train(lr="1e-3"),
        ValueError,
        parameter("lr", "'1e-3'", "a float", CLASSIFIER),
    ),
    (
        "max_epochs 0",
        train(max_epochs=0),
        ValueError,
        parameter("max_epochs", "0", r"\[1, inf\)", CLASSIFIER),
    ),
    (
        "random_state",
        train(random_state="seed"),
        ValueError,
        parameter("random_state", "'seed'", "an int", CLASSIFIER),
    ),
    (
        "optimizer's name",
        train(optimizer="adam"),
        ValueError,
        parameter("optimizer", "'adam'", "a callable", CLASSIFIER),
    ),
    (
        "name of another library",
        train(n_epochs=3),
        ValueError,
        r"'n_epochs' is not a parameter of FineTunedCNNClassifier. Closest: max_epochs",
    ),
    (
        "name of scikit-learn",
        train(scoring="f1_macro"),
        ValueError,
        r"'scoring' is not a parameter of FineTunedCNNClassifier. Closest: monitor",
    ),
    (
        "name like no other",
        train(pretrained=True),
        ValueError,
        r"'pretrained' is not a parameter .* See help\(FineTunedCNNClassifier\)",
    ),
    (
        "one underscore for two",
        train(iterator_train_shuffle=True),
        ValueError,
        r"iterator_train_shuffle.*did you mean iterator_train__shuffle",
    ),
    (
        "classifier's n_jobs",
        train(n_jobs=0),
        ValueError,
        parameter("n_jobs", "0", "None", CLASSIFIER),
    ),
    (
        "lr far too high",
        train(
            strategy="full",
            lr=1e30,
            backbone_lr_ratio=1.0,
            optimizer=torch.optim.SGD,
            max_epochs=9,
        ),
        TrainingDivergedError,
        r"The loss is (nan|inf).* in epoch \d.*lower lr \(now 1e",
    ),
]

SHAPES = [
    (
        "rows of no square",
        extract(np.zeros((3, 60))),
        ImageLayoutError,
        r"X has 60 columns.*Pass image_shape=\(h, w\).*\(1, -1\)",
    ),
    (
        "image_shape of other rows",
        extract("rows", image_shape=(8, 9)),
        ImageLayoutError,
        r"X has 64 columns.*image_shape=\(8, 9\): that takes 72.*Pass the \(h, w\)",
    ),
    (
        "image_shape number",
        extract("rows", image_shape=8),
        ValueError,
        parameter("image_shape", "8", "'tuple'"),
    ),
    (
        "image_shape text",
        extract("rows", image_shape="8x8"),
        ValueError,
        parameter("image_shape", "'8x8'", "'tuple'"),
    ),
    (
        "image_shape channels first",
        extract(image_shape=(3, 12, 12)),
        ImageLayoutError,
        r"image_shape=\(3, 12, 12\) must be \(h, w\) or \(h, w, c\).*c from 1 to 4",
    ),
    (
        "image_shape twice open",
        extract("rows", image_shape=(-1, -1)),
        ImageLayoutError,
        r"image_shape=\(-1, -1\) must be .*at most one of them -1",
    ),
    (
        "image_shape of other images",
        extract(image_shape=(8, 8)),
        ImageLayoutError,
        r"X has shape \(6, 12, 12, 3\).*image_shape=\(8, 8\). Pass image_shape=None",
    ),
    (
        "channels word",
        extract(channels="NHWC"),
        ValueError,
        parameter("channels", "'NHWC'", "'last'"),
    ),
    (
        "channels at the wrong end",
        extract(channels="first"),
        ImageLayoutError,
        r"X has shape \(6, 12, 12, 3\).*channels='first'.*12 channels; 1 \(grey\)",
    ),
    (
        "channels at both ends",
        extract(np.zeros((5, 3, 8, 3), np.uint8)),
        ImageLayoutError,
        r"X has shape \(5, 3, 8, 3\).*Pass channels='last'",
    ),
    (
        "five channels",
        extract(np.zeros((5, 8, 8, 5), np.uint8)),
        ImageLayoutError,
        r"X has shape \(5, 8, 8, 5\).*1 \(grey\), 3 \(RGB\) or 4.*Select such channels",
    ),
    (
        "videos",
        extract(np.zeros((2, 2, 8, 8, 3))),
        ImageLayoutError,
        r"X has shape \(2, 2, 8, 8, 3\); accepted are \(n, h, w\), \(n, h, w, c\)",
    ),
    (
        "one colour image",
        extract(lambda d: d.photos[0]),
        ImageLayoutError,
        r"X has shape \(12, 12, 3\): one .*Pass X\[None\].*image_shape=\(12, 3\)",
    ),
    (
        "one grey image",
        extract(np.zeros((30, 20))),
        ImageLayoutError,
        r"X has 20 columns.*Pass image_shape",
    ),
    (
        "value_range reversed",
        extract("rows", value_range=(16, 0)),
        ValueError,
        r"value_range=\(16, 0\) must be 'auto' or two finite numbers \(lo, hi\)",
    ),
    (
        "value_range of one",
        extract("rows", value_range=(255,)),
        ValueError,
        r"value_range=\(255,\) must be 'auto' or two finite numbers \(lo, hi\)",
    ),
    (
        "value_range number",
        extract("rows", value_range=255),
        ValueError,
        parameter("value_range", "255", "'auto'"),
    ),
    (
        "check_images's channels",
        lambda d: check_images(d.photos, channels="rgb"),
        ValueError,
        r"channels='rgb' must be 'auto', 'last' or 'first'",
    ),
    (
        "check_images's value_range",
        lambda d: check_images(d.rows, value_range=(1, 1)),
        ValueError,
        r"value_range=\(1, 1\) must be 'auto' or two finite numbers \(lo, hi\)",
    ),
]

IMAGES = [
    ("a path", extract("good"), TypeError, r"X is one image \('.*pass a list.*\[X\]"),
    (
        "a folder",
        extract(lambda d: d.folder),
        TypeError,
        r"X is one image \(PosixPath|WindowsPath.*pass a list of images, \[X\]",
    ),
    (
        "a PIL image",
        extract(Image.new("RGB", (8, 8))),
        TypeError,
        r"X is one image \(<PIL.*pass a list of images, \[X\]",
    ),
    (
        "encoded bytes",
        extract(b"\x89PNG"),
        TypeError,
        r"X is one image \(b'.*pass a list of images, \[X\]",
    ),
    (
        "check_images of a folder",
        lambda d: check_images(d.folder),
        TypeError,
        r"X is one image .*pass a list of images, \[X\]",
    ),
    (
        "None",
        lambda d: PretrainedFeatureExtractor("sktl_mini").fit(None),
        TypeError,
        r"X is a NoneType \(None\). Pass an array of images, or a list",
    ),
    (
        "a generator",
        lambda d: PretrainedFeatureExtractor("sktl_mini").fit(i for i in d.photos),
        TypeError,
        r"X is a generator \(<generator.*Pass an array of images, or a list",
    ),
    (
        "a glob",
        lambda d: PretrainedFeatureExtractor("sktl_mini").fit(d.folder.glob("*.png")),
        TypeError,
        r"X is a \w+ \(<.*Pass an array of images, or a list",
    ),
    (
        "a dict",
        extract({"image": ["a.png"]}),
        TypeError,
        r"X is a dict \(\{'image'.*Pass an array of images, or a list",
    ),
    ("nothing", extract([]), ValueError, r"0 sample\(s\).*minimum of 1 is required"),
    (
        "paths in lists",
        extract(lambda d: [[d.good], [d.good]]),
        ImageLayoutError,
        r"X is a list of lists; X\[0\] is \['.*Pass one flat list",
    ),
    (
        "whole table",
        extract("frame"),
        ImageLayoutError,
        r"X has 2 columns, and column 'path' holds '.*ColumnTransformer.*\['path'\]",
    ),
    (
        "two columns for the branch",
        lambda d: ColumnTransformer(
            [("image", PretrainedFeatureExtractor("sktl_mini"), ["path", "age"])]
        ).fit(d.frame),
        ImageLayoutError,
        r"X has 2 columns, and column 'path' holds .*\['path'\]",
    ),
    (
        "sparse",
        extract(scipy.sparse.csr_array(np.eye(4))),
        TypeError,
        r"Sparse data was passed.*Use '.toarray\(\)'",
    ),
    (
        "NaN in rows",
        extract(np.where(np.arange(64) == 3, np.nan, np.ones((5, 64)))),
        ValueError,
        r"X contains NaN or infinity in 5 of 5 rows, first in row 0. Leave",
    ),
    (
        "dates",
        extract(np.full((2, 4), "2020-01-01", "datetime64[D]")),
        ValueError,
        r"X has dtype datetime64\[D\]; it must hold real numbers",
    ),
    (
        "missing file",
        extract(lambda d: [d.good, "nope.png"]),
        ImageReadError,
        r"row 1: nope.png: no such file \(seen from .*\nRepair these images or leave",
    ),
    (
        "URL",
        extract(["https://example.org/a.png"]),
        ImageReadError,
        r"row 0: https://example.org/a.png: no such file.*Repair these images or leave",
    ),
    (
        "text file",
        extract(lambda d: [d.text]),
        ImageReadError,
        r"row 0: .*text.png: is not in .* begins with b'hello world'\nRepair these",
    ),
    (
        "empty file",
        extract(lambda d: [d.empty]),
        ImageReadError,
        r"row 0: .*empty.png: is empty \(0 bytes\)\nRepair these",
    ),
    (
        "truncated file",
        extract(lambda d: [d.good, d.cut]),
        ImageReadError,
        r"row 1: .*cut.png: .*\nRepair these images or leave their rows out",
    ),
    (
        "folder among files",
        extract(lambda d: [d.good, d.folder]),
        ImageReadError,
        r"row 1: .*: is a directory, not a file\nRepair",
    ),
    (
        "missing value",
        extract(lambda d: pd.Series([d.good, None])),
        ImageReadError,
        r"row 1: missing value \((nan|None)\) where a path, bytes, a PIL image or",
    ),
    (
        "number among paths",
        extract(lambda d: [d.good, 5]),
        ImageReadError,
        r"row 1: int \(5\) where a path, bytes, a PIL image or an array",
    ),
    (
        "NaN in a listed array",
        extract(lambda d: [d.rows, d.rows * np.nan]),
        ImageReadError,
        r"row 1: contains NaN or infinity\nRepair",
    ),
    (
        "rows among arrays",
        extract(lambda d: [d.photos[0], np.zeros(10)]),
        ImageReadError,
        r"row 1: ndarray \(shape \(10,\)\) where .*\(h, w\) or \(h, w, c",
    ),
    (
        "classifier's missing file",
        train(X=lambda d: [d.good] * 5 + ["nope.png"]),
        ImageReadError,
        r"row 5: nope.png: no such file.*Repair these images or leave",
    ),
]

ORDER = [
    (
        "transform before fit",
        lambda d: PretrainedFeatureExtractor("sktl_mini").transform(d.photos),
        NotFittedError,
        r"This PretrainedFeatureExtractor instance is not fitted yet. Call 'fit'",
    ),
    (
        "names before fit",
        lambda d: PretrainedFeatureExtractor("sktl_mini").get_feature_names_out(),
        NotFittedError,
        r"This PretrainedFeatureExtractor instance is not fitted yet. Call 'fit'",
    ),
    (
        "predict before fit",
        lambda d: FineTunedCNNClassifier("sktl_mini").predict(d.photos),
        NotFittedError,
        r"This FineTunedCNNClassifier instance is not .*Call .*'fit'",
    ),
    (
        "save before fit",
        lambda d: FineTunedCNNClassifier("sktl_mini").save_backbone("a"),
        NotFittedError,
        r"This FineTunedCNNClassifier instance is not .*Call .*'fit'",
    ),
    (
        "other columns",
        lambda d: (
            PretrainedFeatureExtractor("sktl_mini")
            .fit(d.rows)
            .transform(d.rows[:, :49])
        ),
        ValueError,
        r"X has 49 features, but PretrainedFeatureExtractor is expecting 64",
    ),
    (
        "classifier's other columns",
        lambda d: train(X="rows")(d).predict(d.rows[:, :49]),
        ValueError,
        r"X has 49 features, but FineTunedCNNClassifier is expecting 64",
    ),
    (
        "other column name",
        lambda d: (
            PretrainedFeatureExtractor("sktl_mini")
            .fit(d.frame[["path"]])
            .transform(d.frame[["path"]].rename(columns={"path": "file"}))
        ),
        ValueError,
        r"feature names should match.*unseen at fit time:\n- file",
    ),
    (
        "floats after uint8",
        lambda d: (
            PretrainedFeatureExtractor("sktl_mini")
            .fit(d.photos)
            .transform(d.photos / 255)
        ),
        ValueError,
        r"X holds numbers from 0.0 to 1.0. .*Pass value_range=\(lo, hi\)",
    ),
    (
        "new label",
        lambda d: train(strategy="full")(d).partial_fit(d.photos, d.y + 1),
        ValueError,
        r"y holds \[2\], which the classes \[0, 1\] leave out\. .*classes=",
    ),
]

LABELS = [
    (
        "y None",
        train(y=None),
        ValueError,
        r"requires y to be passed, but the target y is None. Pass one label per image",
    ),
    (
        "y too short",
        train(y=np.arange(4)),
        ValueError,
        r"X has 6 .*y has 4: inconsistent numbers of samples: \[6, 4\]",
    ),
    (
        "y of one class",
        train(y=np.zeros(N, int)),
        ValueError,
        r"y holds only 1 class, .*0.*at least 2 classes",
    ),
    (
        "y of two columns",
        train(y=np.c_[np.arange(N) % 2, np.arange(N) % 3]),
        ValueError,
        r"y holds 2 in row 2, column 1. Indicators are 0 or 1.*one label per image",
    ),
    (
        "y of floats",
        train(y=np.linspace(0, 1, N)),
        ValueError,
        r"Unknown label type: continuous.*discrete classes",
    ),
]

FUNCTIONS = [
    (
        "contenders list",
        compare([FineTunedCNNClassifier("sktl_mini")]),
        ValueError,
        r"contenders=\[.*\] must be 'default' or a dict of name to",
    ),
    (
        "contenders empty",
        compare({}),
        ValueError,
        r"contenders=\{\} must be 'default' or a dict of name to .*at least one",
    ),
    (
        "extractor as contender",
        compare({"resnet": PretrainedFeatureExtractor("sktl_mini")}),
        ValueError,
        r"contenders\['resnet'\] is a Pre.* make_pipeline.*or pass .* as backbone",
    ),
    (
        "contenders word",
        compare("all"),
        ValueError,
        r"contenders='all' must be 'default' or a dict of name to",
    ),
    (
        "cv of one fold",
        compare(cv=1),
        ValueError,
        r"n_splits=2 or more, got n_splits=1",
    ),
    (
        "cv word",
        compare(cv="five"),
        ValueError,
        r"Expected `?cv`? as an integer,.*cross-validation object.*Got five",
    ),
    (
        "cache_info of a number",
        lambda d: cache_info(3),
        TypeError,
        r"cache=3 is not accepted. Pass 'memory', the path of a directory",
    ),
    (
        "clear_cache of a flag",
        lambda d: clear_cache(True),
        TypeError,
        r"cache=True is not accepted. Pass 'memory', the path of a directory",
    ),
]

TABLE = {
    "backbone": BACKBONE,
    "weights": WEIGHTS,
    "parameter": PARAMETERS,
    "shape": SHAPES,
    "images": IMAGES,
    "order": ORDER,
    "labels": LABELS,
    "function": FUNCTIONS,
}
ROWS = [
    pytest.param(*row[1:], id=f"{topic}: {row[0]}")
    for topic, rows in TABLE.items()
    for row in rows
]


@pytest.mark.parametrize(("use", "error", "message"), ROWS)
def test_wrong_use_is_named_with_its_value_and_a_remedy(use, error, message, desk):
    with pytest.raises(error) as caught:
        use(desk)
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)
