"""Results kept beside the one in front: copies of its output nodes, saved with the scene as all nodes are.

The one in front stays where it is and takes the content of a kept one when that is shown, so views, tables and
markups go on looking at the same nodes.  What was in front is written back first: nothing done by hand gets lost.
"""

import json
from dataclasses import dataclass

import slicer
from slicer.i18n import tr as _

from . import maps, scene, segments, signing, subject
from .job import CLASSES

NUMBER = scene.ATTRIBUTE + "kept"  # on every copy: the number of the kept result it belongs to
TITLE = scene.ATTRIBUTE + "keptTitle"
MEASURED = scene.ATTRIBUTE + "keptMeasures"  # on the copy of the transform: what the worker found
ROLE = "SynthMorphKept."  # and the name of an output: from the copy of the transform to that of the output


@dataclass(frozen=True)
class Kept:
    """A kept result, by the copy of its transform."""

    transform: object

    @property
    def number(self):
        return int(self.transform.GetAttribute(NUMBER))

    @property
    def title(self):
        return self.transform.GetAttribute(TITLE)

    @property
    def nodes(self):
        """Copies by the name of the output."""
        found = {name: self.transform.GetNodeReference(ROLE + name) for name in CLASSES if name != "transform"}
        return {"transform": self.transform, **{name: node for name, node in found.items() if node is not None}}

    @property
    def measured(self):
        """What :meth:`.workbench.Workbench.measure` found, or None."""
        return json.loads(self.transform.GetAttribute(MEASURED) or "null")

    def setMeasured(self, found):
        """Remember the verdict and the table of a finding."""
        wanted = {key: found[key] for key in ("verdict", "region")}
        wanted["measures"] = [{key: row[key] for key in ("name", "value", "unit", "status")}
                              for row in found["measures"]]
        self.transform.SetAttribute(MEASURED, json.dumps(wanted))

    def handMade(self):
        """What a person has done to it, as words; empty if it could be computed again."""
        segmentation = self.nodes.get("segmentation")
        found = {_("signature"): signing.signatures(self.transform),
                 _("correction by landmarks"): self.transform.GetAttribute(subject.CORRECTION),
                 _("edited segments"): segmentation is not None and segments.isEdited(segmentation)}
        return [words for words, there in found.items() if there]


def results(fixedNode, movingNode):
    """Everything that is kept of a pair of volumes, in the order of keeping."""
    nodes = slicer.util.getNodesByClass("vtkMRMLTransformNode")
    return sorted((Kept(node) for node in nodes if node.GetAttribute(NUMBER)
                   and scene.originOf(node) == (fixedNode, movingNode)), key=lambda one: one.number)


def inFront(kept, transformNode, fixedNode):
    """The one of several kept results that a transform node shows now, or None."""
    if not kept or transformNode is None or transformNode.GetTransformFromParent() is None:
        return None
    now = subject.fingerprint(transformNode, fixedNode)
    return next((one for one in kept if subject.isSame(subject.fingerprint(one.transform, fixedNode), now)), None)


def keep(outputs, fixedNode, movingNode):
    """Put copies of output nodes aside, or bring those that were made of the same result up to date."""
    kept = results(fixedNode, movingNode)
    present = inFront(kept, outputs["transform"], fixedNode)
    number = present.number if present else 1 + max((one.number for one in kept), default=0)
    taken = {one.title for one in kept}
    title = present.title if present else _title(outputs["transform"], taken)
    measured = present and present.transform.GetAttribute(MEASURED)
    copies = present.nodes if present else {}
    for name in ("transform", *(name for name in outputs if name != "transform")):
        copy = copies.get(name) or slicer.mrmlScene.AddNewNodeByClass(CLASSES[name], f"{title}: {name}")
        copy.CopyContent(outputs[name])
        scene.setProvenance([copy], fixedNode, movingNode, {"kept": number, "keptTitle": title})
        scene.putBeside(copy, outputs[name])
        copies[name] = copy
        copies["transform"].SetNodeReferenceID(ROLE + name, copy.GetID())
    copies["transform"].SetAttribute(MEASURED, measured)
    return Kept(copies["transform"])


def show(one, outputs, fixedNode, movingNode):
    """Let the output nodes show a kept result.

    What they hold has to be kept before.  An output that the kept result lacks goes, one that only it has comes.

    :return: the output nodes by name.
    """
    shown = {}
    for name, copy in one.nodes.items():
        node = outputs.get(name)
        if node is None:
            node = slicer.mrmlScene.AddNewNodeByClass(CLASSES[name], copy.GetName())
        node.CopyContent(copy)
        for attribute in (NUMBER, TITLE, MEASURED):
            node.RemoveAttribute(attribute)
        scene.setProvenance([node], fixedNode, movingNode, {})
        if name != "transform" and node.GetDisplayNode() is None:
            node.CreateDefaultDisplayNodes()
        shown[name] = node
    if "jacobian" in shown:
        maps.markFolding(shown["jacobian"], fixedNode)
    for name in set(outputs) - set(shown):
        slicer.mrmlScene.RemoveNode(outputs[name])
    return shown


def remove(one):
    """Forget a kept result."""
    for node in one.nodes.values():
        slicer.mrmlScene.RemoveNode(node)


def settings(node):
    """How a result was made, as (title, text) pairs for a table."""
    rows = [(_("Transform"), "transform"), (_("Lambda"), "lambda"), (_("Refinement"), "refine"),
            (_("Model"), "model"), (_("Seconds"), "seconds")]
    values = {key: node.GetAttribute(scene.ATTRIBUTE + key) or "" for _title, key in rows}
    if values["transform"] in ("affine", "rigid"):
        values["lambda"] = values["refine"] = ""
    elif not values["refine"]:
        values["refine"] = _("standard")
    return [(title, values[key]) for title, key in rows]


def _title(transformNode, taken):
    """A short name for a column: what the result was made with."""
    values = {key: transformNode.GetAttribute(scene.ATTRIBUTE + key) or "" for key in ("transform", "lambda", "refine")}
    if values["transform"] in ("affine", "rigid"):
        title = _("Affine") if values["transform"] == "affine" else _("Rigid")
    else:
        title = _("\u03bb {value}").format(value=values["lambda"] or "?")
        if values["refine"]:
            title += _(", not refined") if values["refine"] == "0" else _(", refined {number}").format(
                number=values["refine"])
    if transformNode.GetAttribute(subject.CORRECTION):
        title += _(", corrected")
    number, unique = 2, title
    while unique in taken:
        unique, number = f"{title} ({number})", number + 1
    return unique
