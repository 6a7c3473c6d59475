"""Registration in nodes and plain values.  No Qt: it works from the panel, from scripts and without a main window."""

import logging
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from . import environment, maps, scene, segments, subject
from .job import CLASSES, OUTPUTS, InputError, Job, Settings
from .worker_client import WorkerClient

FREESURFER_FILES = (".lta", ".mgz", ".mgh", ".nii.gz", ".nii")


class RegistrationLogic:
    """Registers volumes through the worker process; keeps the last registration for further lambdas."""

    def __init__(self, command=None, keepTemporaryFiles=False):
        """
        :param command: function returning the worker's command line; by default the one of the setup section.
        """
        self.client = WorkerClient(command or environment.workerCommand, environment.workerEnvironment)
        self.keepTemporaryFiles = keepTemporaryFiles
        self.job = None  # the registration under way or the last one
        self._resultsOf = None  # process that still holds the last registration
        self._folders = []  # of requests under way

    # What scripts call

    def register(self, fixedNode, movingNode, transform="joint", regularization=0.5, outputTransform=True,
                 outputVolume=None, outputJacobian=None, outputSegmentation=None, carriedLabels=(), carriedPoints=(),
                 initialTransform=None, attachMoving=False, model="auto", device="auto", extent=256, steps=7,
                 refinement=None, precision="full", threads=0, replaceEdited=False, preview=False, blocking=True,
                 onProgress=None, onFinished=None, onError=None):
        """Bring a moving volume onto a fixed one.

        Example, in Slicer's Python console::

            logic = slicer.util.getModuleLogic("SynthMorphSlicer")
            outputs = logic.register(fixedNode, movingNode, outputVolume=True)
            outputs["transform"], outputs["volume"]

        :param transform: "joint" (affine and deformable), "affine", "rigid", or "deform" (already aligned).
        :param regularization: lambda, between 0 (follows every detail) and 1 (smooth), both excluded.
        :param outputTransform: True for a new node, a node to update, or None; likewise ``outputVolume`` (the moved
          volume), ``outputJacobian`` (log2 of the local volume change) and ``outputSegmentation``.
        :param carriedLabels: segmentations and label maps of the moving volume, for ``outputSegmentation``.
        :param carriedPoints: markups and models of the moving volume; copies land in the fixed volume's space.
        :param initialTransform: linear transform node that roughly brings the moving to the fixed volume.
        :param attachMoving: show the moving volume through the transform.
        :param model: "auto", "official" or "compact".  :param device: "auto", "cpu", "cuda:0", ...
        :param extent: 192 or 256 mm.  :param steps: integration steps.  :param refinement: iterations, None for
          the model's own number.  :param precision: "full", "fast" or "half".  :param threads: of the CPU, 0 for all.
        :param replaceEdited: overwrite an output segmentation even if it was changed by hand since it was made; else it
          is left alone and a new one is made.
        :param preview: leave the finest part of the refinement out, if there is one; ``job.preview`` then tells, and
          :meth:`changeRegularization` to the same lambda goes on from there.
        :param blocking: wait and return the outputs; else return at once, and call :meth:`poll` regularly.
        :param onProgress: called with stage, fraction and message.  :param onFinished: with the outputs.
        :param onError: called with a dictionary of ``kind``, ``message`` (one sentence) and ``details``; when blocking
          without it, a RuntimeError is raised.
        :return: dictionary of output nodes by name when blocking, else None.
        """
        settings = Settings(transform, regularization, model, device, extent, steps, refinement, precision, threads)
        wanted = {name: ("" if node is True else node.GetID()) for name, node in zip(OUTPUTS, (
            outputTransform, outputVolume, outputJacobian, outputSegmentation)) if node}
        problem = self.problem(fixedNode, movingNode, wanted, initialTransform, carriedLabels, carriedPoints)
        if problem:
            raise InputError(problem)
        job = Job(fixedNode.GetID(), movingNode.GetID(), settings, wanted,
                  tuple(node.GetID() for node in carriedLabels), tuple(node.GetID() for node in carriedPoints),
                  initialTransform.GetID() if initialTransform else "", attachMoving, replaceEdited, preview)
        return self._start(job, blocking, onProgress, onFinished, onError)

    def problem(self, fixedNode, movingNode, wanted, initialTransform=None, carriedLabels=(), carriedPoints=()):
        """What is missing or wrong before a registration can start, as one sentence, or an empty string."""
        if fixedNode is None:
            return _("Choose a fixed volume.")
        if movingNode is None:
            return _("Choose a moving volume.")
        if fixedNode is movingNode:
            return _("The fixed and the moving volume are the same: choose two different volumes.")
        if not wanted:
            return _("Choose at least one output.")
        if set(wanted) == {"segmentation"} and not carriedLabels:
            return _("Choose labels to carry along, or another output than the segmentation.")
        for node in (fixedNode, movingNode):
            problem = scene.inputProblem(node) or scene.parentProblem(node, ownCounts=node is fixedNode)
            if problem:
                return problem
        if initialTransform is not None and not initialTransform.IsTransformToWorldLinear():
            return _("The initial transform is not linear: choose a linear one, or none.")
        if initialTransform is not None and scene.isFlat(initialTransform):
            return _("The initial transform is flat along an axis: choose one that can be inverted, or none.")
        for node in carriedLabels:
            if scene.parentProblem(node):
                return scene.parentProblem(node)
        outputs = [slicer.mrmlScene.GetNodeByID(identifier) for identifier in wanted.values() if identifier]
        inputs = [fixedNode, movingNode, initialTransform, *carriedLabels, *carriedPoints]
        parents = [parent for node in inputs for parent in scene.parents(node, ownCounts=node is fixedNode)]
        for node in outputs:
            if outputs.count(node) > 1:
                return _("'{name}' is chosen for two outputs: choose another node for one of them.").format(
                    name=node.GetName())
            if node in inputs:
                return _("'{name}' is an input and an output at once: choose another output.").format(
                    name=node.GetName())
            if node in parents:
                return _("'{name}' moves one of the inputs, so it cannot be an output: choose another.").format(
                    name=node.GetName())
            if node.GetAttribute(scene.ATTRIBUTE + "kept"):
                return _("'{name}' is kept for comparison: choose another output.").format(name=node.GetName())
        return ""

    def canChangeRegularization(self):
        """True if the last registration can be repeated with another lambda without starting over."""
        return (self.job is not None and bool(self.job.outputs) and self._resultsOf is not None
                and self._resultsOf == self.client.processID()
                and self.job.settings.transform in ("joint", "deform")
                and all(slicer.mrmlScene.GetNodeByID(i) for i in (self.job.fixedID, self.job.movingID)))

    def check(self, onDoubt):
        """Look at the last registration once more, in a second or two of the worker's time.

        :param onDoubt: called without arguments if it is probably wrong and nothing newer has been asked for.
        """
        job = self.job

        def finished(answer):
            if answer["doubtful"] and job is self.job and not self.isBusy():
                onDoubt()

        self.ask("check", finished, lambda error: logging.warning("SynthMorph: %s", error["message"]), inquiry=True)

    def holds(self, transformNode, fixedNode):
        """True if a transform node is as the registration made it that the worker still has in memory, or a copy."""
        return (self.job is not None and self._resultsOf is not None and self._resultsOf == self.client.processID()
                and self.job.fixedID == fixedNode.GetID() and bool(self.job.fingerprint)
                and subject.isSame(self.job.fingerprint, subject.fingerprint(transformNode, fixedNode)))

    def changeRegularization(self, regularization, preview=False, blocking=True, onProgress=None, onFinished=None,
                             onError=None):
        """Repeat the last registration with another lambda and update its outputs in place.

        While one is computed only the newest further call counts.

        :param preview: as for :meth:`register`.
        """
        if not self.canChangeRegularization():
            raise InputError(_("Register first: there is no registration to change."))
        goesOn = self.job.preview and not preview and regularization == self.job.settings.regularization
        job = replace(self.job, settings=replace(self.job.settings, regularization=regularization),
                      wanted={name: node.GetID() for name, node in self.job.outputs.items()}, outputs={},
                      carried=dict(self.job.carried), started=time.monotonic(), replaceEdited=False, preview=preview,
                      goesOn=goesOn, kept=self.job.kept if goesOn else "",
                      seconds=self.job.seconds if goesOn else 0.0)
        message = {"command": "relambda", "regularization": regularization, "preview": preview,
                   "outputs": self._outputFiles(job)}
        return self._run(job, message, blocking, onProgress, onFinished, onError)

    def loadTransform(self, path, blocking=True, onFinished=None, onError=None):
        """Read a FreeSurfer transform (.lta, or an .mgz or NIfTI warp of mri_synthmorph) into a new transform node.

        Like our own transforms it maps the fixed volume's space to the moving one's where volumes are sampled: put the
        volume that was registered under it.

        :param onFinished: called with the node.  :param onError: as for :meth:`register`.
        :return: the node when blocking, else None.
        """
        if not str(path).lower().endswith(FREESURFER_FILES):
            raise InputError(_("'{path}' is no FreeSurfer transform ({endings}): load other transforms with File > Add "
                               "Data.").format(path=path, endings=", ".join(FREESURFER_FILES)))
        def finished(answer):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", Path(path).name.split(".")[0])
            scene.setTransform(node, scene.vtkTransform(answer["fixed_to_moving"]))
            node.SetAttribute(scene.ATTRIBUTE + "file", str(path))
            return node

        return self.request("transform", lambda folder: {"path": str(path), "folder": folder}, finished, blocking,
                            None, onFinished, onError)

    def request(self, command, makeMessage, digest, blocking=True, onProgress=None, onFinished=None, onError=None):
        """Write files, send the worker a command, bring its answer into the scene, and clean up.

        :param makeMessage: function of a temporary folder that writes there what is needed and gives the arguments.
        :param digest: function of the answer; what it gives is handed on.
        :param onProgress: called with the worker's progress messages.
        :param onFinished: called with what ``digest`` gave.  :param onError: as for :meth:`register`.
        :return: what ``digest`` gave when blocking, else None.
        :raises InputError: nothing can be handed over.  :raises RuntimeError: it failed, when blocking without
          ``onError``.
        """
        folder, results, failures = scene.temporaryFolder(), [], []
        self._folders.append(folder)
        try:
            message = makeMessage(folder)
        except (OSError, RuntimeError) as error:
            self._remove(folder)
            raise InputError(scene.noRoom()) from error
        except InputError:
            self._remove(folder)
            raise

        def finished(answer):
            try:
                results.append(digest(answer))
            except InputError as error:  # the scene has changed meanwhile
                failed({"kind": "user", "message": str(error), "details": ""})
                return
            self._remove(folder)
            if onFinished:
                onFinished(results[0])

        def failed(error):
            self._remove(folder)
            (onError or failures.append)(error)

        self.ask(command, finished, failed, onProgress, **message)
        if not blocking:
            return None
        self.client.wait()
        if failures:
            raise RuntimeError(failures[0]["message"])
        return results[0] if results else None

    def _remove(self, folder):
        if folder in self._folders:  # a cancellation may have been quicker
            self._folders.remove(folder)
            self._removeFolder(folder)

    def poll(self):
        """Deliver what the worker has sent; call it regularly while a registration runs."""
        self.client.poll()

    def isBusy(self):
        """True while a registration or a download is under way."""
        return self.client.isBusy()

    def cancel(self):
        """Stop at once: the worker process is ended and its memory freed; the scene stays as it was."""
        self.client.cancel()
        self._resultsOf = None
        self._forgetFiles()
        for folder in list(self._folders):
            self._remove(folder)

    def ask(self, command, onResult=None, onError=None, onProgress=None, inquiry=False, **arguments):
        """Send the worker one of its other commands (see ``synthmorph_torch.protocol``)."""
        self.client.send({"command": command, **arguments}, onResult, onError, onProgress, inquiry)

    def close(self):
        """End the worker and remove temporary files."""
        self.cancel()
        self.job = None

    # From nodes to the worker

    def _start(self, job, blocking, onProgress, onFinished, onError):
        self._forgetFiles()
        job.folder = scene.temporaryFolder()
        job.started = time.monotonic()
        job.labelFiles, job.layers, job.empty = [], [], []
        job.seconds, job.goesOn = 0.0, False
        self.job = job
        fixed, moving = (slicer.mrmlScene.GetNodeByID(i) for i in (job.fixedID, job.movingID))
        if "segmentation" in job.wanted:
            self._writeLabels(job, moving)
        initial = slicer.mrmlScene.GetNodeByID(job.initialID) if job.initialID else None
        folder = Path(job.folder)
        message = {"command": "register", **job.settings.request(job.preview),
                   "initial": scene.initialMatrix(initial) if initial else None,
                   "fixed": scene.writeVolume(fixed, folder / "fixed.mha", scene.parentToWorld(fixed)),
                   "moving": scene.writeVolume(moving, folder / "moving.mha", scene.detached(moving)),
                   "outputs": self._outputFiles(job)}
        return self._run(job, message, blocking, onProgress, onFinished, onError)

    def _writeLabels(self, job, movingNode):
        for identifier in job.labelIDs:
            layers, empty = segments.layersOf(slicer.mrmlScene.GetNodeByID(identifier), movingNode)
            job.empty += empty
            for layer in layers:
                path = Path(job.folder) / f"labels{len(job.labelFiles)}.mha"
                job.labelFiles.append(scene.writeArray(layer.array, layer.ijkToWorld, path))
                job.layers.append(layer.segments)

    def _outputFiles(self, job):
        """What the worker shall write, in a folder of its own: it may already be writing the next results."""
        return {"folder": tempfile.mkdtemp(prefix="results-", dir=job.folder), "moved": "volume" in job.wanted,
                "jacobian": "jacobian" in job.wanted, "labels": job.labelFiles}

    def _run(self, job, message, blocking, onProgress, onFinished, onError):
        failure = []

        def finished(answer):
            known = scene.nodeIDs()
            try:
                applied = self._apply(job, message, answer)
            except Exception as error:  # whatever it is, nobody must wait for ever, and nothing half-made stays
                for identifier in scene.nodeIDs() - known:
                    slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetNodeByID(identifier))
                failed({"kind": "bug", "details": traceback.format_exc(), "message": _(
                    "The result could not be brought into the scene ({why}): save the scene, and try again.").format(
                        why=str(error) or type(error).__name__)})
                return
            if not applied:
                failed({"kind": "user", "details": "", "message": _(
                    "The fixed or the moving volume has left the scene meanwhile: load it and try again.")})
            elif onFinished:
                onFinished(job.outputs)

        def failed(error):
            if error["kind"] == "released":  # the worker was idle for long and gave its memory back
                self._start(job, False, onProgress, onFinished, onError or failure.append)
                return
            logging.error("SynthMorph: %s\n%s", error["message"], error["details"])
            self._resultsOf = None
            (onError or failure.append)(error)

        progress = onProgress and (lambda m: onProgress(m["stage"], m["fraction"], m["message"]))
        self.client.send(message, finished, failed, progress)
        if not blocking:
            return None
        self.client.wait()
        if failure:
            raise RuntimeError(failure[0]["message"])
        return self.job.outputs

    def _forgetFiles(self):
        if self.job is not None and self.job.folder:
            self._removeFolder(self.job.folder)
            self.job.folder = ""

    def _removeFolder(self, folder):
        if not self.keepTemporaryFiles:
            scene.removeFolder(folder)

    # From the worker to nodes

    def _apply(self, job, message, answer):
        """Bring results into the scene, all of them or none; False if their volumes are gone meanwhile."""
        fixed, moving = (slicer.mrmlScene.GetNodeByID(i) for i in (job.fixedID, job.movingID))
        if fixed is None or moving is None:
            return False
        job.provenance, job.reason = answer["provenance"], answer["reason"]
        job.preview = job.provenance["preview"]
        forward, inverse = (scene.vtkTransform(answer[key]) for key in ("fixed_to_moving", "moving_to_fixed"))
        arrays = {key: scene.readArray(answer[key]) for key in ("moved", "jacobian") if key in answer}
        warped = [(scene.readArray(path), layer) for path, layer in zip(answer["labels"], job.layers)]
        self._removeFolder(message["outputs"]["folder"])
        names = {"transform": _("{moving} to {fixed}"), "volume": _("{moving} on {fixed}"),
                 "jacobian": _("Volume change {moving} to {fixed} (log2 J)"),
                 "segmentation": _("Segments of {moving} on {fixed}")}
        nodes = {}
        for name in job.wanted:
            if name == "segmentation" and not (warped or job.empty):
                continue  # nothing was given to carry along
            node = slicer.mrmlScene.GetNodeByID(job.wanted[name]) if job.wanted[name] else None
            if name == "segmentation" and node and not job.replaceEdited and segments.isEdited(node):
                job.kept = segments.KEPT.format(name=node.GetName())
                node = None
            nodes[name] = node or slicer.mrmlScene.AddNewNodeByClass(
                CLASSES[name], names[name].format(moving=moving.GetName(), fixed=fixed.GetName()))
        more = self._fill(nodes, job, forward, arrays, warped, fixed, moving)
        more += self._carryPoints(job, inverse, [slicer.mrmlScene.GetNodeByID(i) for i in job.wanted.values() if i])
        job.note = " ".join(filter(None, (answer["note"], segments.lossNote(warped), job.kept)))
        job.seconds += time.monotonic() - job.started
        everything = [*nodes.values(), *more]
        values = self._attributes(job, fixed, moving)
        scene.setProvenance(everything, fixed, moving, values)
        scene.subjectHierarchyFolder(_("SynthMorph: {moving} to {fixed}").format(
            moving=moving.GetName(), fixed=fixed.GetName()), everything, values)
        if job.attach and "transform" in nodes:
            scene.attach(moving, nodes["transform"])
        job.outputs = nodes
        job.fingerprint = subject.fingerprint(nodes["transform"], fixed) if "transform" in nodes else ""
        self.job, self._resultsOf = job, self.client.processID()
        return True

    @staticmethod
    def _fill(nodes, job, forward, arrays, warped, fixed, moving):
        """Fill the output nodes; returns further nodes that came with them."""
        if "transform" in nodes:
            scene.setTransform(nodes["transform"], forward)
        if "volume" in nodes:
            new = nodes["volume"].GetDisplayNode() is None
            scene.setVolumeOnFixed(nodes["volume"], arrays["moved"], fixed)
            if new:
                scene.copyWindow(moving, nodes["volume"])
        if "segmentation" in nodes:
            segments.fill(nodes["segmentation"], warped, job.empty, fixed, in3D=not job.preview)
        return maps.setJacobian(nodes["jacobian"], arrays["jacobian"], fixed) if "jacobian" in nodes else []

    def _carryPoints(self, job, inverse, updated):
        copies = []
        for identifier in job.pointIDs:
            source = slicer.mrmlScene.GetNodeByID(identifier)
            if source is None:
                continue
            copy = slicer.mrmlScene.GetNodeByID(job.carried.get(identifier, "")) or scene.carriedCopy(source, updated)
            if copy is None:
                copy = slicer.mrmlScene.AddNewNodeByClass(source.GetClassName(),
                                                          _("{name} (carried)").format(name=source.GetName()))
            scene.carryPoints(source, copy, inverse)
            job.carried[identifier] = copy.GetID()
            copies.append(copy)
        return copies

    @staticmethod
    def _attributes(job, fixed, moving):
        provenance = job.provenance
        iterations = provenance.get("refine")
        return {"fixed": fixed.GetName(), "moving": moving.GetName(), "lambda": job.settings.regularization,
                "transform": job.settings.transform, "refine": "" if iterations is None else iterations,
                "model": provenance.get("model", ""),
                "checksum": provenance.get("checksum", ""), "device": provenance.get("device", ""),
                "extent": provenance.get("extent", job.settings.extent), "note": job.note,
                "preview": "yes" if job.preview else "", "steps": job.settings.steps, "seconds": f"{job.seconds:.1f}",
                "date": time.strftime("%Y-%m-%dT%H:%M:%S")}
