"""Values to plain data and tensors and back; and plain data that nobody may trust."""

import json
import math
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchvision.models import ResNet18_Weights, ViT_B_16_Weights

from sktl._saving import plain_data
from sktl._saving.plain_data import decode, encode, to_json
from sktl._training.labels import check_labels, list_classes


def passed_through(content):
    """What comes back after the plain part was written out as JSON."""
    plain, tensors = encode(content)
    return decode(json.loads(to_json(plain)), tensors)


def assert_same(a, b):
    """Equal in type and in every bit, which `==` leaves open for 1, 1.0, True, NaN."""
    assert type(a) is type(b)
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, dict):
        assert_same(list(a.items()), list(b.items()))
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert_same(a.tolist(), b.tolist())
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.stride() == b.stride()
        assert torch.equal(a, b)
    elif isinstance(a, float | np.floating) and math.isnan(a):
        assert math.isnan(b)
    elif isinstance(a, np.datetime64 | np.timedelta64):
        assert a.dtype == b.dtype
        assert a.view("i8") == b.view("i8")
    else:
        assert a == b
        assert str(a) == str(b)  # -0.0 is not 0.0


# ---- what comes back

VALUES = {
    "none": None,
    "bools": [True, False],
    "ints": [0, -1, 2**70],
    "floats": [0.1, -0.0, 5e-324, 1.7976931348623157e308],
    "floats_json_lacks": [math.nan, math.inf, -math.inf],
    "strings": ["", "ä\n\x00", '{"float":"nan"}', "\ud800", "$"],
    "tuple": (1, (2.0, ()), [3, (None,)]),
    "dict": {"b": 1, "a": {"tensor": "x"}, 3: "int key", None: 0, True: 2},
    "counter": Counter([3, 3, "a", 0.5, 3, None]),
    "path": Path("some where/file.safetensors"),
    "dtype": torch.bfloat16,
    "device": [torch.device("cpu"), torch.device("cuda:1")],
    "optimizer": torch.optim.AdamW,
    "loss": torch.nn.CrossEntropyLoss,
    "loader": torch.utils.data.DataLoader,
    "weights": [ResNet18_Weights.IMAGENET1K_V1, ViT_B_16_Weights.DEFAULT],
    "numpy_scalars": [
        np.float32(0.1),
        np.float64(np.nan),
        np.int8(-1),
        np.bool_(True),
        np.str_("ä"),
        np.datetime64("2020-01-01T00:00", "ms"),
        np.timedelta64(3, "D"),
    ],
    "generator": np.random.RandomState(3).get_state(legacy=True),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_value_comes_back_in_type_and_bits(value):
    assert_same(passed_through(value), value)


@pytest.mark.parametrize("cls", plain_data.CLASSES.values(), ids=lambda c: c.__name__)
def test_known_class_comes_back(cls):
    assert passed_through(cls) is cls


def test_ordered_dict_comes_back_as_dict():
    """As `state_dict` gives it; its order is kept, its type says nothing more."""
    assert_same(passed_through(OrderedDict(b=1, a=2)), {"b": 1, "a": 2})


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from([np.float32(0.5), np.str_("s"), torch.float16, Path("p")]),
)
keys = st.one_of(st.none(), st.integers(), st.text())
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(keys, inner),
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(trees)
def test_any_tree_of_values_comes_back(tree):
    assert_same(passed_through(tree), tree)


# ---- labels

# NumPy itself drops NULs at the end of strings.
texts = st.text(max_size=5).filter(lambda text: not text.endswith("\0"))
kept_dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.unicode_string_dtypes(endianness="?", min_len=1, max_len=9),
    hnp.datetime64_dtypes(endianness="?"),
    hnp.timedelta64_dtypes(endianness="?"),
)


@settings(deadline=None)
@given(kept_dtypes.flatmap(lambda dtype: hnp.arrays(dtype, st.integers(0, 6))))
def test_array_comes_back_with_its_dtype(array):
    back = passed_through(array)
    assert back.dtype.str == array.dtype.str
    # The bits of a NaN may be others.
    np.testing.assert_array_equal(back, array)


LABELS = {
    "strings": np.array(["cat", "dog"]),
    "wide_strings": np.array(["cat", "dog"], "<U40"),
    "objects": np.array(["cat", np.str_("dog")], object),
    "bools": np.array([False, True]),
    "uint8": np.array([3, 7], "u1"),
    "big_endian": np.array([3, 7], ">i4"),
    "whole_floats": np.array([1.0, 2.0], "f2"),
    "days": np.array(["2020-01-01", "2021-01-01"], "M8[D]"),
    "steps": np.array([1, 2], "m8[25s]"),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_classes_the_classifier_learns_come_back(labels):
    """Of each kind that the rooms below `fit` accept, asked here too."""
    classes = list_classes(check_labels(labels))
    assert_same(passed_through({"classes": classes})["classes"], classes)


def test_array_that_is_a_view_comes_back():
    assert_same(passed_through(np.arange(10)[::-3]), np.array([9, 6, 3, 0]))


# ---- tensors


def test_tensors_are_named_by_their_place():
    weight, step = torch.ones(2), torch.tensor(3.0)
    content = {"module": {"fc.weight": weight}, "optimizer": [{0: {"step": step}}]}
    plain, tensors = encode(content)
    assert tensors == {"module.fc.weight": weight, "optimizer.0.0.step": step}
    assert_same(decode(plain, tensors), content)


def test_tensor_in_channels_last_comes_back_so():
    """The values are named in their logical order: a file says nothing of memory."""
    tensor = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    plain, tensors = encode({"x": tensor})
    back = decode(plain, {"x": tensors["x"].contiguous()})["x"]
    assert_same(back, tensor)


def test_two_tensors_of_one_name_are_refused():
    content = {"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}
    with pytest.raises(TypeError, match=r"a\.b is a Tensor.*another tensor is named"):
        encode(content)


# ---- what is refused


def shuffle_nothing(rows):
    return rows


class OwnOptimizer(torch.optim.SGD):
    pass


NOT_KEPT = {
    "callback_object": object(),
    "network": torch.nn.Linear(1, 1),
    "random_state": np.random.RandomState(0),
    "generator": torch.Generator(),
    "lambda": lambda x: x,
    "function": shuffle_nothing,
    "builtin": eval,
    "own_class": OwnOptimizer,
    "scheduler_class": torch.optim.lr_scheduler.StepLR,
    "layer_class": torch.nn.Linear,
    "module": math,
    "bytes": b"abc",
    "set": {1, 2},
    "complex": 1j,
    "longdouble_array": np.array([1, 2], np.longdouble),
    "longdouble": np.longdouble(1),
    "complex_array": np.array([1j]),
    "bytes_array": np.array([b"a"]),
    "record_array": np.array([(1, 2)], "i4,i4"),
    "matrix": np.eye(2),
    "masked_array": np.ma.masked_array([1, 2], [0, 1]),
    "objects_in_array": np.array([object()]),
    "tensors_in_array": np.fromiter([torch.ones(1)], object),
    "string_with_nul": np.str_("a\0"),
    "tensor_as_key": {torch.ones(1): 1},
    "sparse_tensor": torch.eye(2).to_sparse(),
    "tensor_without_numbers": torch.ones(1, device="meta"),
}


@pytest.mark.parametrize("value", NOT_KEPT.values(), ids=NOT_KEPT.keys())
def test_value_without_a_safe_form_is_refused_by_its_place(value):
    with pytest.raises(TypeError, match="params.x.1 is .*joblib.dump.*save_backbone"):
        encode({"params": {"x": (0, value)}})


def test_large_array_is_refused():
    """It says where large arrays belong."""
    with pytest.raises(ValueError, match="arrays take 72000000 bytes.*from_numpy"):
        encode(np.zeros(2, "<U9000000"))


# ---- plain data that `encode` never gives

HOSTILE = {
    "unknown_form": {"call": "os.system"},
    "two_forms": {"path": "a", "float": "nan"},
    "no_form": {},
    "class_of_another_module": {"class": "os.system"},
    "function_of_torch": {"class": "torch.load"},
    "class_not_listed": {"class": "torch.optim.lr_scheduler.StepLR"},
    "class_by_number": {"class": 3},
    "weights_of_nothing": {"weights": "os.system"},
    "weights_without_dot": {"weights": "ResNet18_Weights"},
    "weights_base_class": {"weights": "WeightsEnum.url"},
    "weights_function": {"weights": "get_weight.IMAGENET1K_V1"},
    "weights_by_alias": {"weights": "ResNet18_Weights.DEFAULT"},
    "dtype_that_is_a_function": {"dtype": "load"},
    "dtype_by_alias": {"dtype": "double"},
    "device_of_nothing": {"device": "toaster"},
    "device_by_number": {"device": 0},
    "path_not_tidy": {"path": "a//b"},
    "finite_float_as_text": {"float": "1.0"},
    "float_with_code": {"float": "__import__('os')"},
    "tuple_of_text": {"tuple": "ab"},
    "dict_with_a_key_twice": {"dict": [["a", 1], ["a", 2]]},
    "dict_with_a_list_as_key": {"dict": [[["a"], 1]]},
    "dict_without_value": {"dict": [["a"]]},
    "array_of_pickles": {"array": ["|O", [{"pickle": "gASV"}]]},
    "array_of_lists": {"array": ["|O", [[1]]]},
    "array_of_fields": {"array": ["i4,i4", [1]]},
    "array_of_void": {"array": ["|V8", []]},
    "array_of_bytes": {"array": ["|S1", ["a"]]},
    "array_dtype_no_text": {"array": [8, [1]]},
    "array_by_alias": {"array": ["int64", [1]]},
    "array_too_wide": {"array": ["<U100000000", ["a"]]},
    "array_much_too_wide": {"array": ["<U99999999999999999999", ["a"]]},
    "labels_cut_off": {"array": ["<U1", ["cat"]]},
    "labels_rounded": {"array": ["<i8", [1.5]]},
    "labels_too_large": {"array": ["|u1", [256]]},
    "labels_of_another_kind": {"array": ["<i8", ["1"]]},
    "bools_of_another_kind": {"array": ["|b1", [2]]},
    "scalar_of_two": {"scalar": ["<i8", [1, 2]]},
    "scalar_of_none": {"scalar": ["<i8", []]},
    "scalar_object": {"scalar": ["|O", ["a"]]},
    "tensor_not_there": {"tensor": "x"},
    "tensor_twice": [{"tensor": ""}, {"tensor": ""}],
    "tensor_of_another_place": [{"tensor": ""}],
    "tensor_by_number": {"tensor": 0},
    "layout_of_a_vector": {"channels_last": ""},
    "value_beside_a_tensor": {"tensor": "", "path": ""},
}


@pytest.mark.parametrize("plain", HOSTILE.values(), ids=HOSTILE.keys())
def test_plain_data_encode_never_gives_is_refused(plain):
    needs_one = "tensor" in str(plain) or "channels_last" in str(plain)
    tensors = {"": torch.ones(1)} if needs_one else {}
    with pytest.raises(ValueError, match="."):
        decode(plain, tensors)


def test_tensor_without_a_use_is_refused():
    with pytest.raises(ValueError, match="not written in the way sktl writes"):
        decode({"dict": []}, {"../../x": torch.ones(1)})


def test_many_wide_arrays_are_refused_before_any_is_made():
    """Each would pass: 16 000 bytes; together they are 1.6 GB."""
    wide = {"array": ["<U4000", ["a"]]}
    with pytest.raises(ValueError, match="arrays take 1600000000 bytes"):
        decode([wide] * 100_000, {})
