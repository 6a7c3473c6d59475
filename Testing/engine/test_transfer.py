"""Atlases, fusion, volumes, and the transfer of labels to a patient and back."""
from __future__ import annotations

import csv
import json

import cases
import numpy as np
import pytest
import SimpleITK as sitk
from synthmorph_torch import atlas, cli, fusion, images, labels, transfer, transforms, volumes
from synthmorph_torch.errors import ImageError, SynthMorphError, UsageError

FAST = ["--model", "compact", "--device", "cpu", "--refine", "0", "-e", "192"]
SCALES = ((0.95, 1.04, 1.02), (1.05, 0.98, 1.0), (1.0, 1.0, 0.94))
NAMES = {17: "Left-Hippocampus", 53: "Right-Hippocampus", 16: "Brain-Stem"}


def write_atlas(folder, scale=(1, 1, 1), table="names.ctbl"):
    folder.mkdir(parents=True)
    image, segmentation = cases.person(scale, 1)
    images.write_image(image, folder / "t1.nii.gz")
    images.write_image(segmentation, folder / "t1_seg.nii.gz")
    lines = {"names.ctbl": [f"{n} {name} 10 20 30 255" for n, name in NAMES.items()],
             "names.csv": ["LabelValue,Name,Color_R,Color_G,Color_B,TypeCode"]
             + [f"{n},{name},10,20,30,T-1" for n, name in NAMES.items()]}[table]
    (folder / table).write_text("# a table\n" * (table == "names.ctbl") + "\n".join(lines) + "\n")
    return folder


class Known:
    """A model that knows the answer; ``broken`` are names of atlases at which it fails."""

    def __init__(self, scales, broken=()):
        self.scales, self.broken, self.calls = dict(scales), broken, 0

    def register(self, moving, fixed, progress=None, **settings):
        name = list(self.scales)[self.calls]
        self.calls += 1
        if progress:
            progress("working", 0.5)
        if name in self.broken:
            raise ImageError("The two images could not be aligned: give others.")
        matrix = np.diag([*self.scales[name], 1.0])

        class Result:
            fixed_to_moving = transforms.affine_transform(matrix)
            moving_to_fixed = transforms.affine_transform(np.linalg.inv(matrix))

            def provenance(self):
                return {"model": "known"}

        return Result()


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three atlases with a model that knows where they belong."""
    root = tmp_path_factory.mktemp("atlases")
    for number, scale in enumerate(SCALES):
        write_atlas(root / f"a{number}", scale)
    return root


def model(**options):
    return Known({f"a{n}": scale for n, scale in enumerate(SCALES)}, **options)


# Atlases


@pytest.mark.parametrize("table", ["names.ctbl", "names.csv"])
def test_an_atlas_folder(tmp_path, table):
    found = atlas.read_atlas(write_atlas(tmp_path / "anna", table=table))
    assert found.name == "anna" and found.structures[17].name.replace(" ", "-") == "Left-Hippocampus"
    assert found.structures[17].colour == (10, 20, 30) and found.structures[2].name == "Label 2"
    assert found.image.GetSize() == found.labels.GetSize() and 0 not in found.structures
    assert (found.structures[17].terminology == {"TypeCode": "T-1"}) == (table == "names.csv")


def test_names_written_are_read(tmp_path):
    found = atlas.read_atlas(write_atlas(tmp_path / "anna"))
    atlas.write_ctbl(found.structures, tmp_path / "out.ctbl")
    assert atlas.read_table(tmp_path / "out.ctbl") == found.structures


def test_an_atlas_may_be_described(tmp_path):
    folder = write_atlas(tmp_path / "anna")
    images.write_image(cases.person()[1], folder / "another_seg.nii.gz")
    with pytest.raises(ImageError, match=r"several files.*label map"):
        atlas.read_atlas(folder)
    (folder / "atlas.json").write_text(json.dumps({"name": "Anna", "image": "t1.nii.gz", "labels": "t1_seg.nii.gz"}))
    assert atlas.read_atlas(folder).name == "Anna"
    (folder / "atlas.json").write_text("{}")
    with pytest.raises(ImageError, match="image and labels"):
        atlas.read_atlas(folder)


def test_broken_atlases_are_named_and_the_others_load(tmp_path):
    write_atlas(tmp_path / "good")
    for name, missing in (("no_map", "t1_seg.nii.gz"), ("no_volume", "t1.nii.gz")):
        (write_atlas(tmp_path / name) / missing).unlink()
    (write_atlas(tmp_path / "bad_table") / "names.ctbl").write_text("one two\n")
    (write_atlas(tmp_path / "bad_map") / "t1_seg.nii.gz").write_bytes(b"nothing")
    away = write_atlas(tmp_path / "elsewhere")
    moved = images.read_image(away / "t1_seg.nii.gz")
    moved.SetOrigin([5000.0, 0, 0])
    images.write_image(moved, away / "t1_seg.nii.gz")
    (tmp_path / "empty").mkdir()
    found, faults = atlas.library([tmp_path, tmp_path / "absent"])
    assert [one.name for one in found] == ["good"]
    told = {fault.folder.name: fault.sentence for fault in faults}
    for name, words in (("no_map", "no label map"), ("no_volume", "no volume"), ("bad_table", "table of names"),
                        ("bad_map", "could not be read"), ("elsewhere", "does not lie"), ("empty", "no label map"),
                        ("absent", "no folder")):
        assert words in told[name], told
    assert len(told) == 7


def test_two_atlases_of_one_name(tmp_path):
    for place in ("x", "y"):
        write_atlas(tmp_path / place / "anna")
    found, _ = atlas.library([tmp_path / "x" / "anna", tmp_path / "y"])
    assert [one.name for one in found] == ["anna", "anna (2)"]


def test_a_segmentation_of_slicer_brings_its_names(tmp_path):
    segmentation = cases.person()[1]
    for key, value in (("Segment0_LabelValue", "17"), ("Segment0_Name", "Hippo"), ("Segment0_Color", "1 0.5 0"),
                       ("Segment0_Tags", "T|x")):
        segmentation.SetMetaData(key, value)
    sitk.WriteImage(segmentation, str(tmp_path / "a.seg.nrrd"))
    found = atlas.segment_names(tmp_path / "a.seg.nrrd")
    assert found == {17: atlas.Structure("Hippo", (255, 128, 0), {"Tags": "T|x"})}


def test_the_template_is_ready_made():
    try:
        found = atlas.mni152()
    except SynthMorphError:
        pytest.skip("nilearn, which carries the template, is not installed")
    sizes = volumes.volumes_mm3(found.labels)
    assert found.names == {1: "Grey matter", 2: "White matter"}
    assert 500_000 < sizes[1] < 1_300_000 and 300_000 < sizes[2] < 900_000


# Fusion


def opinions(*rows):
    return [sitk.GetImageFromArray(np.array(row, np.uint8).reshape(1, 1, -1).repeat(4, 0).repeat(4, 1)) for row in rows]


@pytest.mark.parametrize("method", ["majority", "staple"])
def test_the_majority_wins(method):
    fused = fusion.fuse(opinions([0, 1, 1, 9, 9, 9, 0], [0, 1, 1, 1, 9, 9, 0], [0, 0, 1, 9, 9, 1, 0]), method)
    assert sitk.GetArrayFromImage(fused.labels)[0, 0].tolist() == [0, 1, 1, 9, 9, 9, 0]
    share = sitk.GetArrayFromImage(fused.agreement)[2, 2]
    np.testing.assert_allclose(share, [1, 2 / 3, 1, 2 / 3, 1, 2 / 3, 1], atol=1e-6)
    assert fused.labels.GetPixelID() == sitk.sitkUInt8


def test_local_fusion_believes_the_atlas_that_looks_alike():
    rng = np.random.default_rng(0)
    patient = sitk.GetImageFromArray(rng.normal(size=(20, 20, 20)).astype(np.float32))
    strangers = [sitk.GetImageFromArray(rng.normal(size=(20, 20, 20)).astype(np.float32)) for _ in range(2)]
    votes = [sitk.GetImageFromArray(np.full((20, 20, 20), n, np.uint8)) for n in (3, 5, 5)]
    assert (sitk.GetArrayFromImage(fusion.fuse(votes, "majority").labels) == 5).all()
    fused = fusion.fuse(votes, "local", patient, [patient * 2 + 1, *strangers])
    assert (sitk.GetArrayFromImage(fused.labels) == 3).mean() > 0.99
    assert sitk.GetArrayFromImage(fused.agreement).min() > 0.4


def test_large_and_negative_labels_survive():
    for top in (-4, 70000, 12158):
        votes = [sitk.GetImageFromArray(np.array([[[0, top, top]]] * 2, np.int32)) for _ in range(2)]
        votes.append(sitk.GetImageFromArray(np.array([[[0, 0, top]]] * 2, np.int32)))
        assert sitk.GetArrayFromImage(fusion.fuse(votes, "majority").labels)[0, 0].tolist() == [0, top, top]


def test_fusion_refuses():
    one, other = opinions([1, 2, 3], [1, 2, 3])
    other.SetSpacing([2, 2, 2])
    for arguments, error in ((([one, other], "majority"), ImageError), (([], "majority"), UsageError),
                             (([one], "oracle"), UsageError), (([one, one], "local"), UsageError),
                             (([sitk.Cast(one, sitk.sitkFloat32)], "majority"), UsageError)):
        with pytest.raises(error):
            fusion.fuse(*arguments)


# Volumes


def test_volumes_and_asymmetry():
    array = np.zeros((10, 10, 10), np.int16)
    array[:3, :, :2], array[:3, :, 5:6], array[5, 5, 5] = 17, 53, 16
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2, 1, 0.5))
    rows = {row.label: row for row in volumes.volumes(image, NAMES, [{17: 40.0, 99: 7.0}, {17: 80.0}])}
    assert rows[17].volume_mm3 == pytest.approx(60) and rows[53].volume_mm3 == pytest.approx(30)
    assert rows[17].asymmetry_percent == rows[53].asymmetry_percent == pytest.approx(100 * 30 / 45)
    assert rows[16].asymmetry_percent is None and rows[17].change_percent == pytest.approx(0)
    assert rows[99].voxels == 0 and rows[99].change_percent == pytest.approx(-100)
    table = list(csv.DictReader(volumes.as_csv(rows.values()).splitlines()))
    assert table[1]["name"] == "Left-Hippocampus" and table[1]["volume_mm3"] == "60.0"


@pytest.mark.parametrize(("left", "right"), [("Left-Putamen", "Right-Putamen"), ("lh_insula", "rh_insula"),
                                             ("putamen L", "putamen R"), ("Insula left", "Insula right")])
def test_partners(left, right):
    names = {1: left, 2: right, 3: "Lateral wall"}
    assert volumes.partner(1, names) == (2, True) and volumes.partner(2, names) == (1, False)
    assert volumes.partner(3, names) is None


# Transfer


def test_many_atlases_onto_one_patient(three, tmp_path):
    patient, truth = cases.person(seed=5)
    atlases, faults = atlas.library([three])
    stages: list[tuple[str, float]] = []
    result = transfer.transfer(model(), atlases, patient, "local", lambda *a: stages.append(a))
    assert not faults and len(result.propagated) == 3 and not result.cancelled
    assert [f for _, f in stages] == sorted(f for _, f in stages) and stages[0][0].startswith("a0: ")
    agree = (sitk.GetArrayFromImage(result.fused.labels) == sitk.GetArrayFromImage(truth)).mean()
    singles = [(sitk.GetArrayFromImage(p.labels) == sitk.GetArrayFromImage(truth)).mean()
               for p in result.propagated]
    assert agree > 0.97 and agree >= np.mean(singles)
    assert result.doubtful == []
    assert result.structures[17].name == "Left-Hippocampus" and result.volumes[0].atlas_mm3 > 0
    written = transfer.write_transfer(result, tmp_path / "out")
    assert all(path.is_file() for path in written) and len(list((tmp_path / "out").glob("*_a*/labels.nii.gz"))) == 3
    with pytest.raises(SynthMorphError, match="--overwrite"):
        transfer.write_transfer(result, tmp_path / "out")
    transfer.write_transfer(result, tmp_path / "out", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_corrected_labels_go_back(three, tmp_path):
    patient, truth = cases.person()
    atlases, _ = atlas.library([three])
    transfer.write_transfer(transfer.transfer(model(), atlases, patient, "majority"), tmp_path / "out")
    paths = transfer.carry_back_all(tmp_path / "out", truth)
    assert len(paths) == 3
    for path, one in zip(paths, atlases, strict=True):
        back = images.read_labels(path, one.labels)
        assert (sitk.GetArrayFromImage(back) == sitk.GetArrayFromImage(one.labels)).mean() > 0.96
    with pytest.raises(SynthMorphError, match="exists"):
        transfer.carry_back_all(tmp_path / "out", truth)
    with pytest.raises(SynthMorphError, match="no folder of a transfer"):
        transfer.carry_back_all(tmp_path, truth)


def test_cancel_keeps_what_is_done(three):
    atlases, _ = atlas.library([three])
    done: list[str] = []
    result = transfer.transfer(model(), atlases, cases.person()[0], "majority", cancelled=lambda: len(done) == 2,
                               done=lambda one: done.append(one.atlas.name))
    assert result.cancelled and done == ["a0", "a1"] == [p.atlas.name for p in result.propagated]
    with pytest.raises(SynthMorphError, match="cancelled before"):
        transfer.transfer(model(), atlases, cases.person()[0], "majority", cancelled=lambda: True)


def test_an_atlas_that_fails_is_left_out(three):
    atlases, _ = atlas.library([three])
    result = transfer.transfer(model(broken=["a1"]), atlases, cases.person()[0], "majority")
    assert [p.atlas.name for p in result.propagated] == ["a0", "a2"] and "a1: " in result.faults[0].sentence
    with pytest.raises(SynthMorphError, match="could not be aligned"):
        transfer.transfer(model(broken=["a0"]), atlases[:1], cases.person()[0])


def test_an_atlas_that_does_not_fit_is_named(three):
    atlases, _ = atlas.library([three])
    wrong = Known({"a0": SCALES[0], "a1": (0.3, -1.0, 2.0)})
    result = transfer.transfer(wrong, atlases[:2], cases.person()[0], "majority")
    assert result.doubtful == ["a1"]


def test_a_patient_of_three_slices_gets_labels(three):
    atlases, _ = atlas.library([three])
    middle = cases.person()[0].GetSize()[2] // 2
    thin = cases.person()[0][:, :, middle:middle + 3]
    result = transfer.transfer(model(), atlases[:1], thin, "majority")
    assert sitk.GetArrayFromImage(result.fused.labels).any()


def test_labels_must_mean_the_same(three, tmp_path):
    other = write_atlas(tmp_path / "other")
    (other / "names.ctbl").write_text("17 Spleen 1 2 3 255\n")
    atlases, _ = atlas.library([three, other])
    with pytest.raises(UsageError, match="'Left-Hippocampus' in one atlas and 'Spleen'"):
        transfer.common_structures(atlases)
    with pytest.raises(UsageError, match="no atlas"):
        transfer.common_structures([])


def test_interpolation_chooses_itself(data):
    image, segmentation = cases.person()
    assert labels.are_labels(segmentation) and not labels.are_labels(image)
    assert labels.are_labels(sitk.Cast(segmentation, sitk.sitkFloat32)) and labels.are_labels(segmentation == 17)
    assert not labels.are_labels(sitk.Cast(image, sitk.sitkUInt8)) and not labels.are_labels(image * 0)
    shift = sitk.TranslationTransform(3, (1.0, 0.0, 0.0))
    moved = labels.move_all(shift, [image, segmentation, sitk.Cast(segmentation, sitk.sitkFloat32)], image)
    known = set(np.unique(sitk.GetArrayFromImage(segmentation)))
    assert set(np.unique(sitk.GetArrayFromImage(moved[1]))) <= known
    assert set(np.unique(sitk.GetArrayFromImage(moved[2]))) <= known
    assert moved[2].GetPixelID() == sitk.sitkFloat32 and not labels.are_labels(moved[0])


@pytest.mark.parametrize(("name", "expected"), [
    ("oasis/oasis_test_t1", False), ("oasis/oasis_test_seg", True), ("malf/1000_glm", True), ("spm/avg152PD", False),
    ("eve/JHU_MNI_SS_WMPM_Type-III", True), ("spm/labels_Neuromorphometrics", True), ("malf/1000_t1", False),
    ("multicontrast/chris_PD", False), ("multicontrast/ms12_study1_FLAIR", False)])
def test_real_images_are_told_apart(data, name, expected):
    assert labels.are_labels(images.read_image(data(f"{name}.nii.gz"))) is expected


# Command line


def test_transfer_command(three, tmp_path, capsys):
    image, truth = cases.person(seed=3)
    images.write_image(image, tmp_path / "p.nii.gz")
    images.write_image(truth, tmp_path / "truth.nii.gz")
    (tmp_path / "broken").mkdir()
    out = tmp_path / "out"
    assert cli.main(["transfer", *FAST, "--atlas", str(three / "a0"), "--atlas", str(three / "a2"), "--atlas",
                     str(tmp_path / "broken"), "--fusion", "majority", str(tmp_path / "p.nii.gz"), str(out)]) == 0
    told = capsys.readouterr().out
    assert "Left out: " in told and "a0: done" in told and f"Wrote {out / 'labels.nii.gz'}" in told
    assert json.loads((out / "transfer.json").read_text())["fusion"] == "majority"
    share = sitk.GetArrayFromImage(images.read_image(out / "agreement.nii.gz"))
    assert 0.3 < share.min() < 1 == share.max()
    assert cli.main(["transfer", "--back", str(tmp_path / "truth.nii.gz"), str(tmp_path / "p.nii.gz"), str(out)]) == 0
    assert len(list(out.glob("*/corrected_labels.nii.gz"))) == 2


@pytest.mark.parametrize(("arguments", "status", "words"), [
    (["p.nii.gz", "out"], 2, "--atlas"), (["--atlas", "absent", "p.nii.gz", "out"], 1, "no folder 'absent'"),
    (["--atlas", "atlas", "absent.nii.gz", "out"], 1, "does not exist"),
    (["--atlas", "atlas", "p.nii.gz", "p.nii.gz"], 1, "is a file"),
    (["--atlas", "atlas", "--fusion", "magic", "p.nii.gz", "out"], 2, "majority"),
    (["--atlas", "atlas", "p.nii.gz", "atlas"], 1, "other files"),
    (["--back", "p.nii.gz", "p.nii.gz", "out"], 1, "no integers"), (["-M", "--atlas", "a", "p.nii.gz", "o"], 2, "-M")])
def test_transfer_usage(tmp_path, monkeypatch, capsys, arguments, status, words):
    monkeypatch.chdir(tmp_path)
    write_atlas(tmp_path / "atlas")
    images.write_image(cases.person()[0], tmp_path / "p.nii.gz")
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    assert cli.main(["transfer", *arguments]) == status
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before
