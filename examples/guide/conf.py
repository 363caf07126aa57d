"""The HTML guide: these pages, the docstrings and a gallery of the examples.

`sphinx-build -W examples/guide _site` builds it, offline. By default the gallery shows
the examples without running them; `-D plot_gallery=1` runs them, and shows their plots
and how long they took.
"""

import inspect

from skorch import NeuralNetClassifier

import sktl
import sktl.callbacks

# What overrides another method of skorch is a hook, and skorch documents it.
CALLED = {"fit", "partial_fit", "predict", "predict_proba"}
HIDDEN = set(dir(NeuralNetClassifier)) - CALLED


def own_methods(of_class):
    """Names of the methods of a class that are sktl's own and for users to call."""
    return [
        name
        for name, value in inspect.getmembers(of_class, callable)
        if not name.startswith(("_", "on_"))
        and name not in HIDDEN
        and getattr(value, "__module__", "").startswith("sktl")
    ]


def link_to_page_of_benchmarks(app, docname, source):
    """Let links to the benchmarks, which work in the repository, work in the site."""
    source[0] = source[0].replace("](../../benchmarks/README.md", "](benchmarks.md")


def setup(app):
    """Called by sphinx."""
    app.connect("source-read", link_to_page_of_benchmarks)


project = "sktl"
author = "the sktl developers"
version = release = sktl.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
root_doc = "index"
exclude_patterns = ["gallery/*.md5", "gallery/*.json"]
templates_path = ["_templates"]
default_role = "literal"
myst_heading_anchors = 3
autosummary_generate = True
autosummary_context = {
    "own_methods": {
        f"{module.__name__}.{name}": own_methods(getattr(module, name))
        for module in (sktl, sktl.callbacks)
        for name in module.__all__
    }
}
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

sphinx_gallery_conf = {
    "examples_dirs": "..",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/(?!compare_photographs|\w+_on_cluster)\w+\.py$",  # need more
    "plot_gallery": "False",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 0,
    "within_subsection_order": "FileNameSortKey",
}

html_theme = "pydata_sphinx_theme"
html_title = "sktl"
html_show_sourcelink = False
html_sidebars = {"**": []}  # the bar at the top names all pages
html_theme_options = {
    "header_links_before_dropdown": 4,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
}
