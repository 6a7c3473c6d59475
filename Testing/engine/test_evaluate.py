"""Scores of a model on labelled pairs."""
from __future__ import annotations

import csv
import json

import numpy as np
import people
import pytest
import SimpleITK as sitk
import torch
from synthmorph_torch.cli import evaluate as command
from synthmorph_torch.cli import main
from synthmorph_torch.errors import ImageError, UsageError
from synthmorph_torch.networks import MidSpace
from synthmorph_torch.registration import Model
from synthmorph_torch.training import evaluate

TABLE = """scheme,label,name,common_id,common_name,side,core
tiny,2,left white,1,white matter,left,1
tiny,41,right white,1,white matter,right,1
tiny,3,left cortex,2,cortex,left,1
tiny,42,right cortex,2,cortex,right,1
tiny,24,csf,3,csf,both,0
tiny,515,skull,0,unused,both,0
other,9,nine,1,white matter,both,1
"""


class Nothing:
    """Networks that find both images aligned already."""

    spacing, residual_factor, fades = 6.0, 1, True

    def mid_space(self, moving, fixed, transform):
        one = torch.eye(4, dtype=torch.float64)
        return MidSpace(one, one, tuple(moving.shape[2:]))


@pytest.fixture
def model():
    return Model(Nothing(), "nothing", torch.device("cpu"))


@pytest.fixture
def folder(tmp_path):
    people.write_scans(tmp_path, 2, label_suffix="_glm.nii.gz")
    (tmp_path / "table.csv").write_text(TABLE, encoding="utf-8")
    return tmp_path


OPTIONS = {"transform": "affine", "extent": 192}


def test_identical_people_agree_perfectly(folder, model):
    for end in ("t1", "glm"):
        (folder / f"p1_{end}.nii.gz").write_bytes((folder / f"p0_{end}.nii.gz").read_bytes())
    lines = []
    rows = evaluate.evaluate(model, evaluate.find_people(folder), options=OPTIONS, report=lines.append)
    assert [(row["moving"], row["fixed"]) for row in rows] == [("p0", "p1"), ("p1", "p0")]
    for row in rows:
        assert row["mean_dice"] == pytest.approx(1, abs=1e-6) and set(row["dice"].values()) == {1.0}
        assert row["folding"] == 0 and row["sd_log_jacobian"] == pytest.approx(0, abs=1e-4) and row["seconds"] > 0
    assert lines[0].startswith("p0 -> p1: Dice 1.000, 0 folding voxels")


def test_structures_merge_labels_and_only_core_counts(folder, model):
    structures = evaluate.Structures.read(folder / "table.csv", "tiny")
    merged = structures.merge(sitk.ReadImage(str(folder / "p0_glm.nii.gz")))
    assert set(np.unique(sitk.GetArrayViewFromImage(merged))) == {0, 1, 2, 3}
    rows = evaluate.evaluate(model, evaluate.find_people(folder), structures, options=OPTIONS)
    assert set(rows[0]["dice"]) == {"white matter", "cortex", "csf"}
    assert rows[0]["mean_dice"] == pytest.approx((rows[0]["dice"]["white matter"] + rows[0]["dice"]["cortex"]) / 2)


def test_nothing_to_compare(folder, model):
    structures = evaluate.Structures.read(folder / "table.csv", "other")
    with pytest.raises(ImageError, match="no structure to compare"):
        evaluate.evaluate(model, evaluate.find_people(folder), structures, options=OPTIONS)


@pytest.mark.parametrize(("text", "says"), [(None, "cannot be read"), ("a,b\n1,2\n", "lacks the columns common_id"),
                                            (TABLE.replace("tiny", "large"), "no labels of scheme 'tiny'")])
def test_unfit_tables_are_refused(text, says, tmp_path):
    if text:
        (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=says):
        evaluate.Structures.read(tmp_path / "t.csv", "tiny")


def test_people_need_both_files(folder):
    (folder / "p1_glm.nii.gz").unlink()
    with pytest.raises(ImageError, match="fewer than two"):
        evaluate.find_people(folder)
    with pytest.raises(ImageError, match="no folder"):
        evaluate.find_people(folder / "nowhere")


def centre(image, label):
    """Barycentre of a label in world space."""
    index = np.argwhere(sitk.GetArrayViewFromImage(image) == label).mean(0)[::-1]
    return np.array(image.TransformContinuousIndexToPhysicalPoint(index.tolist()))


def test_turning_turns_by_the_angle_and_shifts(folder):
    labels = sitk.ReadImage(str(folder / "p0_glm.nii.gz"))
    turned = evaluate.resampled_turn(labels, 30, 20, "nearest")
    assert turned.GetDirection() == tuple(np.eye(3).ravel())  # the header gives nothing away
    assert min(turned.GetSpacing()) == pytest.approx(people.SPACING)
    counts = [np.unique(sitk.GetArrayViewFromImage(image), return_counts=True) for image in (labels, turned)]
    sizes = [dict(zip(values[values > 0].tolist(), n[values > 0], strict=True)) for values, n in counts]
    assert sizes[1].keys() == sizes[0].keys()
    assert sizes[1][515] == pytest.approx(sizes[0][515], rel=0.03)  # nothing was cut off
    before, after = ([centre(image, n) for n in (8, 18, 51)] for image in (labels, turned))
    vectors = [np.stack([c[1] - c[0], c[2] - c[0]], 1) for c in (before, after)]
    angle = np.deg2rad(30)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    assert np.allclose(turn @ vectors[0], vectors[1], atol=1.0)
    middle = np.array(labels.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in labels.GetSize()]))
    assert np.allclose(turn @ (before[0] - middle) + middle + 20, after[0], atol=1.0)


def test_a_turn_costs_a_model_that_does_nothing(folder, model):
    pair = evaluate.find_people(folder)
    straight, turned = (evaluate.evaluate(model, pair, options=OPTIONS, rotate=angle)[0]["mean_dice"]
                        for angle in (0.0, 30.0))
    assert turned < 0.6 * straight


def test_markdown_has_pairs_means_and_structures():
    rows = [{"moving": "a", "fixed": "b", "mean_dice": d, "folding": 2, "sd_log_jacobian": 0.1, "seconds": 1.0,
             "dice": {"thalamus": d}} for d in (0.5, 0.7)]
    table = evaluate.to_markdown(rows)
    assert "| a | b | 0.500 | 2 | 0.100 | 1.0 |" in table
    assert "| **mean** | | **0.600** | 2.0 |" in table and "| thalamus | 0.600 |" in table


@pytest.mark.parametrize("suffix", [".csv", ".json", ".md"])
def test_command_line_writes_scores(folder, model, suffix, monkeypatch, capsys):
    monkeypatch.setattr(command, "prepare", lambda options, transform: model)
    out = folder / f"scores{suffix}"
    arguments = ["evaluate", "--data", folder, "--label-table", folder / "table.csv", "--scheme", "tiny",
                 "--transform", "affine", "-e", "192", "--rotate", "5", "--out", out]
    assert main([str(a) for a in arguments]) == 0
    assert "p0 -> p1: Dice" in capsys.readouterr().out
    text = out.read_text(encoding="utf-8")
    if suffix == ".json":
        assert [row["moving"] for row in json.loads(text)] == ["p0", "p1"]
    elif suffix == ".csv":
        assert float(next(csv.DictReader(text.splitlines()))["white matter"]) > 0
    else:
        assert text.startswith("| moving | fixed |")
