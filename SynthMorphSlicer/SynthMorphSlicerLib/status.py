"""What the panel tells: progress, one sentence on how things are, what went wrong, and the log."""

import logging
import time

from slicer.i18n import tr as _

from . import stages


class StatusDisplay:
    """The progress bar, the status line, the error line with its details, and the log of the panel."""

    def __init__(self, ui):
        self.ui = ui
        self._started = 0.0
        self._stage = self._whenCancelled = ""

    def watch(self, stage, indefinite=False, whenCancelled=""):
        """Show that something has been started.

        :param indefinite: nobody can say how far it is.  :param whenCancelled: what to say if the user cancels it.
        """
        self._started, self._stage = time.monotonic(), stage
        self._whenCancelled = whenCancelled or _("Cancelled; the scene is as it was.")
        self.ui.progressBar.maximum = 0 if indefinite else 100
        self.hideError()
        self.ui.progressBar.value = 0
        self.ui.progressBar.visible = True
        self.ui.statusLabel.text = stage

    def showElapsed(self):
        """What is under way, and for how long."""
        self.ui.statusLabel.text = _("{stage}, {seconds:.0f} s").format(
            stage=self._stage, seconds=time.monotonic() - self._started)

    def hideError(self):
        """Something else has gone well since."""
        self.ui.errorLabel.visible = self.ui.detailsButton.visible = self.ui.detailsButton.checked = False

    def showProgress(self, stage, fraction, message):
        """One step of the worker: its stage, the share of the work done before it, and a remark."""
        label = stages.label(stage)
        if label != self._stage:
            self.log(label)
        self._stage = " ".join(filter(None, (label, message)))
        self.ui.progressBar.value = int(100 * fraction)

    def showMessage(self, message):
        """One step of the worker, as its client hands it on."""
        self.showProgress(message["stage"], message["fraction"], message["message"])

    def showStatus(self, message):
        """Nothing is under way; one sentence on how things are."""
        self.ui.progressBar.visible = False
        self.ui.statusLabel.text = message
        if message:
            self.log(message)

    def showError(self, error):
        """One sentence in the panel, the rest on demand and in the application's log."""
        self.showStatus("")
        self.warn(error["message"])
        self.ui.detailsTextEdit.setPlainText(error["details"])
        self.ui.detailsButton.visible = bool(error["details"])

    def refuse(self, error):
        """What an :class:`InputError` says."""
        self.showError({"message": str(error), "details": ""})

    def warn(self, sentence):
        """One sentence about what has been done."""
        self.ui.errorLabel.text = sentence
        self.ui.errorLabel.visible = True
        self.log(sentence)

    def log(self, text):
        """A line in the panel's log (bounded) and in the application's."""
        logging.info("SynthMorph: %s", text)
        self.ui.logTextEdit.appendPlainText(f"{time.strftime('%H:%M:%S')}  {text}")
