"""The pipeline from two images to two transforms: against the reference, on real brains, and when things go wrong."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from synthmorph_torch import agreement, images, registration, residual, spatial, transforms
from synthmorph_torch.errors import DeviceError, ImageError, UsageError
from synthmorph_torch.geometry import Space
from synthmorph_torch.loader import find_device, load_model
from synthmorph_torch.models import OfficialNetworks
from synthmorph_torch.registration import Model
from synthmorph_torch.weights import Deformable, load_detector
from synthmorph_torch.weights.loading import Depth

# Reference ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_official(reference, monkeypatch):
    """Model with the small random weights of the reference's end-to-end runs, on its 32-mm cube."""
    monkeypatch.setattr(registration, "EXTENTS", (32,))
    detector = load_detector(reference("joint_b_joint.h5"), Depth(2, 0, 4, 0))
    deformable = Deformable.open(reference("joint_b_joint.h5"), Depth(4, 4, 4, 4), cache=False)
    networks = OfficialNetworks(detector, detector, deformable.widths, deformable.bake)
    return Model(networks, "reference", torch.device("cpu"))


@pytest.fixture
def pair(load):
    """Arrays of the end-to-end run and its two images."""
    data = load("end_to_end.npz")
    both = [images.from_array(data[f"{name}_data"],
                              Space.from_ras(data[f"{name}_data"].shape, data[f"{name}_vox2world"]))
            for name in ("mov", "fix")]
    return data, both[0], both[1]


def native_displacement(transform: sitk.Transform, source: sitk.Image, target: sitk.Image) -> np.ndarray:
    """Displacement in voxels between native grids, (X, Y, Z, 3), as the reference gives it."""
    space, other = Space.of(source), Space.of(target)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in space.shape], indexing="ij"), -1)
    reached = transforms.apply_to_points(transform, space.to_world(index).reshape(-1, 3))
    return other.to_index(reached).reshape(index.shape) - index


def well_inside(source: sitk.Image, centre: np.ndarray, margin: float) -> np.ndarray:
    """Voxels whose world position is inside a 32-mm cube about ``centre`` by a margin."""
    space = Space.of(source)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in space.shape], indexing="ij"), -1)
    return (np.abs(space.to_world(index) - centre) < 16 - margin).all(-1)


@pytest.mark.parametrize("kind", ["affine", "rigid"])
def test_matrices_are_those_of_the_reference(small_official, pair, kind):
    data, moving, fixed = pair
    result = small_official.register(moving, fixed, kind, extent=32)
    to_moving, to_fixed = Space.of(moving), Space.of(fixed)
    forward = np.linalg.inv(to_moving.matrix) @ result.affine @ to_fixed.matrix
    np.testing.assert_allclose(forward[:3], data[f"{kind}_native_fw"][:3], atol=5e-4)
    there_and_back = transforms.apply_to_points(
        result.moving_to_fixed, transforms.apply_to_points(result.fixed_to_moving, [[3.0, -7.0, 11.0]]))
    np.testing.assert_allclose(there_and_back, [[3.0, -7.0, 11.0]], atol=1e-6)


@pytest.mark.parametrize("kind", ["joint", "deform_init"])
def test_fields_are_those_of_the_reference(small_official, pair, kind):
    data, moving, fixed = pair
    initial = None
    if kind == "deform_init":
        voxels = np.linalg.inv(data["init_voxel_mov_to_fix"])  # fixed to moving voxels
        initial = Space.of(moving).matrix @ voxels @ np.linalg.inv(Space.of(fixed).matrix)
    result = small_official.register(moving, fixed, kind.split("_")[0], extent=32, initial=initial)
    found = native_displacement(result.fixed_to_moving, fixed, moving)
    # beyond the network's cube the reference continues the edge displacement; ours fades to the affine transform
    inside = well_inside(fixed, Space.of(fixed).center, 3.0)
    assert inside.sum() > 1000
    error = np.abs(found - data[f"{kind}_native_fw"])[inside].max()
    assert error <= 1e-3, f"largest error {error:.1e} voxel"


def test_composite_is_residual_then_affine(small_official, pair):
    _, moving, fixed = pair
    result = small_official.register(moving, fixed, "joint", extent=32)
    far = Space.of(fixed).center + [200.0, 0.0, 0.0]
    np.testing.assert_allclose(transforms.apply_to_points(result.fixed_to_moving, [far])[0],
                               (result.affine @ [*far, 1])[:3], atol=1e-6)


# Real brains -------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def brains(data):
    return [sitk.Cast(sitk.ReadImage(str(data(f"malf/{name}_t1.nii.gz"))), sitk.sitkFloat32)
            for name in ("1000", "1113")]


@pytest.fixture(scope="module")
def compact():
    return load_model("compact", "cpu")


@pytest.fixture(scope="module")
def result(compact, brains):
    return compact.register(*brains, refine=0)


@pytest.fixture(scope="module")
def parcellations(data):
    return [images.read_labels(data(f"malf/{name}_glm.nii.gz")) for name in ("1000", "1113")]


def mean_dice(transform: sitk.Transform, parcellations: list[sitk.Image]) -> float:
    """Mean over all labels of the moving parcellation brought onto the fixed one."""
    moved = transforms.apply(transform, parcellations[0], parcellations[1], "nearest")
    return float(np.mean(list(agreement.dice(moved, parcellations[1]).values())))


def test_registration_improves_alignment(result, parcellations):
    before = mean_dice(sitk.Transform(3, sitk.sitkIdentity), parcellations)
    affine = mean_dice(transforms.affine_transform(result.affine), parcellations)
    after = mean_dice(result.fixed_to_moving, parcellations)
    assert before < affine < after


@pytest.mark.parametrize("refine", [0, 6])
def test_swapping_the_images_inverts_the_transform(compact, brains, refine):
    result, opposite = (compact.register(*pair, refine=refine) for pair in (brains, brains[::-1]))
    points = Space.of(brains[1]).center + np.random.default_rng(0).uniform(-50, 50, (500, 3))
    one = transforms.apply_to_points(result.fixed_to_moving, points)
    other = transforms.apply_to_points(opposite.moving_to_fixed, points)
    assert np.linalg.norm(one - other, axis=1).max() < 1e-3


@pytest.mark.parametrize("refine", [0, None])
def test_transforms_undo_each_other(compact, brains, refine):
    result = compact.register(*brains, refine=refine)
    brain = sitk.GetArrayFromImage(brains[1]) > 0
    indices = np.random.default_rng(1).permutation(np.argwhere(brain))[:2000, ::-1]
    points = Space.of(brains[1]).to_world(indices)
    there = transforms.apply_to_points(result.fixed_to_moving, points)
    back = transforms.apply_to_points(result.moving_to_fixed, there)
    assert np.linalg.norm(back - points, axis=1).mean() < 0.1


def test_every_larger_lambda_is_smoother(result):
    tried = [result.with_regularization(value) for value in (0.1, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.9)]
    spread = [np.log(sitk.GetArrayFromImage(r.jacobian()).clip(1e-3)).std() for r in tried]
    assert spread == sorted(spread, reverse=True) and len(set(spread)) == len(spread)
    assert np.array_equal(tried[0].affine, tried[-1].affine)
    assert all(r.inputs is result.inputs for r in tried)


def test_a_lambda_in_full_goes_on_from_its_preview(compact, brains, monkeypatch):
    first = compact.register(*brains, regularization=0.3, refine=10, preview=True)
    preview, other = (first.with_regularization(value, preview=True) for value in (0.3, 0.7))
    whole = [compact.register(*brains, regularization=0.3, refine=10), other.with_regularization(0.3)]
    monkeypatch.setattr(compact.networks, "velocity", None)  # a preview has what is needed of it
    whole += [one.with_regularization(0.3) for one in (first, preview)]
    assert all(torch.equal(whole[0].mid.velocity, one.mid.velocity) for one in whole[1:])
    assert torch.equal(first.mid.velocity, preview.mid.velocity)
    assert not torch.equal(whole[0].mid.velocity, preview.mid.velocity)
    assert [one.provenance()["preview"] for one in (*whole, first, preview)] == 4 * [False] + 2 * [True]


def test_what_is_not_refined_is_no_preview(compact, brains):
    for options in ({"transform": "affine"}, {"refine": 0}):
        assert not compact.register(*brains, preview=True, **options).provenance()["preview"]


def test_no_voxel_folds(compact, brains):
    result = compact.register(*brains, regularization=0.45, refine=20)
    assert sitk.GetArrayFromImage(result.jacobian()).min() > 0


def stored_determinant(result):
    """Smallest Jacobian determinant of the residual field on the grid that it is stored on."""
    field = sitk.CompositeTransform(result.fixed_to_moving).GetNthTransform(1)
    field = sitk.DisplacementFieldTransform(field).GetDisplacementField()
    to_index = torch.as_tensor(np.linalg.inv(Space.of(field).matrix))
    millimetres = torch.as_tensor(sitk.GetArrayFromImage(field).T.astype(np.float32))
    return float(spatial.smallest_determinant(spatial.linearly(to_index, millimetres[None])).min())


def test_a_detailed_warp_is_smoothed_where_it_would_fold(compact, brains, monkeypatch):
    smoothed = compact.register(*brains, regularization=0.1)
    assert stored_determinant(smoothed) >= residual.FOLDING
    monkeypatch.setattr(registration, "UNFOLDING", 0)
    assert stored_determinant(compact.register(*brains, regularization=0.1)) < residual.FOLDING


def test_far_apart_headers_change_nothing(compact, result, brains):
    moved = sitk.Image(brains[0])
    moved.SetOrigin([o + s for o, s in zip(moved.GetOrigin(), (300.0, -250.0, 120.0), strict=True)])
    away = compact.register(moved, brains[1], refine=0)
    one, other = (sitk.GetArrayFromImage(r.warp()) for r in (away, result))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999


def test_rigid_keeps_volume(compact, brains):
    linear = compact.register(*brains, "rigid").affine[:3, :3]
    np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("resliced", [False, True])
def test_refinement_knows_what_the_images_resolve(compact, brains, resliced):
    thick = sitk.BinShrink(brains[0], [1, 1, 5])
    moving = sitk.Resample(thick, brains[0]) if resliced else thick
    result = compact.register(moving, brains[1], "affine", refine=0)
    for edges, image, net in zip(result.voxels, (thick, brains[1]), (result.inputs.moving_net, result.inputs.fixed_net),
                                 strict=True):
        found, expected = net.matrix[:3, :3] @ edges.numpy(), Space.of(image).matrix[:3, :3]
        np.testing.assert_allclose(found, expected, rtol=0.3 if resliced else 0, atol=1e-9)


def test_provenance_is_complete(compact, result):
    record = result.provenance()
    assert record["model"] == "compact" and record["checksum"] == compact.checksum and record["device"] == "cpu"
    assert record["regularization"] == 0.5 and record["refine"] == 0
    assert set(record["seconds"]) >= {"preparing images", "affine transform", "deformable transform"}


def test_progress_rises_to_the_end(compact, brains):
    told = []
    compact.register(*brains, "affine", progress=lambda stage, fraction: told.append((stage, fraction)))
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions) and told[-1] == ("done", 1.0)


# Wrong inputs and exhausted memory ---------------------------------------------------------------------------

@pytest.mark.parametrize(("options", "words"), [
    ({"transform": "elastic"}, "choose one of"), ({"regularization": 0.0}, "between 0 and 1"),
    ({"regularization": 1.0}, "between 0 and 1"), ({"steps": 4}, "5 or more"), ({"extent": 200}, "192 or 256"),
    ({"refine": -1}, "negative"), ({"mid_space": True}, "-M requires -i"),
    ({"initial": np.zeros((4, 4))}, "singular"),
])
def test_options_that_make_no_sense(compact, brains, options, words):
    with pytest.raises(UsageError, match=words):
        compact.register(*brains, **options)


def test_content_outside_the_view_of_the_network(compact):
    array = np.zeros((40, 40, 400), np.float32)
    array[:, :, :20] = np.random.default_rng(0).random((40, 40, 20))
    with pytest.raises(ImageError, match="field of view"):
        compact.register(sitk.GetImageFromArray(array), sitk.GetImageFromArray(array))


def test_memory_runs_out_then_smaller_is_tried_and_said(compact, brains, monkeypatch):
    tried = []
    prepare = Model._prepare

    def fail_when_large(self, moving, fixed, options, *rest):
        tried.append(options.extent)
        if options.extent == 256:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes")
        return prepare(self, moving, fixed, options, *rest)

    monkeypatch.setattr(Model, "_prepare", fail_when_large)
    result = compact.register(*brains, "affine")
    assert tried == [256, 192]
    assert result.options.extent == 192 and "192" in result.notes[0]


def test_memory_never_suffices(compact, brains, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Model, "_prepare", fail)
    with pytest.raises(DeviceError, match="not enough memory"):
        compact.register(*brains, "affine")


def test_gpu_without_memory_falls_back_to_the_cpu(compact, brains, monkeypatch):
    class Full:
        spacing = compact.networks.spacing

        def mid_space(self, *_):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    crowded = dataclasses.replace(compact, networks=Full(), elsewhere=lambda device: compact)
    monkeypatch.setattr(crowded, "device", torch.device("cpu"))
    monkeypatch.setattr(registration, "is_gpu", lambda device: True)
    result = crowded.register(*brains, "affine")
    assert result.model is compact and "CPU" in result.notes[0]


def test_other_errors_are_not_taken_for_missing_memory(compact, brains, monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Model, "_prepare", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        compact.register(*brains, "affine")


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "mps"])
def test_unknown_devices(name):
    with pytest.raises((UsageError, DeviceError)):
        find_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this computer has a GPU")
def test_no_gpu():
    assert find_device("auto").type == "cpu"
    with pytest.raises(DeviceError, match="no GPU"):
        find_device("cuda")
