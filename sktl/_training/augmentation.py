"""Random augmentation of training images, so that no two epochs see the same ones.

All of the work is torchvision's: here are the names for it, and the check of what a
caller's own transform gives back.
"""

from dataclasses import dataclass

import torch
from torchvision.transforms import v2

# What a name stands for, given the height and width of the images.
#
# "crop": ratios of Szegedy et al., CVPR 2015, who keep 8% of the image or more; 50%
# is fastai's choice for fine-tuning (Howard & Gugger, 2020, chapter 2).
# "color": factors in a random order, after Howard, arXiv:1312.5402. 0.3 lies between
# fastai's 0.2 for fine-tuning and timm's 0.4 for training from scratch.
NAMED = {
    "flip": lambda size: v2.RandomHorizontalFlip(p=0.5),
    "crop": lambda size: v2.RandomResizedCrop(
        size, scale=(0.5, 1), ratio=(3 / 4, 4 / 3)
    ),
    "color": lambda size: v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3),
}
ACCEPTED = (
    f"Pass None, one of {', '.join(map(repr, NAMED))}, a tuple of these, or a callable "
    "from one image, a uint8 tensor (3, h, w), to another, such as "
    "torchvision.transforms.v2.Compose([...])."
)


@dataclass(frozen=True)
class Augmentation:
    """Augments each image of a batch by random draws of its own.

    Those that have a name draw from torch's default CPU generator alone, on whatever
    device the images are; a callable draws where it likes.

    Parameters
    ----------
    spec : tuple of str, callable or None
        Names are applied in this order. With None, images stay as they are and
        nothing is drawn.
    """

    spec: object

    def __call__(self, pixels):
        """Give augmented copies of images.

        They are taken one by one: all three names together cost about 0.2 ms an image
        of 32 pixels and 0.7 ms one of 224 on one CPU core, most of it for `"color"`.

        Parameters
        ----------
        pixels : torch.Tensor of shape (n, h, w, 3), dtype uint8

        Returns
        -------
        pixels : torch.Tensor of shape (n, h, w, 3), dtype uint8
            On the same device.
        """
        if self.spec is None or len(pixels) == 0:
            return pixels
        transform = self._transform(pixels.shape[1:3])
        # Copies, because a transform may write into what it is given.
        images = pixels.permute(0, 3, 1, 2).clone()
        augmented = [self._check(transform(image), image) for image in images]
        return torch.stack(augmented).permute(0, 2, 3, 1)

    def _transform(self, size):
        if callable(self.spec):
            return self.spec
        return v2.Compose([NAMED[name](size) for name in self.spec])

    def _check(self, given, image):
        if not isinstance(given, torch.Tensor):
            got = f"an object of type {type(given).__name__}"
        elif (given.shape, given.dtype) != (image.shape, image.dtype):
            got = f"a tensor of shape {tuple(given.shape)} and dtype {given.dtype}"
        else:
            return given.to(image.device)
        raise ValueError(
            f"augment={self.spec!r} gave {got} for an image of shape "
            f"{tuple(image.shape)} and dtype {image.dtype}; both must stay as they "
            "are. Leave out ToDtype, Normalize and the like, which sktl applies later, "
            "and let crops and resizes end at the size of the image."
        )


def make_augment(augment):
    """Turn the user's words into an `Augmentation`, or say what they may be.

    Parameters
    ----------
    augment : None, str, tuple or list of str, or callable
        As in `FineTunedCNNClassifier`.

    Returns
    -------
    augment : Augmentation
        Pickles if a callable does.
    """
    if augment is None or (callable(augment) and not isinstance(augment, type)):
        # Some of torchvision's have one: a static method that draws random numbers.
        if hasattr(augment, "get_params"):
            raise ValueError(
                f"augment={augment!r} has a method get_params, so scikit-learn's clone "
                "would mistake it for an estimator. Pass it inside "
                "torchvision.transforms.v2.Compose([...])."
            )
        return Augmentation(augment)
    names = (augment,) if isinstance(augment, str) else augment
    if not isinstance(names, tuple | list) or len(names) == 0:
        raise ValueError(f"augment={augment!r} cannot be used. {ACCEPTED}")
    for name in names:
        if not (isinstance(name, str) and name in NAMED):
            raise ValueError(f"augment={augment!r}: {name!r} is not known. {ACCEPTED}")
    return Augmentation(tuple(names))
