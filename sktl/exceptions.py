"""What sktl raises and warns with, for callers that want to catch it."""

import difflib

from sktl._utils.printable import printable, shorten, shown

__all__ = [
    "BatchSizeWarning",
    "CacheWarning",
    "CheckpointWarning",
    "ImageLayoutError",
    "ImageOrientationWarning",
    "ImageRangeWarning",
    "ImageReadError",
    "ImageSizeWarning",
    "ModelFileError",
    "TrainingDivergedError",
    "UnknownBackboneError",
    "UnknownLayerError",
    "UnknownStageError",
    "UnknownSubmoduleError",
    "WeightsMismatchError",
    "WeightsNotAvailableError",
]


class ImageReadError(ValueError):
    """One or more images of `X` could not be read.

    Parameters
    ----------
    failures : list of (int, str or None, str)
        Row, path (None if the image was passed as bytes or a PIL object) and reason of
        each unreadable image, in the order of `X`. Never empty.
    partition : int, str or None, default=None
        The partition of a collection in which these rows are counted: its number in a
        Dask Bag or Array, `"the partition with index 500 to 999"` of a DataFrame,
        `"a block"` of a Ray Dataset, which does not number them.

    Attributes
    ----------
    index : int
        Row of the first unreadable image.
    path : str or None
        Its path.
    reason : str
        Why it could not be read.
    failures : list of (int, str or None, str)
        All of them.
    partition : int, str or None
        As above.
    """

    n_shown = 20

    def __init__(self, failures, partition=None):
        self.failures, self.partition = list(failures), partition
        self.index, self.path, self.reason = self.failures[0]
        super().__init__(self._message())

    def _message(self):
        lines = [
            f"  row {index}: {'' if path is None else f'{shorten(printable(path))}: '}"
            f"{shorten(printable(reason))}"
            for index, path, reason in self.failures[: self.n_shown]
        ]
        hidden = len(self.failures) - len(lines)
        if hidden:
            lines.append(f"  ... and {hidden} more")
        part = self.partition
        part = f"partition {part}" if isinstance(part, int) else part
        whole = "X" if part is None else f"{part} of X"
        return (
            f"{len(self.failures)} image(s) of {whole} could not be read:\n"
            + "\n".join(lines)
            + "\nRepair these images or leave their rows out, unless the reason says "
            "what else to do."
        )

    def __reduce__(self):
        # The default rebuilds from the message; workers must send the failures.
        return type(self), (self.failures, self.partition)


class ImageLayoutError(ValueError):
    """The shape of `X` does not say how its numbers form images."""


class WeightsMismatchError(ValueError):
    """The weights do not fit the network."""


class WeightsNotAvailableError(OSError):
    """Named weights are not on this machine and could not be downloaded intact."""


class ModelFileError(ValueError):
    """A file is no model or checkpoint of sktl, or has been changed since."""


class TrainingDivergedError(RuntimeError):
    """The training loss is no longer a finite number."""


class ImageSizeWarning(UserWarning):
    """Images are much larger than the network's input, or that input is too small."""


class ImageRangeWarning(UserWarning):
    """The numbers of `X` do not fit the range from black to white that is assumed."""


class ImageOrientationWarning(UserWarning):
    """PIL images that may already be upright are rotated by their EXIF orientation."""


class BatchSizeWarning(UserWarning):
    """A batch did not fit into the device's memory; smaller batches are used."""


class CacheWarning(UserWarning):
    """A cache directory is damaged, not safe, or cannot be written to."""


class CheckpointWarning(UserWarning):
    """No checkpoint can be used, because a parameter cannot be compared."""


class _UnknownNameError(ValueError):
    """A name is not known; the message suggests similar ones.

    `note`, a sentence, says what the name is where it is one of something else.
    """

    hint = ""

    def __init__(self, parameter, name, known, note=""):
        self.parameter, self.name, self.known = parameter, name, list(known)
        self.note = note
        super().__init__(self._message())

    def _message(self):
        close = self._closest()
        nearest = f" Closest: {', '.join(map(repr, close))}." if close else ""
        note = f" {self.note}" if self.note else ""
        return (
            f"{self.parameter}={shown(self.name)} is not one of the {len(self.known)} "
            f"known names.{nearest}{note} {self.hint}"
        )

    def _closest(self):
        return difflib.get_close_matches(str(self.name), self.known, n=3, cutoff=0.4)

    def __reduce__(self):
        return type(self), (self.parameter, self.name, self.known, self.note)


class UnknownBackboneError(_UnknownNameError):
    """`backbone` is not the name of a known network."""

    hint = (
        "sktl.list_backbones() lists them, and list_backbones('timm') those of timm, "
        "which begin with 'timm/'; a torch.nn.Module that torch.fx can trace is "
        "accepted too."
    )


class UnknownLayerError(_UnknownNameError):
    """A layer name that the network does not have."""

    hint = (
        "sktl.layer_names(backbone) lists them, in order; a layer inside a residual or "
        "parallel branch cannot be used."
    )

    def _closest(self):
        # The output of a block stands for the block: the last name inside it.
        inside = [name for name in self.known if name.startswith(f"{self.name}.")]
        return inside[-1:] or super()._closest()


class UnknownStageError(UnknownLayerError):
    """A stage name, block or glob that matches nothing in the network."""

    @property
    def hint(self):
        """The stages, all of them: they are few."""
        probe = " strategy='linear_probe' trains the head alone."
        return (
            f"The stages are {', '.join(map(repr, self.known))}; the path of a block "
            "inside one, a glob, 'first', 'last' or a number of stages is accepted "
            f"too.{probe if self.parameter == 'unfreeze_from' else ''}"
        )


class UnknownSubmoduleError(UnknownLayerError):
    """A name or glob of a freezing callback that matches nothing in the module."""

    hint = (
        "They are the paths of submodules and the names of parameters: see "
        "net.module_.named_modules(). A glob over them is accepted too."
    )
