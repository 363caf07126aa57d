"""Who computes what: processes that meet the same images share them out.

A run claims what it is about to compute, in the directory where it will be kept.
Other processes go on with what is left, and wait for the rest at their end. No number
depends on a claim: where one is lost or cannot be made, an image is computed twice.

No two runs can wait for each other for ever. A run waits only while it holds no claim
(`wait` drops them first), so whoever is waited for is computing. A claim that is not
refreshed, because its process was killed or stopped, is void.
"""

import os
import threading
import time

# Refreshed every second; what stays the same for ten is void. Counted in looks at it,
# not by a clock: if all processes are stopped for a while, nothing is lost.
_SECONDS_PER_BEAT = 1
_SECONDS_PER_LOOK = 0.05
_LOOKS_UNTIL_VOID = 200
# A run that hangs must not keep the others for ever: no block should take longer.
_MAX_BEATS = 600

_TOKEN = os.urandom(8)


class Claims:
    """What one run is computing. A context: in the end all is given up.

    The threads of a process have one claim together: while one of them waited, it
    might have the lock that another needs to compute.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store):
        self._store = store
        self._owner = os.getpid().to_bytes(8, "big") + _TOKEN  # a fork is another
        self._mine = set()
        self._seen = {}  # other owner -> (its beats, looks since they changed)
        self._n_beats = 0
        self._over = threading.Event()
        self._heart = None

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self._over.set()
        self.drop()
        if self._heart is not None:
            self._heart.join()

    def take(self, keys):
        """Claim those of `keys` that no other process is computing, and return them."""
        keys = set(keys)
        if not (keys and self._store.is_shared):
            return keys
        void = self._void()
        others = self._store.claim(keys, self._owner, void)
        mine = {key for key in keys if key not in others or others[key][0] in void}
        self._note(others.values())
        self._mine |= mine
        self._n_beats = 0
        if mine and self._heart is None:
            self._heart = threading.Thread(target=self._beat, daemon=True)
            self._heart.start()
        return mine

    def drop(self, keys=None):
        """Give up the claims to `keys`, by default to all."""
        dropped = set(self._mine) if keys is None else self._mine.intersection(keys)
        if dropped:
            self._mine -= dropped
            self._store.disclaim(dropped, self._owner)

    def wait(self, keys):
        """Claim what others are done with or gave up; return once there is some."""
        self.drop()
        keys = set(keys)
        while not (mine := self.take(keys)):
            time.sleep(_SECONDS_PER_LOOK)
        return mine

    def _note(self, claims):
        """Count how often each other owner was seen with the same beats."""
        beats, seen = {}, self._seen
        for owner, beat in claims:
            beats.setdefault(owner, set()).add(beat)
        self._seen = {
            owner: (now, seen[owner][1] + 1)
            if owner in seen and seen[owner][0] == now
            else (now, 0)
            for owner, now in beats.items()
        }

    def _void(self):
        return [
            owner
            for owner, (_, n_looks) in self._seen.items()
            if n_looks >= _LOOKS_UNTIL_VOID
        ]

    def _beat(self):
        while not self._over.wait(_SECONDS_PER_BEAT):
            if self._n_beats < _MAX_BEATS:
                self._n_beats += 1
                self._store.refresh(self._owner)
