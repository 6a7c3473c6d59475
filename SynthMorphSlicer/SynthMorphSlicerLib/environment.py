"""Is PyTorch there?  Which Python runs the worker, which devices are there, and what to do about what is missing.

Nothing here imports torch: looking must be quick and must not be able to break Slicer.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import slicer
from slicer.i18n import tr as _

PYTHON_VARIABLE = "SYNTHMORPH_PYTHON"
PYTHON_SETTING = "SynthMorph/Python"
WEIGHTS_VARIABLE = "SYNTHMORPH_WEIGHTS"
VISIBLE = "CUDA_VISIBLE_DEVICES"
WEIGHTS_SETTING = "SynthMorph/WeightsFolder"
MODULE_FOLDER = Path(__file__).resolve().parent.parent
_found = {}  # versions of packages, once they are there


def otherPython():
    """The Python chosen instead of Slicer's own, or an empty string."""
    return os.environ.get(PYTHON_VARIABLE) or str(slicer.app.userSettings().value(PYTHON_SETTING, "") or "")


def setOtherPython(path):
    """Choose a Python that has torch for the worker; an empty path goes back to Slicer's own."""
    slicer.app.userSettings().setValue(PYTHON_SETTING, path)


def weightsFolder():
    """The folder the user pointed to for weights, or an empty string."""
    return str(slicer.app.userSettings().value(WEIGHTS_SETTING, "") or "")


def setWeightsFolder(path):
    """Look for weights in this folder first; it may be a FreeSurfer installation, whose models are in a subfolder."""
    slicer.app.userSettings().setValue(WEIGHTS_SETTING, path)


def weightsFolderProblem():
    """Why the folder the user pointed to gives no weights, as one sentence, or an empty string."""
    folder = weightsFolder()
    names = [entry["name"] for entry in catalogue()["official"]]
    if not folder or any((_modelsFolder(folder) / name).with_suffix(ending).is_file()
                         for name in names for ending in (".h5", ".safetensors")):
        return ""
    return _("The folder '{folder}' holds none of the official weights ({names}): choose another one, or none.").format(
        folder=folder, names=", ".join(names))


def _modelsFolder(folder):
    inside = Path(folder) / "models"
    return inside if inside.is_dir() else Path(folder)


def slicerPython():
    """Slicer's own Python as a program.

    PythonSlicer is a launcher, of which it is not known that it hands standard input on in Windows. What it launches is
    what Slicer runs Python programs of its own with, in an environment like this process's.
    """
    real = shutil.which("python-real") if os.name == "nt" else None
    return real or shutil.which("PythonSlicer") or sys.executable


def workerCommand():
    """Command line of the worker process."""
    return [otherPython() or slicerPython(), "-u", "-m", "synthmorph_torch.worker"]


def workerEnvironment():
    """Environment of the worker process: Slicer's own for its own Python, a clean one for another."""
    if otherPython():
        environment = slicer.util.startupEnvironment()
        environment.pop("PYTHONHOME", None)
        inherited = ""
    else:
        environment = dict(os.environ)
        inherited = environment.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(MODULE_FOLDER), inherited)))
    environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # nvidia-smi's, whose numbers and names the panel shows
    numbers = _numbers(os.environ.get(VISIBLE))
    if numbers is not None:  # in the order in which the panel shows them
        environment[VISIBLE] = ",".join(map(str, numbers))
    if weightsFolder() and not weightsFolderProblem():  # a wrong folder shall not stand in the way of the compact model
        environment[WEIGHTS_VARIABLE] = str(_modelsFolder(weightsFolder()))
    return environment


def torchVersion():
    """Version of the torch in Slicer's own Python, or an empty string."""
    if not _found:  # looking takes too long to do it whenever a slider moves
        importlib.invalidate_caches()
        try:
            if importlib.util.find_spec("torch") is not None:
                _found["torch"] = importlib.metadata.version("torch")
        except (ImportError, ValueError, importlib.metadata.PackageNotFoundError):
            pass
    return _found.get("torch", "")


def isReady():
    """True if a Python with torch is known (its torch is tried when the worker starts)."""
    return bool(otherPython() or torchVersion())


def catalogue():
    """The models this extension knows (Resources/models.json), as plain data."""
    return json.loads((MODULE_FOLDER / "Resources" / "models.json").read_text(encoding="utf-8"))


class DeviceProbe:
    """Lists NVIDIA GPUs with their free memory, from nvidia-smi, on a thread of its own."""

    QUERY = ["--query-gpu=index,uuid,memory.free,memory.total,name", "--format=csv,noheader,nounits"]

    def __init__(self):
        self._thread = None
        self._devices = None

    def start(self):
        """Begin a fresh look unless one is under way."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()

    def devices(self):
        """List of dictionaries with ``id``, ``uuid``, ``name``, ``free`` and ``total`` (bytes); None until known."""
        return self._devices

    def _look(self):
        program = shutil.which("nvidia-smi")
        devices = []
        if program:
            options = {"creationflags": 0x08000000} if os.name == "nt" else {}
            try:
                output = subprocess.run([program, *self.QUERY], capture_output=True, text=True, timeout=10,
                                        check=True, **options).stdout
                devices = seen([parseDevice(line) for line in output.splitlines() if line.count(",") >= 4])
            except (OSError, ValueError, subprocess.SubprocessError):
                devices = []
        self._devices = devices


def parseDevice(line):
    """One line of nvidia-smi's list as a device."""
    index, uuid, free, total, name = (part.strip() for part in line.split(",", 4))
    return {"id": f"cuda:{int(index)}", "uuid": uuid, "name": name, "free": int(free) << 20, "total": int(total) << 20}


def seen(devices):
    """Of all GPUs those that torch will see, by the numbers that it will give them (``CUDA_VISIBLE_DEVICES``)."""
    visible = os.environ.get(VISIBLE)
    if visible is None:
        return devices
    numbers = _numbers(visible)
    if numbers is None:
        left = _named([entry.strip() for entry in visible.split(",")], devices)
    else:
        left = [device for device in devices if int(device["id"].partition(":")[2]) in numbers]
    return [{**device, "id": f"cuda:{index}"} for index, device in enumerate(left)]


def _named(names, devices):
    """GPUs by names such as GPU-8932f937, which may be cut short; what follows an unclear one does not count.

    Parts of GPUs (MIG) have names of another kind, and can be had as "Automatic".
    """
    found = []
    for name in names:
        matches = [device for device in devices if name and device["uuid"].startswith(name)]
        if len(matches) != 1 or matches[0] in found:
            break
        found += matches
    return found


def _numbers(visible):
    """The GPUs of a list such as "1,0" in order; None if it is missing or names them otherwise."""
    entries = [entry.strip() for entry in (visible or "").split(",")]
    if visible is None or not all(re.fullmatch(r"-?\d+|", entry) for entry in entries):
        return None
    return sorted(int(entry) for entry in entries if entry and int(entry) >= 0)


def deviceLabel(device):
    """How a GPU is called in the panel."""
    return _("GPU {number}: {name} ({free:.1f} of {total:.1f} GB free)").format(
        number=device["id"].partition(":")[2], name=device["name"], free=device["free"] / 2**30,
        total=device["total"] / 2**30)
