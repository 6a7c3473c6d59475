"""The demo and its pictures: the truth is the truth, and the shipped model comes near it."""
from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from synthmorph_torch import cli, demo, images, montage, quality, transforms
from synthmorph_torch.errors import SynthMorphError


@pytest.fixture(scope="module")
def template() -> sitk.Image:
    try:
        path = demo.template_path()
    except SynthMorphError:
        pytest.skip("nilearn, which carries the template, is not installed")
    return demo.thin_out(images.read_image(path), 3.0)


@pytest.fixture(scope="module")
def patient(template) -> demo.Patient:
    return demo.make_patient(template, seed=3)


def test_error_of_a_known_mistake(template):
    """With an affine truth the error of any affine transform is known exactly."""
    truth = np.eye(4)
    truth[:3, 3] = [3, 4, 0]
    patient = demo.Patient(template, transforms.affine_transform(truth))
    identity, perfect = (transforms.affine_transform(m) for m in (np.eye(4), np.linalg.inv(truth)))
    assert demo.error_mm(identity, patient, template) == pytest.approx((5, 5), abs=1e-4)
    assert demo.error_mm(perfect, patient, template) == pytest.approx((0, 0), abs=1e-4)


def test_patient_is_a_smooth_inverted_copy(template, patient):
    jacobian = sitk.GetArrayFromImage(quality.jacobian_map(patient.to_template, patient.image))
    assert jacobian.min() > 0.2 and jacobian.max() < 4
    assert np.isfinite(sitk.GetArrayFromImage(patient.image)).all()
    there = transforms.apply(patient.to_template, template, patient.image)
    inside = images.foreground(there)
    assert quality.similarity(patient.image, there, inside)["ncc"] < -0.8
    again = demo.make_patient(template, seed=3)
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(p.image) for p in (again, patient)))


def test_demo_command(tmp_path, template, capsys):
    folder = tmp_path / "demo"
    assert cli.main(["demo", str(folder), "--spacing", "3", "--refine", "0", "--model", "compact", "--device",
                     "cpu"]) == 0
    out = capsys.readouterr().out
    assert "before" in out and "after" in out
    errors = json.loads((folder / "error.json").read_text())
    assert errors["after"]["mean_mm"] < errors["before"]["mean_mm"] / 3
    for name in ("template.nii.gz", "patient.nii.gz", "moved.nii.gz", "jacobian.nii.gz"):
        assert images.read_image(folder / name).GetDimension() == 3
    for name in ("patient_to_template.h5", "template_to_patient.h5"):
        assert not transforms.read_transform(folder / name).IsLinear()
    assert (folder / "montage.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.rglob(".*"))


def test_missing_nilearn_is_explained(monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SynthMorphError, match="pip install"):
        demo.template_path()


# Pictures and the report ---------------------------------------------------------------------------------------


def test_planes_are_anatomical_whatever_the_voxel_order(template):
    turned = sitk.PermuteAxes(sitk.Flip(template, [True, False, True]), [2, 0, 1])
    for plane, other in zip(montage.planes_through(template), montage.planes_through(turned), strict=True):
        np.testing.assert_allclose(plane.space.matrix, other.space.matrix, atol=1e-6)
        assert plane.space.shape == other.space.shape


def test_slice_of_shows_the_image(template):
    plane = montage.planes_through(template)[0]
    pixels = montage.slice_of(template, plane)
    j, i = (n // 2 for n in pixels.shape)
    where = plane.space.to_world([i, j, 0])
    assert pixels[j, i] == pytest.approx(template.EvaluateAtPhysicalPoint(where.tolist()), rel=1e-3)


def test_difference_ignores_contrast():
    fixed = np.zeros((40, 40))
    fixed[8:32, 8:32] = np.random.default_rng(0).uniform(50, 100, (24, 24))
    inverted = np.where(fixed > 0, 160 - fixed, 0)
    shifted = np.roll(inverted, 3, axis=0)
    aligned = np.nanmean(np.abs(montage.difference(inverted, fixed)))
    assert aligned < 3
    assert np.nanmean(np.abs(montage.difference(shifted, fixed))) > 3 * aligned


def test_montage_of_far_apart_and_tiny_images(tmp_path):
    tiny = sitk.GetImageFromArray(np.random.default_rng(0).random((6, 7, 8), dtype=np.float32))
    far = sitk.Image(tiny)
    far.SetOrigin([500.0, 0, 0])
    montage.write_montage(tmp_path / "montage.png", tiny, far, sitk.Transform(3, sitk.sitkIdentity))
    assert (tmp_path / "montage.png").stat().st_size > 1000
