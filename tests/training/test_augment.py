"""Random changes of training images: torchvision's, drawn for each image anew."""

import pickle
import random

import numpy as np
import pytest
import torch
from sklearn import clone
from sklearn.base import BaseEstimator
from torchvision import tv_tensors
from torchvision.transforms import v2

from sktl import FineTunedCNNClassifier, FineTunedCNNRegressor
from sktl._training.augmentation import make_augment
from tests.helpers import first_and_slow

SPECS = [None, "flip", "crop", "color", ("flip", "crop", "color"), ["crop", "flip"]]


@pytest.fixture
def images():
    """A batch (5, 20, 24, 3), of sides that are not to be mixed up."""
    return torch.randint(256, (5, 20, 24, 3), dtype=torch.uint8)


def seeded(augment, images, seed=0):
    torch.manual_seed(seed)
    return make_augment(augment)(images)


def by_hand(transform, images, seed=0):
    """The transform of each image, as a user of torchvision would write it."""
    torch.manual_seed(seed)
    changed = [transform(tv_tensors.Image(p.permute(2, 0, 1))) for p in images]
    return torch.stack([p.permute(1, 2, 0) for p in changed])


# --- what the names mean --------------------------------------------------------------


@pytest.mark.parametrize(
    ("augment", "transforms"),
    [
        ("flip", [v2.RandomHorizontalFlip()]),
        ("crop", [v2.RandomResizedCrop((20, 24), scale=(0.5, 1))]),
        ("color", [v2.ColorJitter(0.3, 0.3, 0.3)]),
        (
            ("crop", "flip"),
            [v2.RandomResizedCrop((20, 24), scale=(0.5, 1)), v2.RandomHorizontalFlip()],
        ),
        (
            ("flip", "crop"),
            [v2.RandomHorizontalFlip(), v2.RandomResizedCrop((20, 24), scale=(0.5, 1))],
        ),
    ],
)
def test_names_are_torchvisions_transforms_in_the_order_given(
    augment, transforms, images
):
    changed = seeded(augment, images)
    assert torch.equal(changed, by_hand(v2.Compose(transforms), images))
    assert not torch.equal(changed, images)


def test_flip_mirrors_half_of_the_images_left_to_right():
    image = torch.randint(256, (1, 4, 6, 3), dtype=torch.uint8)
    changed = make_augment("flip")(image.expand(400, -1, -1, -1))
    mirrored = torch.from_numpy(image.numpy()[:, :, ::-1].copy())
    is_mirrored = (changed == mirrored).all(dim=(1, 2, 3))
    assert ((changed == image).all(dim=(1, 2, 3)) ^ is_mirrored).all()
    assert 150 < is_mirrored.sum() < 250  # five standard deviations of 10


def test_crop_keeps_half_of_the_area_or_more_and_nearly_its_shape():
    """Red counts the columns and green the rows, so they tell what is left of both."""
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8)
    columns, rows = torch.meshgrid(ramp, ramp, indexing="xy")
    image = torch.stack([columns, rows, rows], dim=-1)
    changed = make_augment("crop")(image.expand(200, -1, -1, -1)).float()
    lowest, highest = changed.amin(dim=(1, 2)), changed.amax(dim=(1, 2))
    width, height = ((highest - lowest) / 252).T[:2]
    assert 0.45 < (width * height).min() < 0.6  # the ends of a ramp are smoothed
    assert (width * height).max() > 0.9
    assert 0.7 < (width / height).min() < 0.85
    assert 1.2 < (width / height).max() < 1.4


def test_color_changes_the_brightness_of_grey_by_30_percent_at_most():
    """Contrast and saturation leave an image of one grey as it is."""
    image = torch.full((300, 2, 2, 3), 100, dtype=torch.uint8)
    changed = make_augment("color")(image)
    level = changed[:, 0, 0, 0]
    assert torch.equal(changed, level.view(-1, 1, 1, 1).expand_as(changed))
    assert 69 <= level.min() < 75
    assert 125 < level.max() <= 130


def test_color_changes_contrast_and_saturation():
    contrast = torch.zeros(200, 1, 2, 3, dtype=torch.uint8)
    contrast[:, :, 0] = 100
    ratio = make_augment("color")(contrast)[:, 0, 1, 0].float()
    assert ratio.max() > 10, "black is lifted towards the mean"
    red = torch.zeros(200, 1, 1, 3, dtype=torch.uint8)
    red[..., 0] = 100
    assert make_augment("color")(red)[..., 1].float().max() > 5, "red gets greyer"


# --- draws ----------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["flip", "crop", "color"])
def test_equal_images_of_a_batch_get_draws_of_their_own(augment, images):
    changed = make_augment(augment)(images[:1].expand(12, -1, -1, -1))
    n_different = len(torch.unique(changed, dim=0))
    assert n_different == 2 if augment == "flip" else n_different > 6


@pytest.mark.parametrize("augment", SPECS[1:])
def test_seed_of_torch_decides_the_images(augment, images):
    first, again, other = (seeded(augment, images, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("augment", SPECS)
def test_generators_of_numpy_and_python_are_left_alone(augment, images):
    states = random.getstate(), np.random.get_state()[1].tobytes()
    torch_state = torch.get_rng_state()
    make_augment(augment)(images)
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == states
    assert torch.equal(torch.get_rng_state(), torch_state) == (augment is None)


# --- batches --------------------------------------------------------------------------


def test_none_gives_the_images_themselves(images):
    assert make_augment(None)(images) is images


@pytest.mark.parametrize("augment", SPECS)
def test_empty_batch_stays_empty(augment):
    empty = torch.zeros(0, 20, 24, 3, dtype=torch.uint8)
    assert make_augment(augment)(empty).shape == empty.shape


@pytest.mark.parametrize("augment", SPECS)
def test_images_come_out_as_they_went_in(augment, images, device):
    """On a GPU the draws are those of the CPU; its arithmetic may round otherwise."""
    on_device = images.to(device)
    changed = seeded(augment, on_device)
    assert type(changed) is torch.Tensor
    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8
    assert changed.device == on_device.device
    assert torch.equal(on_device.cpu(), images), "the batch itself is unchanged"
    difference = changed.cpu().int() - seeded(augment, images).int()
    assert difference.abs().max() <= 5


# --- a caller's own transforms --------------------------------------------------------


class Darker(torch.nn.Module):
    """A module that writes into what it is given."""

    def forward(self, image):
        return image.div_(2, rounding_mode="floor")


def through_pil(image):
    """A transform of PIL images, wrapped for tensors."""
    return v2.functional.to_image(v2.functional.to_pil_image(image).rotate(180))


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomVerticalFlip(),
        v2.Compose([v2.RandomCrop((20, 24), padding=4), v2.RandomErasing(p=1)]),
        v2.RandAugment(),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_transform_of_torchvision_is_applied_to_each_image(transform, images):
    changed = seeded(transform, images)
    assert torch.equal(changed, by_hand(transform, images))
    assert not torch.equal(changed, images)


def test_module_may_write_into_its_image(images):
    before = images.clone()
    assert torch.equal(make_augment(Darker())(images), before // 2)
    assert torch.equal(images, before)


def test_transform_may_go_through_pil(images, device):
    changed = make_augment(through_pil)(images.to(device))
    assert changed.device.type == device
    assert torch.equal(changed.cpu(), images.flip(1, 2))


@pytest.mark.parametrize(
    ("transform", "got"),
    [
        (v2.ToDtype(torch.float32, scale=True), r"\(3, 20, 24\) and dtype torch.float"),
        (v2.Resize((10, 12)), r"a tensor of shape \(3, 10, 12\) and dtype torch.uint8"),
        (v2.Grayscale(), r"a tensor of shape \(1, 20, 24\)"),
        (v2.ToPILImage(), "an object of type Image"),
        (lambda image: None, "an object of type NoneType"),
    ],
)
def test_transform_that_changes_shape_or_dtype_is_told_so(transform, got, images):
    expected = rf"{got}.* for an image of shape \(3, 20, 24\) and dtype torch.uint8"
    with pytest.raises(ValueError, match=expected) as raised:
        make_augment(transform)(images)
    assert repr(transform) in str(raised.value)
    assert "Leave out ToDtype, Normalize" in str(raised.value)


# --- what is accepted -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("augment", "fault"),
    [
        ("flop", r"augment='flop': 'flop' is not known\. Pass None, one of 'flip', "),
        (("flip", "croop"), r"augment=\('flip', 'croop'\): 'croop' is not known"),
        (["flip", ["crop"]], r"\['crop'\] is not known"),
        (
            ("flip", v2.RandomVerticalFlip()),
            r"RandomVerticalFlip\(p=0.5\) is not known",
        ),
        ("", r"augment='': '' is not known"),
        ((), r"augment=\(\) cannot be used\. Pass None, one of"),
        ([], r"augment=\[\] cannot be used"),
        (True, "augment=True cannot be used"),
        ({"flip"}, r"augment=\{'flip'\} cannot be used"),
        (v2.ColorJitter, r"ColorJitter'> cannot be used\. Pass None"),
    ],
)
def test_anything_else_is_refused_with_what_is_accepted(augment, fault):
    with pytest.raises(ValueError, match=fault) as raised:
        make_augment(augment)
    for accepted in ("None", "'flip', 'crop', 'color'", "tuple", "callable", "Compose"):
        assert accepted in str(raised.value)


class Holder(BaseEstimator):
    def __init__(self, augment=None):
        self.augment = augment


COMPOSED = v2.Compose([v2.RandomResizedCrop((20, 24)), v2.RandomRotation(20)])


@pytest.mark.parametrize("augment", [*SPECS, COMPOSED, Darker()])
def test_copies_change_images_as_the_original_does(augment, images):
    expected = seeded(augment, images.clone())
    cloned = clone(Holder(augment)).augment
    assert torch.equal(seeded(cloned, images.clone()), expected)
    pickled = pickle.loads(pickle.dumps(make_augment(augment)))
    torch.manual_seed(0)
    assert torch.equal(pickled(images), expected)


def test_transform_that_clone_mistakes_for_an_estimator_is_refused():
    """Where clone copies it, the rule in make_augment has lost its reason."""
    with pytest.raises(TypeError, match="get_params"):
        clone(Holder(v2.ColorJitter(0.5)))
    with pytest.raises(
        ValueError, match=r"ColorJitter\(.* get_params.*Compose"
    ) as raised:
        make_augment(v2.ColorJitter(0.5))
    assert "scikit-learn's clone would mistake it" in str(raised.value)


# ---- "auto"


def sides(n=24):
    """Images that are brighter on the left or on the right; and which."""
    right = np.arange(n) % 2
    images = np.random.default_rng(0).integers(0, 60, (n, 16, 16, 3)).astype(np.uint8)
    for image, is_right in zip(images, right, strict=True):
        image[:, 8 * is_right : 8 * is_right + 8] += 150
    return images, right


def tones(n=24):
    """Images that are bright or dark; and which."""
    bright = np.arange(n) % 2
    images = np.random.default_rng(0).integers(0, 60, (n, 16, 16, 3)).astype(np.uint8)
    return images + (150 * bright).astype(np.uint8)[:, None, None, None], bright


SMALL = {
    "backbone": "sktl_mini",
    "image_size": 16,
    "max_epochs": 1,
    "random_state": 0,
}


def fit_auto(data, **params):
    X, y = data
    params = SMALL | params
    return FineTunedCNNClassifier(**params).fit(X, y)


def test_auto_mirrors_images_that_are_the_same_when_mirrored():
    assert fit_auto(tones()).augment_ == ("flip", "crop")
    assert fit_auto(sides()).augment_ == "crop"


@pytest.mark.parametrize(
    ("target", "mirrors"), [("tags", True), ("number", True), ("side", False)]
)
def test_auto_asks_what_is_predicted(target, mirrors):
    """Of tags and numbers too."""
    (X, bright), (sided, right) = tones(), sides()
    if target == "tags":
        clf = fit_auto((X, np.c_[bright, 1 - bright, bright]))
    else:
        data = (X, 3.5 * bright + 0.1) if target == "number" else (sided, right + 0.5)
        clf = FineTunedCNNRegressor(**SMALL).fit(*data)
    assert clf.augment_ == (("flip", "crop") if mirrors else "crop")


@pytest.mark.parametrize(
    "params", first_and_slow([{"unfreeze_from": "last"}, {"strategy": "linear_probe"}])
)
def test_auto_changes_nothing_where_layers_are_frozen(params):
    clf, plain = fit_auto(tones(), **params), fit_auto(tones(), augment=None, **params)
    assert clf.augment_ is None
    X, _ = tones()
    assert np.array_equal(clf.predict_proba(X), plain.predict_proba(X))


def test_auto_without_a_fitted_head_crops_alone():
    assert fit_auto(tones(), strategy="full").augment_ == "crop"
