"""Installing Python packages into Slicer while Slicer stays usable: PyTorch through its extension, and h5py.

The PyTorch extension's own ``installTorch`` runs its installer and waits for it, so Slicer does not respond for
minutes.  What it runs can be asked of it; :class:`Installation` runs the same in the background.  Where it cannot be
asked (another version of the extension) or would not be the same (macOS, for which the extension chooses versions
itself), the extension does it its own way, and the text says beforehand that Slicer will not respond.
"""

import importlib.util
import os
import queue
import shutil
import subprocess
import sys
import threading

import slicer
from slicer.i18n import tr as _

from . import environment
from .worker_client import endTree, processOptions

MINIMUM_TORCH = ">=2.2"
SIZES = {False: (0.2, 1.0), True: (3.0, 7.0)}  # with an NVIDIA GPU or not: GB to download, GB on the disk; about


class Installation:
    """Command lines run one after the other in the background; :meth:`poll` delivers what they print and the end."""

    def __init__(self, commands, onLine, onFinished):
        """
        :param onLine: called with each line of output.
        :param onFinished: called with an empty string, or with what went wrong.
        """
        self._commands, self._onLine, self._onFinished = list(commands), onLine, onFinished
        self._lines = queue.Queue()
        self._process = None
        self._last = ""
        self._next()

    def isRunning(self):
        """True until the end has been delivered, or :meth:`cancel` was called."""
        return self._process is not None

    def poll(self):
        """Call it regularly."""
        while self._process is not None:
            try:
                process, line = self._lines.get_nowait()
            except queue.Empty:
                return
            if process is not self._process:
                continue
            if line is not None:
                self._last = line or self._last
                self._onLine(line)
            elif self._process.returncode or not self._commands:
                failed, self._process = bool(self._process.returncode), None
                self._onFinished((self._last or _("the installer failed")) if failed else "")
            else:
                self._next()

    def cancel(self):
        """End the installer and everything it started."""
        process, self._process = self._process, None
        if process is not None:
            endTree(process)

    def _next(self):
        self._process = subprocess.Popen(self._commands.pop(0), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.STDOUT, **processOptions())
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def _read(self, process):
        with process.stdout:
            for line in process.stdout:
                self._lines.put((process, line.decode("utf-8", "replace").rstrip()))
        process.wait()
        self._lines.put((process, None))


def torchLogic():
    """The PyTorch extension's logic, or None if the extension is not installed."""
    try:
        import PyTorchUtils
    except ImportError:
        return None
    return PyTorchUtils.PyTorchUtilsLogic()


def torchCommands():
    """The command lines by which the PyTorch extension installs torch, or None if only itself can do it.

    The first may install the extension's installer, light-the-torch, which takes seconds.
    """
    logic = torchLogic()
    if logic is None or sys.platform == "darwin":
        return None
    try:
        arguments = logic._getPipInstallArguments(None, MINIMUM_TORCH)
        if importlib.util.find_spec("light_the_torch") is None:
            logic._installLightTheTorch()
            importlib.invalidate_caches()
    except (AttributeError, TypeError):
        return None
    return [[environment.slicerPython(), "-m", "light_the_torch", *arguments]]


def canInstallInBackground():
    """True if :func:`torchCommands` will know what to run; installs nothing."""
    logic = torchLogic()
    return (sys.platform != "darwin" and hasattr(logic, "_getPipInstallArguments")
            and hasattr(logic, "_installLightTheTorch"))


def description():
    """What the install button will do, for the text beside it and for the question before it."""
    missing = _("PyTorch, the library that runs the networks, is missing.")
    if torchLogic() is None:
        return " ".join((missing, _(
            "It comes through Slicer's PyTorch extension, which is not installed either: the button installs that "
            "extension, and Slicer has to be restarted then.")))
    hasGPU = shutil.which("nvidia-smi") is not None
    download, disk = SIZES[hasGPU]
    sizes = _("The button downloads it through the PyTorch extension into this Slicer: about {download} GB for "
              "{device}, {disk} GB on the disk, where {free:.0f} GB are free.").format(
        download=download, disk=disk, device=_("an NVIDIA GPU") if hasGPU else _("the CPU"),
        free=shutil.disk_usage(os.path.dirname(os.__file__)).free / 1e9)
    waiting = (_("This takes minutes, in which you can go on working, and can be cancelled.")
               if canInstallInBackground() else
               _("This takes minutes, in which Slicer does not respond: save your work first."))
    return " ".join((missing, sizes, waiting))


def installExtension():
    """Install the PyTorch extension; returns one sentence on how it went."""
    manager = slicer.app.extensionsManagerModel()
    if manager is None or not _installQuietly(manager, "PyTorch"):
        return _("The PyTorch extension could not be installed: install it from the Extensions Manager, or choose "
                 "another Python that has PyTorch.")
    return _("The PyTorch extension is installed: restart Slicer, then press this button again.")


def _installQuietly(manager, name):
    """Install an extension without the manager's own question: the user has just said yes."""
    asks, manager.interactive = manager.interactive, False
    restart = False  # the user decides when
    try:
        return manager.installExtensionFromServer(name, restart)
    finally:
        manager.interactive = asks


def installTorchBlocking():
    """Let the PyTorch extension install torch its own way, while Slicer waits; returns one sentence."""
    try:
        torch = torchLogic().installTorch(askConfirmation=False, torchVersionRequirement=MINIMUM_TORCH)
    except Exception as error:  # the extension passes on whatever pip and the network do
        return failure(str(error).splitlines()[0] if str(error) else type(error).__name__)
    return _("PyTorch is installed.") if torch is not None else _("PyTorch was not installed.")


def failure(why):
    """One sentence on an installation that failed, and what to do."""
    return _("PyTorch could not be installed ({why}): try the module PyTorch Utils, or choose another Python that has "
             "it.").format(why=why.rstrip("."))


def needsHdf5():
    """True if Slicer's own Python lacks h5py, without which it cannot read the official weights' file format."""
    return not environment.otherPython() and importlib.util.find_spec("h5py") is None


def hdf5Commands():
    """The command line that installs h5py into Slicer's own Python."""
    return [[environment.slicerPython(), "-m", "pip", "install", "h5py"]]
