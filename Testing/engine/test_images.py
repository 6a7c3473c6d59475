"""Reading, refusing and writing images."""
from __future__ import annotations

import gzip
import os
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from synthmorph_torch import images
from synthmorph_torch.errors import ImageError, SynthMorphError, UsageError
from synthmorph_torch.files import replacing
from synthmorph_torch.geometry import Space

nib = pytest.importorskip("nibabel")
OBLIQUE = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.4, 0.7).GetMatrix()


def volume(dtype=np.float32, shape=(8, 9, 10)):
    """An oblique, left-handed, anisotropic image of random values."""
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.8, 1.5, 2.5))
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection((np.reshape(OBLIQUE, (3, 3)) @ np.diag([1, 1, -1])).ravel().tolist())
    return image


@pytest.mark.parametrize("extension", ["nii", "nii.gz", "nrrd", "mha", "mgz", "mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_round_trip_keeps_voxels_type_and_geometry(tmp_path, extension, dtype):
    image, path = volume(dtype), tmp_path / f"image.{extension}"
    images.write_image(image, path)
    again = images.read_image(path)
    assert again.GetPixelID() == image.GetPixelID()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(image))
    assert Space.of(again).same_as(Space.of(image), 1e-4)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("extension", ["nii.gz", "mgz"])
def test_nibabel_sees_the_same_grid(tmp_path, extension):
    image, path = volume(), tmp_path / f"image.{extension}"
    images.write_image(image, path)
    other = nib.load(path)
    np.testing.assert_allclose(other.affine, Space.of(image).ras, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(other.dataobj), images.to_array(image))


def test_mgz_written_by_nibabel_is_read(tmp_path):
    matrix = np.array([[-1, 0, 0, 3], [0, 0, 1.5, -4], [0, -2, 0, 5], [0, 0, 0, 1.0]])
    array = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    nib.save(nib.MGHImage(array, matrix), tmp_path / "image.mgz")
    image = images.read_image(tmp_path / "image.mgz")
    np.testing.assert_array_equal(images.to_array(image), array)
    np.testing.assert_allclose(Space.of(image).ras, matrix, atol=1e-5)


def test_mgz_range_and_large_types(tmp_path):
    images.write_image(sitk.Cast(volume(), sitk.sitkFloat64), tmp_path / "double.mgz")
    assert images.read_image(tmp_path / "double.mgz").GetPixelID() == sitk.sitkFloat32
    large = sitk.Cast(volume(), sitk.sitkInt64) + 2**40
    with pytest.raises(ImageError, match="cannot hold values"):
        images.write_image(large, tmp_path / "large.mgz")


@pytest.mark.parametrize("shear", [0.002, 0.2])
def test_sheared_sform_is_kept_exactly(tmp_path, shear):
    """FreeSurfer writes such headers; ITK alone refuses to read them."""
    matrix = np.diag([2.0, 1.0, 3.0, 1.0])
    matrix[:3, 3] = 1, 2, 3
    matrix[0, 1] = shear
    array = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    nii = nib.Nifti1Image(array, None)
    nii.set_sform(matrix, 1)
    nib.save(nii, tmp_path / "sheared.nii.gz")
    image = images.read_image(tmp_path / "sheared.nii.gz")
    np.testing.assert_array_equal(images.to_array(image), array)
    np.testing.assert_allclose(Space.of(image).ras, matrix, atol=1e-6)
    images.write_image(image, tmp_path / "again.nii.gz")
    np.testing.assert_allclose(nib.load(tmp_path / "again.nii.gz").affine, matrix, atol=1e-6)
    assert "ITK_NIFTI_SFORM_PERMISSIVE" not in os.environ
    if shear > 0.1:
        with pytest.raises(ImageError, match="sheared"):
            images.write_image(image, tmp_path / "again.mgz")


def nifti(path, array, **fields):
    nii = nib.Nifti1Image(array, np.eye(4))
    for name, value in fields.items():
        nii.header[name] = value
    nib.save(nii, path)


UNREADABLE = {
    "missing.nii.gz": (lambda path: None, "does not exist"),
    "folder.nii.gz": (lambda path: path.mkdir(), "folder"),
    "text.nii.gz": (lambda path: path.write_text("no image"), "damaged"),
    "text.mgz": (lambda path: path.write_text("no image"), "damaged"),
    "cut.mgz": (lambda path: path.write_bytes(b"\0\0\0\1" + bytes(100)), "damaged"),
    "unknown.xyz": (lambda path: path.write_text("no image"), "unknown format"),
    "flat.nii": (lambda path: nifti(path, np.zeros((6, 5), np.float32)), "2 dimensions"),
    "slice.nii": (lambda path: nifti(path, np.zeros((6, 5, 1), np.float32)), "one slice"),
    "series.nii": (lambda path: nifti(path, np.zeros((6, 5, 4, 3), np.float32)), "4 dimensions"),
    "complex.nii": (lambda path: nifti(path, np.zeros((6, 5, 4), np.complex64)), "complex"),
    "frames.mgz": (lambda path: nib.save(nib.MGHImage(np.zeros((6, 5, 4, 3), "f4"), np.eye(4)), path), "3 frames"),
    "vector.mha": (lambda path: sitk.WriteImage(sitk.Compose(*[volume()] * 2), str(path)), "vector or colour"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_volume_is_refused_in_one_sentence(tmp_path, name, capfd):
    make, message = UNREADABLE[name]
    make(tmp_path / name)
    with pytest.raises(ImageError, match=message) as caught:
        images.read_image(tmp_path / name)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value) and "itk::" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def metaimage(path, spacing="1 1 1", matrix="1 0 0 0 1 0 0 0 1"):
    header = (f"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementSpacing = {spacing}\n"
              f"TransformMatrix = {matrix}\nOffset = 0 0 0\nElementDataFile = LOCAL\n")
    path.write_bytes(header.encode() + bytes(range(64)))


@pytest.mark.parametrize(("fields", "message"), [({"spacing": "0 1 1"}, "spacing"),
                                                 ({"matrix": "1 1 0 1 1 0 0 0 1"}, "singular")])
def test_impossible_headers_are_refused(tmp_path, fields, message):
    metaimage(tmp_path / "image.mha", **fields)
    with pytest.raises(ImageError, match=message):
        images.read_image(tmp_path / "image.mha")


def test_negative_spacing_is_refused_or_made_positive(tmp_path):
    metaimage(tmp_path / "image.mha", spacing="-1 1 1")
    try:
        assert min(images.read_image(tmp_path / "image.mha").GetSpacing()) > 0
    except ImageError as error:
        assert "spacing" in str(error)


def spoilt(value):
    image = volume()
    image[3, 3, 3] = value
    return image


@pytest.mark.parametrize(("image", "message"), [
    (sitk.Image(4, 5, 6, sitk.sitkFloat32), "empty"),
    (sitk.Image(4, 5, 6, sitk.sitkFloat32) + 7, "constant"),
    (spoilt(float("nan")), "NaN"),
    (spoilt(float("-inf")), "NaN"),
    (sitk.Image(4, 5, sitk.sitkFloat32), "2 dimensions"),
    (sitk.Image([4, 5, 1], sitk.sitkFloat32), "one slice"),
    (sitk.Image([4, 5, 6], sitk.sitkVectorUInt8, 3), "colour"),
])
def test_images_that_cannot_be_registered_are_refused(image, message):
    with pytest.raises(ImageError, match=message) as caught:
        images.check_image(image, "moving image")
    assert str(caught.value).startswith("The moving image ")


def test_one_bright_voxel_is_all_background():
    image = sitk.Image(30, 30, 30, sitk.sitkUInt8)
    image[5, 5, 5] = 1
    with pytest.raises(ImageError, match="all background"):
        images.check_image(image)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float64])
def test_usual_types_are_accepted(dtype):
    image = volume(dtype)
    assert images.check_image(image, "image") is image
    array = images.to_array(image)
    assert array.dtype == np.float32 and array.shape == (10, 9, 8) and array.flags.c_contiguous
    assert array[2, 3, 4] == image[2, 3, 4]
    np.testing.assert_array_equal(images.to_array(images.from_array(array, Space.of(image))), array)


def test_labels_are_checked():
    labels = volume(np.uint8)
    assert images.check_labels(labels) is labels
    stored_as_float = images.check_labels(volume(np.float32))
    assert stored_as_float.GetPixelID() == sitk.sitkInt32
    np.testing.assert_array_equal(sitk.GetArrayFromImage(stored_as_float), sitk.GetArrayFromImage(labels))
    with pytest.raises(ImageError, match="no integers"):
        images.check_labels(volume() + 0.5)
    with pytest.raises(ImageError, match="no label"):
        images.check_labels(labels * 0)
    shifted = sitk.Image(labels)
    shifted.SetOrigin((11.0, -20.0, 30.0))
    with pytest.raises(ImageError, match="another grid"):
        images.check_labels(shifted, like=labels)


def test_overlap():
    fixed, moving = volume(), volume()
    images.check_overlap(moving, fixed)
    moving.SetOrigin((1000.0, 0.0, 0.0))
    with pytest.raises(ImageError, match="do not overlap"):
        images.check_overlap(moving, fixed)


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "image"), ("a", "image"), ("a.lta", "warp"),
                                            ("a.nii.gz", "matrix"), ("a.txt", "warp"), ("a.txt", "json")])
def test_unknown_extensions_are_wrong_usage(tmp_path, name, kind):
    with pytest.raises(UsageError, match="ending in") as caught:
        images.check_output_path(tmp_path / name, kind)
    assert caught.value.exit_status == 2


def test_output_needs_a_folder(tmp_path):
    with pytest.raises(SynthMorphError, match="does not exist"):
        images.check_output_path(tmp_path / "no" / "a.nii.gz", "image")
    (tmp_path / "b.nii.gz").mkdir()
    with pytest.raises(SynthMorphError, match="is a folder"):
        images.check_output_path(tmp_path / "b.nii.gz", "image")
    assert images.check_output_path(tmp_path / "c.NII.GZ", "image") == tmp_path / "c.NII.GZ"


def test_failure_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("old")
    with pytest.raises(SynthMorphError, match="could not be written"), replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX limit on file sizes")
@pytest.mark.parametrize("extension", ["nii.gz", "nii", "nrrd", "mha", "mgz"])
def test_full_disk(tmp_path, extension):
    """A limit on the file size stands for a full disk; ITK alone does not notice it with NIfTI."""
    script = f"""
import resource, sys
sys.path[:0] = {sys.path!r}
import numpy as np, SimpleITK as sitk
from synthmorph_torch import images, errors
image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(30, 40, 50)))
resource.setrlimit(resource.RLIMIT_FSIZE, (50000, resource.RLIM_INFINITY))
try:
    images.write_image(image, {str(tmp_path / "image")!r} + ".{extension}")
except errors.SynthMorphError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "could not be written" in done.stdout and done.stdout.count("\n") == 1, done.stderr
    assert os.listdir(tmp_path) == []


def test_truncated_gzip_is_refused(tmp_path):
    images.write_image(volume(), tmp_path / "image.nii.gz")
    whole = (tmp_path / "image.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "short.nii").write_bytes(gzip.decompress(whole)[:600])
    for name in ("cut.nii.gz", "short.nii"):
        with pytest.raises(ImageError, match="damaged"):
            images.read_image(tmp_path / name)


def test_foreground_of_any_contrast():
    array = np.zeros((20, 20, 20), np.float32)
    array[5:15, 5:15, 5:15] = 100
    array[8:12, 8:12, 8:12] = 30
    for offset in (0, -1000):
        mask = sitk.GetArrayFromImage(images.foreground(sitk.GetImageFromArray(array + offset)))
        np.testing.assert_array_equal(mask, array > 0)


@pytest.mark.parametrize("number", ["01", "09"])
def test_synthseg_maps(data, number):
    """01 is stored as float32; 09 has a qform code of 0."""
    path = data(f"synthseg/training_seg_{number}.nii.gz")
    labels = images.read_labels(path)
    assert "integer" in labels.GetPixelIDTypeAsString()
    np.testing.assert_allclose(Space.of(labels).ras, nib.load(path).affine, atol=1e-4)


@pytest.mark.parametrize("name", ["multicontrast/chris_PD.nii.gz", "spm/avg152T1.nii.gz", "malf/1000_t1.nii.gz"])
def test_real_images(data, name):
    image = images.check_image(images.read_image(data(name)), name)
    np.testing.assert_allclose(Space.of(image).ras, nib.load(data(name)).affine, atol=1e-3)


def test_a_few_negative_voxels_do_not_light_up_the_background():
    """Resampling with anything but linear interpolation overshoots at edges."""
    array = np.zeros((20, 20, 20), np.float32)
    array[5:15, 5:15, 5:15] = 100
    expected = array > 0
    array[2, 2, 2:6] = -30
    found = sitk.GetArrayFromImage(images.foreground(sitk.GetImageFromArray(array)))
    np.testing.assert_array_equal(found != 0, expected)
