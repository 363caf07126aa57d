"""What a comparison says of the transfer: effects, indicators, and sentences.

Everything is computed from the scores per split. A contender has a row per training
size, in increasing order; effects and indicators are about its last one.
"""

import numpy as np

from sktl._comparison.statistics import LEVEL, estimate_mean
from sktl._comparison.twins import SCRATCH, feature_contenders, find_pairs

FROZEN = "score of frozen features"
EPOCHS = "epochs to the score from scratch"
SECONDS = "seconds to the score from scratch"
GAIN = "gain over from scratch"
LARGEST = -1


class Findings:
    """Numbers and sentences on a comparison.

    Parameters
    ----------
    results : dict of str to ndarray
        As `TransferComparison.results_`.
    curves : dict of str to list of dict
        As `TransferComparison.curves_`.
    contenders : dict of str to estimator
        As they were passed.
    """

    def __init__(self, results, curves, contenders):
        self.results = results
        self.curves = curves
        self.pairs = find_pairs(contenders)
        self.readers = feature_contenders(contenders)

    # ---- numbers

    def effects(self):
        """What each pretrained contender gains over its twin."""
        rows = [(*pair, *self._gain(pair)) for pair in self.pairs]
        names = ("contender", "twin", "kind", "difference", "low", "high", "p_value")
        return _columns(rows, names, 3)

    def indicators(self):
        """The three classic indicators, each with its interval."""
        rows = [
            (FROZEN, name, "", *self._estimate(self._scores(name))[:3])
            for name in self.readers
        ]
        for pair in self._scratch_pairs():
            for indicator, axis in ((EPOCHS, "epoch"), (SECONDS, "seconds")):
                for name in (pair.contender, pair.twin):
                    rows += self._learning_time(indicator, axis, name, pair.twin)
            rows.append((GAIN, pair.contender, pair.twin, *self._gain(pair)[:3]))
        names = ("indicator", "contender", "reference", "value", "low", "high")
        return _columns(rows, names, 3)

    def _learning_time(self, indicator, axis, name, reference):
        """Mean over splits of when a curve reaches the reference's final score."""
        times = self._times(axis, name, reference)
        if times is None:
            return []
        mean, low, high, _ = self._estimate(times)
        return [(indicator, name, reference, mean, max(low, 0.0), high)]

    def _times(self, axis, name, reference):
        """Per split; NaN where the score is not reached, None if one has no curve."""
        curves, scores = self.curves.get(name, []), self._scores(reference)
        if not curves or not all(curves) or np.isnan(scores).any():
            return None
        times = []
        for curve, wanted in zip(curves, scores, strict=True):
            (reached,) = np.nonzero(curve["score"] >= wanted)
            times.append(curve[axis][reached[0]] if len(reached) else np.nan)
        return np.array(times)

    def _scores(self, name):
        return scores_of(self.results, name)

    def _gain(self, pair, size=LARGEST):
        return gain(self.results, pair.contender, pair.twin, size)

    def _estimate(self, values):
        return estimate_on(self.results, values)

    def _scratch_pairs(self):
        return [pair for pair in self.pairs if pair.kind == SCRATCH]

    # ---- sentences

    def sentences(self):
        """Short sentences; where transfer hurts comes first."""
        effects = [(pair, self._gain(pair)) for pair in self.pairs]
        hurts = [pair_gain for pair_gain in effects if _is_loss(pair_gain[1])]
        others = [pair_gain for pair_gain in effects if not _is_loss(pair_gain[1])]
        sentences = [_say_effect(pair, gain) for pair, gain in hurts + others]
        for pair in self._scratch_pairs():
            sentences += self._say_catching_up(pair)
            sentences += self._say_learning_time(pair)
        return sentences + self._say_failures()

    def _say_catching_up(self, pair):
        """From which training size on the pretrained contender is no longer ahead."""
        rows = self.results["contender"] == pair.contender
        sizes = self.results["train_size"][rows]
        gains = [self._gain(pair, size) for size in range(len(sizes))]
        if len(gains) == 1 or any(np.isnan(gain.mean) for gain in gains):
            return []
        ahead = [size for size, gain in enumerate(gains) if _is_gain(gain)]
        if not ahead:
            return [
                f"{pair.contender!r} is not clearly ahead of {pair.twin!r} at any size "
                f"from {sizes[0]} to {sizes[-1]} training rows."
            ]
        last = ahead[-1]
        if last == len(gains) - 1:
            return [
                f"{pair.twin!r} does not catch up with {pair.contender!r}, which is "
                f"ahead at {sizes[last]} training rows too."
            ]
        behind = any(_is_loss(gain) for gain in gains[last:])
        return [
            f"{pair.twin!r} catches up with {pair.contender!r} between {sizes[last]} "
            f"and {sizes[last + 1]} training rows"
            f"{', and overtakes it' if behind else ''}."
        ]

    def _say_learning_time(self, pair):
        """How soon the pretrained contender is as good as the other in the end."""
        epochs = self._times("epoch", pair.contender, pair.twin)
        if epochs is None:
            return []
        missed = int(np.isnan(epochs).sum())
        if missed:
            return [
                f"{pair.contender!r} does not reach the final score of {pair.twin!r} "
                f"in {missed} of {len(epochs)} splits."
            ]
        seconds = self._times("seconds", pair.contender, pair.twin).mean()
        sentence = (
            f"{pair.contender!r} reaches the final score of {pair.twin!r} after "
            f"{epochs.mean():.1f} epochs ({seconds:.2g} s)"
        )
        own = self._times("epoch", pair.twin, pair.twin)
        if own is not None:
            own_seconds = self._times("seconds", pair.twin, pair.twin).mean()
            sentence += f", the latter after {own.mean():.1f} ({own_seconds:.2g} s)"
        return [sentence + "."]

    def _say_failures(self):
        """One sentence per contender, with its first failure."""
        columns = (self.results[name] for name in ("contender", "train_size", "error"))
        failures = {}
        for name, size, error in zip(*columns, strict=True):
            if error:
                failures.setdefault(name, []).append((str(size), error))
        sentences = []
        for name, of_sizes in failures.items():
            sizes, errors = zip(*of_sizes, strict=True)
            several = len(set(self.results["train_size"])) > 1
            where = f" with {', '.join(sizes)} training rows" if several else ""
            sentences.append(f"{name!r} failed{where}: {errors[0]}")
        return sentences


# ---- estimates from the results


def gain(results, contender, other, size=LARGEST):
    """Estimate how far a contender is ahead of another on the same splits.

    Parameters
    ----------
    results : dict of str to ndarray
        As `TransferComparison.results_`.
    contender, other : str
    size : int
        Position of the training size.

    Returns
    -------
    gain : Estimate
    """
    scores = scores_of(results, contender, size) - scores_of(results, other, size)
    return estimate_on(results, scores, size)


def scores_of(results, contender, size=LARGEST):
    """Scores of a contender, one per split."""
    row = np.flatnonzero(results["contender"] == contender)[size]
    splits = [name for name in results if name.startswith("split")]
    return np.array([results[name][row] for name in splits])


def estimate_on(results, values, size=LARGEST):
    """Estimate the mean of one number per split."""
    n_sizes = np.sum(results["contender"] == results["contender"][0])
    n_train, n_test = (
        results[name][:n_sizes][size] for name in ("train_size", "test_size")
    )
    return estimate_mean(values, n_train, n_test)


# ---- words


def _columns(rows, names, n_texts):
    """Rows as a dict of arrays; the first `n_texts` columns hold text."""
    table = np.array(rows, dtype=object).reshape(len(rows), len(names))
    kinds = [object] * n_texts + [float] * (len(names) - n_texts)
    return {
        name: column.astype(kind)
        for name, column, kind in zip(names, table.T, kinds, strict=True)
    }


def _is_gain(estimate):
    return estimate.p_value < 1 - LEVEL and estimate.mean > 0


def _is_loss(estimate):
    return estimate.p_value < 1 - LEVEL and estimate.mean < 0


def _say_effect(pair, gain):
    """One sentence on the difference between a pretrained contender and its twin."""
    if np.isnan(gain.mean):
        return f"{pair.contender!r} and {pair.twin!r} cannot be compared: one failed."
    low, high = (gain.low, gain.high) if gain.mean >= 0 else (-gain.high, -gain.low)
    p = "p < 0.001" if gain.p_value < 0.001 else f"p = {gain.p_value:.2g}"
    by = f"by {abs(gain.mean):.3f} (95 % interval {low:.3f} to {high:.3f}, {p})"
    if _is_loss(gain):
        return f"Negative transfer: {pair.contender!r} loses to {pair.twin!r} {by}."
    if _is_gain(gain):
        return f"Transfer helps: {pair.contender!r} is ahead of {pair.twin!r} {by}."
    side = "ahead of" if gain.mean >= 0 else "behind"
    return (
        f"No clear difference: {pair.contender!r} is {side} {pair.twin!r} {by}, which "
        "may be chance."
    )
