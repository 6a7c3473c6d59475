"""Starts the worker process, talks to it, and ends it: the only door from Slicer to the networks.

No Qt and no MRML here.  A thread reads the worker's messages into a queue; whoever owns the client calls
:meth:`WorkerClient.poll` regularly (the panel from a timer, scripts through :meth:`WorkerClient.wait`), and callbacks
run inside that call, on the caller's own thread.
"""

import collections
import logging
import os
import queue
import signal
import subprocess
import threading
import time

from slicer.i18n import tr as _
from synthmorph_torch import protocol

LOG_LINES = 200  # of the worker's standard error, kept for the details of an error
LAST_WORDS_SECONDS = 1.0
SILENT_SECONDS = 60.0  # after which a process that has never answered will not do so any more
_CREATE_NO_WINDOW = 0x08000000  # Windows: no console flashes up


class Request:
    """One request under way, with the callbacks that hear about it."""

    def __init__(self, onResult, onError, onProgress, inquiry):
        self.onResult, self.onError, self.onProgress = onResult, onError, onProgress
        self.inquiry = inquiry


class WorkerClient:
    """A worker process that is started when first needed and may be killed at any time."""

    def __init__(self, command, environment=None):
        """
        :param command: function returning the worker's command line as a list; asked at each start, so that a
          changed setting takes effect with the next process.
        :param environment: function returning the process's environment, or None for this process's own.
        """
        self._command, self._environment = command, environment
        self._process = None
        self._messages = queue.Queue()
        self._pending = {}
        self._nextID = 0
        self._log = collections.deque(maxlen=LOG_LINES)
        self._silentSince = None  # when a process was started that has not yet answered

    def isBusy(self):
        """True while work is under way; a mere inquiry does not count."""
        return not all(request.inquiry for request in self._pending.values())

    def isRunning(self):
        """True while there is a worker process, busy or idle."""
        return self._process is not None and self._process.poll() is None

    def processID(self):
        """Of the worker process, or None."""
        return self._process.pid if self.isRunning() else None

    def log(self):
        """The last lines the worker wrote to its standard error."""
        return "\n".join(self._log)

    def send(self, message, onResult=None, onError=None, onProgress=None, inquiry=False):
        """Send a request; the callbacks get the answer's message.

        :param inquiry: the request takes no time worth waiting for or cancelling.
        :param onError: gets a message with ``kind``, ``message`` (one sentence) and ``details``.
        """
        self._nextID += 1
        message = {**message, "id": self._nextID}
        self._pending[self._nextID] = Request(onResult, onError, onProgress, inquiry)
        try:
            if not self.isRunning():
                self._start()
            self._process.stdin.write(protocol.encode(message).encode())
            self._process.stdin.flush()
        except OSError as error:
            # answered through the queue like every other failure, so that callers have one path
            sentence = _("The registration worker cannot be started ({why}): choose another Python in the Setup "
                         "section.").format(why=error)
            self._messages.put((self._process, {"id": self._nextID, "event": "error", "kind": "start",
                                                "message": sentence, "details": self.log()}))
        return self._nextID

    def poll(self):
        """Deliver the messages that have arrived; returns True if there were any."""
        delivered = False
        while True:
            try:
                process, message = self._messages.get_nowait()
            except queue.Empty:
                break
            delivered = True
            if process is not self._process:
                continue  # of a process that was ended meanwhile
            self._silentSince = None
            if message is None:
                self._processEnded()
            else:
                self._deliver(message)
        if self._silentSince is not None and time.monotonic() - self._silentSince > SILENT_SECONDS:
            self._giveUp()
        return delivered

    def wait(self, seconds=None):
        """Poll until every request is answered; for scripts.  Returns False if the time ran out."""
        end = None if seconds is None else time.monotonic() + seconds
        while self._pending:
            if not self.poll():
                time.sleep(0.01)
            if end is not None and time.monotonic() > end:
                return False
        return True

    def cancel(self):
        """End the process tree at once; pending requests are forgotten without a callback."""
        self._pending.clear()
        self._end()

    def _end(self):
        process, self._process = self._process, None
        self._silentSince = None
        if process is not None:
            endTree(process)

    def _start(self):
        command = self._command()
        self._log.clear()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.PIPE,
                                         env=self._environment() if self._environment else None, **processOptions())
        self._silentSince = time.monotonic()
        logging.debug("SynthMorph worker started: %s", command)
        log = threading.Thread(target=self._readLog, args=(self._process,), daemon=True)
        log.start()
        threading.Thread(target=self._readMessages, args=(self._process, log), daemon=True).start()

    def _readMessages(self, process, log):
        with process.stdout:
            for line in process.stdout:
                text = line.decode("utf-8", "replace")
                try:
                    self._messages.put((process, protocol.decode(text)))
                except ValueError:
                    self._log.append(text.rstrip())
        process.wait()
        log.join(LAST_WORDS_SECONDS)  # they may tell why it ended
        self._messages.put((process, None))

    def _readLog(self, process):
        with process.stderr:
            for line in process.stderr:
                self._log.append(line.decode("utf-8", "replace").rstrip())

    def _deliver(self, message):
        request = self._pending.get(message["id"])
        if request is None or message["event"] == "received":
            return
        if message["event"] == "progress":
            if request.onProgress:
                request.onProgress(message)
            return
        del self._pending[message["id"]]
        if message["event"] == "result" and request.onResult:
            request.onResult(message)
        elif message["event"] == "error" and request.onError:
            request.onError(message)

    def _processEnded(self):
        """The process is gone although nobody asked it to go: every pending request fails with one sentence."""
        code = self._process.returncode
        self._process = None
        self._fail("crash", _whyEnded(code, self.log()))

    def _giveUp(self):
        """What was started takes no requests: a launcher that does not hand them on, or no Python at all."""
        self._end()
        self._fail("start", _("The registration worker does not answer: choose another Python in the Setup section."))

    def _fail(self, kind, sentence):
        """Every pending request fails with one sentence."""
        pending, self._pending = self._pending, {}
        for request in pending.values():
            if request.onError:
                request.onError({"kind": kind, "message": sentence, "details": self.log()})


def _whyEnded(code, log):
    if "No module named 'synthmorph_torch" in log or code == 127:
        return _("The Python chosen for SynthMorph cannot run its worker: choose another Python in the Setup section.")
    if "exit abnormally" in log:  # of PythonSlicer, a launcher that hides the code of its child
        return _("The registration process crashed, or the system ended it because memory ran out; your scene is "
                 "unchanged: choose a smaller field of view, or close other programs, and try again.")
    if code in (-signal.SIGKILL if hasattr(signal, "SIGKILL") else None, 137):
        return _("The registration was ended by the system, most likely because memory ran out: choose a smaller field "
                 "of view, or close other programs.")
    if code < 0:
        return _("The registration process crashed (signal {number}); your scene is unchanged, and you can try "
                 "again.").format(number=-code)
    return _("The registration process ended unexpectedly (code {code}); your scene is unchanged, and you can try "
             "again.").format(code=code)


def processOptions():
    """How to start a process so that :func:`endTree` can end it with all it starts."""
    return {"start_new_session": True} if os.name != "nt" else {"creationflags": _CREATE_NO_WINDOW}


def endTree(process):
    """Kill a process and everything it started; PythonSlicer is itself a launcher with the real Python as a child."""
    if process.poll() is None:
        if os.name == "nt":
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True,
                           creationflags=_CREATE_NO_WINDOW, check=False)
        else:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        logging.warning("SynthMorph: worker process %d does not end", process.pid)
    try:
        process.stdin.close()
    except OSError:  # unsent bytes of a request that no longer matters
        pass
