"""Judging a result, without Qt: examine it, write the report, correct it by landmarks, try other lambdas.

    bench = workbench.Workbench(logic)
    found = bench.examine(Subject(fixedNode, movingNode, transformNode))
    found["verdict"], found["measures"], found["hot_spots"]
"""

import json
from dataclasses import replace
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from . import maps, scene, segments, signing, subject
from .job import InputError

LAMBDAS = (0.2, 0.35, 0.5, 0.65, 0.8)


class Workbench:
    """Asks the worker of a :class:`RegistrationLogic` and brings its answers into the scene."""

    def __init__(self, logic):
        self.logic = logic
        self.found = None  # the last finding, as the engine's Review.as_dict gives it
        self.foundKey = ""
        self._asked = None  # what the last finding was asked with, for the report
        self._undo = None  # outputs, what they held, the fixed volume and the corrected transform's fingerprint
        self._swept = None  # what the last sweep was about, and its points
        self._layers = []

    def examine(self, what, region=None, segmentID="", disagreement=False, blocking=True, onProgress=None,
                onFinished=None, onError=None):
        """Find out all there is about a result.

        :param what: a :class:`Subject`.
        :param region: a segmentation of the fixed volume whose segment ``segmentID`` is looked at alone.
        :param disagreement: register again with lambda 0.3 and 0.7, and see how far apart they lead.
        :param onFinished: called with the finding.  :param onError: as for :meth:`RegistrationLogic.register`.
        :return: the finding when blocking: ``verdict``, ``headline``, ``reasons``, ``measures``, ``hot_spots``.
        """
        asked = (what, region, segmentID, disagreement)

        def finished(found):
            self.found, self.foundKey, self._asked = found, what.key(), asked
            if onFinished:
                onFinished(found)

        return self._examine(asked, blocking, onProgress, finished, onError)

    def measure(self, what, region=None, segmentID="", blocking=True, onProgress=None, onFinished=None, onError=None):
        """The same for a result that is not in front: the finding is handed on, and not remembered."""
        return self._examine((what, region, segmentID, False), blocking, onProgress, onFinished, onError)

    def _examine(self, asked, blocking, onProgress, onFinished, onError):
        return self._request("review", lambda folder: self._message(asked, folder), lambda answer: answer["review"],
                             blocking, onProgress, onFinished, onError)

    def report(self, path, title="", seen=(), blocking=True, onProgress=None, onFinished=None, onError=None):
        """Write the page of the last finding, and its CSV beside it.

        :param seen: (caption, path of a PNG) pairs that come first.
        :return: the paths of both files when blocking.
        :raises InputError: nothing has been examined, or the result has changed since.
        """
        if self._asked is None or not self.isCurrent(self._asked[0]):
            raise InputError(_("Examine the result first: the report shows what was found."))
        what = self._asked[0]

        def message(folder):
            return {**self._message(self._asked, folder), "path": str(path), "title": title,
                    "seen": [{"caption": caption, "path": str(picture)} for caption, picture in seen],
                    "sweep": self.sweepOf(what),
                    "signatures": signing.forReport(what.transform, what.fixed)}

        return self._request("report", message, lambda answer: answer["files"], blocking, onProgress, onFinished,
                             onError)

    def isCurrent(self, what):
        """True if the finding is about this subject as it is now."""
        return self.found is not None and not what.problem() and self.foundKey == what.key()

    def forget(self):
        """The scene is going away."""
        self.found = self._asked = self._undo = self._swept = None
        self.foundKey = ""

    def sweep(self, what, lambdas=LAMBDAS, blocking=True, onProgress=None, onFinished=None, onError=None):
        """The last registration with other lambdas: a list of points with similarity, Dice and SD of log J."""
        if not self.logic.holds(what.transform, what.fixed):
            raise InputError(_("Register first: the sweep repeats the last registration with other lambdas."))

        def message(folder):
            told = subject.write(what, folder)
            labels = {key: told[key] for key in ("moving_labels", "fixed_labels") if key in told}
            return {"lambdas": list(lambdas), **labels}

        def finished(answer):
            self._swept = (self._sweepKey(what), answer["points"])
            return answer["points"]

        return self._request("sweep", message, finished, blocking, onProgress, onFinished, onError)

    def sweepOf(self, what):
        """Points of the last sweep if it was about the same volumes registered in the same way, else none."""
        return self._swept[1] if self._swept is not None and self._swept[0] == self._sweepKey(what) else []

    def _sweepKey(self, what):
        job = self.logic.job
        return job and (what.fixed, what.moving, job.fixedID, job.movingID, replace(job.settings, regularization=0.5))

    # Correction by landmarks

    def correct(self, what, outputs, radius=40.0, blocking=True, onProgress=None, onFinished=None, onError=None):
        """Bend a result near its landmarks so that it meets them, and move again what was moved with it.

        :param outputs: output nodes by name, those of the result; they are changed in place, and :meth:`undo` brings
          them back.  A segmentation that was changed by hand is left alone.
        :return: errors before and after and the smallest Jacobian determinant when blocking.
        """
        outputs = {name: node for name, node in outputs.items()
                   if name != "segmentation" or not segments.isEdited(node)}

        def message(folder):
            told = subject.write(what, folder, strict=True)
            if told["landmarks"] is None:
                raise InputError(_("There are no landmarks to correct by: place at least one pair."))
            self._layers = self._writeLayers(what, outputs, folder)
            return {"forward": told["forward"], "landmarks": told["landmarks"], "radius": radius,
                    "backward": subject.writeInverse(what.transform, what.moving, Path(folder) / "backward.h5"),
                    "fixed": told["fixed"], "moving": told["moving"],
                    "outputs": {"folder": folder, "moved": "volume" in outputs, "jacobian": "jacobian" in outputs,
                                "labels": [path for path, _segments in self._layers]}}

        def finished(answer):
            before = snapshot(outputs)
            self._fill(what, outputs, answer)
            self._undo = (dict(outputs), before, what.fixed, subject.fingerprint(what.transform, what.fixed))
            note = {"landmarks": len(answer["errors_before"]), "radius": radius,
                    "before": answer["errors_before"], "after": answer["errors_after"]}
            for node in outputs.values():
                node.SetAttribute(subject.CORRECTION, json.dumps(note))
            return answer

        return self._request("correct", message, finished, blocking, onProgress, onFinished, onError)

    def canUndo(self):
        """True if the last correction can be taken back: the outputs still show it."""
        if self._undo is None:
            return False
        outputs, _before, fixed, corrected = self._undo
        return (all(slicer.mrmlScene.GetNodeByID(node.GetID() or "") is node for node in (*outputs.values(), fixed))
                and subject.isSame(subject.fingerprint(outputs["transform"], fixed), corrected))

    def undo(self):
        """Take the last correction back: all outputs are as they were."""
        if self.canUndo():
            outputs, before, fixed, _corrected = self._undo
            restore(outputs, before)
            if "jacobian" in outputs:
                maps.markFolding(outputs["jacobian"], fixed)
        self._undo = None

    def _writeLayers(self, what, outputs, folder):
        layers, self._empty = [], []
        if "segmentation" in outputs:
            for node in what.labels:
                found, empty = segments.layersOf(node, what.moving)
                self._empty += empty
                for layer in found:
                    path = scene.writeArray(layer.array, layer.ijkToWorld, Path(folder) / f"layer{len(layers)}.mha")
                    layers.append((path, layer.segments))
        return layers

    def _fill(self, what, outputs, answer):
        scene.setTransform(outputs["transform"], scene.vtkTransform(answer["fixed_to_moving"]))
        if "moved" in answer:
            scene.setVolumeOnFixed(outputs["volume"], scene.readArray(answer["moved"]), what.fixed)
        if "jacobian" in answer:
            maps.setJacobian(outputs["jacobian"], scene.readArray(answer["jacobian"]), what.fixed)
        if answer["labels"]:
            warped = [(scene.readArray(path), found) for path, (_file, found) in zip(answer["labels"], self._layers)]
            segments.fill(outputs["segmentation"], warped, self._empty, what.fixed)

    # The worker

    def _message(self, asked, folder):
        what, region, segmentID, disagreement = asked
        message = {"case": subject.write(what, folder, self.logic.holds(what.transform, what.fixed)),
                   "disagreement": disagreement, "spots": 2,
                   "key": repr((what.key(), region and (region.GetID(), region.GetMTime()), segmentID, disagreement))}
        if region is not None and segmentID:
            message["mask"] = subject.writeRegion(region, segmentID, what.fixed, Path(folder) / "region.mha")
            message["region"] = _("the segment '{name}'").format(
                name=region.GetSegmentation().GetSegment(segmentID).GetName())
        return message

    def _request(self, command, makeMessage, digest, blocking, onProgress, onFinished, onError):
        progress = onProgress and (lambda m: onProgress(m["stage"], m["fraction"], m["message"]))
        return self.logic.request(command, makeMessage, digest, blocking, progress, onFinished, onError)


def snapshot(outputs):
    """What output nodes hold now, to be put back by :func:`restore`; the nodes themselves are not copied."""
    saved = {}
    for name, node in outputs.items():
        note = node.GetAttribute(subject.CORRECTION)
        if name == "transform":
            saved[name] = (node.GetTransformFromParent(), note)
        elif name == "segmentation":
            copy = slicer.vtkSegmentation()
            copy.DeepCopy(node.GetSegmentation())
            saved[name] = (copy, note)
        else:
            saved[name] = (slicer.util.arrayFromVolume(node).copy(), note)
    return saved


def restore(outputs, saved):
    """Put back what :func:`snapshot` found."""
    for name, (content, note) in saved.items():
        node = outputs[name]
        if name == "transform":
            scene.setTransform(node, content)
        elif name == "segmentation":
            if not segments.isEdited(node):
                node.GetSegmentation().DeepCopy(content)
                segments.markMade(node)
        else:
            slicer.util.updateVolumeFromArray(node, content)
        node.SetAttribute(subject.CORRECTION, note)
