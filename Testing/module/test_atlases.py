"""Atlas labels and many items by one transform from Python, without the panel."""

import json

import atlas_heads
import numpy as np
import pytest
from workplace import needsTorch

pytestmark = needsTorch


@pytest.fixture(scope="module")
def logic(host, module):
    import slicer

    from SynthMorphSlicer import SynthMorphSlicerLogic
    slicer.mrmlScene.Clear(0)
    logic = SynthMorphSlicerLogic()
    yield logic
    logic.close()
    slicer.mrmlScene.Clear(0)


@pytest.fixture(scope="module")
def made(logic, tmp_path_factory):
    """One atlas carried onto the patient, quickly; with the patient, the truth and the library's folder."""
    from SynthMorphSlicerLib import job, transferring
    folder = atlas_heads.library(tmp_path_factory.mktemp("atlases"))
    patient, truth = atlas_heads.patient(tmp_path_factory.mktemp("patient"))
    settings = job.Settings("affine", model="compact", device="cpu", refinement=0)
    transfer = transferring.AtlasTransfer(logic)
    found = transfer.carry(patient, [str(folder / "anna")], settings=settings)
    return {**found, "transfer": transfer, "patient": patient, "truth": truth, "folder": folder}


@pytest.fixture
def library(logic):
    import slicer
    from SynthMorphSlicerLib import atlases
    slicer.app.userSettings().pop(atlases.FOLDERS_SETTING, None)
    return atlases.Library(logic)


def segmentArray(node, identifier, volume):
    import slicer
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume) > 0


def test_names_colours_terminology_and_labels_arrive(made):
    import slicer
    from SynthMorphSlicerLib import structures
    segmentation = made["segmentation"].GetSegmentation()
    assert [segmentation.GetNthSegment(n).GetName() for n in range(4)] == [
        atlas_heads.STRUCTURES[label] for label in sorted(atlas_heads.STRUCTURES)]
    segment = segmentation.GetSegment("Label_52")
    np.testing.assert_allclose(segment.GetColor(), (0, 200 / 255, 30 / 255), atol=1e-6)
    assert segment.GetLabelValue() == 52
    entry = structures.tagOf(segment, "TerminologyEntry")
    assert "SCT^123037004^Anatomical Structure~SCT^52^Left Lateral Ventricle" in entry
    carried = segmentArray(made["segmentation"], "Label_60", made["patient"])
    assert atlas_heads.dice(carried, made["truth"] == 60) > 0.6
    agreement = slicer.util.arrayFromVolume(made["agreement"])
    assert agreement.min() == agreement.max() == 1  # of a single atlas with itself
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    nodes = [made["segmentation"], made["agreement"], *made["transforms"]]
    folders = {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in nodes}
    assert len(folders) == 1
    assert hierarchy.GetItemAttribute(next(iter(folders)), "SynthMorph.atlases") == "anna"
    assert made["segmentation"].GetAttribute("SynthMorph.model") == "compact"


def test_terminology_survives_the_way_to_a_table_and_back():
    from SynthMorphSlicerLib import structures
    entry = "~SCT^1^A~SCT^2^B~SCT^3^Left~~SCT^4^C~^^"
    assert structures.entryOf(structures.columns(entry)) == entry
    named = structures.columns("Some context~SCT^1^A~SCT^2^B~^^~Anatomic codes~^^~^^")
    assert named["Type_CodeMeaning"] == "B" and named["Region_CodeValue"] == ""
    assert structures.columns("") == {} and structures.entryOf({"Tags": "x"}) == ""


def test_volumes_have_asymmetry_and_change(made):
    from SynthMorphSlicerLib import volumes
    rows = {row[0]: row for row in volumes.table(made["segmentation"])}
    voxels = segmentArray(made["segmentation"], "Label_52", made["patient"]).sum()
    left, right = rows["Left Lateral Ventricle"], rows["Right Lateral Ventricle"]
    assert float(left[1]) == pytest.approx(voxels * 8, abs=1)
    asymmetry = 200 * (float(left[1]) - float(right[1])) / (float(left[1]) + float(right[1]))
    assert float(left[2]) == float(right[2]) == pytest.approx(asymmetry, abs=0.1)
    assert float(left[4]) == pytest.approx(100 * (float(left[1]) / float(left[3]) - 1), abs=0.5)


def test_segment_editor_gets_segmentation_and_volume(made):
    from SynthMorphSlicerLib import transferring
    editor = transferring.openInSegmentEditor(made["segmentation"])
    assert editor.GetSegmentationNode() is made["segmentation"]
    assert editor.GetSourceVolumeNode() is made["patient"]
    assert editor.GetSingletonTag() == "SegmentEditor"
    assert transferring.openInSegmentEditor(made["segmentation"]) is editor


def test_edits_are_noticed_also_after_saving_and_loading(made, tmp_path):
    import slicer
    from SynthMorphSlicerLib import segments
    node = made["segmentation"]
    assert not segments.isEdited(node)
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "labels.seg.nrrd"))
    assert storage.WriteData(node)
    again = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(again)
    again.SetAttribute(segments.MADE, node.GetAttribute(segments.MADE))
    assert not segments.isEdited(again)
    again.GetSegmentation().GetNthSegment(0).SetName("mine")
    assert segments.isEdited(again)
    slicer.mrmlScene.RemoveNode(again)
    drawn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert not segments.isEdited(drawn)
    drawn.GetSegmentation().AddEmptySegment("a")
    assert segments.isEdited(drawn)
    slicer.mrmlScene.RemoveNode(drawn)


def test_corrections_go_back_to_the_atlas_and_into_a_new_one(made, library, tmp_path):
    import SimpleITK as sitk
    import slicer
    from SynthMorphSlicerLib import job, segments
    node, patient, transform = made["segmentation"], made["patient"], made["transforms"][0]
    corrected = made["truth"] == 60
    slicer.util.updateSegmentBinaryLabelmapFromArray(corrected.astype(np.uint8), node, "Label_60", patient)
    assert segments.isEdited(node)
    back = made["transfer"].carryBack(node, transform)
    atlas = made["transfer"].showAtlas(str(made["folder"] / "anna"))
    assert atlas.GetName() == "anna"
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(made["folder"] / "anna/labels.nrrd")))
    assert atlas_heads.dice(segmentArray(back, "Label_60", atlas), truth == 60) > 0.6
    segment = back.GetSegmentation().GetSegment("Label_60")
    assert segment.GetName() == "Left Thalamus" and segment.HasTerminology()
    assert made["transfer"].carryBack(node, transform) is back  # updated, for nobody has changed it
    back.GetSegmentation().GetSegment("Label_60").SetColor(1, 0, 0)
    another = made["transfer"].carryBack(node, transform)
    assert another is not back and back.GetSegmentation().GetSegment("Label_60").GetColor() == (1, 0, 0)
    written = library.addFromScene(atlas, another, tmp_path, "anna corrected")
    library.read()
    assert [one["name"] for one in library.atlases if one["given"] == written] == ["anna corrected"]
    settings = job.Settings("affine", model="compact", device="cpu", refinement=0)
    again = made["transfer"].carry(patient, [written], output=node, settings=settings)
    assert again["kept"] is node and again["segmentation"] is not node
    assert (segmentArray(node, "Label_60", patient) == corrected).all()  # the corrections are still there
    fresh = again["segmentation"].GetSegmentation().GetSegment("Label_60")
    assert fresh.GetName() == "Left Thalamus" and fresh.HasTerminology()
    replaced = made["transfer"].carry(patient, [written], output=node, settings=settings, replaceEdited=True)
    assert replaced["segmentation"] is node and replaced["kept"] is None and not segments.isEdited(node)
    with pytest.raises(job.InputError, match="exists already"):
        library.addFromScene(atlas, another, tmp_path, "anna corrected")


def test_library_remembers_folders_and_names_the_broken_one(made, library):
    from SynthMorphSlicerLib import atlases, job
    library.add(made["folder"])
    with pytest.raises(job.InputError, match="in the list already"):
        library.add(made["folder"])
    library.read()
    assert {"anna", "bert"} <= {one["name"] for one in library.atlases}
    faults = [fault for fault in library.faults if fault["given"] == str(made["folder"])]
    assert len(faults) == 1 and "no label map" in faults[0]["sentence"]
    builtIn = [one["name"] for one in library.atlases if one["folder"] == atlases.BUILT_IN]
    assert builtIn == ["MNI152"] or any("pip install nilearn" in fault["sentence"] for fault in library.faults)
    assert atlases.Library(library.logic).folders() == [str(made["folder"])]
    library.remove(str(made["folder"]))
    assert library.folders() == []


def test_a_label_map_becomes_an_atlas_with_the_same_numbers(made, library, tmp_path):
    import SimpleITK as sitk
    import slicer
    from SynthMorphSlicerLib import job, scene
    atlas = made["transfer"].showAtlas(str(made["folder"] / "anna"))
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    scene.readVolume(labels, made["folder"] / "anna/labels.nrrd")
    labels.CreateDefaultDisplayNodes()
    written = library.addFromScene(atlas, labels, tmp_path)
    one, other = (sitk.ReadImage(path) for path in (f"{written}/labels.nrrd", str(made["folder"] / "anna/labels.nrrd")))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))
    np.testing.assert_allclose(one.GetOrigin(), other.GetOrigin(), atol=1e-4)
    with pytest.raises(job.InputError, match="cannot be written"):
        library.addFromScene(atlas, labels, tmp_path / "nowhere")
    nothing = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "nothing")
    with pytest.raises(job.InputError, match="has no voxel"):
        library.addFromScene(atlas, nothing, tmp_path, "another")
    assert not (tmp_path / "another").exists()
    slicer.mrmlScene.RemoveNode(labels)
    slicer.mrmlScene.RemoveNode(nothing)


def test_many_items_move_each_in_its_way(made, logic, host):
    import slicer
    import vtk
    from SynthMorphSlicerLib import moving, scene
    mover, patient, transform = moving.Mover(logic), made["patient"], made["transforms"][0]
    atlas = made["transfer"].showAtlas(str(made["folder"] / "anna"))
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    disguised = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "labels as a volume")
    for node in (labels, disguised):
        scene.readVolume(node, made["folder"] / "anna/labels.nrrd")
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "points")
    points.AddControlPoint(vtk.vtkVector3d(10, -20, 5))
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(10, -20, 5)
    sphere.Update()
    model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "model")
    model.SetAndObservePolyData(sphere.GetOutput())
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "segments")
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, segmentation)
    items = [atlas, labels, disguised, segmentation, points, model]
    copies = mover.move(transform, items)
    ways = [copy.GetAttribute("SynthMorph.interpolation") for copy in copies]
    assert ways == ["linear", "label", "label", "label", "points", "points"]
    grid = slicer.util.arrayFromVolume(patient).shape
    assert all(slicer.util.arrayFromVolume(copy).shape == grid for copy in copies[:3])
    assert set(np.unique(slicer.util.arrayFromVolume(copies[1]))) <= {0, *atlas_heads.STRUCTURES}
    np.testing.assert_array_equal(*[slicer.util.arrayFromVolume(copy) for copy in copies[1:3]])
    expected = transform.GetTransformToParent().TransformPoint(10, -20, 5)
    np.testing.assert_allclose(copies[4].GetNthControlPointPosition(0), expected, atol=1e-3)
    np.testing.assert_allclose(np.mean(slicer.util.arrayFromModelPoints(copies[5]), axis=0), expected, atol=0.05)
    assert [node.GetID() for node in mover.move(transform, items)] == [copy.GetID() for copy in copies]
    transform.SetNodeReferenceID(slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole(), atlas.GetID())
    there = mover.move(transform, [copies[1], copies[4]], inverse=True)  # and back again
    one, other = (slicer.util.arrayFromVolume(node) == 60 for node in (there[0], labels))
    assert atlas_heads.dice(one, other) > 0.9
    np.testing.assert_allclose(there[1].GetNthControlPointPosition(0), (10, -20, 5), atol=1e-2)


def test_what_cannot_be_moved_is_said(made, logic):
    import slicer
    from SynthMorphSlicerLib import job, moving
    mover, transform, patient = moving.Mover(logic), made["transforms"][0], made["patient"]
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "other")
    assert mover.problem(None, [patient]) == "Choose a transform first."
    assert mover.problem(transform, []) == "Choose what to move."
    assert "no segments" in mover.problem(transform, [empty])
    assert "reference" in mover.problem(other, [patient])
    with pytest.raises(job.InputError):
        mover.move(other, [patient])
    patient.SetAndObserveTransformNodeID(other.GetID())
    assert "under this transform already" in mover.problem(other, [patient])
    patient.SetAndObserveTransformNodeID(None)


def test_a_registration_leaves_an_edited_segmentation_alone(made, logic):
    from SynthMorphSlicerLib import segments
    patient, atlas = made["patient"], made["transfer"].showAtlas(str(made["folder"] / "anna"))
    drawn = made["transfer"].carryBack(made["segmentation"], made["transforms"][0])
    given = {"transform": "affine", "model": "compact", "device": "cpu", "carriedLabels": [drawn]}
    first = logic.register(patient, atlas, outputSegmentation=True, **given)["segmentation"]
    assert not segments.isEdited(first)
    assert logic.register(patient, atlas, outputSegmentation=first, **given)["segmentation"] is first
    first.GetSegmentation().GetNthSegment(0).SetName("mine")
    second = logic.register(patient, atlas, outputSegmentation=first, **given)["segmentation"]
    assert second is not first and "is kept as it is" in logic.job.note
    assert first.GetSegmentation().GetNthSegment(0).GetName() == "mine"
    third = logic.register(patient, atlas, outputSegmentation=first, replaceEdited=True, **given)["segmentation"]
    assert third is first and first.GetSegmentation().GetNthSegment(0).GetName() != "mine"


def test_settings_that_somebody_else_wrote_do_no_harm(made, library):
    import slicer
    from SynthMorphSlicerLib import atlases, volumes
    slicer.app.userSettings().setValue(atlases.FOLDERS_SETTING, "{not json")
    assert library.folders() == []
    slicer.app.userSettings().setValue(atlases.FOLDERS_SETTING, json.dumps([]))
    made["segmentation"].SetAttribute(volumes.ATLAS_VOLUMES, "no")
    assert volumes.atlasVolumes(made["segmentation"]) == {}
