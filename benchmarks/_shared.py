"""What the benchmarks read: the folder `shared/` of images and weights."""

import argparse
from pathlib import Path

import numpy as np


def argument_parser(description):
    """A parser of the command line that knows `--shared`; others may be added.

    Parameters
    ----------
    description : str
        The script's docstring, of which the first line is shown.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    # A text, so that argparse passes the default through `type` too.
    default = str(Path(__file__).parents[2] / "shared")
    parser.add_argument("--shared", type=_folder, default=default)
    return parser


def _folder(text):
    folder = Path(text)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {folder}")
    return folder


def images_and_labels(folder, part="train", n=None):
    """List images at equal distances in the order of classes: equal shares of each.

    Parameters
    ----------
    folder : Path
        Holds `part/label/image`.
    part : str
    n : int or None
        None is all; more than there are is all, too.

    Returns
    -------
    paths : list of Path
    labels : list of str
    """
    paths = sorted((folder / part).glob("*/*.*"))
    n = len(paths) if n is None else min(n, len(paths))
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, n).astype(int)]
    return paths, [path.parent.name for path in paths]
