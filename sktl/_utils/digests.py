"""Digests of any value, the same in every process: by what it holds and what it does.

A function counts by its code and what it reads around itself, a class by its members,
and so do the functions and classes that these read; all else by what pickle keeps of
it.
"""

import dis
import functools
import hashlib
import pickle
import sys
from copyreg import dispatch_table
from types import CodeType, FunctionType, ModuleType, SimpleNamespace

import torch
from sklearn.base import BaseEstimator
from skorch.callbacks import Callback

# Packages whose code stays as it is while a process runs.
LIBRARIES = {"torch", "torchvision", "timm", "builtins", "typing", "abc"}
# Those of which nobody changes what their functions read, either.
_CLOSED = {*LIBRARIES, *sys.stdlib_module_names, "numpy", "scipy"}
_CLOSED |= {"sklearn", "skorch", "sktl"}
_Cached = type(functools.lru_cache(len))
# Constants.
PLAIN = {type(None), type(...), bool, int, float, complex, str, bytes}


def digest_of(value, members=False, modules=True):
    """Digest a value, so that digests differ where what it does differs.

    Parameters
    ----------
    value : object
    members : bool
        Whether all counts that a class holds and its methods read. Else only code and
        constants do: a callback may well add to a list, or write to a file, that is
        around it. (Of packages that were installed, no more than these and tables of
        them count in any case: their locks and caches are their own affair.)
    modules : bool
        Whether a module of the user's counts by its name; else it is refused.

    Raises
    ------
    Exception
        Whatever pickle raises of what it cannot keep.
    """
    return _Comparer(members, modules, {}).digest(value)


class _Comparer(pickle.Pickler):
    """Pickles to compare, not to load: code by what it does, not by its name."""

    def __init__(self, members, modules, known, is_whole=True):
        self.sha256 = hashlib.sha256()
        super().__init__(SimpleNamespace(write=self.sha256.update), protocol=5)
        self.fast = True  # whether equal parts are one object makes no difference
        self.members, self.modules = members, modules
        self.known = known  # digests of functions and classes
        self.is_whole = is_whole  # else code and constants alone count

    def digest(self, value):
        self.dump(self._in_order(value))
        return self.sha256.hexdigest()

    def reducer_override(self, value):
        if isinstance(value, torch.Tensor):
            numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            parts = [str(value.dtype), *value.shape, numbers.numpy()]
        elif isinstance(value, CodeType):
            parts = [
                value.co_code,
                value.co_names,
                *map(self._in_order, value.co_consts),
            ]
        elif isinstance(value, FunctionType):
            parts = [self._followed(value, self._in_function, self.is_whole)]
        elif isinstance(value, type) and value.__module__ != "builtins":
            is_whole = self.is_whole and self.members
            parts = [self._followed(value, self._in_class, is_whole)]
        elif isinstance(value, property | staticmethod | classmethod):
            parts = [getattr(value, "fget", None) or getattr(value, "__func__", None)]
        elif isinstance(value, functools.cached_property):
            parts = [value.func]
        elif isinstance(value, _Cached):
            parts = [value.__wrapped__]
        elif isinstance(value, Callback | BaseEstimator):  # what ends in _ was learnt
            own = {n: v for n, v in vars(value).items() if not n.endswith("_")}
            parts = [type(value), self._in_order(own)]
        elif isinstance(value, torch.fx.Graph):
            called = [
                n.target for n in value.nodes if isinstance(n.target, FunctionType)
            ]
            parts = [value.python_code("self").src, called]
        elif isinstance(value, ModuleType):
            if is_of_user(value) and not self.modules:
                raise pickle.PicklingError(f"{value.__name__} may hold anything")
            parts = [value.__name__]
        elif _is_plain_object(value):
            rebuild, arguments, state, *items = value.__reduce_ex__(5)
            return rebuild, arguments, self._in_order(state), *items
        else:
            return NotImplemented
        return list, (parts,)

    def _followed(self, value, parts_in, is_whole):
        """The digest of a function or class; its name where it comes back to itself."""
        is_whole = is_whole and not _is_installed(value)
        key = value, is_whole
        if key not in self.known:
            self.known[key] = _name(value)
            parts = [_name(value), *parts_in(value, is_whole)]
            self.known[key] = self._digest(parts, is_whole)
        return self.known[key]

    def _digest(self, part, is_whole):
        return _Comparer(self.members, self.modules, self.known, is_whole).digest(part)

    def _in_function(self, function, is_whole):
        if _is_closed(function):
            return [function.__code__]
        around = [cell.cell_contents for cell in function.__closure__ or ()]
        around += globals_read(function).values()
        around += [*(function.__defaults__ or ())]
        around += [v for _, v in sorted((function.__kwdefaults__ or {}).items())]
        if not is_whole:
            around = [v if _stays(v, self.members) else "" for v in around]
        return [function.__code__, around]

    def _in_class(self, kind, is_whole):
        for base in kind.__mro__[:-1]:
            if _is_closed(base):
                yield _digest_closed(base)
                continue
            # In a process of joblib, a class that was defined in a notebook has them in
            # the order of their names: cloudpickle sorts them.
            for name, value in sorted(vars(base).items()):
                if name.startswith(("__", "_abc_")):  # Python 3.14: __annotate_func__
                    counts = isinstance(value, FunctionType) and "annot" not in name
                else:
                    tables = self.members or not _is_installed(base)
                    counts = is_whole or _stays(value, tables)
                if counts:
                    yield [name, value]

    def _in_order(self, value):
        """The same with sets as lists, in an order that is that of no process."""
        if type(value) in (set, frozenset):
            return sorted(self._digest(item, self.is_whole) for item in value)
        if type(value) in (list, tuple):
            return type(value)(map(self._in_order, value))
        if type(value) is dict:
            return {name: self._in_order(item) for name, item in value.items()}
        return value


def is_of_library(thing):
    """Whether a class or function is one of torch or what belongs to it."""
    return _module_name(thing).partition(".")[0] in LIBRARIES


def is_of_user(thing):
    """Whether a class, function or module is neither of a library nor installed."""
    return not _is_closed(thing) and not _is_installed(thing)


def _is_closed(thing):
    return _module_name(thing).partition(".")[0] in _CLOSED


def _is_plain_object(value):
    """Whether pickle keeps of it what its attributes are, by no method of its own."""
    kind = type(value)
    methods = kind.__reduce_ex__, kind.__reduce__
    is_plain = methods == (object.__reduce_ex__, object.__reduce__)
    return is_plain and not isinstance(value, type) and kind not in dispatch_table


def _module_name(thing):
    return thing.__name__ if isinstance(thing, ModuleType) else thing.__module__ or ""


def _is_installed(thing):
    """Whether it is of a package that was installed, not written by the user."""
    name = _module_name(thing)
    path = getattr(sys.modules.get(name), "__file__", None) or ""
    return name != "__main__" and ("site-packages" in path or "dist-packages" in path)


def _stays(value, tables=False):
    """Whether a value is code, a constant or, if `tables`, a list or dict of these.

    What is empty may be there to be filled.
    """
    if tables and isinstance(value, list | set | dict) and value:
        value = tuple(value.items() if isinstance(value, dict) else value)
    if isinstance(value, tuple | frozenset):
        return all(_stays(item, tables) for item in value)
    return type(value) in PLAIN or isinstance(
        value,
        FunctionType | type | property | staticmethod | classmethod | ModuleType,
    )


@functools.lru_cache
def _digest_closed(kind):
    """Digest the functions and constants that a class of a library adds."""
    members = []
    for name, value in vars(kind).items():
        value = getattr(value, "__func__", value)
        if isinstance(value, FunctionType):
            members.append([name, _name(value), value.__code__])
        elif type(value) in PLAIN and not name.startswith("__"):
            members.append([name, value])
    return digest_of([_name(kind), *members])


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
