"""What a fine-tuned net refuses before it trains, and why."""

from collections.abc import Iterable
from numbers import Integral

from sklearn.metrics import get_scorer
from sklearn.model_selection import PredefinedSplit
from skorch.callbacks import Checkpoint, EarlyStopping, LoadInitState, LRScheduler

from sktl._features.image_input import COUNT
from sktl._training.augmentation import make_augment
from sktl._training.early_stopping import KeepBest
from sktl._utils.printable import shown

# Predictions are read row by row, in the order of `X`.
REORDERS = {
    f"iterator_valid__{name}"
    for name in ("shuffle", "drop_last", "sampler", "batch_sampler")
}


def check_names(params):
    """Refuse parameters that skorch has and that are not used here."""
    for name, value in sorted(params.items()):
        if name == "module" or name.startswith(("module__", "compile__")):
            raise ValueError(
                f"{name} is skorch's parameter and not used here: the network is "
                "built from backbone, weights, hidden_units and dropout, and not "
                "compiled. Leave it out."
            )
        if name in REORDERS and value:
            raise ValueError(
                f"{name}={shown(value)} would change the order or the number of "
                "rows that predictions are made for. Leave it out. Training rows "
                "are read by iterator_train, which has such parameters too."
            )


def check_not_disabled(callbacks):
    """Refuse to be without callbacks, before the type of the parameter is checked."""
    if isinstance(callbacks, str):
        raise ValueError(
            f"callbacks={callbacks!r} must be a list or None. skorch's "
            "'disable' would switch off what strategy, early_stopping, lr_schedule "
            "and initial_share set, as these work by callbacks. To switch off "
            "others, name them, as in callbacks__print_log=None."
        )


def check_values(params):
    """Refuse what no constraint says of one parameter, or of two together."""
    if params["compile"]:
        raise ValueError(
            "compile=True is not supported: torch.compile renames the weights, by "
            "whose names layers are frozen and get their learning rates. Leave it "
            "out."
        )
    if params["augment"] != "auto":
        make_augment(params["augment"])
    if params["monitor"] != "loss":
        get_scorer(params["monitor"])  # or it says which scorers there are
    if params["warm_start"] and params["refit"]:
        raise ValueError(
            "warm_start=True continues from the weights of the last fit, and "
            "refit=True starts over. Set one of them to False."
        )
    checkpoint, seed = params["checkpoint"], params["random_state"]
    if checkpoint is not None and not isinstance(seed, Integral):
        raise ValueError(
            f"checkpoint={checkpoint!r} with random_state={seed!r}: without a fixed "
            "seed no later fit would be the same. Pass an int as random_state."
        )
    widths = params["hidden_units"]
    wrong = [width for width in widths if not COUNT.is_satisfied_by(width)]
    if wrong:
        raise ValueError(
            f"hidden_units={widths!r} holds {wrong[0]!r}. Pass the "
            "widths of hidden layers, whole numbers of 1 or more; () for none."
        )


def check_same_network(asked, built, remedy):
    """Refuse parameters by which another network would be built.

    Parameters
    ----------
    asked, built : dict of {str: object}
        Parameters as they are now, and as the network was built by them.
    remedy : str
        What to do; a sentence without its full stop.
    """
    for name, value in built.items():
        if asked[name] != value:
            raise ValueError(
                f"{name} was set to {shown(asked[name])} after fit, which "
                f"built the network with {shown(value)}. {remedy}."
            )


def check_split(train_split, fit_params, n_left_out):
    """Refuse arguments of `fit` that no split reads, and one that counts other rows.

    Parameters
    ----------
    train_split : callable or None
    fit_params : dict
        Arguments of `fit` that have no meaning of their own.
    n_left_out : int
        Rows without weight.
    """
    if "epochs" in fit_params:
        raise TypeError(
            "fit() takes no argument `epochs`. Set max_epochs, as in "
            f"set_params(max_epochs={fit_params['epochs']!r})."
        )
    if fit_params and train_split is None:
        raise TypeError(
            f"fit() got an unexpected keyword argument {next(iter(fit_params))!r}. "
            "Such arguments are passed to train_split, which is not set."
        )
    cv = getattr(train_split, "cv", None)
    if n_left_out and isinstance(cv, PredefinedSplit | Iterable):
        raise ValueError(
            f"sample_weight is zero in {n_left_out} row(s), which fit "
            "leaves out, and train_split names rows by their numbers. Leave these "
            "rows out yourself, and number the others accordingly."
        )


def check_no_loading(callbacks):
    """Refuse callbacks that put other weights in the place of the first ones.

    What is chosen for training besides, skorch's files do not hold.
    """
    for name, callback in callbacks:
        if isinstance(callback, LoadInitState):
            raise ValueError(
                f"callback {name!r} is skorch's LoadInitState, which begins with "
                "weights of another training. To resume a fit that was "
                "interrupted, pass a path as checkpoint= instead of the callback. "
                "To go on from a fitted estimator, save it, and call partial_fit "
                "on what load returns."
            )


def check_watched(callbacks, of_refit=False):
    """Refuse callbacks of skorch's that watch rows held out, where there are none.

    Parameters
    ----------
    callbacks : list of (str, Callback)
    of_refit : bool
        Whether this is of the second fit of `refit`, which holds none out.
    """
    for name, callback in callbacks:
        watches = isinstance(
            callback, EarlyStopping | Checkpoint | LRScheduler
        ) and not isinstance(callback, KeepBest)
        monitor = callback.monitor if watches else None
        if not isinstance(monitor, str) or not monitor.startswith("valid_"):
            continue
        when = " in the second fit of refit=True" if of_refit else ""
        raise ValueError(
            f"callback {name!r} watches {monitor!r}, but no rows are held "
            f"out{when}. {_cure(callback, of_refit)}."
        )


def _cure(callback, of_refit):
    if of_refit:
        return "Set refit=False, or leave the callback out"
    cure = "use early_stopping=True instead of the callback"
    if isinstance(callback, Checkpoint):
        cure = "let the callback watch 'train_loss_best'"
    if isinstance(callback, LRScheduler):
        cure = "let the callback watch 'train_loss'"
    return f"Pass train_split=ValidSplit(5, stratified=True), or {cure}"
