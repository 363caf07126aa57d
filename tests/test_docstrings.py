"""Docstrings of what users call follow numpydoc, by numpydoc's own rules."""

import inspect
from dataclasses import is_dataclass

import numpydoc.validate
import pytest
from skorch import NeuralNetClassifier

import sktl
from sktl import callbacks

# Each rule: https://numpydoc.readthedocs.io/en/latest/validation.html
RULES = {
    *("GL06", "GL07", "GL08"),  # known sections in their order, and there is a text
    *("SS02", "SS05"),  # a summary that begins as a sentence, in the imperative
    *("PR01", "PR02", "PR03", "PR05"),  # parameters are those of the signature
}
# What overrides a method of skorch is a hook, and skorch documents it; but for these.
CALLED = {"fit", "partial_fit", "predict", "predict_proba", "set_params", "get_params"}
HOOKS = set(dir(NeuralNetClassifier)) - CALLED


def public_names():
    """Yield the dotted names of public classes, their methods, and functions."""
    for module in (sktl, callbacks):
        for name in module.__all__:
            yield f"{module.__name__}.{name}"
            value = getattr(module, name)
            own = vars(value) if inspect.isclass(value) else ()
            own = own if not is_dataclass(value) else own.keys() - value.__annotations__
            for method in own:
                if not method.startswith(("_", "on_")) and method not in HOOKS:
                    yield f"{module.__name__}.{name}.{method}"


@pytest.mark.parametrize("name", [*public_names()])
def test_docstring_follows_numpydoc(name):
    errors = numpydoc.validate.validate(name)["errors"]
    assert [error for error in errors if error[0] in RULES] == []
