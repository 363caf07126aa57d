"""What a fresh machine gets: the wheel, what it asks for, and a strict test run."""

import ast
import contextlib
import email
import os
import socket
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import warnings
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import scipy.special
import torch
from packaging.requirements import Requirement

import sktl
from sktl.exceptions import CacheWarning, ImageSizeWarning

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "sktl"


# --- the wheel ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with one wheel and one source archive."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", folder]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def files_of_package():
    files = [path for path in PACKAGE.rglob("*") if path.is_file()]
    return {
        path.relative_to(REPOSITORY).as_posix()
        for path in files
        if "__pycache__" not in path.parts
    }


def test_wheel_holds_the_whole_package_and_nothing_else(wheel):
    """The weights and their card too: .gitignore must not name anything of sktl/."""
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == files_of_package()


@pytest.fixture(scope="module")
def metadata(wheel):
    (path,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(path))


def test_version_stands_in_one_place(metadata):
    assert metadata["Version"] == sktl.__version__


def test_wheel_holds_both_networks_and_both_licences(wheel, metadata):
    weights = {name for name in wheel.namelist() if name.endswith(".safetensors")}
    folder = "sktl/_networks/weights"
    assert weights == {f"{folder}/{n}.safetensors" for n in ("sktl_mini", "sktl_photo")}
    licences = metadata.get_all("License-File")
    assert licences == ["LICENSE", f"{folder}/LICENSE-APACHE"]


def test_source_archive_can_be_tested(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert files_of_package() < packed
    assert {"LICENSE", "README.md", "pyproject.toml", "tests/conftest.py"} < packed


# --- what it asks for -----------------------------------------------------------------


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]


def names_of(requirements):
    return {Requirement(requirement).name for requirement in requirements}


def imported_distributions():
    """Distributions that sktl imports, anywhere."""
    trees = [ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom)]
    packages = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    optional = {"pillow_heif": ["pillow-heif"]}  # these may not be installed here
    optional |= {name: [name] for name in ("dask", "huggingface_hub", "ray", "timm")}
    providers = optional | packages_distributions()
    return {providers[package][0].lower() for package in packages - {"sktl"}}


def test_dependencies_are_what_is_imported(project):
    """Nothing comes in through another package's dependencies, nothing for no use."""
    extras = project["optional-dependencies"]
    names = ("dask", "heif", "plot", "ray", "timm")
    extra = names_of(requirement for name in names for requirement in extras[name])
    assert imported_distributions() - extra == names_of(project["dependencies"])


def test_dependencies_have_floors_only(project):
    for requirement in map(Requirement, project["dependencies"]):
        assert [floor.operator for floor in requirement.specifier] == [">="]


@pytest.mark.parametrize(
    ("name", "version"), [("torch", "2.11.0"), ("torchvision", "0.26.0")]
)
def test_floor_lets_a_version_in_use_be(project, name, version):
    """A machine that has these must not be made to change its torch."""
    (requirement,) = [r for r in project["dependencies"] if Requirement(r).name == name]
    assert Requirement(requirement).specifier.contains(version)


def test_ci_can_be_executed():
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)


# --- the test run ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "reach",
    [
        lambda: urllib.request.urlopen("https://example.org"),
        lambda: socket.create_connection(("example.org", 443)),
        lambda: socket.socket().connect(("192.0.2.1", 443)),
        lambda: socket.socket().connect_ex(("192.0.2.1", 443)),
    ],
)
def test_reaching_for_the_network_fails_a_test(reach):
    with pytest.raises(pytest.fail.Exception, match="tried to reach"):
        reach()


def test_this_machine_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), timeout=5) as connection:
            assert connection.getpeername() == server.getsockname()


def test_address_of_this_machine_can_be_asked_for():
    """As Dask and Ray do it, by a datagram socket that connects and sends nothing."""
    with contextlib.suppress(OSError):  # this machine may have no network, or no name
        with socket.socket(type=socket.SOCK_DGRAM) as asking:
            asking.connect(("192.0.2.1", 80))
    with contextlib.suppress(OSError):
        socket.getaddrinfo(socket.gethostname(), 80)


@pytest.mark.parametrize(
    "category", [DeprecationWarning, FutureWarning, CacheWarning, ImageSizeWarning]
)
def test_warning_is_an_error(category):
    with pytest.raises(category):
        warnings.warn("see conftest.py and pyproject.toml", category, stacklevel=1)


def test_scipy_takes_arrays_of_other_libraries():
    """SCIPY_ARRAY_API was set in time; otherwise scikit-learn leaves out a check."""
    assert isinstance(scipy.special.expit(torch.zeros(1)), torch.Tensor)
