"""Settings of a process, from environment variables; and versions of packages."""

import os
from importlib.metadata import version

# What numbers may depend on.
PACKAGES = ("sktl", "scikit-learn", "skorch", "torch", "torchvision", "numpy")


def versions():
    """Return the versions of the packages that numbers may depend on, by name."""
    return {package: version(package) for package in PACKAGES}


def number_from_environment(name, default, unit):
    """Return the whole number that an environment variable holds.

    Parameters
    ----------
    name : str
    default : int
        Where there is no such variable.
    unit : str
        What is counted, for the message of the error.

    Raises
    ------
    ValueError
        If it holds anything else.
    """
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(
            f"The environment variable {name}={text!r} is not a number of {unit}. Set "
            f"it to a whole number such as {default}, or unset it."
        )
    return int(text)
