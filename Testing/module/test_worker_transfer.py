"""Atlas label transfer in the worker process: which folders are atlases, and carrying their labels over."""

import csv
import io

import numpy as np
import pytest
from test_worker import WORKER, Answers, makeClient  # noqa: F401  (a fixture)
from workplace import needsTorch

pytestmark = needsTorch


@pytest.fixture
def library(host, tmp_path):
    """An atlas, a broken one, and a patient."""
    import slicer
    from SynthMorphSlicerLib import scene
    from SynthMorphSlicerLib.selftest import headVolume
    atlas = headVolume("atlas", (6.0, -3.0, 2.0))
    patient = headVolume("patient")
    (tmp_path / "atlases" / "anna").mkdir(parents=True)
    (tmp_path / "atlases" / "broken").mkdir()
    (tmp_path / "results").mkdir()
    scene.writeVolume(atlas, tmp_path / "atlases/anna/t1.nrrd", np.eye(4))
    place = np.diag([2.0, 2.0, 2.0, 1.0])
    place[:3, 3] = -95.0, -111.0, -95.0
    labels = (slicer.util.arrayFromVolume(atlas) == 20).astype(np.int16)
    scene.writeArray(labels, place, tmp_path / "atlases/anna/labels.nrrd")
    (tmp_path / "atlases/anna/names.ctbl").write_text("1 Ventricles 10 20 200 255\n")
    scene.writeVolume(atlas, tmp_path / "atlases/broken/t1.nrrd", np.eye(4))
    scene.writeVolume(patient, tmp_path / "patient.nrrd", np.eye(4))
    truth = slicer.util.arrayFromVolume(patient) == 20
    for node in (atlas, patient):
        slicer.mrmlScene.RemoveNode(node)
    return tmp_path, truth


def test_a_broken_atlas_is_named_and_the_other_is_carried_over(makeClient, library):  # noqa: F811
    from SynthMorphSlicerLib import scene
    folder, truth = library
    client, answers = makeClient(WORKER), Answers()
    answers.send(client, command="atlases", folders=[str(folder / "atlases")])
    assert client.wait(60) and not answers.errors
    found = answers.results[0]
    assert [one["name"] for one in found["atlases"]] == ["anna"] and len(found["faults"]) == 1
    assert "has no label map" in found["faults"][0]["sentence"]
    answers.send(client, command="transfer", folders=[str(folder / "atlases")], patient=str(folder / "patient.nrrd"),
                 folder=str(folder / "results"), model="compact", device="cpu",
                 options={"transform": "affine"})
    assert client.wait(120) and not answers.errors, answers.errors
    answer = answers.results[1]
    assert answer["done"] == ["anna"] and not answer["cancelled"]
    assert answer["structures"][0]["name"] == "Ventricles" and answer["structures"][0]["colour"] == [10, 20, 200]
    carried = scene.readArray(answer["labels"]) == 1
    assert 2 * (carried & truth).sum() / (carried.sum() + truth.sum()) > 0.6
    assert next(csv.DictReader(io.StringIO(answer["csv"])))["name"] == "Ventricles"


def test_a_stopped_transfer_says_so(makeClient, library):  # noqa: F811
    folder, _truth = library
    (folder / "results" / "stop").touch()
    client, answers = makeClient(WORKER), Answers()
    answers.send(client, command="transfer", folders=[str(folder / "atlases")], patient=str(folder / "patient.nrrd"),
                 folder=str(folder / "results"), model="compact", device="cpu", options={"transform": "affine"})
    assert client.wait(120)
    assert "cancelled before the first atlas" in answers.errors[0]["message"]
