"""What a comparison says of the transfer: effects, indicators, and sentences.

Everything is computed from the scores per split. A contender has a row per training
size, in increasing order; effects and indicators are about its last one.
"""

import numpy as np
from sklearn.dummy import DummyClassifier, DummyRegressor

from sktl._comparison.evidence import LARGEST, split_scores
from sktl._comparison.statistics import (
    BETTER,
    EQUIVALENT,
    INCONCLUSIVE,
    WORSE,
    Scores,
    mean_of,
    verdicts_on,
)
from sktl._comparison.twins import SCRATCH, feature_contenders, find_pairs
from sktl._display.table import p_form, score_form

FROZEN_SCORE = "score of frozen features"
EPOCHS = "epochs to the score from scratch"
SECONDS = "seconds to the score from scratch"
GAIN = "gain over from scratch"
TOO_MANY = 100  # times the rows or splits: nobody can have so many


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
    evidence : Evidence
    """

    def __init__(self, results, curves, contenders, evidence):
        self.results = results
        self.curves = curves
        self.evidence = evidence
        self.pairs = find_pairs(contenders)
        self.readers = feature_contenders(contenders)
        dummies = (DummyClassifier, DummyRegressor)
        self.blind = [n for n, c in contenders.items() if isinstance(c, dummies)]
        self.gains = [self._gain(pair) for pair in self.pairs]
        self.verdicts, self.p_values = verdicts_on(self.gains, self.evidence.margin)

    # ---- numbers

    def effects(self):
        """What each pretrained contender gains over its twin."""
        rows = [
            (*pair, *self._interval(gain), p_value, verdict)
            for pair, gain, p_value, verdict in zip(
                self.pairs, self.gains, self.p_values, self.verdicts, strict=True
            )
        ]
        names = ("contender", "twin", "kind", "difference", "low", "high", "p_value")
        return _columns(rows, (*names, "verdict"), "contender twin kind verdict")

    def indicators(self):
        """The three classic indicators, each with its interval."""
        rows = []
        for name in self.readers:
            mean = self.evidence.interval(self._scores(name))
            rows.append((FROZEN_SCORE, name, "", *mean[:3]))
        for pair, gain in zip(self.pairs, self.gains, strict=True):
            if pair.kind != SCRATCH:
                continue
            for indicator, axis in ((EPOCHS, "epoch"), (SECONDS, "seconds")):
                for name in (pair.contender, pair.twin):
                    found = self._learning_time(indicator, axis, name, pair.twin)
                    rows += [row for row in found if row not in rows]
            rows.append((GAIN, pair.contender, pair.twin, *self._interval(gain)))
        names = ("indicator", "contender", "reference", "value", "low", "high")
        return _columns(rows, names, "indicator contender reference")

    def _learning_time(self, indicator, axis, name, reference):
        """Mean over splits of when a curve reaches the reference's final score.

        Where it does not, it would have taken longer than the training went on. The
        mean is then at least what it is with those times ("restricted mean"), and so is
        the lower end of its interval; the upper end is not known.
        """
        times = self._times(axis, name, reference)
        if times is None:
            return []
        times, reached = times
        mean = mean_of(Scores(times, None, self.evidence.shared))
        end = max(curve[axis][-1] for curve in self.curves[name])
        value, low, high, _ = mean.interval((0.0, end))
        high = high if reached.all() else np.inf
        return [(indicator, name, reference, value, low, high)]

    def _times(self, axis, name, reference):
        """When each split reaches the score, and whether; None if one has no curve.

        Where it does not, the time at which training ended.
        """
        curves, scores = self.curves.get(name, []), self._scores(reference).of_splits
        if not curves or not all(curves) or np.isnan(scores).any():
            return None
        times, reached = [], []
        for curve, wanted in zip(curves, scores, strict=True):
            is_there = curve["score"] >= wanted
            reached.append(is_there.any())
            times.append(curve[axis][np.argmax(is_there) if reached[-1] else -1])
        return np.array(times, dtype=float), np.array(reached)

    def _scores(self, name, size=LARGEST):
        return self.evidence.scores(self.results, name, size)

    def _gain(self, pair, size=LARGEST):
        return self.evidence.gain(self.results, pair.contender, pair.twin, size)

    def _interval(self, gain):
        return gain.interval(self.evidence.bounds_of_gain)[:3]

    # ---- sentences

    def sentences(self):
        """Short sentences; where transfer hurts comes first."""
        found = list(
            zip(self.pairs, self.gains, self.verdicts, self.p_values, strict=True)
        )
        found.sort(key=lambda of_pair: of_pair[2] != WORSE)
        sentences = [self._say_effect(*of_pair) for of_pair in found]
        n_tested = sum(verdict != "" for verdict in self.verdicts)
        if n_tested > 1:
            sentences.append(
                f"Verdicts and p-values are adjusted for {n_tested} comparisons "
                "(Holm); intervals are not."
            )
        for pair, verdict in zip(self.pairs, self.verdicts, strict=True):
            if pair.kind == SCRATCH:
                sentences += self._say_catching_up(pair, verdict)
                sentences += self._say_learning_time(pair)
        sentences += self._say_nothing_is_learnt()
        return sentences + self._say_what_is_not_known() + self._say_failures()

    def _say_effect(self, pair, gain, verdict, p_value):
        """One sentence on a pretrained contender and its twin."""
        names = f"{pair.contender!r} and {pair.twin!r}"
        if not verdict:
            return f"{names} cannot be compared, as one of them failed."
        mean, low, high = self._interval(gain)
        low, high = (low, high) if mean >= 0 else (-high, -low)
        p = f"p {p_form(p_value)}"
        form = score_form(split_scores(self.results).mean(axis=0))
        interval = f"(95 % interval {low:{form}} to {high:{form}}, {p})"
        by = f"by {abs(mean):{form}} {interval}"
        if verdict == WORSE:
            return f"Negative transfer: {pair.contender!r} loses to {pair.twin!r} {by}."
        if verdict == BETTER:
            return f"Transfer helps: {pair.contender!r} is ahead of {pair.twin!r} {by}."
        where = f"{'ahead of' if mean > 0 else 'behind'} {pair.twin!r} {by}"
        if float(f"{mean:{form}}") == 0:
            where = f"level with {pair.twin!r} {interval}"
        where = f"{pair.contender!r} is {where}"
        if verdict == EQUIVALENT:
            return f"Equivalent within {self.evidence.margin:g}: {where}."
        return f"Inconclusive: {where}. {self._say_what_would_tell(gain)}"

    def _say_what_would_tell(self, gain):
        """What could have been found, and how much more it takes to find this."""
        # Adjusted by Bonferroni: Holm's method finds every difference beyond that.
        half = gain.half_width(sum(verdict != "" for verdict in self.verdicts))
        if np.isinf(half):
            return (
                "Here, no difference could be detected: all splits test on the same "
                "rows. Pass a cv that tests on several parts of the rows."
            )
        found = f"Here, only a difference of more than {half:.2g} could be detected"
        low, high = self.evidence.bounds
        if half >= high - low:
            found = "Here, no difference could be detected, however large"
        # The least that would do: zero outside of the interval, or all of the interval
        # within the margin.
        distance = max(abs(gain.value), (self.evidence.margin or 0) - abs(gain.value))
        if half == 0 or distance == 0:
            return f"{found}."
        factor = max(half / distance, 1.1) ** 2
        now, what = self.evidence.n_units, self.evidence.unit
        more_splits = self._more_splits(gain, factor)
        if more_splits:
            factor, now, what = more_splits, len(split_scores(self.results)), "splits"
        if factor > TOO_MANY:
            much = f"more than {TOO_MANY} times as many {what}"
        else:
            much = f"about {_round_up(factor * now)} {what} instead of {now}"
        return f"{found}; a clear answer would take {much}."

    def _more_splits(self, gain, factor):
        """How many times the splits lower the variance so far; None if none do.

        Draws of the same rows leave what these contribute: less, though, once all of
        them have been tested on.
        """
        shared, n_units = self.evidence.shared, self.evidence.n_units
        share_tested = self.evidence.n_tested / n_units
        if share_tested == 1 or shared == 0:
            return None
        stays = gain.row_variance * (1 if shared == 1 else share_tested)
        variance = gain.error**2
        if variance / factor <= stays:
            return None
        return (variance - stays) / (variance / factor - stays)

    def _say_catching_up(self, pair, verdict):
        """The training size at which the twin without transfer becomes as good.

        It is looked for from the largest size down, while the verdict is that it is.
        """
        rows = self.results["contender"] == pair.contender
        sizes = self.results["train_size"][rows]
        if len(sizes) == 1 or not verdict:
            return []
        if verdict == INCONCLUSIVE:
            return [
                f"It is unclear whether {pair.twin!r} catches up with "
                f"{pair.contender!r} by {sizes[LARGEST]} training rows."
            ]
        if verdict == BETTER:
            return [
                f"{pair.twin!r} does not catch up with {pair.contender!r}, which is "
                f"still ahead at {sizes[LARGEST]} training rows."
            ]
        smaller = [self._verdict_at(pair, size) for size in range(len(sizes) - 1)]
        clear = [verdict for verdict in smaller if verdict in (EQUIVALENT, WORSE)]
        if BETTER not in smaller and clear:
            where = " at which that is clear" if INCONCLUSIVE in smaller else ""
            return [
                f"{pair.contender!r} is not ahead of {pair.twin!r} at any size from "
                f"{sizes[0]} to {sizes[-1]} training rows{where}."
            ]
        position = len(sizes) - 1
        is_overtaken = verdict == WORSE
        while position and verdict in (EQUIVALENT, WORSE):
            position -= 1
            verdict = smaller[position]
            is_overtaken |= verdict == WORSE
        overtakes = ", and overtakes it" if is_overtaken else ""
        if verdict == BETTER:
            return [
                f"{pair.twin!r} catches up with {pair.contender!r} between "
                f"{sizes[position]} and {sizes[position + 1]} training rows{overtakes}."
            ]
        return [
            f"{pair.twin!r} catches up with {pair.contender!r} by "
            f"{sizes[position + 1]} training rows{overtakes}; it is unclear "
            f"whether it does so by {sizes[position]}."
        ]

    def _verdict_at(self, pair, size):
        """The verdict on a pair at a smaller size, among as many comparisons."""
        gains = [self._gain(other, size) for other in self.pairs]
        verdicts, _ = verdicts_on(gains, self.evidence.margin)
        return verdicts[self.pairs.index(pair)]

    def _say_learning_time(self, pair):
        """How soon the pretrained contender is as good as the other in the end."""
        found = self._times("epoch", pair.contender, pair.twin)
        if found is None:
            return []
        epochs, reached = found
        missed = int(np.sum(~reached))
        if missed:
            return [
                f"{pair.contender!r} does not reach the final score of {pair.twin!r} "
                f"in {missed} of {len(epochs)} splits."
            ]
        seconds = self._times("seconds", pair.contender, pair.twin)[0].mean()
        sentence = (
            f"{pair.contender!r} reaches the final score of {pair.twin!r} after "
            f"{epochs.mean():.1f} epochs ({seconds:.2g} s)"
        )
        own = self._times("epoch", pair.twin, pair.twin)
        if own is not None:
            own_seconds = self._times("seconds", pair.twin, pair.twin)[0].mean()
            sentence += (
                f"; {pair.twin!r} itself takes {own[0].mean():.1f} epochs "
                f"({own_seconds:.2g} s)"
            )
        return [sentence + "."]

    def _say_nothing_is_learnt(self):
        """Whether a contender that knows `y` alone is as good as all that see more."""
        sentences = []
        names = dict.fromkeys(self.results["contender"])
        others = [name for name in names if name not in self.blind]
        for blind in self.blind:
            gains = [self.evidence.gain(self.results, n, blind) for n in others]
            verdicts, _ = verdicts_on(gains, margin=None)
            if any(verdicts) and BETTER not in verdicts:
                sentences.append(
                    f"No contender is clearly ahead of {blind!r}, which does not see "
                    "the images."
                )
        return sentences

    def _say_what_is_not_known(self):
        """Whose intervals are from the splits alone."""
        names = [
            repr(name)
            for name, of_sizes in self.evidence.influences.items()
            for size, influence in enumerate(of_sizes)
            if influence is None
            and not np.isnan(self._scores(name, size).of_splits).any()
        ]
        if not names:
            return []
        return [
            f"The intervals of {', '.join(dict.fromkeys(names))} are computed from "
            "the splits alone: a test part is a single row or group, or the score "
            "cannot be worked out again with a row left out (it may not be defined "
            "without some row). Take them with care."
        ]

    def _say_failures(self):
        """One sentence for all contenders with the same first failure."""
        columns = (self.results[name] for name in ("contender", "train_size", "error"))
        failures = {}
        for name, size, error in zip(*columns, strict=True):
            if error:
                failures.setdefault(name, []).append((str(size), error))
        alike = {}
        for name, of_sizes in failures.items():
            sizes, errors = zip(*of_sizes, strict=True)
            alike.setdefault((sizes, errors[0]), []).append(repr(name))
        several = len(set(self.results["train_size"])) > 1
        sentences = []
        for (sizes, error), names in alike.items():
            where = f" with {', '.join(sizes)} training rows" if several else ""
            sentences.append(f"{_enumerate(names)} failed{where}: {error}")
        return sentences


# ---- words


def _columns(rows, names, texts):
    """Rows as a dict of arrays, of which some hold text."""
    table = np.array(rows, dtype=object).reshape(len(rows), len(names))
    texts = texts.split()
    return {
        name: column.astype(object if name in texts else float)
        for name, column in zip(names, table.T, strict=True)
    }


def _enumerate(names):
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _round_up(number):
    """To two digits: 1234 is about 1300."""
    step = 10 ** max(0, int(np.log10(number)) - 1)
    return int(np.ceil(number / step) * step)
