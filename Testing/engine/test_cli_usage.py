"""The command line's manners: help, abbreviations, and one sentence for every wrong argument."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from synthmorph_torch import cli
from synthmorph_torch.cli.commands import COMMANDS, split_command
from synthmorph_torch.errors import UsageError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.random.default_rng(0).random((8, 9, 10), dtype=np.float32)), str(path))
    return path


def refused(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> str:
    """Run, expect an exit status, nothing on standard output and one line on standard error; return that."""
    assert cli.main([str(a) for a in arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("synthmorph: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith(".\n")
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["--version"]])
def test_information_is_no_error(arguments, capsys):
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() and not captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    assert cli.main([command, "-h"]) == 0
    out = capsys.readouterr().out
    assert f"usage: synthmorph {command}" in out
    assert max(map(len, out.splitlines())) <= 120


def test_help_needs_no_torch():
    code = ("import sys; from synthmorph_torch.cli import main; main(['register', '-h']); main(['-r', '2', 'a', 'b']);"
            "assert 'torch' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={"PYTHONPATH": str(Path(cli.__file__).parents[2])})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("arguments", "command", "rest"), [
    (["register", "a", "b"], "register", ["a", "b"]), (["r", "a", "b"], "register", ["a", "b"]),
    (["rev", "folder"], "review", ["folder"]),
    (["app", "t"], "apply", ["t"]), (["w"], "weights", []), (["eval", "d"], "evaluate", ["d"]),
    (["moving.nii", "fixed.nii"], "register", ["moving.nii", "fixed.nii"]),
    (["-m", "affine", "a", "b"], "register", ["-m", "affine", "a", "b"]),
    (["folder/apply", "b"], "register", ["folder/apply", "b"]),
])
def test_command_is_found(arguments, command, rest):
    assert split_command(arguments) == (command, rest)


def test_a_file_comes_before_an_abbreviation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").touch()
    assert split_command(["a", "b"]) == ("register", ["a", "b"])


def test_unknown_command():
    with pytest.raises(UsageError, match="'regsiter' is neither a command nor an image"):
        split_command(["regsiter", "a", "b"])


@pytest.mark.parametrize(("arguments", "says"), [
    (["register"], "MOVING and FIXED are missing"),
    (["a.nii"], "FIXED is missing"),
    (["a.nii", "b.nii", "c.nii"], "'c.nii': one argument too many"),
    (["a.nii", "b.nii", "--moved", "c.nii"], "'--moved': there is no such option"),
    (["-r", "0", "a.nii", "b.nii"], "-r: '0' is not possible"),
    (["-r", "1", "a.nii", "b.nii"], "above 0 and below 1"),
    (["-r", "nan", "a.nii", "b.nii"], "above 0 and below 1"),
    (["-r", "half", "a.nii", "b.nii"], "-r: 'half'"),
    (["-n", "4", "a.nii", "b.nii"], "at least 5"),
    (["-e", "128", "a.nii", "b.nii"], "192 or 256"),
    (["-m", "warp", "a.nii", "b.nii"], "joint, affine, rigid or deform"),
    (["-j", "0", "a.nii", "b.nii"], "at least 1"),
    (["--device", "gpu", "a.nii", "b.nii"], "'gpu' is not a device"),
    (["-g", "--device", "cpu", "a.nii", "b.nii"], "-g asks for the GPU"),
    (["-w", "x.h5", "--model", "compact", "a.nii", "b.nii"], "leave out -w"),
    (["-M", "a.nii", "b.nii"], "add -i"),
    (["-H", "-o", "x.nii", "a.nii", "b.nii"], "-H cannot be used with a joint registration"),
    (["-H", "-m", "rigid", "a.nii", "b.nii"], "add -o or -O"),
    (["-o", "x.jpg", "a.nii", "b.nii"], "'x.jpg'"),
    (["-t", "x.lta", "a.nii", "b.nii"], "'x.lta'"),
    (["--measures", "x.txt", "a.nii", "b.nii"], ".json"),
    (["-o", "x.nii", "-O", "x.nii", "a.nii", "b.nii"], "written twice"),
    (["--fixed-labels", "l.nii", "a.nii", "b.nii"], "--labels IN OUT"),
    (["-o"], "-o: expected one argument"),
    (["--labels", "a.nii"], "--labels: expected 2 arguments"),
    (["apply", "t.lta", "a.nii"], "'a.nii' has no partner"),
    (["apply", "-m", "cubic", "t.lta", "a.nii", "b.nii"], "linear or nearest"),
    (["apply", "-t", "complex", "t.lta", "a.nii", "b.nii"], "uint8"),
    (["apply", "-f", "much", "t.lta", "a.nii", "b.nii"], "'much' is not a number"),
    (["apply", "t.lta", "a.nii", "b.png"], "'b.png'"),
    (["weights", "buy"], "list, fetch, verify, convert or clear"),
    (["weights", "fetch", "everything"], "'everything' is not among the official weights"),
    (["weights", "clear", "disk"], "all, models, partial or baked"),
    (["weights", "convert", "one.h5"], "takes two file names"),
    (["weights", "convert", "one.h5", "two.h5"], ".safetensors"),
    (["evaluate", "--data", "d", "--label-table", "t.csv"], "belong together"),
    (["evaluate", "--data", "d", "-M"], "leave it out"),
    (["evaluate"], "--data is missing"),
    (["train", "everything", "--out", "out"], "detector, segmenter, deformable"),
    (["train", "detector", "--data", "maps", "--out", "out", "--minutes", "-1"], "above 0"),
    (["train", "detector", "--data", "maps"], "--out is missing"),
    (["train", "detector", "--out", "out"], "needs --data"),
    (["train", "detector", "--data", "maps", "--out", "out", "--detector", "d"], "leave out --detector"),
    (["train", "segmenter", "--data", "maps", "--out", "out"], "needs a trained detector"),
    (["train", "deformable", "--data", "maps", "--out", "out"], "needs a trained segmenter"),
    (["train", "voxelmorph", "--data", "scans", "--out", "out", "--validation", "1"], "--validation 2"),
    (["train", "detector", "--data", "maps", "--out", "out", "--synthesize"], "leave them out"),
    (["train", "export", "--data", "maps", "--out", "x.safetensors"], "--voxelmorph DIR"),
    (["train", "export", "--voxelmorph", "d", "--out", "x.h5"], ".safetensors"),
    (["demo", "out", "--spacing", "0"], "above 0"),
])
def test_wrong_usage(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, 2, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "says"), [
    (["missing.nii", "image.nii.gz"], "'missing.nii' does not exist"),
    (["image.nii.gz", "image.nii.gz", "-o", "no/such/folder/x.nii"], "does not exist"),
    (["image.nii.gz", "image.nii.gz", "-o", "folder.nii"], "is a folder"),
    (["image.nii.gz", "image.nii.gz", "--report", "image.nii.gz"], "is a file"),
    (["image.nii.gz", "image.nii.gz", "-i", "missing.lta"], "'missing.lta' does not exist"),
    (["image.nii.gz", "image.nii.gz", "-w", "missing.h5"], "no weights at 'missing.h5'"),
    (["image.nii.gz", "image.nii.gz", "-w", "noise.h5"], "noise.h5"),
    (["image.nii.gz", "image.nii.gz", "--labels", "image.nii.gz", "l.nii"], "no integers"),
    (["apply", "missing.lta", "image.nii.gz", "x.nii"], "'missing.lta' does not exist"),
    (["apply", "noise.lta", "image.nii.gz", "x.nii"], "'noise.lta'"),
    (["train", "detector", "--data", ".", "--out", "out"], "label maps"),
    (["train", "detector", "--data", "nowhere", "--out", "out"], "no folder 'nowhere'"),
    (["train", "export", "--voxelmorph", ".", "--out", "x.safetensors"], "'.' holds no training"),
    (["evaluate", "--data", "."], "fewer than two images"),
    (["evaluate", "--data", "nowhere"], "no folder 'nowhere'"),
    (["batch", "missing.csv"], "'missing.csv' cannot be read"),
    (["demo", "out", "--template", "missing.nii"], "'missing.nii' does not exist"),
])
def test_other_failures(arguments, says, capsys, image, monkeypatch):
    monkeypatch.chdir(image.parent)
    Path("folder.nii").mkdir()
    for name in ("noise.h5", "noise.lta"):
        Path(name).write_bytes(b"noise" * 100)
    before = sorted(image.parent.iterdir())
    assert says in refused(capsys, 1, *arguments)
    assert sorted(image.parent.iterdir()) == before


def test_no_gpu(capsys, image, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "GPU" in refused(capsys, 1, "-g", image, image)


def test_verbose_shows_where(capsys, image):
    assert cli.main(["-v", "missing.nii", str(image)]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_unforeseen_error_is_one_line(capsys, image, monkeypatch):
    from synthmorph_torch import images

    def fail(_):
        raise ZeroDivisionError("first\nsecond")

    monkeypatch.setattr(images, "read_image", fail)
    assert cli.main([str(image), str(image)]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError: first second" in err and err.count("\n") == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate")])
def test_out_of_memory_outside_the_registration(error, capsys, image, monkeypatch):
    from synthmorph_torch import images

    def fail(_):
        raise error

    monkeypatch.setattr(images, "read_image", fail)
    assert cli.main([str(image), str(image)]) == 1
    assert "ran out of memory" in capsys.readouterr().err


def test_interrupt(capsys, image, monkeypatch):
    from synthmorph_torch import images

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "read_image", stop)
    assert cli.main([str(image), str(image)]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_info_and_weights_list(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SYNTHMORPH_CACHE", str(tmp_path))
    monkeypatch.delenv("FREESURFER_HOME", raising=False)
    monkeypatch.delenv("SYNTHMORPH_WEIGHTS", raising=False)
    assert cli.main(["info"]) == 0
    assert "torch" in capsys.readouterr().out
    assert cli.main(["weights"]) == 0
    out = capsys.readouterr().out
    assert "synthmorph.deform.3.h5" in out and "CC BY 4.0" in out and str(tmp_path) in out
    assert cli.main(["weights", "verify", "affine"]) == 0
    assert "absent" in capsys.readouterr().out
    assert cli.main(["weights", "clear"]) == 0
