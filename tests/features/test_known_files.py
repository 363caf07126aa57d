"""A file whose features are cached is not read again, unless it changed."""

import builtins
import io
import os
import time

import numpy as np
import pytest

from sktl import PretrainedFeatureExtractor, clear_cache
from sktl._utils import file_state
from sktl.exceptions import ImageReadError
from tests.helpers import encode

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
FILES = [encode(image, "BMP") for image in IMAGES]  # all of one size
N_FILES = 5
TICK = 0.1  # seconds, after which the times of a file tell here of any change


@pytest.fixture(autouse=True)
def fine_clock(monkeypatch):
    """Spare the tests the two seconds after which times tell anywhere."""
    monkeypatch.setattr(file_state, "CLOCK_TICK", TICK * 1e9)


@pytest.fixture
def extractor():
    return PretrainedFeatureExtractor("sktl_mini", cache="memory")


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"{n}.bmp" for n in range(N_FILES)]
    for path, content in zip(paths, FILES, strict=False):
        path.write_bytes(content)
    time.sleep(2 * TICK)
    return paths


@pytest.fixture
def opened(monkeypatch):
    """Paths that Python opens, in order."""
    found, original = [], builtins.open

    def watched(file, *args, **kwargs):
        found.append(file)
        return original(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", watched)
    return found


def expected(extractor, images):
    return extractor.set_params(cache=None).fit_transform(list(images))


def test_file_of_cached_features_is_not_opened(extractor, paths, opened):
    features = extractor.fit_transform(paths)
    assert set(map(str, paths)) <= set(opened)
    opened.clear()
    again = extractor.transform(paths)
    assert not set(map(str, paths)) & set(opened)
    np.testing.assert_array_equal(again, features)
    np.testing.assert_array_equal(features, expected(extractor, IMAGES[:N_FILES]))


def test_file_is_opened_again_where_its_features_are_gone(extractor, paths, opened):
    features = extractor.fit_transform(paths)
    clear_cache("memory")
    opened.clear()
    np.testing.assert_array_equal(extractor.transform(paths), features)
    assert set(map(str, paths)) <= set(opened)


def overwrite(path, content):
    path.write_bytes(content)


def overwrite_and_restore_times(path, content):
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path, content):
    other = path.with_suffix(".new")
    other.write_bytes(content)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    os.replace(other, path)


@pytest.mark.parametrize("change", [overwrite, overwrite_and_restore_times, replace])
def test_changed_file_of_the_same_size_is_read_again(extractor, paths, change):
    extractor.fit_transform(paths)
    extractor.transform(paths)
    change(paths[2], FILES[5])
    features = extractor.transform(paths)
    np.testing.assert_array_equal(
        features, expected(extractor, IMAGES[[0, 1, 5, 3, 4]])
    )


def test_file_changed_right_after_it_was_read_is_read_again(extractor, paths):
    for number in (0, 5, 1, 4) * 2:
        paths[0].write_bytes(FILES[number])
        features = extractor.fit_transform(paths)
        np.testing.assert_array_equal(
            features[0], expected(extractor, IMAGES[[number, 1, 2, 3, 4]])[0]
        )
        extractor.set_params(cache="memory")


def test_other_content_than_that_of_the_digest_is_refused(
    extractor, paths, monkeypatch
):
    extractor.fit_transform(paths)
    clear_cache("memory")
    original = builtins.open

    def swapped(file, *args, **kwargs):
        is_third = str(file) == str(paths[2])
        return io.BytesIO(FILES[5]) if is_third else original(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", swapped)
    with pytest.raises(ImageReadError, match=r"row 2: .*2\.bmp: changed while it was"):
        extractor.transform(paths)
