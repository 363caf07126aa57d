"""Digests of what functions, classes and objects do."""

import functools
import sys
import threading
import types

import pytest

from sktl._utils.digests import digest_of


def script(code, name="script", **names):
    """The names that a script defines, among others that it finds."""
    names = {"__name__": name, **names}
    exec(code, names)
    return names


CHAIN = """
def last(x): return x * K
def middle(x): return last(x)
def first(x): return middle(x)
class Method:
    def __call__(self, x): return first(x)
class Property:
    @property
    def doubled(self): return first(2)
class Below(Property): pass
in_part = functools.partial(first, 2)
in_list = [{"a": (first,)}]
def in_default(x, function=first): return function(x)
def around(function): return lambda x: function(x)
in_closure = around(first)
cached = functools.lru_cache(first)
itself = lambda n: n and itself(n - 1) * K
def even(n): return n == 0 or odd(n - K)
def odd(n): return n != 0 and even(n - K)
"""
READERS = ["first", "Method", "Property", "Below", "in_part", "in_list"]
READERS += ["in_default", "in_closure", "cached", "itself", "even", "odd"]


@pytest.mark.parametrize("members", [False, True])
@pytest.mark.parametrize("reader", READERS)
def test_constant_counts_however_deep_it_is_read(reader, members):
    first, again, other = (
        digest_of(script(CHAIN, functools=functools, K=k)[reader], members)
        for k in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("members", [False, True])
def test_table_of_a_class_counts(members):
    code = "class A:\n    table = {'a': [N]}\nclass B(A): pass"
    first, again, other = (
        digest_of(script(code, N=n)["B"](), members) for n in (1, 1, 2)
    )
    assert first == again != other


def test_which_of_two_alike_functions_stands_where_counts():
    def by(n):
        return lambda x: x * n

    a, b = by(2), by(3)
    digests = {digest_of(functions) for functions in ([a, b, a], [a, b, b], [a, a, b])}
    assert len(digests) == 3
    assert digest_of([a, by(3), by(2)]) in digests


RECORDER = """
seen = []
def record(x): seen.append(x)
class Recorder:
    def __call__(self, x): record(x)
"""


def test_what_methods_write_to_counts_only_where_all_is_to():
    names = script(RECORDER)
    recorder = names["Recorder"]()
    before = [digest_of(recorder, members) for members in (False, True)]
    recorder(1)
    after = [digest_of(recorder, members) for members in (False, True)]
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_locks_around_the_methods_of_a_class_matter_only_where_all_is_to_count():
    code = "class Locked:\n    def f(self):\n        with LOCK: pass"
    kind = script(code, LOCK=threading.Lock())["Locked"]
    assert digest_of(kind)
    with pytest.raises(TypeError, match="lock"):
        digest_of(kind, members=True)


def test_of_an_installed_package_code_and_constants_count(monkeypatch):
    """Its caches and locks are its own affair."""
    package = types.ModuleType("installed_package")
    package.__file__ = "/venv/lib/python3/site-packages/installed_package.py"
    monkeypatch.setitem(sys.modules, package.__name__, package)

    def digest(k, cache):
        around = {"K": k, "LOCK": threading.Lock(), "cache": cache}
        code = "def inner(x): return x * K[0], LOCK, cache\ndef f(x): return inner(x)"
        return digest_of(script(code, package.__name__, **around)["f"], members=True)

    assert digest([1], {}) == digest([1], {1: object()}) != digest([2], {})


def test_module_of_the_user_is_refused_where_its_name_says_too_little():
    function = script("def f(x): return m.g(x)", m=types.ModuleType("mine"))["f"]
    assert digest_of(function)
    with pytest.raises(Exception, match="mine may hold anything"):
        digest_of(function, modules=False)
    assert digest_of(script("def f(x): return m.g(x)", m=functools)["f"], modules=False)


def test_sets_and_members_are_the_same_in_every_order():
    """Of strings, the order is another in every process; of these, as they are put."""
    code = """
names = {NAMES}
class A:
    modes = {"a": [frozenset(names), {("x", n) for n in names}]}
    def f(self, x, options=frozenset(names)):
        return x in {NAMES} or x in names

members = dict(vars(A))
B = type("A", (), {n: members[n] for n in reversed(["modes", "f"])} )
a = A()
a.names = [names]
value = [A, a, {"a": ({NAMES}, A.f)}]
"""
    one, other = (script(code.replace("NAMES", n)) for n in ("0, 8, 16", "16, 8, 0"))
    assert list(one["names"]) != list(other["names"])
    assert digest_of(one["A"]) == digest_of(one["B"])
    for members in (False, True):
        first, second = (digest_of(s["value"], members=members) for s in (one, other))
        assert first == second
