"""``synthmorph register`` and ``apply`` with the shipped model: every output, whole, readable and consistent."""
from __future__ import annotations

import json
from pathlib import Path

import cases
import numpy as np
import pytest
import SimpleITK as sitk
from synthmorph_torch import cli, demo, images, quality, transforms
from synthmorph_torch.errors import SynthMorphError

FAST = ["--model", "compact", "--device", "cpu", "--refine", "0", "-e", "192"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template, a patient made from it and a label map of the patient, at 3 mm."""
    try:
        path = demo.template_path()
    except SynthMorphError:
        pytest.skip("nilearn, which carries the template, is not installed")
    folder = tmp_path_factory.mktemp("pair")
    template = demo.thin_out(images.read_image(path), 3.0)
    patient = demo.make_patient(template, seed=1)
    images.write_image(template, folder / "template.nii.gz")
    images.write_image(patient.image, folder / "patient.nii.gz")
    for name, image in (("template", template), ("patient", patient.image)):
        labels = sitk.Cast(images.foreground(image), sitk.sitkUInt8) * 7
        images.write_image(labels, folder / f"{name}_labels.nii.gz")
    return folder


@pytest.fixture(scope="module")
def registered(folder: Path) -> Path:
    """One joint registration with every output there is."""
    out = folder / "out"
    out.mkdir()
    arguments = [*FAST, "-o", out / "moved.nii.gz", "-O", out / "moved_fixed.mgz", "-t", out / "warp.nii.gz",
                 "-T", out / "inverse.h5", "--jacobian", out / "jacobian.nii.gz", "--log-jacobian", out / "log.nrrd",
                 "--labels", folder / "patient_labels.nii.gz", out / "labels.nii.gz",
                 "--fixed-labels", folder / "template_labels.nii.gz", "--measures", out / "measures.json",
                 "--report", out / "report", "-d", out / "inputs", folder / "patient.nii.gz",
                 folder / "template.nii.gz"]
    assert cli.main([str(a) for a in arguments]) == 0
    return out


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(images.read_image(path)).astype(float)


def test_all_outputs_and_nothing_else(registered):
    names = sorted(str(p.relative_to(registered)) for p in registered.rglob("*") if p.is_file())
    assert names == sorted(["moved.nii.gz", "moved_fixed.mgz", "warp.nii.gz", "inverse.h5", "jacobian.nii.gz",
                            "log.nrrd", "labels.nii.gz", "measures.json", "report/index.html", "report/index.csv",
                            "inputs/inp_1.mgz", "inputs/inp_2.mgz"])


def test_images_lie_on_the_right_grids(folder, registered):
    template, patient = (images.read_image(folder / f"{n}.nii.gz") for n in ("template", "patient"))
    for name in ("moved.nii.gz", "jacobian.nii.gz", "log.nrrd", "labels.nii.gz"):
        assert images.read_image(registered / name).GetSize() == template.GetSize()
    assert images.read_image(registered / "moved_fixed.mgz").GetSize() == patient.GetSize()


def test_registration_improves_alignment(registered):
    measures = json.loads((registered / "measures.json").read_text())
    assert measures["similarity"]["after"]["nmi"] > measures["similarity"]["before"]["nmi"] + 0.05
    assert measures["labels"]["mean_dice"] > max(0.9, measures["labels"]["mean_dice_before"])
    assert measures["folding"]["count"] == 0
    assert measures["model"] == "compact" and len(measures["checksum"]) == 64
    assert measures["transform"] == "joint" and measures["seconds"]


def test_labels_are_the_same_integers(registered):
    labels = images.read_image(registered / "labels.nii.gz")
    assert labels.GetPixelID() == sitk.sitkUInt8
    assert set(np.unique(sitk.GetArrayFromImage(labels))) == {0, 7}


def test_jacobian_and_its_logarithm_agree(registered):
    np.testing.assert_allclose(np.exp(read(registered / "log.nrrd")), read(registered / "jacobian.nii.gz"), rtol=1e-4)


def test_transforms_are_opposite(folder, registered):
    forward, backward = (transforms.read_transform(registered / name) for name in ("warp.nii.gz", "inverse.h5"))
    template = images.read_image(folder / "template.nii.gz")
    error = quality.inverse_consistency(forward, backward, template, images.foreground(template))
    assert error["mean"] < 0.2


def test_network_inputs_are_normalised_cubes(registered):
    for name in ("inp_1.mgz", "inp_2.mgz"):
        voxels = read(registered / "inputs" / name)
        assert len(set(voxels.shape)) == 1
        assert voxels.min() == 0 and voxels.max() == pytest.approx(1)


def test_report_is_self_contained(registered):
    page = (registered / "report" / "index.html").read_text(encoding="utf-8")
    text = cases.without_pictures(page)
    assert "data:image/png;base64," in page and "http" not in text and "<script" not in text
    for word in ("Folding", "Inverse consistency", "Mean Dice", "compact"):
        assert word in page
    assert "Mean Dice" in (registered / "report" / "index.csv").read_text(encoding="utf-8")


def test_apply_repeats_the_registration(folder, registered, tmp_path):
    moved, labels = tmp_path / "moved.nii.gz", tmp_path / "labels.nii.gz"
    assert cli.main(["apply", str(registered / "warp.nii.gz"), str(folder / "patient.nii.gz"), str(moved)]) == 0
    difference = np.abs(read(moved) - read(registered / "moved.nii.gz"))
    assert difference.mean() < 0.02 * read(moved).mean()
    assert cli.main(["apply", "-m", "nearest", str(registered / "warp.nii.gz"), str(folder / "patient_labels.nii.gz"),
                     str(labels)]) == 0
    assert (read(labels) == read(registered / "labels.nii.gz")).mean() > 0.99  # which has smoother borders


def test_apply_options(folder, registered, tmp_path, capsys):
    warp, patient, target = registered / "warp.nii.gz", folder / "patient.nii.gz", tmp_path / "moved.nii.gz"
    assert cli.main(["apply", "-t", "uint8", "-f", "9", str(warp), str(patient), str(target)]) == 0
    image = images.read_image(target)
    assert image.GetPixelID() == sitk.sitkUInt8
    assert image[0, 0, 0] == 9
    assert cli.main(["apply", "-H", str(warp), str(patient), str(target)]) == 2
    assert cli.main(["apply", str(registered / "inverse.h5"), str(patient), str(target)]) == 2
    assert "--like" in capsys.readouterr().err
    assert cli.main(["apply", "--like", str(patient), str(registered / "inverse.h5"), str(folder / "template.nii.gz"),
                     str(target)]) == 0
    assert images.read_image(target).GetSize() == images.read_image(patient).GetSize()


def test_affine_with_lta_header_and_initial_transform(folder, tmp_path, capsys):
    patient, template = str(folder / "patient.nii.gz"), str(folder / "template.nii.gz")
    lta, moved, applied = tmp_path / "affine.lta", tmp_path / "moved.nii.gz", tmp_path / "applied.nii.gz"
    assert cli.main([*FAST, "-m", "affine", "-t", str(lta), "-o", str(moved), patient, template]) == 0
    assert cli.main(["apply", str(lta), patient, str(applied)]) == 0  # the .lta knows its target
    np.testing.assert_allclose(read(applied), read(moved), atol=0.05 * read(moved).max())
    header = tmp_path / "header.nii.gz"
    assert cli.main(["apply", "-H", str(lta), patient, str(header)]) == 0
    np.testing.assert_array_equal(read(header), read(Path(patient)))
    warp = tmp_path / "warp.nii.gz"
    assert cli.main([*FAST, "-m", "deform", "-i", str(lta), "-M", "-t", str(warp), patient, template]) == 0
    assert not transforms.read_transform(warp).IsLinear()
    capsys.readouterr()
    assert cli.main([*FAST, "-i", str(warp), "-o", str(moved), patient, template]) == 2
    assert "is no matrix" in capsys.readouterr().err


def test_rigid_header_only(folder, tmp_path):
    moved, matrix = tmp_path / "moved.nii.gz", tmp_path / "rigid.tfm"
    patient = folder / "patient.nii.gz"
    assert cli.main([*FAST, "-m", "rigid", "-Ho", str(moved), "-t", str(matrix), str(patient),
                     str(folder / "template.nii.gz")]) == 0
    np.testing.assert_array_equal(read(moved), read(patient))
    linear = transforms.matrix_of(transforms.read_transform(matrix))[:3, :3]
    np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-6)


def test_nothing_half_written_when_a_write_fails(folder, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sitk, "WriteImage", full)
    older = tmp_path / "moved.nii.gz"
    older.write_bytes(b"older")
    assert cli.main([*FAST, "-m", "affine", "-o", str(older), str(folder / "patient.nii.gz"),
                     str(folder / "template.nii.gz")]) == 1
    err = capsys.readouterr().err
    assert "no space left on device" in err and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["moved.nii.gz"] and older.read_bytes() == b"older"


def test_says_that_nothing_was_written(folder, capsys):
    assert cli.main([*FAST, "-m", "affine", str(folder / "patient.nii.gz"), str(folder / "template.nii.gz")]) == 0
    out = capsys.readouterr().out
    assert "nothing was written" in out and "compact" in out
