"""``synthmorph batch``: tables, failing rows, resuming. The model is a stand-in that answers with a shift."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from synthmorph_torch import batch, cli, images, transforms
from synthmorph_torch.errors import ImageError, UsageError
from synthmorph_torch.registration import Model, Options, Registration


class Shifting:
    """In place of a model: every registration is a shift by 2 mm."""

    def __init__(self) -> None:
        self.calls: list[dict] = []

    def register(self, moving, fixed, progress=None, **settings):
        self.calls.append(settings)
        if progress:
            progress("shifting", 0.5)
        if moving.GetSize()[0] == 5:
            raise ImageError("This moving image is cursed: take another.")
        result = Registration(Model(None, "shift", torch.device("cpu")), moving, fixed, Options(), None)
        matrix = np.eye(4)
        matrix[0, 3] = 2
        result.fixed_to_moving = transforms.affine_transform(matrix)
        result.moving_to_fixed = transforms.affine_transform(np.linalg.inv(matrix))
        return result


@pytest.fixture
def model(monkeypatch) -> Shifting:
    stand_in = Shifting()
    monkeypatch.setattr("synthmorph_torch.cli.batch.prepare", lambda *_: stand_in)
    return stand_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, size in (("a", 9), ("b", 10), ("bad", 5)):
        image = sitk.GetImageFromArray(random.random((8, 8, size), dtype=np.float32))
        images.write_image(image, tmp_path / f"{name}.nii.gz")
    return tmp_path


def table(folder: Path, *lines: str) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_go_on_after_a_failure_and_resume(folder, model, capsys):
    path = table(folder, "moving,fixed,moved,transform", "a.nii.gz,b.nii.gz,out/1.nii.gz,out/1.tfm",
                 "bad.nii.gz,b.nii.gz,out/2.nii.gz,", "missing.nii.gz,b.nii.gz,out/3.nii.gz,", "# a comment",
                 "b.nii.gz,a.nii.gz,out/4.nii.gz,")
    assert cli.main(["batch", str(path), "-m", "affine", "-r", "0.3", "--summary", str(folder / "done.csv")]) == 1
    out = capsys.readouterr().out
    assert "Row 1: done" in out and "Row 2: failed" in out and "cursed" in out and "Row 4: done" in out
    assert "'" + str(folder / "missing.nii.gz") + "' does not exist" in out
    assert "2 done, 0 skipped, 2 failed." in out
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["1.nii.gz", "1.tfm", "4.nii.gz"]
    assert all(call["regularization"] == 0.3 for call in model.calls)
    assert (folder / "done.csv").read_text().count("failed") == 2

    model.calls.clear()
    assert cli.main(["batch", str(path), "-m", "affine"]) == 1
    assert "0 done, 2 skipped, 2 failed." in capsys.readouterr().out
    assert len(model.calls) == 1  # the cursed one again; the missing file never reaches the model
    assert cli.main(["batch", str(path), "-m", "affine", "--overwrite"]) == 1
    assert "2 done, 0 skipped, 2 failed." in capsys.readouterr().out


def test_success_is_zero_and_loads_the_model_once(folder, monkeypatch, capsys):
    loaded = []
    monkeypatch.setattr("synthmorph_torch.cli.batch.prepare", lambda *_: loaded.append(Shifting()) or loaded[-1])
    path = table(folder, "moving;fixed;moved", "a.nii.gz;b.nii.gz;1.nii.gz", "b.nii.gz;a.nii.gz;2.nii.gz")
    assert cli.main(["batch", str(path), "-m", "rigid"]) == 0
    assert len(loaded) == 1
    assert cli.main(["batch", str(path), "-m", "rigid"]) == 0
    assert len(loaded) == 1, "nothing to do, so no model is needed"


def test_labels_travel(folder, model):
    labels = sitk.GetImageFromArray(np.arange(8 * 8 * 9, dtype=np.int16).reshape(8, 8, 9) % 4)
    images.write_image(labels, folder / "labels.nii.gz")
    path = table(folder, "moving,fixed,labels_in,labels_out", "a.nii.gz,b.nii.gz,labels.nii.gz,moved_labels.nii.gz")
    assert cli.main(["batch", str(path), "-m", "affine"]) == 0
    moved = sitk.GetArrayFromImage(images.read_image(folder / "moved_labels.nii.gz"))
    np.testing.assert_array_equal(moved[:, :, :7], sitk.GetArrayFromImage(labels)[:, :, 2:])


@pytest.mark.parametrize(("lines", "says"), [
    (["moving,fixed,result", "a,b,c"], "unknown column 'result'"),
    (["moving,moved", "a,b"], "no column 'fixed'"),
    (["moving,fixed,moved"], "has no rows"),
    ([""], "is empty"),
    (["moving,fixed,moved", "a.nii,,c.nii"], "names no fixed image"),
    (["moving,fixed,moved", "a.nii,b.nii,"], "asks for no output"),
    (["moving,fixed,moved", "a.nii,b.nii,c.nii,d.nii"], "more cells"),
    (["moving,fixed,labels_out", "a.nii,b.nii,c.nii"], "both labels_in and labels_out"),
    (["moving,fixed,moved", "a.nii,b.nii,c.nii", "b.nii,a.nii,c.nii"], "Rows 1 and 2 would both write"),
    (["moving,fixed,moved", "a.nii,b.nii,c.jpg"], "Row 1: "),
    (["moving,fixed,transform", "a.nii,b.nii,c.lta"], "Row 1: "),
])
def test_a_wrong_table_is_refused_before_anything_runs(lines, says, tmp_path, capsys, model):
    assert cli.main(["batch", str(table(tmp_path, *lines))]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
    assert not model.calls


def test_mid_space_needs_initial_transforms(folder, model, capsys):
    path = table(folder, "moving,fixed,moved,init", "a.nii.gz,b.nii.gz,1.nii.gz,")
    assert cli.main(["batch", str(path), "-M"]) == 2
    assert "init" in capsys.readouterr().err


def test_read_table_takes_names_from_the_folder_of_the_table(tmp_path):
    jobs = batch.read_table(table(tmp_path, "moving, fixed, moved", "a.nii, /b.nii, c.nii"))
    assert jobs[0].moving == tmp_path / "a.nii" and jobs[0].fixed == Path("/b.nii")
    with pytest.raises(UsageError):
        batch.read_table(table(tmp_path, "nonsense"))
