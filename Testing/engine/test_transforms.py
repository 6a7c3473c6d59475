"""Transforms in files and in use, against the reference's directions (SPEC 7)."""
from __future__ import annotations

import shutil
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from synthmorph_torch import freesurfer, images, transforms
from synthmorph_torch.errors import SynthMorphError, TransformError, UsageError
from synthmorph_torch.geometry import Space, flip_frame

nib = pytest.importorskip("nibabel")
WARPS = ["nii.gz", "nii", "nrrd", "mha", "mgz", "h5", "tfm"]
MATRICES = ["lta", "tfm", "txt", "mat", "h5"]


def oblique_space(shape=(11, 9, 8), angles=(0.2, -0.4, 0.7), spacing=(0.8, 1.5, 2.5), flip=1):
    matrix = np.eye(4)
    rotation = np.reshape(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix(), (3, 3))
    matrix[:3, :3] = rotation @ np.diag([1, 1, flip]) * spacing
    matrix[:3, 3] = 10, -20, 30
    return Space(shape, matrix)


@pytest.fixture
def affine():
    matrix = np.eye(4)
    matrix[:3] += np.random.default_rng(1).normal(scale=0.05, size=(3, 4))
    matrix[:3, 3] = 3, -2, 5
    return matrix


@pytest.fixture
def composite(affine):
    """Affine after a residual field on a grid of its own."""
    residual = np.random.default_rng(2).normal(size=(3, 11, 9, 8)).astype(np.float32)
    return transforms.residual_transform(residual, oblique_space(), affine)


@pytest.fixture
def pair(load):
    """The reference's two images, with its transforms expressed in the LPS world."""
    e = load("end_to_end.npz")
    moving = Space.from_ras(e["mov_data"].shape, e["mov_vox2world"])
    fixed = Space.from_ras(e["fix_data"].shape, e["fix_vox2world"])
    return SimpleNamespace(e=e, moving=images.from_array(e["mov_data"], moving),
                           fixed=images.from_array(e["fix_data"], fixed), moving_space=moving, fixed_space=fixed)


def displacement(transform, grid):
    return sitk.GetArrayFromImage(transforms.to_displacement_field(transform, grid))


@pytest.mark.parametrize("run", ["affine", "rigid"])
def test_reference_matrices(pair, run, tmp_path):
    voxels = np.vstack([pair.e[f"{run}_native_fw"], [0, 0, 0, 1]])
    matrix = pair.moving_space.matrix @ voxels @ np.linalg.inv(pair.fixed_space.matrix)
    transform = transforms.affine_transform(matrix)
    transforms.write_transform(transform, tmp_path / "t.lta", pair.fixed, pair.moving)
    lta = np.loadtxt((tmp_path / "t.lta").read_text().splitlines()[5:9])
    np.testing.assert_allclose(lta, pair.e[f"{run}_lta_world_mov_to_fix"], atol=1e-4)
    np.testing.assert_allclose(np.linalg.inv(lta), pair.e[f"{run}_lta_world_fix_to_mov"], atol=1e-4)
    np.testing.assert_allclose(transforms.matrix_of(transforms.read_transform(tmp_path / "t.lta")), matrix, atol=1e-12)
    header = Space.of(transforms.header_only(pair.moving, transform)).ras
    np.testing.assert_allclose(header, pair.e[f"{run}_header_only_vox2world"], atol=1e-4)
    assert_moved(transforms.apply(transform, pair.moving, pair.fixed), pair.e[f"{run}_moved"])


@pytest.mark.parametrize("run", ["joint", "deform_init"])
@pytest.mark.parametrize("flavour", ["nii", "mgz"])
def test_reference_warps(pair, run, flavour, tmp_path):
    field, path = pair.e[f"{run}_disp_ras_fw"], tmp_path / f"warp.{flavour}"
    if flavour == "nii":
        warp = nib.Nifti1Image(field[:, :, :, None], pair.e["fix_vox2world"])
        warp.header.set_intent(1006)
        nib.save(warp, path)
    else:
        freesurfer.write_mgh(path, field, pair.fixed_space, pair.moving_space, warp=True)
    moved = transforms.apply(transforms.read_transform(path), pair.moving, pair.fixed)
    assert_moved(moved, pair.e[f"{run}_moved"])


def assert_moved(image, expected):
    """Equal but for the outermost half voxel, where ITK and surfa decide differently what is outside (SPEC 7)."""
    difference = np.abs(images.to_array(image) - expected)
    assert np.median(difference) < 1e-3 and np.mean(difference > 0.05) < 0.01


@pytest.mark.parametrize("extension", MATRICES)
def test_matrix_files_round_trip(tmp_path, extension, affine):
    path = tmp_path / f"t.{extension}"
    rotation = sitk.Euler3DTransform((9, 8, 7), 0.1, 0.2, 0.3)
    nested = sitk.CompositeTransform([transforms.affine_transform(affine), rotation])
    transforms.write_transform(nested, path)
    again = transforms.read_transform(path)
    np.testing.assert_allclose(transforms.matrix_of(again), transforms.matrix_of(nested), atol=1e-9)


@pytest.mark.parametrize("extension", WARPS)
@pytest.mark.parametrize("flip", [1, -1])
def test_warp_files_round_trip(tmp_path, extension, composite, flip):
    grid, path = oblique_space((7, 9, 11), (0.1, 0.2, -0.3), flip=flip), tmp_path / f"t.{extension}"
    transforms.write_transform(composite, path, grid, oblique_space())
    again = transforms.read_transform(path)
    inner = Space((5, 7, 9), grid.matrix @ np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]]))
    np.testing.assert_allclose(displacement(again, inner), displacement(composite, inner), atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_nifti_warp_is_what_ants_and_slicer_expect(tmp_path, composite):
    grid = oblique_space()
    transforms.write_transform(composite, tmp_path / "t.nii.gz", grid)
    warp = nib.load(tmp_path / "t.nii.gz")
    assert warp.shape == (*grid.shape, 1, 3) and warp.header["intent_code"] == 1007
    np.testing.assert_allclose(warp.affine, grid.ras, atol=1e-5)
    lps = np.asarray(warp.dataobj)[:, :, :, 0]
    np.testing.assert_array_equal(lps, displacement(composite, grid).transpose(2, 1, 0, 3))
    plain = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "t.nii.gz"), sitk.sitkVectorFloat64))
    point = grid.to_world([4.3, 5.1, 2.2])
    np.testing.assert_allclose(plain.TransformPoint(point), transforms.read_transform(
        tmp_path / "t.nii.gz").TransformPoint(point), atol=1e-6)


def ras_field(grid):
    """Displacements (X, Y, Z, 3) in RAS and their transform."""
    field = np.random.default_rng(5).normal(size=(*grid.shape, 3)).astype(np.float32)
    return field, field * np.float32([-1, -1, 1])


def test_freesurfer_nifti_flavours(tmp_path, caplog):
    grid = oblique_space()
    field, expected = ras_field(grid)
    five = nib.Nifti1Image(field[:, :, :, None], grid.ras)
    five.header.set_intent(1006)
    nib.save(five, tmp_path / "five.nii.gz")
    nib.save(nib.Nifti1Image(field, grid.ras), tmp_path / "four.nii.gz")
    for name in ("five", "four"):
        read = displacement(transforms.read_transform(tmp_path / f"{name}.nii.gz"), grid)
        np.testing.assert_allclose(read.transpose(2, 1, 0, 3), expected, atol=1e-6)
    assert "four.nii.gz' does not say" in caplog.text and "five" not in caplog.text


@pytest.mark.parametrize("meaning", range(4))
def test_freesurfer_warp_formats(tmp_path, meaning):
    grid, moving = oblique_space(), oblique_space((6, 7, 8), (0.3, 0.1, 0.1))
    field, expected = ras_field(grid)
    world = grid.to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)) * [-1, -1, 1]
    index = moving.to_index((world + field) * [-1, -1, 1])
    stored = [index, index - grid.to_index(world * [-1, -1, 1]), world + field, field][meaning].astype(np.float32)
    path = tmp_path / "warp.mgh"
    freesurfer.write_mgh(path, stored, grid, moving, warp=True)
    content = bytearray(path.read_bytes())
    content[-9] = meaning  # the low byte of the format, before spacing and exp_k
    path.write_bytes(content)
    read = displacement(transforms.read_transform(path), grid)
    np.testing.assert_allclose(read.transpose(2, 1, 0, 3), expected, atol=1e-4)


def test_freesurfer_nifti_extension_decides(tmp_path):
    """surfa stores the format in header extension 14; absolute RAS coordinates are no displacements."""
    grid = oblique_space()
    field, expected = ras_field(grid)
    world = grid.to_world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)) * [-1, -1, 1]
    warp = nib.Nifti1Image((world + field).astype(np.float32)[:, :, :, None], grid.ras)
    warp.header.set_intent(1006)
    content = b">\x00\x03\x01" + struct.pack(">iqiif", 13, 12, 2, 1, 0) + struct.pack(">iq", -1, 1) + b"*"
    warp.header.extensions.append(nib.nifti1.Nifti1Extension(14, content))
    nib.save(warp, tmp_path / "warp.nii.gz")
    read = displacement(transforms.read_transform(tmp_path / "warp.nii.gz"), grid)
    np.testing.assert_allclose(read.transpose(2, 1, 0, 3), expected, atol=1e-4)


def test_voxel_to_voxel_lta(tmp_path, affine):
    fixed, moving = oblique_space(), oblique_space((6, 7, 8), (0.3, 0.1, 0.1))
    transforms.write_transform(transforms.affine_transform(affine), tmp_path / "t.lta", fixed, moving)
    lines = (tmp_path / "t.lta").read_text().splitlines()
    voxels = np.linalg.inv(fixed.ras) @ flip_frame(np.linalg.inv(affine)) @ moving.ras
    lines[0] = "type      = 0 # LINEAR_VOX_TO_VOX"
    lines[5:9] = [" ".join(map(repr, row)) for row in voxels.tolist()]
    (tmp_path / "v.lta").write_text("# written by hand\n" + "\n".join(lines))
    np.testing.assert_allclose(transforms.matrix_of(transforms.read_transform(tmp_path / "v.lta")), affine, atol=1e-6)
    (tmp_path / "x.lta").write_text("\n".join(lines).replace("valid = 1", "valid = 0"))
    with pytest.raises(TransformError, match="geometry"):
        transforms.read_transform(tmp_path / "x.lta")


def test_files_that_are_no_transform(tmp_path):
    for name in ("a.lta", "a.tfm", "a.h5", "a.mat", "a.nii.gz", "a.mgz", "a.nrrd"):
        with pytest.raises(TransformError, match="does not exist"):
            transforms.read_transform(tmp_path / name)
        (tmp_path / name).write_text("no transform")
        with pytest.raises(TransformError) as caught:
            transforms.read_transform(tmp_path / name)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(("shape", "intent", "name", "message"), [
    ((4, 5, 6), 0, "", "shape"), ((4, 5, 6, 2), 0, "", "shape"), ((4, 5, 6, 1, 3), 0, "", "intent"),
    ((4, 5, 6, 1, 3), 1007, "NREG_TRANS", "NiftyReg")])
def test_ambiguous_nifti_is_refused(tmp_path, shape, intent, name, message):
    warp = nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4))
    warp.header.set_intent(intent, name=name)
    nib.save(warp, tmp_path / "warp.nii.gz")
    with pytest.raises(TransformError, match=message):
        transforms.read_transform(tmp_path / "warp.nii.gz")


def test_warps_are_refused_where_they_cannot_go(tmp_path, composite, monkeypatch):
    with pytest.raises(UsageError, match="no file name for a warp"):
        transforms.write_transform(composite, tmp_path / "t.lta")
    with pytest.raises(UsageError, match="grid of the fixed image"):
        transforms.write_transform(composite, tmp_path / "t.nii.gz")
    with pytest.raises(TransformError, match="not linear"):
        transforms.header_only(oblique_space().image(np.zeros((8, 9, 11))), composite)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(SynthMorphError, match="disk is full"):
        transforms.write_transform(composite, tmp_path / "t.h5")
    assert not list(tmp_path.iterdir())


def test_singular_matrix_is_refused(tmp_path):
    sitk.WriteTransform(transforms.affine_transform(np.diag([1.0, 1, 0, 1])), str(tmp_path / "t.tfm"))
    with pytest.raises(TransformError, match="without inverse"):
        transforms.read_transform(tmp_path / "t.tfm")


def test_residual_acts_before_the_affine(affine):
    grid = oblique_space()
    residual = np.random.default_rng(2).normal(size=(3, *grid.shape)).astype(np.float32)
    transform = transforms.residual_transform(residual, grid, affine)
    point = grid.to_world([3, 4, 5])
    moved = affine @ [*(point + residual[:, 3, 4, 5]), 1]
    np.testing.assert_allclose(transform.TransformPoint(point), moved[:3], atol=1e-5)
    np.testing.assert_allclose(transforms.apply_to_points(transform, [[point]])[0, 0], moved[:3], atol=1e-5)
    np.testing.assert_allclose(transforms.linear_part(transform), affine, atol=1e-12)
    assert transforms.linear_part(sitk.CompositeTransform(transform).GetNthTransform(1)) is None


def test_linear_points_and_matrix(affine):
    points = np.random.default_rng(3).normal(size=(4, 5, 3))
    mapped = transforms.apply_to_points(transforms.affine_transform(affine), points)
    np.testing.assert_allclose(mapped, points @ affine[:3, :3].T + affine[:3, 3], atol=1e-12)


def test_slabs_tile_the_field(composite):
    grid = oblique_space()
    whole, parts = displacement(composite, grid), []
    for first, end, slab, part in transforms.displacement_slabs(composite, grid, overlap=1, slices=3):
        low = round(grid.to_index(slab.origin)[2])
        assert part.shape[0] == slab.shape[2]
        parts.append(part[first - low:end - low])
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_apply_rounds_and_clips_integers():
    image = sitk.GetImageFromArray(np.full((4, 4, 4), 299.6, np.float32))
    identity = sitk.Transform(3, sitk.sitkIdentity)
    expected = {"uint8": 255, "int8": 127, "int16": 300, "float32": np.float32(299.6)}
    for dtype, value in expected.items():
        moved = sitk.GetArrayFromImage(transforms.apply(identity, image, image, dtype=dtype))
        assert moved.dtype == dtype and (moved == value).all()
    whole = sitk.Cast(image, sitk.sitkInt16)
    assert transforms.apply(identity, whole, image).GetPixelID() == sitk.sitkFloat32
    assert transforms.apply(identity, whole, image, "nearest").GetPixelID() == sitk.sitkInt16
    far = transforms.apply(sitk.TranslationTransform(3, (99, 0, 0)), image, image, fill=-5)
    assert (sitk.GetArrayFromImage(far) == -5).all()


def test_apply_refuses_unknown_words():
    image = sitk.Image(4, 4, 4, sitk.sitkFloat32)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    with pytest.raises(UsageError, match="linear or nearest"):
        transforms.apply(identity, image, image, "cubic")
    with pytest.raises(UsageError, match="Data type"):
        transforms.apply(identity, image, image, dtype="float16")


def test_header_only_moves_like_resampling(affine):
    """A landmark of the moving image lies, after -H, where the opposite transform puts it."""
    image = oblique_space().image(np.zeros((8, 9, 11), np.float32))
    moved = transforms.header_only(image, transforms.affine_transform(affine))
    index = np.array([3.0, 4, 5])
    world = transforms.apply_to_points(transforms.affine_transform(affine), Space.of(moved).to_world(index))
    np.testing.assert_allclose(world, Space.of(image).to_world(index), atol=1e-9)
    assert Space.of(image).same_as(oblique_space(), 1e-9)
