"""The shape of the house: who may import whom, and what no room may do.

Everything is read from the source with `ast`; nothing of sktl is imported. An import
counts wherever it stands, inside a function or behind TYPE_CHECKING too: an arrow that
points up is one whenever it is followed.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sktl"

# From the roof to the ground. A room imports from lower floors, and from its own
# as long as that makes no circle. A new room must be put on a floor here.
FLOORS = {
    "front door": {"__init__"},
    "faces": {
        "_classifier",
        "_comparison",
        "_contenders",
        "_displays",
        "_extractor",
        "_findings",
        "_history_display",
        "_probe_display",
        "_probing",
        "_ranking",
        "_report",
        "_trials",
    },
    "what faces share": {"_fit_tasks", "_image_input", "_model_file", "_training"},
    "skorch": {"_checkpoint", "_net", "_score_curve", "callbacks"},
    "parts of a network": {"_finetuning", "_frozen", "_fusion", "_run"},
    "networks": {"_backbones", "_mini", "_stages", "_weights"},
    "tools": {
        "_archive",
        "_atomic",
        "_augment",
        "_claims",
        "_engine",
        "_images",
        "_labels",
        "_layout",
        "_pictures",
        "_plain_data",
        "_sqlite",
        "_statistics",
        "_store",
    },
    "ground": {"exceptions"},
}
DEPTH = {room: depth for depth, rooms in enumerate(FLOORS.values()) for room in rooms}

# What comes into the house through these rooms only.
DOORS = {
    "PIL": {"_images", "_pictures"},
    "sqlite3": {"_sqlite"},
    "torch.fx": {"_stages"},
    "torchvision.models.feature_extraction": {"_stages"},
    "skorch": {
        "_checkpoint",
        "_classifier",
        "_model_file",
        "_net",
        "_score_curve",
        "_training",
        "callbacks",
    },
    "socket": set(),
    "http": set(),
    "requests": set(),
    "urllib": set(),
    "torch.hub": {"_weights"},  # fetching named weights is the one use of a network
}

# Extras: whoever does not plot needs neither.
IN_FUNCTIONS_ONLY = ("matplotlib", "pandas", "polars")

# What a file that is loaded could use to run code of its own.
RUNS_CODE = {
    "cloudpickle.load",
    "cloudpickle.loads",
    "dill.load",
    "dill.loads",
    "eval",
    "exec",
    "joblib.load",
    "marshal.load",
    "marshal.loads",
    "pickle.Unpickler",
    "pickle.load",
    "pickle.loads",
    "shelve.open",
    "torch.hub.load",
}
# torch.hub and torchvision's weights still unpickle anything unless told not to.
UNPICKLES_UNLESS_TOLD = ("load_state_dict_from_url", "get_state_dict")

LONGEST_BODY = 50
LONGEST_FILE = 450


# --- reading a source -----------------------------------------------------------------


def imported_names(node):
    """Full names of what a statement imports: `from torch import fx` is `torch.fx`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        return [f"{module}.{alias.name}" for alias in node.names]
    return []


def all_imported_names(tree):
    return [name for node in ast.walk(tree) for name in imported_names(node)]


def outside_functions(node):
    """The nodes that are executed when the module is imported."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from outside_functions(child)


def local_names(tree):
    """What each name bound by an import stands for: {"F": "torch.nn.functional"}."""
    meaning = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                meaning[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                meaning[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return meaning


def full_name(node, meaning):
    """`torch.load` for the expression `t.load` after `import torch as t`, else None."""
    if isinstance(node, ast.Name):
        return meaning.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = full_name(node.value, meaning)
        return f"{owner}.{node.attr}" if owner else None
    return None


def used_names(tree):
    """Full names of all imports and of all dotted expressions."""
    meaning = local_names(tree)
    expressions = (full_name(node, meaning) for node in ast.walk(tree))
    return {*all_imported_names(tree), *filter(None, expressions)}


def is_within(name, package):
    return name == package or name.startswith(f"{package}.")


def rooms_imported(tree):
    """Rooms of sktl that a source imports; the root itself as `__init__`."""
    rooms = set()
    for name in all_imported_names(tree):
        package, *inside = name.split(".")
        if package == "sktl":
            names_a_room = len(inside) > 1 or set(inside) & set(DEPTH)
            rooms.add(inside[0] if names_a_room else "__init__")
    return rooms


# --- the rules, each a function from one source or from the house to its faults -------


def faults_of_arrows(room, tree):
    for name in all_imported_names(tree):
        if name.startswith("."):
            yield f"{room} imports {name!r}: imports here are absolute"
    for other in sorted(rooms_imported(tree)):
        if other == "__init__":
            yield f"{room} imports from the root: import from the room instead"
        elif other not in DEPTH:
            yield f"{room} imports {other}, which has no floor yet: see FLOORS"
        elif DEPTH[other] < DEPTH.get(room, 0):
            yield f"{room} imports {other}, which is above it"


def faults_of_circles(trees):
    graph = {room: rooms_imported(tree) for room, tree in trees.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"a circle: {' -> '.join(error.args[1])}"


def faults_of_doors(room, tree):
    names = used_names(tree)
    for package, doors in DOORS.items():
        if room not in doors and any(is_within(name, package) for name in names):
            yield f"{room} uses {package}, which is for {sorted(doors) or 'no room'}"


def faults_of_extras(room, tree):
    at_import = [
        name for node in outside_functions(tree) for name in imported_names(node)
    ]
    for package in IN_FUNCTIONS_ONLY:
        if any(is_within(name, package) for name in at_import):
            yield f"{room} imports {package} outside of a function"


def faults_of_tools(room, tree):
    """Tools may validate like scikit-learn, but know of no estimators."""
    if room in FLOORS["tools"]:
        for name in all_imported_names(tree):
            if is_within(name, "sklearn") and not is_within(name, "sklearn.utils"):
                yield f"{room} is a tool and imports {name}"


def is_literal(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def faults_of_loading(room, tree):
    meaning = local_names(tree)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = full_name(call.func, meaning) or ""
        attribute = getattr(call.func, "attr", name.rpartition(".")[2])
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        if name in RUNS_CODE:
            yield f"{room}:{call.lineno} calls {name}, which can run code"
        if "allow_pickle" in keywords:
            if not is_literal(keywords["allow_pickle"], False):
                yield f"{room}:{call.lineno} passes allow_pickle"
        if name == "torch.load" or attribute in UNPICKLES_UNLESS_TOLD:
            if not is_literal(keywords.get("weights_only"), True):
                yield f"{room}:{call.lineno} loads without weights_only=True"


def faults_of_length(room, source, tree):
    n_lines = len(source.splitlines())
    if n_lines > LONGEST_FILE:
        yield f"{room} has {n_lines} lines; {LONGEST_FILE} are allowed"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if body_length(node) > LONGEST_BODY:
                yield (
                    f"{room}:{node.lineno} {node.name} has {body_length(node)} lines "
                    f"below its docstring; {LONGEST_BODY} are allowed"
                )


def body_length(function):
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def faults_of(sources):
    """All faults of a house given as {room: source}."""
    trees = {room: ast.parse(source) for room, source in sources.items()}
    below = {room: tree for room, tree in trees.items() if room != "__init__"}
    faults = list(faults_of_circles(below))
    for room, tree in below.items():
        faults += faults_of_arrows(room, tree)
    for room, tree in trees.items():
        faults += faults_of_doors(room, tree)
        faults += faults_of_extras(room, tree)
        faults += faults_of_tools(room, tree)
        faults += faults_of_loading(room, tree)
        faults += faults_of_length(room, sources[room], tree)
    return faults


# --- the house as it stands -----------------------------------------------------------


def test_every_module_has_a_floor():
    """`sktl/` is flat, so that a file's name says its floor."""
    modules = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    placed = {Path(f"{room}.py") for room in DEPTH}
    assert modules - placed == set()


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda p: p.stem)
def test_module_keeps_the_rules(path):
    faults = faults_of({path.stem: path.read_text("utf-8")})
    assert not faults, "\n".join(faults)


def test_modules_form_no_circle():
    trees = {p.stem: ast.parse(p.read_text("utf-8")) for p in PACKAGE.glob("*.py")}
    assert list(faults_of_circles(trees)) == []


# --- the rules notice what they are for -----------------------------------------------

FAULTY = [
    ("_store", "from sktl._extractor import X", "_extractor, which is above it"),
    ("_store", "def f():\n    import sktl._frozen", "_frozen, which is above it"),
    ("_backbones", "from sktl._frozen import FrozenPrefix", "which is above it"),
    ("exceptions", "from sktl import _store", "_store, which is above it"),
    ("_frozen", "import sktl", "from the root"),
    ("_frozen", "from sktl import __version__", "from the root"),
    ("_frozen", "from sktl import PretrainedFeatureExtractor", "from the root"),
    ("_frozen", "from sktl._helpers import help", "_helpers, which has no floor"),
    ("_frozen", "from ._store import Store", "absolute"),
    ("_frozen", "from . import _store", "absolute"),
    ("_frozen", "from PIL import Image", "uses PIL"),
    ("_frozen", "import PIL.Image as image", "uses PIL"),
    ("_frozen", "def f():\n    import sqlite3", "uses sqlite3"),
    ("_backbones", "from torch import fx", "uses torch.fx"),
    ("_backbones", "import torch\ntorch.fx.symbolic_trace(0)", "uses torch.fx"),
    ("_backbones", "import torch as t\nt.fx.Tracer()", "uses torch.fx"),
    (
        "_backbones",
        "from torchvision.models.feature_extraction import get_graph_node_names",
        "uses torchvision.models.feature_extraction",
    ),
    ("_extractor", "from skorch.utils import to_tensor", "uses skorch"),
    ("_store", "import urllib.request", "uses urllib"),
    ("_displays", "import matplotlib.pyplot as plt", "outside of a function"),
    ("_displays", "if True:\n    from matplotlib import cm", "outside of a function"),
    ("_displays", "class D:\n    import pandas", "outside of a function"),
    ("_engine", "from sklearn.base import BaseEstimator", "is a tool"),
    ("_store", "import pickle\npickle.loads(b'')", "calls pickle.loads"),
    ("_store", "from pickle import load as read\nread(0)", "calls pickle.load"),
    ("_store", "import numpy as np\nnp.load(0, allow_pickle=True)", "allow_pickle"),
    ("_store", "import joblib\njoblib.load('x')", "calls joblib.load"),
    ("_frozen", "eval('1')", "calls eval"),
    ("_frozen", "exec('1')", "calls exec"),
    ("_backbones", "import torch\ntorch.load('x')", "weights_only"),
    ("_backbones", "import torch\ntorch.load('x', weights_only=False)", "weights_only"),
    ("_backbones", "weights.get_state_dict(progress=True)", "weights_only"),
    (
        "_weights",
        "from torch.hub import load_state_dict_from_url as get\nget('x')",
        "weights_only",
    ),
    ("_store", "x = 1\n" * 451, "451 lines"),
    ("_store", "def f():\n    'What.'\n" + "    x = 1\n" * 51, "has 51 lines"),
]


@pytest.mark.parametrize(("room", "source", "fault"), FAULTY)
def test_fault_is_noticed(room, source, fault):
    (found,) = faults_of({room: source})
    assert fault in found


def test_circle_on_one_floor_is_noticed():
    circle = {
        "_images": "from sktl._engine import run",
        "_engine": "def f():\n    from sktl._images import open_images",
    }
    (found,) = faults_of(circle)
    assert "a circle" in found


SOUND = [
    ("__init__", "from sktl._extractor import PretrainedFeatureExtractor"),
    ("_extractor", "from sktl._frozen import FrozenPrefix"),
    ("_comparison", "from sktl._displays import TransferComparisonDisplay"),
    ("_backbones", "from sktl import _mini\nfrom sktl._images import Geometry"),
    ("_images", "from PIL import Image"),
    ("_images", "from sklearn.utils.validation import check_array"),
    ("_displays", "def plot():\n    import matplotlib.pyplot as plt"),
    ("_engine", "import torch\ntorch.nn.Identity().eval()"),
    ("_backbones", "import torch\ntorch.load('x', weights_only=True)"),
    ("_backbones", "weights.get_state_dict(weights_only=True)"),
    ("_store", "import pickle\npickle.dumps(1)"),
    ("_store", "import numpy as np\nnp.load('x', allow_pickle=False)"),
    ("_store", "x = 1\n" * 450),
    ("_store", "def f():\n    '''" + "Many words.\n" * 60 + "'''\n    return 1"),
]


@pytest.mark.parametrize(("room", "source"), SOUND)
def test_sound_source_has_no_fault(room, source):
    assert faults_of({room: source}) == []
