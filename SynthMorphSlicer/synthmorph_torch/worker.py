"""The process that keeps the model warm: reads requests, registers, writes results (see :mod:`.protocol`).

Start it with ``python -m synthmorph_torch.worker``. It ends when its standard input closes, so it never outlives the
program that started it. It is made to be killed: whoever wants to cancel ends the process, and starts another.
"""
from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from . import process, protocol
from .errors import SynthMorphError
from .protocol import Message
from .worker_files import describe_transform, moved_by, write_file
from .worker_review import Reviewer, correct, sweep
from .worker_transfer import list_atlases, move, read_one, transfer

if TYPE_CHECKING:
    from .registration import Model, Registration

IDLE_SECONDS = 600.0  # after which the device's memory is given back
PROGRESS_SECONDS = 0.2  # between two messages about the same download
NO_TORCH = ("PyTorch cannot be loaded in the Python that runs SynthMorph ({}): install PyTorch there, or choose "
            "another Python.")
NO_MEMORY = "Memory ran out: choose a smaller field of view or the CPU, or close other programs that use it."


class Report(Protocol):
    """Tells the other side how far the work is."""

    def __call__(self, stage: str, fraction: float, message: str = "") -> None: ...


class Superseded(Exception):
    """A newer request makes the current one pointless."""


class Released(Exception):
    """The registration to continue from is no longer in memory."""


class Worker:
    """Answers requests one after the other, with one model and one registration kept between them."""

    def __init__(self, write: Callable[[Message], None], idle_seconds: float = IDLE_SECONDS) -> None:
        self.write, self.idle_seconds = write, idle_seconds
        self.requests: queue.Queue[Message] = queue.Queue()
        self.waiting: list[Message] = []
        self.threads = 0  # of the CPU, that torch takes by itself; known once it is loaded
        self.model: Model | None = None
        self.model_key: tuple[str, ...] | None = None
        self.registration: Registration | None = None
        self.commands: dict[str, Callable[[Message], Message]] = {
            "probe": self.probe, "register": self.register, "relambda": self.relambda, "release": self.release,
            "weights": self.weights, "fetch": self.fetch, "clear": self.clear, "transform": self.transform,
            "check": self.check, "review": self.review, "report": self.report, "sweep": self.sweep,
            "correct": self.correct, "resample": self.resample, "atlases": self.atlases, "atlas": self.atlas,
            "transfer": self.transfer, "move": self.move}
        self.reviewer = Reviewer()

    # the loop

    def run(self) -> None:
        """Serve until the process ends."""
        while True:
            self.serve(self._next())

    def serve(self, request: Message) -> None:
        """Answer one request; whatever goes wrong becomes an answer too."""
        try:
            command = self.commands.get(request.get("command", ""))
            if command is None:
                raise SynthMorphError(f"The worker knows no command '{request.get('command')}'.")
            answer: Message = {"event": "result", **command(request)}
        except Superseded:
            answer = {"event": "superseded"}
        except Exception as error:  # noqa: BLE001  (a process boundary: nothing may escape)
            answer = {"event": "error", **self._describe(error)}
        self.write({"id": request["id"], **answer})

    def _next(self) -> Message:
        """The next request, after dropping lambda requests that a newer one overtakes; idle memory is given back."""
        while not self.waiting:
            try:
                self.waiting.append(self.requests.get(timeout=self.idle_seconds))
            except queue.Empty:
                self._forget()
        self._collect()
        while len(self.waiting) > 1 and all(r.get("command") == "relambda" for r in self.waiting[:2]):
            self.write({"id": self.waiting.pop(0)["id"], "event": "superseded"})
        return self.waiting.pop(0)

    def _collect(self) -> None:
        while not self.requests.empty():
            self.waiting.append(self.requests.get())

    def _progress(self, request: Message) -> Report:
        last = [0.0]

        def report(stage: str, fraction: float, message: str = "") -> None:
            self._collect()
            if request["command"] == "relambda" and any(r.get("command") == "relambda" for r in self.waiting):
                raise Superseded
            if message and time.monotonic() - last[0] < PROGRESS_SECONDS:
                return
            last[0] = time.monotonic()
            self.write({"id": request["id"], "event": "progress", "stage": stage, "fraction": round(fraction, 3),
                        "message": message})
        return report

    # commands

    def probe(self, request: Message) -> Message:
        """Versions and devices, with free and total bytes."""
        torch = _torch()
        devices = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            devices.append({"id": f"cuda:{index}", "name": torch.cuda.get_device_name(index), "free": free,
                            "total": total})
        return {"protocol": protocol.VERSION, "python": sys.version.split()[0], "torch": torch.__version__,
                "devices": devices, "threads": torch.get_num_threads()}

    def register(self, request: Message) -> Message:
        """Register two image files and write what is asked for."""
        report = self._progress(request)
        report("loading model", 0.0)
        _torch()
        import numpy as np

        from . import images
        initial = request.get("initial")
        moving, fixed = (images.read_image(request[key]) for key in ("moving", "fixed"))
        self.registration = None
        self.registration = self._load(request).register(
            moving, fixed, progress=report, initial=None if initial is None else np.asarray(initial, float),
            **request.get("options", {}))
        return self._results(request, report)

    def relambda(self, request: Message) -> Message:
        """The last registration with another lambda."""
        if self.registration is None:
            raise Released
        report = self._progress(request)
        self.registration = self.registration.with_regularization(
            float(request["regularization"]), report, bool(request.get("preview")))
        return self._results(request, report)

    def release(self, request: Message) -> Message:
        """Give the device's memory back."""
        self._forget()
        return {}

    def weights(self, request: Message) -> Message:
        """The official weight files with their state, where they are kept, and which weights would be used now."""
        _torch()
        from . import weights
        try:
            choice = weights.find_weights().reason
        except SynthMorphError as error:
            choice = str(error)
        return {"models": [{"name": status.entry.name, "role": status.entry.role, "state": status.state,
                            "bytes": status.bytes} for status in weights.list_weights()],
                "folder": str(weights.cache_folder()), "choice": choice}

    def fetch(self, request: Message) -> Message:
        """Download the weights of the given roles; an interrupted download continues where it stopped."""
        _torch()
        from . import weights
        report = self._progress(request)
        for role in request["roles"]:
            def progress(done: int, total: int) -> None:
                report("downloading", done / total, f"{done / 1e6:.0f} of {total / 1e6:.0f} MB")
            weights.fetch(role, progress)
        self._forget()
        return self.weights(request)

    def clear(self, request: Message) -> Message:
        """Remove downloaded weights and baked kernels."""
        _torch()
        from . import weights
        self._forget()
        freed = weights.clear()
        return {**self.weights(request), "freed": freed}

    def transform(self, request: Message) -> Message:
        """A transform from a file of any format the engine reads; needs no torch."""
        from .transforms import read_transform
        transform = read_transform(request["path"])
        return {"fixed_to_moving": describe_transform(transform, Path(request["folder"]) / "field.npy")}

    def check(self, request: Message) -> Message:
        """Whether the last registration is doubtful at first sight."""
        from . import review
        if self.registration is None:
            raise Released
        return {"doubtful": review.is_doubtful(review.Case.of(self.registration))}

    def review(self, request: Message) -> Message:
        """Measures, verdict and hot spots of a registration."""
        _torch()
        return self.reviewer.review(request, self.registration, self._progress(request))

    def report(self, request: Message) -> Message:
        """The page and the CSV of a registration."""
        _torch()
        return self.reviewer.report(request, self.registration, self._progress(request))

    def sweep(self, request: Message) -> Message:
        """The last registration with several lambdas."""
        if self.registration is None:
            raise Released
        return sweep(request, self.registration, self._progress(request))

    def correct(self, request: Message) -> Message:
        """A transform bent to meet landmarks, and what is moved by it."""
        _torch()
        report = self._progress(request)
        transform, answer = correct(request, report)
        return {**answer, **moved_by(transform, request, report)}

    def resample(self, request: Message) -> Message:
        """What a transform moves, without any registration."""
        _torch()
        from .transforms import read_transform
        return moved_by(read_transform(request["forward"]), request, self._progress(request))

    def atlases(self, request: Message) -> Message:
        """Which folders hold atlases, and what is wrong with the others."""
        _torch()
        return list_atlases(request, self._progress(request))

    def atlas(self, request: Message) -> Message:
        """The image of one atlas as a file."""
        _torch()
        return read_one(request, self._progress(request))

    def move(self, request: Message) -> Message:
        """Many images by one transform; needs no torch."""
        return move(request, self._progress(request))

    def transfer(self, request: Message) -> Message:
        """Labels of atlases on a patient."""
        self._progress(request)("loading model", 0.0)
        model = self._load(request)

        def tell(**values: Any) -> None:
            self.write({"id": request["id"], "event": "progress", "message": "", **values})
        return transfer(request, model, tell)

    # parts

    def _load(self, request: Message) -> Model:
        """The model that a request asks for, which is the one that is kept if it can be, on so many threads."""
        torch = _torch()
        from .loader import load_model
        self.threads = self.threads or torch.get_num_threads()
        torch.set_num_threads(int(request.get("threads") or self.threads))
        name, device, precision = (request.get(key, default) for key, default in
                                   (("model", "auto"), ("device", "auto"), ("precision", "full")))
        transform = request.get("options", {}).get("transform", "joint")
        key = (name, device, transform, precision)
        if self.model is None or self.model_key != key:
            self._forget()
            self.model, self.model_key = load_model(name, device, transform, precision=precision), key
        return self.model

    @staticmethod
    def _is_out_of_memory(error: Exception) -> bool:
        if "torch" not in sys.modules:
            return isinstance(error, MemoryError)
        from .registration import out_of_memory
        return out_of_memory(error)

    def _forget(self) -> None:
        self.model = self.model_key = self.registration = None
        self.reviewer = Reviewer()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        process.give_memory_back()

    def _results(self, request: Message, report: Report) -> Message:
        """Write the files that ``outputs`` asks for; the answer names them."""
        from . import images
        registration = self.registration
        assert registration is not None
        started = time.perf_counter()
        outputs = request["outputs"]
        folder = Path(outputs["folder"])
        report("writing results", 0.9)
        answer: Message = {"provenance": registration.provenance(), "note": " ".join(registration.notes),
                           "reason": registration.model.reason,
                           "fixed_to_moving": describe_transform(registration.fixed_to_moving, folder / "forward.npy"),
                           "moving_to_fixed": describe_transform(registration.moving_to_fixed, folder / "inverse.npy")}
        if outputs.get("moved"):
            answer["moved"] = write_file(registration.warp(), folder / "moved.mha")
        if outputs.get("jacobian"):
            report("Jacobian", 0.93)
            answer["jacobian"] = write_file(registration.jacobian(), folder / "jacobian.mha")
        answer["labels"] = []
        for number, path in enumerate(outputs.get("labels") or ()):
            report("carrying labels", 0.95)
            labels = registration.warp_labels(images.read_labels(path))
            answer["labels"].append(write_file(labels, folder / f"labels{number}.mha"))
        answer["seconds"] = {**registration.seconds, "writing results": time.perf_counter() - started}
        return answer

    def _describe(self, error: Exception) -> Message:
        details = "".join(traceback.format_exception(error))
        if isinstance(error, Released):
            return {"kind": "released", "message": "The last registration is no longer in memory: register again.",
                    "details": details}
        if isinstance(error, MemoryError | RuntimeError) and self._is_out_of_memory(error):
            self._forget()
            return {"kind": "memory", "message": NO_MEMORY, "details": details}
        if isinstance(error, SynthMorphError):
            return {"kind": "user", "message": str(error), "details": details}
        if isinstance(error, TorchMissing):
            return {"kind": "torch", "message": NO_TORCH.format(error), "details": details}
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"kind": "bug", "message": f"The registration failed unexpectedly ({cause}); see the details.",
                "details": details}


class TorchMissing(Exception):
    """This Python has no torch that can be imported."""


def _torch() -> Any:
    try:
        import torch
    except Exception as error:  # noqa: BLE001  (a broken installation raises anything)
        raise TorchMissing(f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")) from error
    return torch


def _listen(stream: TextIO, worker: Worker) -> None:
    """Pass requests on as they come; when the stream ends, the other side is gone and so are we."""
    for line in stream:
        if line.strip():
            request = protocol.decode(line)
            worker.write({"id": request["id"], "event": "received"})
            worker.requests.put(request)
    os._exit(0)


def main() -> None:
    """Serve standard input and output."""
    requests, answers = process.own_streams()
    lock = threading.Lock()

    def write(message: Message) -> None:
        with lock:
            answers.write(protocol.encode(message))
            answers.flush()

    process.prepare()
    worker = Worker(write, float(os.environ.get("SYNTHMORPH_IDLE_SECONDS", IDLE_SECONDS)))
    threading.Thread(target=_listen, args=(requests, worker), daemon=True).start()
    worker.run()


if __name__ == "__main__":
    main()
