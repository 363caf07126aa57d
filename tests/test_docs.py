"""Docstrings are true: they agree with the signatures, and their examples run.

A docstring here is numpydoc: a summary of one line, then underlined sections in their
usual order. Parameters may be described in any order, but all of them are, and where
the signature has a default the description ends in `default=` and the same value.
"""

import ast
import doctest
import functools
import importlib.util
import inspect
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

import pytest

PACKAGE = Path(__file__).parents[1] / "sktl"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))

SECTIONS = [
    "Parameters",
    "Attributes",
    "Returns",
    "Yields",
    "Raises",
    "Warns",
    "See Also",
    "Notes",
    "References",
    "Examples",
]

# Methods of a skorch net that its users call. What else overrides a method of skorch is
# a hook: skorch calls it and skorch documents its parameters.
CALLED_BY_USERS = {
    "fit",
    "partial_fit",
    "predict",
    "predict_proba",
    "load_params",
    "save_params",
    "score",
    "set_params",
    "get_params",
}

NO_DEFAULT = inspect.Parameter.empty


# --- reading a docstring --------------------------------------------------------------


def sections_of(doc):
    """Split a docstring at its underlined titles: {"": the opening, title: text}."""
    lines = inspect.cleandoc(doc).splitlines()
    sections, title = {"": []}, ""
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line and is_rule(following):
            title = line
            sections[title] = []
        elif not is_rule(line):
            sections[title].append(line)
    return {title: "\n".join(text).strip() for title, text in sections.items()}


def is_rule(line):
    return re.fullmatch(r"-{3,}", line) is not None


def described_parameters(text):
    """{name: type line} of a Parameters section; `a, b : int` describes both."""
    described = {}
    for line in text.splitlines():
        if line and not line.startswith(" "):
            names, _, kind = line.partition(" : ")
            described |= {name.strip(): kind.strip() for name in names.split(",")}
    return described


def stated_default(kind):
    """The text behind `default=` at the end of a type line; None without one."""
    found = re.search(r"\bdefault=(.+)$", kind)
    return found and found.group(1)


def is_same_default(stated, default):
    try:
        value = ast.literal_eval(stated)
    except (SyntaxError, ValueError):  # no literal: a class, a function, an instance
        name = getattr(default, "__qualname__", repr(default))
        return stated.rpartition(".")[2] == name.rpartition(".")[2]
    return type(value) is type(default) and value == default


# --- the rules, each from a docstring and a signature to its faults -------------------


def faults_of_form(doc):
    sections = sections_of(doc)
    summary, *rest = sections[""].splitlines() or [""]
    if not summary.endswith("."):
        yield f"the first line is no sentence: {summary!r}"
    if rest and rest[0]:
        yield "no empty line after the first"
    titles = [title for title in sections if title]
    for title in titles:
        if title not in SECTIONS:
            yield f"{title!r} is no section of numpydoc"
    known = [title for title in titles if title in SECTIONS]
    if known != sorted(known, key=SECTIONS.index):
        yield f"sections in another order than usual: {known}"


def faults_of_parameters(doc, parameters):
    """Compare with what a caller passes: the signature without `self`."""
    described = described_parameters(sections_of(doc).get("Parameters", ""))
    expected = {starred(parameter): parameter for parameter in parameters}
    for name in expected.keys() - described.keys():
        yield f"parameter {name} is not described"
    for name in described.keys() - expected.keys():
        yield f"{name} is described but is no parameter"
    for name in expected.keys() & described.keys():
        yield from faults_of_default(name, described[name], expected[name].default)


def starred(parameter):
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
    return stars.get(parameter.kind, "") + parameter.name


def faults_of_default(name, kind, default):
    if kind in ("None", "Ignored"):  # the y that is there for pipelines
        return
    stated = stated_default(kind)
    if stated is None and default is not NO_DEFAULT:
        yield f"{name}: the type line does not say default={default!r}"
    elif stated is not None and default is NO_DEFAULT:
        yield f"{name}: default={stated} is stated, but there is none"
    elif stated is not None and not is_same_default(stated, default):
        yield f"{name}: default={stated} is stated, but it is {default!r}"


def faults_of_returns(doc, function):
    sections = sections_of(doc)
    if returns_something(function) and not {"Returns", "Yields"} & sections.keys():
        yield "what is returned is not described"


def returns_something(function):
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    (tree,) = ast.parse(source).body
    return any(
        isinstance(node, ast.Yield | ast.YieldFrom)
        or (isinstance(node, ast.Return) and node.value is not None)
        for node in within_function(tree)
    )


def within_function(node):
    """The nodes of a function without those of functions defined inside it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            yield from within_function(child)


# --- what there is to document --------------------------------------------------------


@dataclass(frozen=True)
class Documented:
    """A public object, and how much its docstring must say."""

    name: str
    object: object
    function: FunctionType | None = None  # whose parameters it must describe
    is_example_due: bool = False

    @property
    def parameters(self):
        parameters = list(inspect.signature(self.function).parameters.values())
        return [p for p in parameters if p.name not in ("self", "cls")]

    def faults(self):
        # Not inspect.getdoc: a parent's docstring describes the parent.
        doc = self.object.__doc__
        if not doc:
            return ["no docstring"]
        faults = list(faults_of_form(doc))
        if self.function:
            faults += faults_of_parameters(doc, self.parameters)
        if self.function is self.object:
            faults += faults_of_returns(doc, self.object)
        if self.is_example_due and ">>> " not in sections_of(doc).get("Examples", ""):
            faults.append("no example")
        return faults


def is_ours(thing):
    return (getattr(thing, "__module__", None) or "").split(".")[0] == "sktl"


def public_things():
    """(name, object) of all that `sktl` and its public modules list in `__all__`."""
    public = ["sktl"] + [f"sktl.{name}" for name in MODULES if name[0] != "_"]
    for module in map(importlib.import_module, public):
        for name in getattr(module, "__all__", []):
            thing = getattr(module, name)
            if is_ours(thing):
                yield f"{module.__name__}.{name}", thing


def documented():
    for name, thing in public_things():
        if not inspect.isclass(thing):
            yield Documented(name, thing, thing)
        elif issubclass(thing, BaseException):
            yield documented_exception(name, thing)
        else:
            yield documented_class(name, thing)
            yield from documented_methods(name, thing)


def documented_class(name, thing):
    """The class docstring describes the parameters of `__init__`."""
    init = thing.__init__ if is_ours(thing.__init__) else None
    return Documented(name, thing, init, is_example_due=True)


def documented_exception(name, thing):
    """Nobody but sktl raises them: parameters only where a docstring has some."""
    has_parameters = "Parameters" in sections_of(thing.__doc__ or "")
    return Documented(name, thing, thing.__init__ if has_parameters else None)


def documented_methods(class_name, thing):
    for name, (owner, member) in own_members(thing).items():
        function = function_of(member)
        if name.startswith("_") or function is None:
            continue
        in_full = not isinstance(member, property) and not is_hook(owner, name)
        full_name = f"{class_name}.{name}"
        yield Documented(full_name, function, function if in_full else None)


def own_members(thing):
    """{name: (class it stands in, member)} of what sktl's classes define themselves."""
    members = {}
    for owner in filter(is_ours, reversed(thing.__mro__)):
        members |= {name: (owner, member) for name, member in vars(owner).items()}
    return members


def function_of(member):
    """The function behind a method, property or `available_if`, None for the rest."""
    for attribute in ("fget", "__func__", "fn"):
        member = getattr(member, attribute, member)
    return member if isinstance(member, FunctionType) and is_ours(member) else None


def is_hook(owner, name):
    of_skorch = [c for c in owner.__mro__ if c.__module__.split(".")[0] == "skorch"]
    return name not in CALLED_BY_USERS and any(name in vars(c) for c in of_skorch)


# --- docstrings -----------------------------------------------------------------------


@pytest.mark.parametrize("what", list(documented()), ids=lambda what: what.name)
def test_docstring_agrees_with_signature(what):
    faults = what.faults()
    assert not faults, "\n".join(faults)


DOCSTRING = '''
    """Scale numbers.

    More words.

    Parameters
    ----------
    numbers, more : list of float
        What to scale.
    factor : float, default=2.0
        By how much.
    **options : dict
        Others.

    Returns
    -------
    list of float
        The scaled numbers.
    """
'''.strip().strip('"')


def scale(numbers, more, factor=2.0, **options):
    return [factor * number for number in [*numbers, *more]]


def documented_with(old, new):
    assert old in DOCSTRING
    scale.__doc__ = DOCSTRING.replace(old, new)
    return Documented("scale", scale, scale)


def test_true_docstring_has_no_fault():
    assert documented_with("", "").faults() == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (DOCSTRING, "", "no docstring"),
        ("numbers.\n\n    More", "numbers\n\n    More", "no sentence"),
        ("numbers.\n\n    More", "numbers.\n    More", "no empty line"),
        ("numbers, more", "numbers", "more is not described"),
        ("**options", "options", "**options is not described"),
        ("numbers, more", "numbers, more, others", "others is described"),
        ("2.0", "2", "default=2 is stated"),
        ("2.0", '"2.0"', "is stated, but it is 2.0"),
        (", default=2.0", "", "does not say default=2.0"),
        ("list of float\n        What", "list, default=()\n        What", "is none"),
        ("Returns\n    -------", "Results\n    -------", "no section of numpydoc"),
        ("Returns\n    -------", "Notes\n    -----", "is returned is not described"),
        (
            "Parameters\n    ----------",
            "Notes\n    -----\n    Long.\n\n    Parameters\n    ----------",
            "another order",
        ),
    ],
)
def test_untrue_docstring_is_noticed(old, new, fault):
    assert fault in " ".join(documented_with(old, new).faults())


SHAM = '''
from skorch import NeuralNetClassifier

class Net(NeuralNetClassifier):
    """Fit a net."""

    def __init__(self, depth=1):
        """Not read: the class docstring describes the parameters."""

    def infer(self, x, **fit_params):
        """Run."""
        return x

    def fit(self, X, y=None):
        """Fit."""
        return self

    def extra(self):
        return 1

    @property
    def size(self):
        """How large it is."""
        return 1

    def _private(self):
        return 1
'''


def test_methods_of_a_net_are_held_to_what_callers_need(tmp_path):
    """Private methods owe nothing, properties and skorch's hooks a summary."""
    path = tmp_path / "sham.py"
    path.write_text(SHAM)
    spec = importlib.util.spec_from_file_location("sktl.sham", path)
    sham = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sham)
    found = [
        documented_class("Net", sham.Net),
        *documented_methods("Net", sham.Net),
    ]
    assert {what.name: sorted(what.faults()) for what in found} == {
        "Net": ["no example", "parameter depth is not described"],
        "Net.infer": [],
        "Net.fit": [
            "parameter X is not described",
            "parameter y is not described",
            "what is returned is not described",
        ],
        "Net.extra": ["no docstring"],
        "Net.size": [],
    }


@pytest.mark.parametrize(
    ("stated", "default", "is_same"),
    [
        ("None", None, True),
        ("'auto'", "auto", True),
        ('"auto"', "auto", True),
        ("()", (), True),
        ("1", True, False),
        ("0.1", 0.01, False),
        ("torch.optim.SGD", functools.partial, False),
        ("functools.partial", functools.partial, True),
        ("auto", "auto", False),
    ],
)
def test_defaults_are_compared_by_value_and_type(stated, default, is_same):
    assert is_same_default(stated, default) is is_same


@pytest.mark.usefixtures("pyplot")
@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "sktl" if module == "__init__" else f"sktl.{module}"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner, report = doctest.DocTestRunner(optionflags=flags), []
    for test in doctest.DocTestFinder().find(importlib.import_module(name)):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)
