"""The methods: how each is started, whether it can be, and in which version."""
from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import process
from .cases import Files

RUNNERS = Path(__file__).with_name("runners.py")
OURS = Path(__file__).resolve().parents[2] / "SynthMorphSlicer"


@dataclass(frozen=True)
class Settings:
    """What holds for all methods of a run."""

    python: str = sys.executable  # the interpreter that has the peers
    threads: int = 1
    arguments: tuple[str, ...] = ()  # more for `synthmorph register`


@dataclass(frozen=True)
class Method:
    """A method by its name in tables; ``rigid`` ones are for the scans of one person only."""

    name: str
    title: str
    rigid: bool = False
    ours: tuple[str, ...] | None = None  # arguments of `synthmorph register`

    def version(self, settings: Settings) -> str | None:
        """The version, or None if the method is not installed."""
        if self.name == "identity":
            return ""
        if self.ours is not None:
            command = [sys.executable, "-c", "import synthmorph_torch; print(synthmorph_torch.__version__)"]
        else:
            command = [settings.python, str(RUNNERS), self.name, "--version"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(self.ours is not None))
        return done.stdout.strip() if done.returncode == 0 else None

    def run(self, case: Files, out: Path, settings: Settings) -> process.Usage:
        """Register a case in a process of its own; leaves its output in a folder."""
        out.mkdir(parents=True, exist_ok=True)
        if self.name == "identity":
            (out / "transforms.txt").write_text("")
            return process.Usage(0.0, 0.0, 0.0, 0)
        if self.ours is None:
            command = self._runner(case, out, settings)
        else:
            linear = "affine" in self.ours or "rigid" in self.ours
            transform = "affine.tfm" if linear else "warp.nii.gz"
            command = [sys.executable, "-m", "synthmorph_torch", "register", *self.ours, *settings.arguments, "-j",
                       str(settings.threads), "-o", str(out / "moved.nii.gz"), "-t", str(out / transform),
                       str(case.moving), str(case.fixed)]
            (out / "transforms.txt").write_text(f"{transform}\n")
        return process.measure(command, out / "log.txt", settings.threads, environment(self.ours is not None))

    def carry(self, case: Files, labels: Path, out: Path, settings: Settings) -> int:
        """Carry a label map by the result in a folder, in the method's own way if it has one, to ``labels.nii.gz``.

        Returns:
            The exit status; what was printed is in ``labels.txt`` there.
        """
        if self.name == "identity":
            return 0
        if self.ours is not None:
            transform = (out / "transforms.txt").read_text().strip()
            command = [sys.executable, "-m", "synthmorph_torch", "apply", "--like", str(case.fixed),
                       str(out / transform), str(labels), str(out / "labels.nii.gz")]
        else:
            command = [*self._runner(case, out, settings), "--labels", str(labels)]
        return process.measure(command, out / "labels.txt", settings.threads, environment(self.ours is not None)).status

    def _runner(self, case: Files, out: Path, settings: Settings) -> list[str]:
        return [settings.python, str(RUNNERS), self.name, str(case.moving), str(case.fixed), str(out), "--threads",
                str(settings.threads)]


def environment(ours: bool) -> dict[str, str]:
    """Ours must be found by the interpreter; peers must not see it."""
    variables = dict(os.environ)
    variables.pop("PYTHONPATH", None)
    if ours:
        variables["PYTHONPATH"] = str(OURS)
    return variables


METHODS = {method.name: method for method in (
    Method("identity", "identity"),
    Method("affine", "classical affine (SimpleITK, MI)"),
    Method("greedy-affine", "Greedy, affine only (NMI)"),
    Method("greedy", "Greedy (NCC)"),
    Method("greedy-nmi", "Greedy (NMI)"),
    Method("ants", "ANTs SyN quick"),
    Method("convexadam", "ConvexAdam"),
    Method("niftyreg", "NiftyReg"),
    Method("elastix", "elastix"),
    Method("synthmorph-affine", "SynthMorphSlicer, affine only", ours=("-m", "affine")),
    Method("synthmorph-network", "SynthMorphSlicer, network alone", ours=("--refine", "0")),
    Method("synthmorph", "SynthMorphSlicer", ours=()),
    Method("greedy-rigid", "Greedy, rigid (NMI)", rigid=True),
    Method("ants-rigid", "ANTs, rigid (MI)", rigid=True),
    Method("synthmorph-rigid", "SynthMorphSlicer, rigid", rigid=True, ours=("-m", "rigid")),
    Method("synthmorph-affine-12", "SynthMorphSlicer, affine", rigid=True, ours=("-m", "affine")),
)}
