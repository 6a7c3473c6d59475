"""Weight files: stored order, inferred widths, refusals, baking, the cache and the search order."""
from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import keras_files
import numpy as np
import pytest
import safetensors.torch
import torch
from synthmorph_torch import weights
from synthmorph_torch.errors import WeightsError
from synthmorph_torch.networks import HyperUNet, Widths
from synthmorph_torch.weights import loading
from synthmorph_torch.weights.loading import Depth

LAYOUTS = [{}, {"per_layer": True}, {"split": True}, {"per_layer": True, "split": True, "nested": True}]


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory, monkeypatch):
    """No weights of the person who runs the tests, and a cache of our own."""
    monkeypatch.setenv("SYNTHMORPH_CACHE", str(tmp_path_factory.mktemp("cache")))
    for name in ("SYNTHMORPH_WEIGHTS", "FREESURFER_HOME", "SYNTHMORPH_WEIGHTS_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def detector_file(tmp_path):
    return keras_files.write(tmp_path / "affine.h5", keras_files.random_arrays(keras_files.detector_shapes()))


@pytest.fixture
def deformable_file(tmp_path):
    return keras_files.write(tmp_path / "deform.h5", keras_files.random_arrays(keras_files.deformable_shapes()))


# Reading -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_come_in_stored_order(tmp_path, layout):
    arrays = keras_files.random_arrays([(2, 3), (4,), (1, 2, 3), (5,), (6,)])
    path = keras_files.write(tmp_path / "w.h5", arrays, **layout)
    with weights.open_arrays(path) as stored:
        assert stored.shapes() == [a.shape for a in arrays]
        for number, array in enumerate(arrays):
            np.testing.assert_array_equal(stored.read(number), array)
        np.testing.assert_array_equal(stored.read(0, 1), arrays[0][1])


def test_detector_takes_its_widths_from_the_file(detector_file):
    detector = weights.load_detector(detector_file)
    assert detector.widths == Widths(1, (4, 5, 6, 7), (), (8, 9, 10, 11), 6)
    arrays = keras_files.random_arrays(keras_files.detector_shapes())
    for number, tensor in enumerate(detector.state_dict().values()):
        expected = arrays[number].transpose(4, 3, 0, 1, 2) if arrays[number].ndim == 5 else arrays[number]
        np.testing.assert_array_equal(tensor.numpy(), expected)
    assert not any(p.requires_grad or p.is_meta for p in detector.parameters())


def test_baking_equals_the_hypernetwork(deformable_file):
    widths, kernels = weights.load_deformable(deformable_file, 0.3)
    assert widths == Widths(2, (2, 3, 4, 5), (6, 5, 4, 3), (5, 4, 3, 2), 3)
    network = hyper_unet(deformable_file)
    with torch.no_grad():
        for (kernel, bias), (expected_kernel, expected_bias) in zip(kernels, network.bake(0.3), strict=True):
            torch.testing.assert_close(kernel, expected_kernel, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(bias, expected_bias, rtol=1e-5, atol=1e-4)


def hyper_unet(path: Path) -> HyperUNet:
    """The whole hypernetwork as a module, from the same arrays."""
    found = weights.Deformable.open(path)
    network = HyperUNet(found.widths, found.units)
    with weights.open_arrays(path) as stored:
        arrays = [torch.from_numpy(stored.read(n)) for n in range(len(stored.arrays))]
    names = list(network.state_dict())
    state = {n: a.T if n.startswith("dense") and a.ndim == 2 else a for n, a in zip(names, arrays, strict=True)}
    network.load_state_dict(state)
    return network


def test_joint_file_serves_both_networks(tmp_path, detector_file, deformable_file):
    arrays = keras_files.random_arrays(keras_files.detector_shapes())
    arrays += keras_files.random_arrays(keras_files.deformable_shapes())
    joint = keras_files.write(tmp_path / "joint.h5", arrays, per_layer=True)
    for one, other in zip(weights.load_detector(joint).state_dict().values(),
                          weights.load_detector(detector_file).state_dict().values(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(weights.load_deformable(joint, 0.5)[1], weights.load_deformable(deformable_file, 0.5)[1],
                          strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


# Refusals ----------------------------------------------------------------------------------------------------

def one_sentence(error) -> str:
    """The message, made sure to be one line that ends properly."""
    message = str(error.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_other_depths_are_refused(tmp_path):
    shapes = keras_files.detector_shapes(encoder=(4, 5, 6), extra=(7, 8))
    path = keras_files.write(tmp_path / "w.h5", keras_files.random_arrays(shapes))
    with pytest.raises(WeightsError, match="18 arrays were expected and 12 found") as error:
        weights.load_detector(path)
    one_sentence(error)
    detector = weights.load_detector(path, Depth(encoder=3, decoder=0, extra=2, hyper=0))
    assert detector.widths.encoder == (4, 5, 6)


@pytest.mark.parametrize(("number", "shape", "found"), [
    (0, (3, 3, 3, 2, 4), r"\(3, 3, 3, 1, 4\) but has \(3, 3, 3, 2, 4\)"),
    (6, (5, 5, 5, 6, 7), r"array 7 of 18 should have shape \(3, 3, 3, 6, 7\) but has \(5, 5, 5, 6, 7\)"),
    (5, (3, 2), "18 arrays were expected and 5 found"),
])
def test_other_detector_shapes_are_refused(tmp_path, number, shape, found):
    shapes = keras_files.detector_shapes()
    shapes[number] = shape
    path = keras_files.write(tmp_path / "w.h5", keras_files.random_arrays(shapes))
    with pytest.raises(WeightsError, match=found) as error:
        weights.load_detector(path)
    one_sentence(error)


@pytest.mark.parametrize(("number", "shape"), [(8, (6, 100)), (2, (9, 9)), (3, (1, 4)), (59, (4,)), (30, (6, 4, 1))])
def test_other_deformable_shapes_are_refused(tmp_path, number, shape):
    shapes = keras_files.deformable_shapes()
    shapes[number] = shape
    path = keras_files.write(tmp_path / "w.h5", keras_files.random_arrays(shapes))
    with pytest.raises(WeightsError, match="array .* should have shape .* but has|expected") as error:
        weights.load_deformable(path, 0.5)
    one_sentence(error)


def test_the_wrong_network_is_refused(detector_file, deformable_file):
    with pytest.raises(WeightsError, match="60 arrays were expected and 0 found"):
        weights.load_deformable(detector_file, 0.5)
    with pytest.raises(WeightsError, match="18 arrays were expected and 0 found"):
        weights.load_detector(deformable_file)


def test_damaged_and_foreign_files_are_refused(tmp_path, detector_file):
    cases = {"absent.h5": None, "empty.h5": b"", "pointer.h5": b"/annex/objects/MD5E-s51455312--abc.h5\n"}
    cases["truncated.h5"] = detector_file.read_bytes()[:20000]
    cases["pickle.pt"] = b"\x80\x02}q\x00."
    cases["header.safetensors"] = b"\x10\x00\x00\x00\x00\x00\x00\x00{nonsense"
    cases["range.safetensors"] = b"\x48\x00\x00\x00\x00\x00\x00\x00" + (
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'.ljust(0x48) + b"short")
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name) as error:
            weights.load_detector(tmp_path / name)
        one_sentence(error)


def test_hdf5_without_keras_weights_is_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(WeightsError, match="no weights written by Keras") as error:
        weights.load_detector(tmp_path / "other.h5")
    one_sentence(error)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    arrays = keras_files.random_arrays(keras_files.detector_shapes())
    arrays[4][0] = np.nan
    with pytest.raises(WeightsError, match="not finite") as error:
        weights.load_detector(keras_files.write(tmp_path / "w.h5", arrays))
    one_sentence(error)


def test_missing_h5py_is_explained(detector_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(WeightsError, match="pip install h5py"):
        weights.load_detector(detector_file)


def test_nothing_is_ever_unpickled():
    source = Path(weights.__file__).parent
    for path in source.glob("*.py"):
        text = path.read_text()
        assert "torch.load" not in text and "import pickle" not in text and "allow_pickle=True" not in text


# safetensors -------------------------------------------------------------------------------------------------

def test_safetensors_agree_with_the_official_library(tmp_path):
    tensors = {
        "b": torch.randn(3, 4), "a": torch.arange(5), "half": torch.randn(7).half(),
        "brain": torch.randn(2, 2).bfloat16(), "none": torch.zeros(0, 3), "scalar": torch.tensor(2.5),
    }
    weights.write_safetensors(tmp_path / "ours.safetensors", tensors, {"note": "äö"})
    theirs = safetensors.torch.load_file(tmp_path / "ours.safetensors")
    safetensors.torch.save_file(tensors, tmp_path / "theirs.safetensors", {"note": "äö"})
    ours, metadata = weights.read_safetensors(tmp_path / "theirs.safetensors")
    assert metadata == {"note": "äö"} == weights.read_metadata(tmp_path / "ours.safetensors")
    for name, tensor in tensors.items():
        for found in (ours[name], theirs[name]):
            assert found.dtype == tensor.dtype and torch.equal(found, tensor)


def test_safetensors_are_read_without_their_library(tmp_path, monkeypatch):
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    for name in ("safetensors", "safetensors.torch", "h5py"):
        monkeypatch.setitem(sys.modules, name, None)
    assert torch.equal(weights.read_safetensors(tmp_path / "w.safetensors")[0]["a"], torch.ones(2))


@pytest.mark.parametrize("role", ["detector", "deformable"])
def test_converted_files_need_no_h5py(tmp_path, detector_file, deformable_file, role, monkeypatch):
    source = {"detector": detector_file, "deformable": deformable_file}[role]
    weights.convert(source, tmp_path / "w.safetensors")
    if role == "detector":
        expected = list(weights.load_detector(source).state_dict().values())
        monkeypatch.setitem(sys.modules, "h5py", None)
        found = list(weights.load_detector(tmp_path / "w.safetensors").state_dict().values())
    else:
        expected = [t for pair in weights.load_deformable(source, 0.2)[1] for t in pair]
        monkeypatch.setitem(sys.modules, "h5py", None)
        found = [t for pair in weights.load_deformable(tmp_path / "w.safetensors", 0.2)[1] for t in pair]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


# Cache of baked kernels --------------------------------------------------------------------------------------

def baked() -> list[Path]:
    return sorted((weights.cache_folder() / "baked").glob("*"))


def test_baked_kernels_are_cached(deformable_file, monkeypatch):
    network = weights.Deformable.open(deformable_file)
    first = network.bake(0.25)
    assert len(baked()) == 1
    monkeypatch.setattr(loading, "bake", lambda *_: pytest.fail("not taken from the cache"))
    again = network.bake(0.25)
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    assert all(k.is_contiguous(memory_format=torch.channels_last_3d) for k, _ in again)


def test_cache_knows_lambda_and_content(tmp_path, deformable_file):
    network = weights.Deformable.open(deformable_file)
    assert not torch.equal(network.bake(0.25)[0][0], network.bake(0.75)[0][0])
    other = keras_files.random_arrays(keras_files.deformable_shapes(), seed=1)
    keras_files.write(deformable_file, other)  # another file in the same place
    network.bake(0.25)
    assert len(baked()) == 3


@pytest.mark.parametrize("damage", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", None])
def test_damaged_cache_is_replaced(deformable_file, damage):
    network = weights.Deformable.open(deformable_file)
    expected = network.bake(0.25)
    path = baked()[0]
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    assert torch.equal(network.bake(0.25)[-1][0], expected[-1][0])
    assert torch.equal(network.bake(0.25)[-1][0], expected[-1][0])


def test_cache_is_optional_and_bounded(deformable_file, monkeypatch):
    weights.load_deformable(deformable_file, 0.25, cache=False)
    assert not baked()
    monkeypatch.setattr(loading, "BAKED_KEPT", 2)
    for value in (0.1, 0.2, 0.3):
        weights.load_deformable(deformable_file, value)
    assert len(baked()) == 2


def test_unwritable_cache_costs_time_only(tmp_path, deformable_file, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SYNTHMORPH_CACHE", str(tmp_path / "file" / "cache"))
    assert len(weights.load_deformable(deformable_file, 0.25)[1]) == 13


# Search ------------------------------------------------------------------------------------------------------

@pytest.fixture
def compact(tmp_path, monkeypatch):
    """A catalogue folder with a stand-in for the compact model."""
    from synthmorph_torch.weights import search

    folder = tmp_path / "Resources"
    (folder / "Models").mkdir(parents=True)
    weights.write_safetensors(folder / "Models" / "compact.safetensors", {"a": torch.ones(1)}, {"name": "compact"})
    monkeypatch.setattr(search, "resources_folder", lambda: folder)
    return folder / "Models" / "compact.safetensors"


def official(folder: Path, roles=("affine", "rigid", "deform")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for entry in weights.catalogue():
        if entry.role in roles:
            shapes = keras_files.deformable_shapes() if entry.role == "deform" else keras_files.detector_shapes()
            keras_files.write(folder / entry.name, keras_files.random_arrays(shapes))
    return folder


def test_catalogue_is_that_of_the_specification():
    entries = {entry.role: entry for entry in weights.catalogue()}
    assert entries["affine"].bytes == 51_455_312 and entries["affine"].sha256.startswith("1ac5304b")
    assert entries["rigid"].bytes == 51_656_152 and entries["rigid"].sha256.startswith("284c145f")
    assert entries["deform"].bytes == 3_508_630_424 and entries["deform"].sha256.startswith("95b367cd")
    for entry in entries.values():
        assert entry.url == f"https://surfer.nmr.mgh.harvard.edu/docs/synthmorph/{entry.name}"
        assert entry.licence == "CC BY 4.0" and "Hoffmann" in entry.attribution and len(entry.sha256) == 64


def test_compact_model_serves_where_nothing_is_installed(compact):
    choice = weights.find_weights("joint")
    assert choice.kind == "compact" and choice.paths == {"compact": compact}
    assert "synthmorph.deform.3.h5 are not installed" in choice.reason
    assert "weights fetch affine deform" in choice.reason
    assert choice.checksum == weights.checksum(compact)


def test_search_order(tmp_path, compact, monkeypatch):
    official(weights.cache_folder() / "models")
    assert "the cache folder" in weights.find_weights("joint").reason
    monkeypatch.setenv("FREESURFER_HOME", str(tmp_path / "fs"))
    official(tmp_path / "fs" / "models")
    choice = weights.find_weights("joint")
    assert "FREESURFER_HOME" in choice.reason and choice.paths["deform"].parent == tmp_path / "fs" / "models"
    monkeypatch.setenv("SYNTHMORPH_WEIGHTS", str(official(tmp_path / "env")))
    assert "SYNTHMORPH_WEIGHTS" in weights.find_weights("rigid").reason
    choice = weights.find_weights("affine", official(tmp_path / "given"))
    assert "the given path" in choice.reason
    assert choice.paths == {"affine": tmp_path / "given" / "synthmorph.affine.2.h5"}
    assert "CC BY" in choice.licence
    assert weights.find_weights("joint", prefer="compact").kind == "compact"


def test_parts_may_come_from_different_places(tmp_path, compact, monkeypatch):
    official(weights.cache_folder() / "models", ["deform"])
    monkeypatch.setenv("FREESURFER_HOME", str(tmp_path / "fs"))
    official(tmp_path / "fs" / "models", ["affine"])
    choice = weights.find_weights("joint")
    assert choice.kind == "official" and set(choice.paths) == {"affine", "deform"}
    assert weights.find_weights("rigid").kind == "compact"


def test_files_may_be_named_one_by_one(tmp_path, compact, detector_file, deformable_file, monkeypatch):
    choice = weights.find_weights("joint", [deformable_file, detector_file])
    assert choice.paths == {"affine": detector_file, "deform": deformable_file}
    assert weights.find_weights("rigid", [str(detector_file)]).paths == {"rigid": detector_file}
    monkeypatch.setenv("SYNTHMORPH_WEIGHTS", os.pathsep.join(map(str, choice.paths.values())))
    assert weights.find_weights("joint").paths == choice.paths
    other = tmp_path / "own.safetensors"
    weights.write_safetensors(other, {"a": torch.zeros(1)}, {"name": "own"})
    assert weights.find_weights("joint", other).paths == {"compact": other}


def test_what_was_asked_for_and_is_missing_is_an_error(tmp_path, compact, detector_file, monkeypatch):
    with pytest.raises(WeightsError, match="no weights at .*nowhere.h5") as error:
        weights.find_weights("affine", tmp_path / "nowhere.h5")
    one_sentence(error)
    with pytest.raises(WeightsError, match="synthmorph.deform.3.h5 was not found in the given path") as error:
        weights.find_weights("joint", detector_file)
    one_sentence(error)
    with pytest.raises(WeightsError, match="were not found in the cache folder"):
        weights.find_weights("joint", prefer="official")
    monkeypatch.setenv("SYNTHMORPH_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(WeightsError, match="SYNTHMORPH_WEIGHTS"):
        weights.find_weights("joint")


def test_placeholders_of_a_source_tree_are_passed_over(tmp_path, compact, monkeypatch):
    folder = tmp_path / "fs" / "models"
    folder.mkdir(parents=True)
    for entry in weights.catalogue():
        (folder / entry.name).write_text("/annex/objects/MD5E-s51455312--0123\n")
    monkeypatch.setenv("FREESURFER_HOME", str(tmp_path / "fs"))
    assert weights.find_weights("joint").kind == "compact"


def test_catalogue_without_h5py_give_way(compact, monkeypatch):
    official(weights.cache_folder() / "models")
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    choice = weights.find_weights("joint")
    assert choice.kind == "compact" and "h5py" in choice.reason


def test_checksums_are_remembered_until_the_file_changes(tmp_path, monkeypatch):
    import hashlib

    from synthmorph_torch.weights import store

    path = tmp_path / "w.bin"
    path.write_bytes(b"one")
    assert weights.checksum(path) == hashlib.sha256(b"one").hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(store, "sha256", lambda *_: pytest.fail("computed twice"))
        weights.checksum(path)
    path.write_bytes(b"other")
    assert weights.checksum(path) == hashlib.sha256(b"other").hexdigest()
    assert len(json.loads((weights.cache_folder() / "checksums.json").read_text())) == 1
