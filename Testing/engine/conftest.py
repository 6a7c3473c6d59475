"""Fixtures shared by the engine's tests."""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = Path(__file__).parent / "fixtures"
sys.path.insert(0, str(ROOT / "SynthMorphSlicer"))

import torch  # noqa: E402

torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture
def gpu(monkeypatch) -> Iterator[torch.device]:
    """A pretended GPU, see pretend_gpu.py."""
    import pretend_gpu

    monkeypatch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
    with pretend_gpu.PretendGPU():
        yield pretend_gpu.GPU


@pytest.fixture(scope="session")
def reference() -> Callable[[str], Path]:
    """Path of a file made by the TensorFlow reference; skips the test where the file is absent.

    Some files are part of the repository. The rest is looked for in the folder named by SYNTHMORPH_REFERENCE,
    or in ``../shared/reference`` beside the project.
    """
    folders = [FIXTURES, Path(os.environ.get("SYNTHMORPH_REFERENCE") or ROOT.parent / "shared" / "reference")]

    def find(name: str) -> Path:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        pytest.skip(f"{name} is not in the repository, and SYNTHMORPH_REFERENCE does not lead to it")

    return find


@pytest.fixture(scope="session")
def load(reference: Callable[[str], Path]) -> Callable[[str], Mapping[str, np.ndarray]]:
    """Arrays of a reference file by name."""

    def arrays(name: str) -> Mapping[str, np.ndarray]:
        with np.load(reference(name), allow_pickle=False) as data:
            return {key: data[key] for key in data.files}

    return arrays


@pytest.fixture(scope="session")
def data() -> Callable[[str], Path]:
    """Path of a brain scan for development; skips the test where it is absent.

    Looked for in the folder named by SYNTHMORPH_DATA, or in ``../shared/data`` beside the project.
    """
    folder = Path(os.environ.get("SYNTHMORPH_DATA") or ROOT.parent / "shared" / "data")

    def find(name: str) -> Path:
        if not (folder / name).is_file():
            pytest.skip(f"{name} is not here, and SYNTHMORPH_DATA does not lead to it")
        return folder / name

    return find
