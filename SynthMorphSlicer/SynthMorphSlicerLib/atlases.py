"""The atlas library, without Qt: which folders hold atlases, and atlases made of what is in the scene.

    library = atlases.Library(logic)
    library.add("/data/atlases")  # a folder with a volume, its labels and a colour table, or a folder of such folders
    library.read()
    [atlas["name"] for atlas in library.atlases], [fault["sentence"] for fault in library.faults]
"""

import csv
import json
import os
import tempfile
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from . import scene, segments, structures, subject
from .job import InputError

FOLDERS_SETTING = "SynthMorph/AtlasFolders"
BUILT_IN = "mni152"  # the worker's name for the template that comes with the Python package nilearn


class Library:
    """Folders that are remembered in the settings, and what the worker has found in them."""

    def __init__(self, logic):
        self.logic = logic
        self.atlases = []  # each with "name", "folder", "given" (the folder that was added) and "labels" (how many)
        self.faults = []  # each with "folder", "given" and "sentence"

    def folders(self):
        """The folders that have been added."""
        try:
            return [str(path) for path in json.loads(slicer.app.userSettings().value(FOLDERS_SETTING, "") or "[]")]
        except (TypeError, ValueError):  # somebody else wrote there
            return []

    def add(self, folder):
        """Remember a folder; raises :class:`InputError` if it is in the list already."""
        folder = str(Path(folder))
        if folder in self.folders():
            raise InputError(_("'{folder}' is in the list already.").format(folder=folder))
        self._remember([*self.folders(), folder])

    def remove(self, folder):
        """Forget a folder; nothing on the disk changes."""
        self._remember([other for other in self.folders() if other != folder])

    def read(self, blocking=True, onFinished=None, onError=None):
        """Let the worker look into the folders; the lists of atlases and faults are new afterwards.

        :param onFinished: called without arguments.  :param onError: as for :meth:`RegistrationLogic.register`.
        """
        failures = []

        def finished(answer):
            self.atlases, self.faults = answer["atlases"], answer["faults"]
            if onFinished:
                onFinished()

        self.logic.ask("atlases", finished, onError or failures.append, inquiry=True,
                       folders=[BUILT_IN, *self.folders()])
        if blocking:
            self.logic.client.wait()
            if failures:
                raise RuntimeError(failures[0]["message"])

    def addFromScene(self, volumeNode, labelsNode, place, name=""):
        """Write a volume and its segmentation or label map as a new atlas, and remember it.

        Where segments overlap the later one counts, as an atlas has one label for each voxel.

        :param place: the folder in which the folder of the atlas is made.  :param name: by default the volume's.
        :return: the folder of the atlas.
        :raises InputError: the nodes are no atlas, or the folder cannot be made or is there already.
        """
        problem = sceneProblem(volumeNode, labelsNode)
        if problem:
            raise InputError(problem)
        name = "".join(c if c.isalnum() or c in " ._-" else "_" for c in name or volumeNode.GetName()).strip(" .")
        target = Path(place) / (name or "atlas")
        if target.exists():
            raise InputError(_("'{folder}' exists already: rename the volume, or choose another folder.").format(
                folder=target))
        try:
            with tempfile.TemporaryDirectory(prefix=".atlas-", dir=place) as staging:
                _write(Path(staging) / "atlas", name, volumeNode, labelsNode)
                os.rename(Path(staging) / "atlas", target)
        except (OSError, RuntimeError) as error:
            raise InputError(_("The atlas cannot be written to '{folder}' ({why}): choose another folder.").format(
                folder=place, why=getattr(error, "strerror", None) or str(error).splitlines()[0])) from error
        self.add(target)
        return str(target)

    @staticmethod
    def _remember(folders):
        slicer.app.userSettings().setValue(FOLDERS_SETTING, json.dumps(folders))


def sceneProblem(volumeNode, labelsNode):
    """Why two nodes cannot become an atlas, as one sentence, or an empty string."""
    if volumeNode is None:
        return _("Choose the volume of the atlas.")
    if labelsNode is None:
        return _("Choose the segmentation or label map of the atlas.")
    return scene.inputProblem(volumeNode) or scene.parentProblem(volumeNode) or scene.parentProblem(labelsNode)


def _write(folder, name, volumeNode, labelsNode):
    folder.mkdir()
    parent = scene.detached(volumeNode)
    layers, _empty = segments.layersOf(labelsNode, volumeNode)
    known = [(identifier, segment) for layer in layers for identifier, segment in layer.segments]
    if labelsNode.IsA("vtkMRMLSegmentationNode"):
        numbers = structures.numbersOf(known)
    else:  # whose segments get another ID each time one looks
        numbers = {identifier: segment.GetLabelValue() for identifier, segment in known}
    array = subject.labelArray([labelsNode], volumeNode, parent,
                               lambda identifier, segment: numbers.get(identifier, segment.GetLabelValue()))
    if not array.any():
        raise InputError(_("'{labels}' has no voxel on '{volume}': choose the segmentation that belongs to it.").format(
            labels=labelsNode.GetName(), volume=volumeNode.GetName()))
    scene.writeVolume(volumeNode, folder / "volume.nrrd", parent)
    scene.writeArray(array, parent @ scene.ijkToRAS(volumeNode), folder / "labels.nrrd")
    rows = [structures.rowOf(numbers[identifier], segment) for identifier, segment in known]
    with open(folder / "names.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(sorted(rows, key=lambda row: row["LabelValue"]))
    told = {"name": name, "image": "volume.nrrd", "labels": "labels.nrrd", "table": "names.csv"}
    (folder / "atlas.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
