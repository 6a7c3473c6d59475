"""Atlas labels onto a patient, to the Segment Editor, and back, in nodes.  No Qt.

    transfer = transferring.AtlasTransfer(logic)
    made = transfer.carry(patientNode, ["/data/atlases/anna", "/data/atlases/bert"], method="majority")
    made["segmentation"], made["agreement"], made["transforms"]
    transferring.openInSegmentEditor(made["segmentation"])
    transfer.carryBack(made["segmentation"], made["transforms"][0])  # what was corrected, on the first atlas
"""

import json
import time
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from . import maps, moving, scene, segments, structures, volumes
from .job import InputError, Settings

STOP = "stop"  # a file of this name ends the worker's transfer after what is done
PATIENT_ROLE = "SynthMorphPatient"  # from a propagated segmentation to the patient's volume
AGREEMENT_ROLE = "SynthMorphAgreement"  # ... to the map of agreement
TRANSFORM_ROLE = "SynthMorphAtlasTransform"  # ... to the transform of each atlas
ATLAS = scene.ATTRIBUTE + "atlasFolder"  # attribute of a transform or an atlas' volume
ATLAS_NAME = scene.ATTRIBUTE + "atlasName"


class AtlasTransfer:
    """Asks the worker of a :class:`RegistrationLogic` to carry labels over, and brings them into the scene."""

    def __init__(self, logic):
        self.logic = logic
        self.mover = moving.Mover(logic)
        self._folder = ""

    def carry(self, patientNode, atlasFolders, method="local", output=None, settings=None, replaceEdited=False,
              blocking=True, onProgress=None, onFinished=None, onError=None):
        """Carry the labels of atlases onto a patient and fuse them.

        :param atlasFolders: folders of atlases, or "mni152"; see :class:`.atlases.Library`.
        :param method: of fusion: "local" (votes count by likeness), "majority" or "staple".
        :param output: segmentation to update; None for a new one.  Its map of agreement and transforms are updated too.
        :param settings: how to register, :class:`.job.Settings`.
        :param replaceEdited: overwrite ``output`` even if it was changed by hand since it was made; else it is left
          alone and a new one is made.
        :param onProgress: called with the worker's messages, which name the ``atlas`` and its ``state``.
        :param onFinished: called with what is returned when blocking.
        :param onError: as for :meth:`RegistrationLogic.register`.
        :return: dictionary of ``segmentation``, ``agreement``, ``transforms``, ``done`` (names of the atlases),
          ``faults``, ``cancelled``, ``kept`` (the edited segmentation that was left alone, or None) and ``seconds``.
        :raises InputError: something is missing.
        """
        problem = self.problem(patientNode, atlasFolders)
        if problem:
            raise InputError(problem)
        settings, started = settings or Settings(), time.monotonic()
        outputID = output.GetID() if output is not None else ""

        def message(folder):
            self._folder = folder
            return {**settings.request(), "folders": list(atlasFolders), "folder": folder, "method": method,
                    "patient": scene.writeVolume(patientNode, Path(folder) / "patient.mha",
                                                 scene.parentToWorld(patientNode))}

        def digest(answer):
            if slicer.mrmlScene.GetNodeByID(patientNode.GetID() or "") is not patientNode:
                raise InputError(_("The patient's volume has left the scene meanwhile: load it and try again."))
            node = slicer.mrmlScene.GetNodeByID(outputID) if outputID else None
            kept = node if node is not None and not replaceEdited and segments.isEdited(node) else None
            made = _intoScene(answer, patientNode, None if kept else node, settings, time.monotonic() - started)
            return {**made, "kept": kept}

        return self.logic.request("transfer", message, digest, blocking, onProgress, onFinished, onError)

    @staticmethod
    def problem(patientNode, atlasFolders):
        """Why labels cannot be carried over, as one sentence, or an empty string."""
        if patientNode is None:
            return _("Choose the patient's volume.")
        if not atlasFolders:
            return _("Tick at least one atlas.")
        return scene.inputProblem(patientNode) or scene.parentProblem(patientNode, ownCounts=True)

    def stop(self):
        """End the transfer under way as soon as possible; the atlases that are done are fused and kept."""
        if self._folder and Path(self._folder).is_dir():
            (Path(self._folder) / STOP).touch()

    def showAtlas(self, folder, blocking=True, onFinished=None, onError=None):
        """The volume of an atlas as a node: the one that is in the scene, or a new one."""
        known = _nodesWith("vtkMRMLScalarVolumeNode", folder)
        if known:
            if onFinished:
                onFinished(known[0])
            return known[0]

        def digest(answer):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", answer["name"])
            scene.readVolume(node, answer["image"])
            node.CreateDefaultDisplayNodes()
            node.SetAttribute(ATLAS, folder)
            return node

        return self.logic.request("atlas", lambda place: {"atlas": folder, "folder": place}, digest, blocking, None,
                                  onFinished, onError)

    def carryBack(self, segmentationNode, transformNode, replace=(), blocking=True, onProgress=None,
                  onFinished=None, onError=None):
        """Carry a segmentation of the patient, as it is now, back onto an atlas: a new segmentation on its volume.

        The atlas' own files stay as they are; :meth:`.atlases.Library.addFromScene` makes a new atlas of the result.

        :param transformNode: one of the ``transforms`` of the transfer.
        :param replace: as for :meth:`.moving.Mover.move`.
        :return: the new segmentation when blocking.
        """
        folder = transformNode.GetAttribute(ATLAS) if transformNode is not None else None
        if not folder:
            raise InputError(_("Choose an atlas whose labels were carried over."))
        if segmentationNode is None or not segmentationNode.GetSegmentation().GetNumberOfSegments():
            raise InputError(_("Choose a segmentation that is to be carried back."))

        def move(atlasNode):
            role = slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole()
            transformNode.SetNodeReferenceID(role, atlasNode.GetID())
            try:
                found = self.mover.move(transformNode, [segmentationNode], inverse=True, reference=atlasNode,
                                        replace=replace, blocking=blocking, onProgress=onProgress,
                                        onFinished=onFinished and (lambda copies: onFinished(copies[0])),
                                        onError=onError)
            except InputError as error:
                if blocking:
                    raise
                onError({"kind": "user", "message": str(error), "details": ""})
                return None
            return found[0] if found else None

        if blocking:
            return move(self.showAtlas(folder))
        self.showAtlas(folder, False, move, onError)
        return None


def transformsOf(segmentationNode):
    """Transforms of the atlases that a segmentation was propagated with."""
    count = segmentationNode.GetNumberOfNodeReferences(TRANSFORM_ROLE)
    nodes = [segmentationNode.GetNthNodeReference(TRANSFORM_ROLE, number) for number in range(count)]
    return [node for node in nodes if node is not None]


def openInSegmentEditor(segmentationNode):
    """Choose a segmentation and the volume it belongs to in Slicer's Segment Editor, and go there.

    Without a main window the choice is made all the same, for when the module is opened.
    """
    editor = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    if editor is None:
        editor = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        editor.UnRegister(None)
        editor.SetSingletonTag("SegmentEditor")
        editor = slicer.mrmlScene.AddNode(editor)
    segmentation = segmentationNode.GetSegmentation()
    editor.SetAndObserveSegmentationNode(segmentationNode)
    editor.SetAndObserveSourceVolumeNode(sourceOf(segmentationNode))
    if segmentation.GetNumberOfSegments():
        editor.SetSelectedSegmentID(segmentation.GetNthSegmentID(0))
    if slicer.util.mainWindow() is not None:
        slicer.util.selectModule("SegmentEditor")
    return editor


def sourceOf(segmentationNode):
    """The volume that a segmentation was made on."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    return segmentationNode.GetNodeReference(PATIENT_ROLE) or segmentationNode.GetNodeReference(role)


def _intoScene(answer, patientNode, output, settings, seconds):
    """Nodes of what the worker found: segmentation, agreement and transforms, in one folder."""
    name = patientNode.GetName()
    node = output or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", _("Atlas labels of {name}").format(
        name=name))
    segments.fill(node, [(scene.readArray(answer["labels"]), [structures.segmentOf(one)
                                                             for one in answer["structures"]])], [], patientNode)
    sizes = {f"{structures.PREFIX}{row['label']}": row["atlas_mm3"] for row in answer["volumes"] if row["atlas_mm3"]}
    node.SetAttribute(volumes.ATLAS_VOLUMES, json.dumps(sizes))
    agreement = node.GetNodeReference(AGREEMENT_ROLE) or slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLScalarVolumeNode", _("Agreement of the atlases on {name}").format(name=name))
    maps.setAgreement(agreement, scene.readArray(answer["agreement"]), patientNode)
    node.SetNodeReferenceID(PATIENT_ROLE, patientNode.GetID())
    node.SetNodeReferenceID(AGREEMENT_ROLE, agreement.GetID())
    transforms = _transforms(answer["transforms"], node, name)
    provenance = answer["provenance"]
    values = {"patient": name, "atlases": ", ".join(answer["done"]), "fusion": answer["method"],
              "lambda": settings.regularization, "transform": settings.transform,
              "model": provenance.get("model", ""), "checksum": provenance.get("checksum", ""),
              "device": provenance.get("device", ""), "extent": settings.extent, "steps": settings.steps,
              "seconds": f"{seconds:.1f}", "date": time.strftime("%Y-%m-%dT%H:%M:%S")}
    everything = [node, agreement, *transforms]
    for one in everything:
        one.SetNodeReferenceID(slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole(), patientNode.GetID())
    scene.setAttributes(everything, values)
    scene.subjectHierarchyFolder(_("SynthMorph: atlas labels of {name}").format(name=name), everything, values)
    return {"segmentation": node, "agreement": agreement, "transforms": transforms, "done": answer["done"],
            "doubtful": answer["doubtful"], "faults": answer["faults"], "cancelled": answer["cancelled"],
            "seconds": seconds}


def _transforms(told, segmentationNode, patient):
    """One transform node for each atlas; those of an earlier run are used again."""
    known = {node.GetAttribute(ATLAS): node for node in transformsOf(segmentationNode)}
    nodes = []
    for one in told:
        node = known.get(one["folder"]) or slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLTransformNode", _("{atlas} to {patient}").format(atlas=one["name"], patient=patient))
        scene.setTransform(node, scene.vtkTransform(one["patient_to_atlas"]))
        node.SetAttribute(ATLAS, one["folder"])
        node.SetAttribute(ATLAS_NAME, one["name"])
        nodes.append(node)
    segmentationNode.RemoveNodeReferenceIDs(TRANSFORM_ROLE)
    for node in nodes:
        segmentationNode.AddNodeReferenceID(TRANSFORM_ROLE, node.GetID())
    return nodes


def _nodesWith(className, folder):
    return [node for node in slicer.util.getNodesByClass(className) if node.GetAttribute(ATLAS) == folder]
