"""Which layers suit the task?
===========================

Early layers of a network respond to edges, late ones to what its original task needed.
`probe_layers` passes the images through the network once, fits a linear model to the
output of each stage, and advises which layers to give to a linear model together.

The task here is far from naming what a photograph shows: it is to tell how sharp it is.
Late layers of `sktl_photo`, which was trained to name things, have learned to ignore
that. The images are parts of the two photographs that come with scikit-learn, blurred
to four degrees: the left halves for the probe, the right halves for a comparison that
checks the advice. (Parts overlap, so the intervals are too narrow; with images of your
own that belong together, pass `groups`.) Needs no download; half a minute on two cores.
"""

# %%
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktl import (
    GlobalScaler,
    PretrainedFeatureExtractor,
    compare_transfer,
    probe_layers,
)

RADII = (0, 0.5, 0.8, 1.1)  # of the blur, in pixels
SIZE = 112  # of a part, in pixels
N_PROBED, N_COMPARED, N_FOLDS = 160, 320, 4
PLOT = Path("choose_layers.png")


# %% [markdown]
# 1. The images
# -------------


# %%
def cut_out(photos, n_parts, rng):
    """Blurred parts of photographs, and the degree to which each is blurred."""
    degrees = rng.permutation(np.arange(n_parts) % len(RADII))
    parts = []
    for degree in degrees:
        photo = photos[rng.integers(len(photos))]
        top, left = (rng.integers(length - SIZE) for length in photo.shape[:2])
        part = Image.fromarray(photo[top : top + SIZE, left : left + SIZE])
        parts.append(np.asarray(part.filter(ImageFilter.GaussianBlur(RADII[degree]))))
    return np.array(parts), degrees


def make_images():
    photos, rng = load_sample_images().images, np.random.default_rng(0)
    middle = photos[0].shape[1] // 2
    probed = cut_out([photo[:, :middle] for photo in photos], N_PROBED, rng)
    others = cut_out([photo[:, middle:] for photo in photos], N_COMPARED, rng)
    return probed, others


# %% [markdown]
# 2. The contenders
# -----------------
#
# `recommendation_["layers"]` has the names of the advised layers; `results_["layer"]`
# those of all layers that were probed, from the image to the head.


# %%
def on_features(layers):
    return make_pipeline(
        PretrainedFeatureExtractor(layers=layers),
        GlobalScaler(),
        LogisticRegression(max_iter=1000),
    )


def contenders(probe):
    """The advised model, and others that one might try."""
    first, *_, last = probe.results_["layer"]
    return {
        "last layer": on_features(last),
        "first layer": on_features(first),
        "advised layers": on_features(probe.recommendation_["layers"]),
    }


# %% [markdown]
# 3. The probe, then the check
# ----------------------------
#
# The plot shows the score of each layer, and that of the advised layers together.


# %%
def main():
    (X, y), others = make_images()
    probe = probe_layers(X, y, cv=N_FOLDS)
    print(probe, "\n")
    probe.plot().figure_.savefig(PLOT, dpi=120)
    report = compare_transfer(
        *others, contenders(probe), cv=N_FOLDS, random_state=0, verbose=1
    )
    print(report)
    print(f"\nPlot: {PLOT.resolve()}")


if __name__ == "__main__":
    main()
