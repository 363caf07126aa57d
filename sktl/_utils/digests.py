"""Digests of any value, the same in every process: by what it holds and what it does.

A function counts by its code and what it reads around itself, a class by its functions
and constants, all else by what pickle keeps of it.
"""

import dis
import functools
import hashlib
import pickle
from itertools import chain
from types import CodeType, FunctionType, ModuleType, SimpleNamespace

import torch
from sklearn.base import BaseEstimator
from skorch.callbacks import Callback

# Packages whose code stays as it is while a process runs.
LIBRARIES = {"torch", "torchvision", "timm", "builtins", "typing", "abc"}
# Constants of a class.
PLAIN = {type(None), type(...), bool, int, float, complex, str, bytes}


def digest_of(value):
    """Digest a value, so that digests differ where what it does differs.

    Raises
    ------
    Exception
        Whatever pickle raises of what it cannot keep.
    """
    digest = hashlib.sha256()
    pickler = _Comparer(SimpleNamespace(write=digest.update), protocol=5)
    pickler.fast = True  # whether equal parts are one object makes no difference
    pickler.dump(_in_order(value))
    return digest.hexdigest()


class _Comparer(pickle.Pickler):
    """Pickles to compare, not to load: code by what it does, not by its name."""

    def reducer_override(self, value):
        if isinstance(value, torch.Tensor):
            numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            parts = [str(value.dtype), *value.shape, numbers.numpy()]
        elif isinstance(value, CodeType):
            parts = [value.co_code, value.co_names, *map(_sketch, value.co_consts)]
        elif isinstance(value, FunctionType):
            around = [cell.cell_contents for cell in value.__closure__ or ()]
            around += map(_sketch, globals_read(value).values())
            parts = [_sketch(value), value.__defaults__, value.__kwdefaults__, around]
        elif isinstance(value, Callback | BaseEstimator):  # what ends in _ was learnt
            own = {n: v for n, v in vars(value).items() if not n.endswith("_")}
            parts = [type(value), own]
        elif isinstance(value, ModuleType):
            parts = [value.__name__]
        elif isinstance(value, type) and value.__module__ != "builtins":
            parts = [_name(value), digest_of_class(value)]
        else:
            return NotImplemented
        return list, (parts,)


def _sketch(value):
    """A function without what it reads around itself; sets in an order."""
    if isinstance(value, FunctionType):
        return [_name(value), value.__code__]
    return _in_order(value)


def _in_order(value):
    return sorted(map(repr, value)) if isinstance(value, set | frozenset) else value


def digest_of_class(kind):
    """Digest the functions and constants in a class and those it is made from."""
    stays = all(map(is_of_library, kind.__mro__))
    return (_digest_once if stays else _digest_members)(kind)


def is_of_library(thing):
    """Whether a class or function is one of torch or what belongs to it."""
    return (thing.__module__ or "").partition(".")[0] in LIBRARIES


def _digest_members(kind):
    members = []
    for name, value in chain(*map(_members, kind.__mro__[:-1])):
        value = getattr(value, "__func__", value)
        constant = type(value) in PLAIN and not name.startswith("__")
        if constant or isinstance(value, FunctionType):
            members.append([name, _sketch(value)])
    return digest_of(members)


def _members(kind):
    # In a process of joblib, a class that was defined in a notebook has them in the
    # order of their names: cloudpickle sorts them.
    members = vars(kind).items()
    return members if is_of_library(kind) else sorted(members)


_digest_once = functools.lru_cache(_digest_members)


def globals_read(function):
    """The globals that a function reads, by name, in the order of their names."""
    names = sorted(_names_in(function.__code__) & function.__globals__.keys())
    return {name: function.__globals__[name] for name in names}


def _names_in(code):
    inner = [_names_in(c) for c in code.co_consts if isinstance(c, CodeType)]
    steps = dis.get_instructions(code)
    return {s.argval for s in steps if s.opname == "LOAD_GLOBAL"}.union(*inner)


def _name(named):
    return f"{named.__module__}.{named.__qualname__}"
