"""The files that one registration leaves behind: checked before anything is computed, written whole or not at all."""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import files
from .errors import SynthMorphError, UsageError

if TYPE_CHECKING:
    import SimpleITK as sitk

    from .registration import Registration
    from .review import Case

LINEAR = ("affine", "rigid")


@dataclass
class Outputs:
    """What to write; None or empty for what nobody asked for.

    ``labels`` holds pairs of an input and an output file. ``network_inputs``, ``report`` and ``result`` are folders;
    the last one holds all that :mod:`.review` needs later.
    """

    moved: Path | None = None
    moved_fixed: Path | None = None
    header_only: bool = False
    transform: Path | None = None
    inverse: Path | None = None
    labels: list[tuple[Path, Path]] = field(default_factory=list)
    fixed_labels: Path | None = None
    jacobian: Path | None = None
    log_jacobian: Path | None = None
    measures: Path | None = None
    report: Path | None = None
    result: Path | None = None
    network_inputs: Path | None = None

    def paths(self) -> list[tuple[Path, str]]:
        """Every file to be written, with its kind (see :mod:`.files`)."""
        wanted = [(self.moved, "image"), (self.moved_fixed, "image"), (self.transform, "transform"),
                  (self.inverse, "transform"), *((path, "image") for _, path in self.labels),
                  (self.jacobian, "image"), (self.log_jacobian, "image"), (self.measures, "json")]
        return [(Path(path), kind) for path, kind in wanted if path is not None]

    def folders(self) -> list[Path]:
        return [folder for folder in (self.report, self.network_inputs, self.result) if folder is not None]

    def check(self, transform: str) -> None:
        """Find out now what would go wrong after minutes of computing.

        Args:
            transform: kind of registration, "joint", "affine", "rigid" or "deform".

        Raises:
            UsageError: options that do not go together, an unsuitable extension, the same file twice.
            SynthMorphError: a place where nothing can be written.
        """
        linear = transform in LINEAR
        if self.header_only and not linear:
            raise UsageError(f"-H cannot be used with a {transform} registration, whose warp does not fit into a "
                             "header: choose -m affine or -m rigid, or leave out -H.")
        if self.header_only and not (self.moved or self.moved_fixed):
            raise UsageError("-H changes how images are saved, but none is: add -o or -O.")
        if self.fixed_labels and not self.labels:
            raise UsageError("--fixed-labels needs labels to compare with: add --labels IN OUT.")
        for path, kind in self.paths():
            files.check_output_path(path, "warp" if kind == "transform" and not linear else kind)
        seen = [path.resolve() for path, _ in self.paths()]
        for path in seen:
            if seen.count(path) > 1:
                raise UsageError(f"'{path}' would be written twice: give every output a name of its own.")
        for folder in self.folders():
            check_folder(folder)
        if self.result:
            from .review.folder import check_result_folder

            check_result_folder(self.result)

    def exist(self) -> bool:
        """Whether all of this is there already, as after an earlier run."""
        everything = [path for path, _ in self.paths()] + [
            folder / name for folder, name in ((self.report, "index.html"), (self.result, "result.json")) if folder]
        return bool(everything) and all(path.is_file() for path in everything)

    def read_labels(self, moving: sitk.Image) -> list[tuple[sitk.Image, Path]]:
        """The label maps to be carried along, checked against the moving image, each with its output file."""
        from . import images

        return [(images.read_labels(source, moving), target) for source, target in self.labels]

    def write(self, result: Registration, labels: list[tuple[sitk.Image, Path]],
              progress: Callable[[str, float], None] | None = None) -> list[Path]:
        """Write everything that was asked for.

        Args:
            result: the registration.
            labels: what :meth:`read_labels` returned.
            progress: called with what is being written and the fraction of files written before it.

        Returns:
            The files, in the order in which they were written.
        """
        steps = list(self._steps(result, labels))
        for number, (path, write) in enumerate(steps):
            if progress:
                progress(f"writing {path.name}", number / len(steps))
            write()
        if progress:
            progress("done", 1.0)
        return [path for path, _ in steps]

    def _steps(self, result: Registration, labels: list[tuple[sitk.Image, Path]]
               ) -> Iterator[tuple[Path, Callable[[], object]]]:
        from . import images, transforms

        def image(path: Path, make: Callable[[], sitk.Image]) -> tuple[Path, Callable[[], object]]:
            return path, lambda: images.write_image(make(), path)

        if self.transform:
            path = self.transform
            yield path, lambda: transforms.write_transform(result.fixed_to_moving, path, result.fixed, result.moving)
        if self.inverse:
            inverse = self.inverse
            yield inverse, lambda: transforms.write_transform(result.moving_to_fixed, inverse, result.moving,
                                                              result.fixed)
        if self.moved:
            yield image(self.moved, lambda: self._moved(result))
        if self.moved_fixed:
            yield image(self.moved_fixed, lambda: self._moved_fixed(result))
        for labels_image, target in labels:
            yield image(target, lambda source=labels_image: result.warp_labels(source))  # type: ignore[misc]
        if self.jacobian:
            yield image(self.jacobian, lambda: result.jacobian())
        if self.log_jacobian:
            yield image(self.log_jacobian, lambda: result.jacobian(log=True))
        if self.network_inputs:
            yield self.network_inputs, lambda: write_network_inputs(result, self.network_inputs)  # type: ignore[arg-type]
        if self.measures or self.report or self.result:
            yield from self._judgements(result, labels)

    def _judgements(self, result: Registration, labels: list[tuple[sitk.Image, Path]]
                    ) -> Iterator[tuple[Path, Callable[[], object]]]:
        from . import files, images, review

        truth = self.fixed_labels and images.read_labels(self.fixed_labels)
        known = {"moving_labels": labels[0][0] if labels else None, "fixed_labels": truth or None}
        compared = known if labels and truth else {}
        if self.measures:
            path = self.measures
            yield path, lambda: files.write_text(path, json.dumps(result.measures(**compared), indent=2) + "\n")
        if self.report:
            page = self.report / "index.html"
            yield page, lambda: write_report(review.Case.of(result, **compared), page)
        if self.result:
            folder = self.result
            yield folder, lambda: review.write_result(result, folder, **known)

    def _moved(self, result: Registration) -> sitk.Image:
        from . import transforms

        return transforms.header_only(result.moving, result.fixed_to_moving) if self.header_only else result.warp()

    def _moved_fixed(self, result: Registration) -> sitk.Image:
        from . import transforms

        if self.header_only:
            return transforms.header_only(result.fixed, result.moving_to_fixed)
        return result.warp_inverse()


def check_folder(folder: Path) -> None:
    """Make sure that files can be written into a folder, which may not exist yet.

    Raises:
        SynthMorphError: they cannot.
    """
    if folder.exists() and not folder.is_dir():
        raise SynthMorphError(f"'{folder}' is a file: give the name of a folder.")
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise SynthMorphError(f"Nothing may be written to '{existing}': change its permissions or write elsewhere.")


def write_report(case: Case, page: Path) -> None:
    """Write the report of a registration (see :mod:`.review.report`) into a folder that may not exist yet."""
    from . import review

    page.parent.mkdir(parents=True, exist_ok=True)
    review.write_report(review.examine(case), page)


def write_network_inputs(result: Registration, folder: Path) -> None:
    """Save what the networks saw, ``inp_1.mgz`` (moving) and ``inp_2.mgz`` (fixed), as mri_synthmorph's -d does."""
    from . import images

    folder.mkdir(parents=True, exist_ok=True)
    inputs = result.inputs
    seen = (("inp_1.mgz", inputs.moving, inputs.moving_net), ("inp_2.mgz", inputs.fixed, inputs.fixed_net))
    for name, volume, space in seen:
        images.write_image(images.from_array(volume[0, 0].float().cpu().numpy(), space), folder / name)
