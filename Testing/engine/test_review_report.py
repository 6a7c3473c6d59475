"""What a review leaves behind: signature, result folder, report, and the command that makes them."""
from __future__ import annotations

import csv
import dataclasses
import json
import re

import cases
import numpy as np
import pytest
import SimpleITK as sitk
from synthmorph_torch import cli, files, images, review
from synthmorph_torch.errors import SynthMorphError, UsageError
from synthmorph_torch.review import chart, folder, pictures, report, signature
from synthmorph_torch.review.sweep import SweepPoint

FAST = ["--model", "compact", "--device", "cpu"]


@pytest.fixture(scope="module")
def good():
    pairs = review.Landmarks.pair([[0, 0, 0]], [[0, 0, 1]], ("<AC>",))
    return cases.case(names={17: "Left hippocampus"}, landmarks=pairs,
                      provenance={"model": "compact", "regularization": 0.5, "refine": None, "seconds": {"all": 1.2}})


@pytest.fixture(scope="module")
def found(good):
    points = [SweepPoint(0.3, 1.2, None, 0.5, 0, 1.0), SweepPoint(0.7, 1.1, None, 0.2, 3, 1.0)]
    return review.examine(good, signatures=[review.Signature.now("rejected", "XY"),
                                            review.Signature.now("accepted", "AB", "a < b & c")], sweep=points)


@pytest.fixture
def result(good, tmp_path):
    return folder.write_case(dataclasses.replace(good, landmarks=None), tmp_path / "result")


# Signature


def test_signatures_add_up(tmp_path):
    path = tmp_path / "signature.json"
    assert review.read_signatures(path) == []
    first = review.Signature.now("rejected", " AB ", "left is right", "abc")
    review.add_signature(path, first)
    kept = review.add_signature(path, review.Signature.now("accepted", "CD"))
    assert [s.decision for s in kept] == ["rejected", "accepted"] and review.read_signatures(path) == kept
    assert kept[0].initials == "AB" and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", kept[0].time)
    assert kept[0].text.startswith("rejected by AB") and kept[0].text.endswith(": left is right")
    path.write_text("{")
    with pytest.raises(SynthMorphError, match="damaged"):
        review.add_signature(path, first)
    assert path.read_text() == "{"


@pytest.mark.parametrize(("decision", "initials"), [("maybe", "AB"), ("accepted", " ")])
def test_signatures_that_are_none(decision, initials):
    with pytest.raises(UsageError):
        review.Signature.now(decision, initials)


# Result folder


def test_a_result_survives_its_folder(good, tmp_path):
    target = folder.write_case(good, tmp_path / "result")
    again = review.read_result(target)
    for one, other in ((again.fixed, good.fixed), (again.moving, good.moving),
                       (again.moving_labels, good.moving_labels)):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))
    point = (10.0, -20.0, 30.0)
    np.testing.assert_allclose(again.forward.TransformPoint(point), good.forward.TransformPoint(point))
    np.testing.assert_allclose(again.backward.TransformPoint(again.forward.TransformPoint(point)), point, atol=1e-6)
    assert again.names == good.names and again.landmarks.names == ("<AC>",) and again.provenance["model"] == "compact"
    assert not [p for p in tmp_path.iterdir() if p != target]


def test_a_new_result_replaces_an_old_one_but_nothing_made_by_hand(good, result, tmp_path):
    plain = dataclasses.replace(good, landmarks=None, moving_labels=None)
    folder.write_case(plain, result)
    assert not (result / "moving_labels.nii.gz").exists()
    review.add_signature(result / signature.FILE, review.Signature.now("accepted", "AB"))
    with pytest.raises(SynthMorphError, match="made by hand"):
        folder.write_case(plain, result)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(SynthMorphError, match="other files"):
        folder.write_case(plain, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_nothing_half_written_stays(good, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.transforms, "write_transform", full)
    with pytest.raises(SynthMorphError, match="free space"):
        folder.write_case(good, tmp_path / "result")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "text", "words"), [
    ("result.json", "{}", "damaged"), ("result.json", None, "lacks result.json"), ("fixed.nii.gz", None, "not exist"),
    ("fixed_to_moving.h5", None, "not exist"), ("fixed_to_moving.h5", "x", "damaged"),
    ("landmarks.csv", "a,b\n1,2\n", "landmarks"), ("labels.csv", "a\n1\n", "names")])
def test_broken_results_are_named(result, name, text, words):
    (result / name).unlink(missing_ok=True)
    if text is not None:
        (result / name).write_text(text)
    with pytest.raises(SynthMorphError, match=words):
        review.read_result(result)


# Report


def test_the_page_needs_nothing_from_outside(found, tmp_path):
    page, table = review.write_report(found, tmp_path / "report.html")
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r'src="([^"]{0,22})', text)) == {"data:image/png;base64,"}
    written = cases.without_pictures(text)
    assert "http" not in written and "<script" not in written and "url(" not in written and "@media print" in written
    assert text.count(report.NOT_CLINICAL) == 2
    for words in ("Left hippocampus: Dice", "&lt;AC&gt;", "a &lt; b &amp; c", "Target registration error",
                  "SD of log J", "accepted by AB", "Earlier: rejected by XY", "λ 0.3", "AAPM TG-132",
                  found.verdict.word, "1.2 s"):
        assert words in text, words
    assert "<AC>" not in text
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    by_name = {row["name"]: row for row in rows}
    assert by_name["Verdict"]["value"] == found.verdict.word
    assert float(by_name["Mean Dice"]["value"]) > 0.85 and by_name["Mean Dice"]["status"] == "ok"
    assert rows[-1]["name"] == report.NOT_CLINICAL


def test_pictures_as_seen_come_first(found):
    seen = review.report.Picture("3D view", pictures.png(np.zeros((4, 5, 3), np.uint8)))
    text = report.page(found, "My title", [seen])
    assert text.index("3D view") < text.index("checkerboard") and "<h1>My title</h1>" in text


def test_pictures_are_readable(good, tmp_path):
    drawn = pictures.pictures(good)
    assert len(drawn) == 21 and {p.group for p in drawn} == {"axial", "coronal", "sagittal"}
    for picture in drawn[:7]:
        (tmp_path / "p.png").write_bytes(picture.png)
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "p.png")))
        assert pixels.ndim == 3 and pixels.std() > 5, picture.caption
    after = next(p for p in drawn if p.caption == "after")
    (tmp_path / "p.png").write_bytes(after.png)
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "p.png")))
    assert (pixels == pictures.ORANGE).all(-1).sum() > 50  # the outline


def test_chart():
    text = chart.curve([(0.2, 0.7, "a<b"), (0.5, 0.8, "c")], "across", "up")
    assert text.startswith("<svg") and text.endswith("</svg>") and "a&lt;b" in text and text.count("<circle") == 2
    assert chart.curve([], "across", "up") == "" and chart.curve([(1, 1, "x")], "a", "b").count("<circle") == 1


def test_the_review_is_json(found):
    told = json.loads(json.dumps(found.as_dict()))
    assert told["verdict"] == found.verdict.word and len(told["measures"]) == len(found.table)
    assert told["hot_spots"][0]["ras"] and told["sweep"][1]["folding"] == 3


# Command line


def test_review_command(good, tmp_path, capsys):
    result = folder.write_case(dataclasses.replace(good, landmarks=None, provenance={}), tmp_path / "result")
    points = "l,p,s\n0,0,0\n20,0,0\n"
    (tmp_path / "fixed.csv").write_text(points)
    (tmp_path / "moving.csv").write_text("l,p,s\n0,5,0\n17.2,0,0\n")
    images.write_image(good.fixed_labels, tmp_path / "mask.nii.gz")
    arguments = ["review", result, "--report", tmp_path / "r.html", "--json", tmp_path / "r.json", "--landmarks",
                 tmp_path / "fixed.csv", tmp_path / "moving.csv", "--correct", tmp_path / "corrected", "--accept", "AB",
                 "--comment", "well", "--mask", tmp_path / "mask.nii.gz", "--label", "16", "--spots", "2"]
    assert cli.main([str(a) for a in arguments]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Verdict: ") and "Landmarks: 2.50 mm on average before" in out
    told = json.loads((tmp_path / "r.json").read_text())
    assert told["region"] == "label 16 of mask.nii.gz"
    kept = review.read_signatures(result / "signature.json")[0]
    assert kept.result == signature.digest(result / "fixed_to_moving.h5")
    assert "well" in (tmp_path / "r.html").read_text()
    corrected = review.read_result(tmp_path / "corrected")
    assert review.errors(corrected.forward, corrected.landmarks).max() < 0.5
    assert "landmarks" in corrected.provenance["corrected"]


@pytest.mark.parametrize(("extra", "status", "words"), [
    (["--report", "page.pdf"], 2, ".html"), (["--accept", "A", "--reject", "B"], 2, "not both"),
    (["--comment", "x"], 2, "--accept"), (["--label", "3"], 2, "--mask"),
    (["--whole", "--mask", "m.nii"], 2, "leave out one"), (["--correct", "new"], 2, "--landmarks"),
    (["--sweep", "0.3"], 2, "no warp"), (["--sweep", "2"], 2, "below 1"), (["--mask", "none.nii"], 1, "not exist"),
    (["--landmarks", "a.csv", "b.csv"], 1, "cannot be read"), (["--accept", " "], 2, "initials")])
def test_review_usage(result, tmp_path, monkeypatch, capsys, extra, status, words):
    monkeypatch.chdir(tmp_path)
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    assert cli.main(["review", str(result), *extra]) == status
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "Traceback" not in error
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_review_of_no_result(tmp_path, capsys):
    assert cli.main(["review", str(tmp_path)]) == 1
    assert "lacks result.json" in capsys.readouterr().err


def test_register_then_sweep(tmp_path, capsys):
    """From two files to a signed report with a curve, with the shipped model."""
    (fixed, labels), (moving, moving_labels) = cases.person(), cases.person(cases.SCALE, 1)
    i, j, k = (n // 2 for n in fixed.GetSize())
    fixed[i - 6:i + 6, j - 6:j + 6, k - 6:k + 6] = 0  # dark, but inside the head
    for name, image in (("f", fixed), ("m", moving), ("fl", labels), ("ml", moving_labels)):
        files.check_output_path(tmp_path / f"{name}.nii.gz", "image")
        images.write_image(image, tmp_path / f"{name}.nii.gz")
    out, page = tmp_path / "result", tmp_path / "page.html"
    assert cli.main([str(a) for a in (
        *FAST, "--refine", "0", "-e", "192", "--labels", tmp_path / "ml.nii.gz", tmp_path / "moved.nii.gz",
        "--fixed-labels", tmp_path / "fl.nii.gz", "--result", out, tmp_path / "m.nii.gz", tmp_path / "f.nii.gz")]) == 0
    case = review.read_result(out)
    assert case.provenance["extent"] == 192 and case.moved_labels is not None
    assert cli.main([str(a) for a in ("review", out, *FAST, "--sweep", "0.3", "--sweep", "0.5", "--sweep", "0.8",
                                      "--disagreement", "--json", tmp_path / "r.json", "--report", page)]) == 0
    told = json.loads((tmp_path / "r.json").read_text())
    points, rows = told["sweep"], {row["key"]: row["value"] for row in told["measures"]}
    assert [p["regularization"] for p in points] == [0.3, 0.5, 0.8] and points[0]["sd_log"] >= points[2]["sd_log"]
    # its own lambda once more: the same figures in the curve as in the table
    assert [points[1][key] for key in ("sd_log", "similarity", "dice")] == pytest.approx(
        [rows[key] for key in ("sd_log", "nmi_after", "mean_dice")], abs=1e-4)
    assert all(0 < p["dice"] < 1 for p in points) and "<svg" in page.read_text()
