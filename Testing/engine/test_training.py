"""Training tasks and the trainer, on made-up heads and tiny grids."""
from __future__ import annotations

import csv
import dataclasses
import math
import os

import people
import pytest
import SimpleITK as sitk
import torch
from synthmorph_torch.cli import main
from synthmorph_torch.errors import UsageError, WeightsError
from synthmorph_torch.loader import load_compact, load_model
from synthmorph_torch.models import MID_SHAPE, MID_SPACING, CompactNetworks, translation
from synthmorph_torch.networks import AffineDetector, HyperUNet, UNet, Widths
from synthmorph_torch.training import export, synthesis, tasks, voxelmorph
from synthmorph_torch.training.synthesis import NONE
from synthmorph_torch.training.train import Trainer, mean_figures, read_checkpoint

CPU = torch.device("cpu")
SMALL_DETECTOR = Widths(1, (8, 16), (16,), (), NONE + 1)
SMALL_SEGMENTER = Widths(1, (8, 16), (16, 16), (), NONE + 1)
SMALL_WARP = Widths(2 * NONE, (8, 8), (8, 8), (8,), 3)
SMALL_VOXELMORPH = Widths(2, (8, 16), (16,), (16,), 3)


class Clock:
    """Time that passes by a fixed amount per look."""

    def __init__(self, seconds=1.0):
        self.now, self.seconds = 0.0, seconds

    def __call__(self):
        self.now += self.seconds
        return self.now


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))


@dataclasses.dataclass
class LineTask(tasks.Task):
    """The smallest task: find three numbers."""

    def loss(self):
        loss = (self.network.weight - torch.tensor([1.0, 2.0, 3.0])).square().sum()
        return loss, {"sometimes": float("nan") if torch.rand(1) < 0.5 else 1.0}

    def validation_figures(self):
        return {"sum": float(self.network.weight.detach().sum())}


def line_trainer(folder, minutes=1.0, **options):
    return Trainer(LineTask(Line(), [], [], CPU), folder, minutes, rate=0.1, clock=Clock(), **options)


@pytest.fixture(scope="module")
def subjects():
    heads = [people.head(scale) for scale in ((1, 1, 1), (0.93, 1.02, 0.95))]
    return [synthesis.make_subject(*head) for head in heads]


@pytest.fixture(autouse=True)
def seeded_and_single():
    """On such small grids threads only wait for each other."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def quiet(line):
    pass


def test_budget_is_respected(tmp_path):
    trainer, lines = line_trainer(tmp_path), []
    trainer.run(validate_every=20, report=lines.append)
    assert len(lines) == 3 and lines[-1].startswith("step 60, 1.0 min:  loss ")
    assert trainer.elapsed == 60 and trainer.step == 60  # one second by this clock per step
    assert [row["minutes"] * 60 for row in trainer.history] == [20, 40, 60]
    trainer.run(report=quiet)
    assert trainer.step == 60


def test_resumes_where_it_stopped(tmp_path):
    first = line_trainer(tmp_path, minutes=0.5)
    first.run(validate_every=10, report=quiet)
    second = line_trainer(tmp_path, minutes=1.0)
    assert (second.step, second.elapsed, second.history) == (30, 30.0, first.history)
    assert torch.equal(second.task.network.weight, first.task.network.weight)
    assert torch.equal(second.average["weight"], first.average["weight"])
    second.run(validate_every=10, report=quiet)
    assert second.step == 60 and len(second.history) == 6
    with open(tmp_path / "log.csv", newline="", encoding="utf-8") as file:
        assert [float(row["step"]) for row in csv.DictReader(file)] == [10, 20, 30, 40, 50, 60]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "curves.png", "log.csv"]


def test_loss_falls_and_average_follows(tmp_path):
    trainer = line_trainer(tmp_path)
    trainer.run(validate_every=15, report=quiet)
    assert trainer.history[-1]["loss"] < 0.1 * trainer.history[0]["loss"]
    assert trainer.history[-1]["val_sum"] == pytest.approx(float(trainer.average["weight"].sum()))


def test_infinite_gradients_change_nothing(tmp_path):
    trainer = line_trainer(tmp_path)
    trainer.task.loss = lambda: (trainer.task.network.weight.sum() * math.inf, {})
    trainer._train_step()
    assert torch.equal(trainer.task.network.weight.detach(), torch.zeros(3))


def test_means_leave_out_what_does_not_apply():
    assert mean_figures([{"a": 1.0, "b": math.nan}, {"a": 3.0, "b": 5.0}]) == {"a": 2.0, "b": 5.0}
    assert math.isnan(mean_figures([{"a": math.nan}])["a"])


def test_rate_warms_up_then_falls():
    assert tasks.cosine(0) == pytest.approx(0.05, abs=1e-3) and tasks.cosine(0.02) > 0.99
    assert tasks.cosine(0.5) == pytest.approx(0.505, abs=0.01) and tasks.cosine(1) == pytest.approx(0.01)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm-was-done",)


def test_checkpoints_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Harmful()}, tmp_path / "checkpoint.pt")
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint"):
        line_trainer(tmp_path)
    assert not (tmp_path / "harm-was-done").exists()


def test_foreign_checkpoints_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="holds no training"):
        read_checkpoint(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"noise" * 50)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_checkpoint(tmp_path)
    torch.save({"weights": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(WeightsError, match="no checkpoint of"):
        read_checkpoint(tmp_path)
    line_trainer(tmp_path / "line").save()
    with pytest.raises(WeightsError, match="another network"):
        Trainer(tasks.Task(UNet(SMALL_VOXELMORPH), [], [], CPU), tmp_path / "line", 1)


def detector_task(subjects, device=CPU):
    network = AffineDetector(SMALL_DETECTOR, softmax=True).to(device)
    return tasks.DetectorTask(network, subjects, subjects, device, shape=(32,) * 3, spacing=6.0, batch=1)


def test_detector_learns(subjects, tmp_path):
    trainer = Trainer(detector_task(subjects), tmp_path, 40 / 60, rate=3e-3, clock=Clock())
    trainer.run(validate_every=10, report=quiet)
    assert trainer.step == 40
    assert trainer.history[-1]["val_loss"] < 0.7 * trainer.history[0]["val_loss"]


def test_validation_is_the_same_every_time(subjects):
    task = detector_task(subjects)
    figures = task.validate()
    drawn = torch.rand(1)
    assert task.validate() == figures
    assert not torch.equal(torch.rand(1), drawn)  # the training's own random numbers go on


def segmenter_task(subjects, device=CPU):
    network = AffineDetector(SMALL_SEGMENTER, softmax=True).to(device)
    return tasks.SegmenterTask(network, subjects, subjects, device, shape=(32, 32, 40), spacing=6.0, batch=1)


def test_segmenter_learns(subjects, tmp_path):
    trainer = Trainer(segmenter_task(subjects), tmp_path, 40 / 60, rate=3e-3, clock=Clock())
    trainer.run(validate_every=10, report=quiet)
    first, last = trainer.history[0], trainer.history[-1]
    assert last["val_loss"] < 0.8 * first["val_loss"] and last["val_dice"] > first["val_dice"]


def test_segmenter_starts_from_the_detector():
    detector, segmenter = AffineDetector(tasks.DETECTOR_WIDTHS), AffineDetector(tasks.SEGMENTER_WIDTHS)
    tasks.adopt(segmenter, detector)
    shared = len(detector.kernels()) - 1
    for mine, theirs in zip(segmenter.kernels()[:shared], detector.kernels()[:shared], strict=True):
        assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])
    assert segmenter.kernels()[shared][0].shape[:2] == (24, 64)  # its own: what it adds in resolution


def test_segmenter_trains_on_the_grid_that_it_meets_later(subjects):
    """Same axes, same centre and same voxels as the mid-space of a registration, to less than a voxel."""
    template = synthesis.mean_centroids(subjects)
    lia = torch.stack([-template[:, 0], -template[:, 2], template[:, 1]], 1)
    detector = AffineDetector(SMALL_DETECTOR)
    networks = CompactNetworks(detector, detector, SMALL_WARP, lambda _: [], lia)
    trained = translation(template.mean(0)) @ synthesis.network_axes(MID_SHAPE, MID_SPACING, CPU)
    met = networks.spacing * networks._grid[:3]  # millimetres along L, I, A
    met = torch.stack([-met[0], met[2], -met[1]])
    assert torch.allclose(met[:, :3], trained[:3, :3])
    assert float((met[:, 3] - trained[:3, 3]).abs().max()) < MID_SPACING


def make_warp_task(subjects, device=CPU):
    segmenter = AffineDetector(SMALL_SEGMENTER, softmax=True).requires_grad_(False).to(device)
    return tasks.DeformableTask(HyperUNet(SMALL_WARP, (4,)).to(device), subjects, subjects, device, shape=(32, 32, 32),
                                spacing=6.0, segmenter=segmenter, pool_size=3)


@pytest.fixture
def warp_task(subjects):
    return make_warp_task(subjects)


def test_warp_task_draws_pairs_from_a_pool(warp_task):
    loss, figures = warp_task.loss()
    loss.backward()
    assert 0 < figures["dice"] < 1 and len(warp_task.pool) == 3
    gradients = [p.grad for p in warp_task.network.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert max(float(g.abs().max()) for g in gradients) > 0
    assert {"val_dice_before", "val_dice", "val_dice_0.1", "val_sd_log_jacobian_0.9"} <= set(warp_task.validate())
    assert len(warp_task.pool) == 3


def test_what_sees_lambda_learns_slowly(warp_task, tmp_path):
    trainer = Trainer(warp_task, tmp_path, 1, clock=Clock())
    fast, slow = trainer.optimizer.param_groups
    before = [p.detach().clone() for p in slow["params"]]
    trainer._train_step()
    assert slow["lr"] == pytest.approx(0.01 * fast["lr"])
    assert {id(p) for p in slow["params"]} == {id(p) for p in warp_task.network.dense.parameters()}
    assert all(torch.allclose(a, b, atol=2e-5) for a, b in zip(before, slow["params"], strict=True))


def test_every_lambda_has_its_own_kernels():
    network = HyperUNet(tasks.DEFORMABLE_WIDTHS, tasks.DEFORMABLE_UNITS)
    low, middle, high = (network.bake(x)[0][0] for x in (0.1, 0.5, 0.9))
    assert not torch.allclose(low, high, atol=1e-3) and not torch.allclose(low, middle, atol=1e-3)


def voxelmorph_task(kind, examples, device=CPU, **options):
    network = UNet(SMALL_VOXELMORPH).to(device)
    return kind(network, examples, examples, device, grid=32, spacing=6.0, steps=4, **options)


def painted_task(subjects, device):
    return voxelmorph_task(voxelmorph.PaintedTask, subjects, device)


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("make", [detector_task, segmenter_task, make_warp_task, painted_task])
def test_everything_is_on_the_gpu(gpu, make):
    """A pretended one, see pretend_gpu.py; in a real one's first minute a tensor left behind would end the training."""
    task = make([synthesis.make_subject(*people.head(), gpu, mirror) for mirror in (False, True)], gpu)
    loss, _ = task.loss()
    loss.backward()
    assert all(p.device == p.grad.device == gpu for p in task.network.parameters())
    with torch.no_grad():
        assert math.isfinite(sum(task.validation_figures().values()))


@pytest.mark.parametrize("similarity", ["correlation", "mse"])
def test_voxelmorph_learns_from_images_alone(subjects, similarity):
    task = voxelmorph_task(voxelmorph.PaintedTask, subjects, similarity=similarity)
    pair = task.pair(subjects)
    task.pair = lambda examples: pair  # always the same, so that a few steps show whether the loss can be lowered
    optimizer = torch.optim.Adam(task.network.parameters(), lr=3e-3)
    values = []
    for _ in range(25):
        loss, figures = task.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(figures["unlike"])
    assert values[-1] < 0.85 * values[0]
    figures = task.validate()
    assert figures["val_unlike"] < figures["val_unlike_before"] and figures["val_folding_percent"] < 1
    assert 0 < figures["val_dice"] < 1


def test_painted_pairs_look_alike(subjects):
    task = voxelmorph_task(voxelmorph.PaintedTask, subjects)
    pair = task.pair(subjects)
    inside = [s < NONE for s in pair.structures]
    both = inside[0][0] & inside[1][0] & (pair.structures[0] == pair.structures[1])[0]
    a, b = (image[0, 0][both] for image in pair.images)
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.8


def test_scans_are_read_onto_one_grid(tmp_path):
    scans = voxelmorph.load_scans(people.write_scans(tmp_path, 3), 32, 6.0, CPU)
    assert [s.shape for s in scans] == [(1, 1, 32, 32, 32)] * 3
    assert all(float(s.min()) == 0 and float(s.max()) == 1 for s in scans)
    task = voxelmorph_task(voxelmorph.ScansTask, scans)
    loss, _ = task.loss()
    assert torch.isfinite(loss) and "val_dice" not in task.validate()
    for _ in range(5):
        assert not torch.equal(*task.pair(scans).images)


def train(*arguments):
    return main(["train", *map(str, arguments)])


@pytest.fixture
def unhurried(monkeypatch):
    """Let a training consist of saving what it starts with."""
    def run(trainer, validate_every, report):
        trainer.step += 1
        trainer.elapsed += 6.0
        trainer.save()

    monkeypatch.setattr(Trainer, "run", run)


def test_command_line_from_maps_to_model(tmp_path, unhurried, capsys):
    maps, detector, segmenter, warp, file = (tmp_path / n for n in ("maps", "detector", "segmenter", "warp",
                                                                    "model.safetensors"))
    maps.mkdir()
    people.write_maps(maps, 3)
    assert train("detector", "--data", maps, "--out", detector, "--validation", 1) == 0
    assert train("detector", "--data", maps, "--out", detector, "--validation", 1) == 0
    assert "Going on after 1 steps and 0.1 of 60 minutes" in capsys.readouterr().out
    assert train("segmenter", "--data", maps, "--out", segmenter, "--validation", 1, "--detector", detector) == 0
    assert train("deformable", "--data", maps, "--out", warp, "--validation", 1, "--segmenter", segmenter) == 0
    every = ("export", "--data", maps, "--validation", 1, "--out", file, "--segmenter", segmenter, "--detector")
    assert train(*every, warp, "--deformable", detector) == 1
    assert "another network than the detector" in capsys.readouterr().err
    assert not file.exists()
    assert train(*every, detector, "--deformable", warp) == 0
    networks = load_compact(file, CPU)
    for network, folder in ((networks.detector, detector), (networks.segmenter, segmenter)):
        trained = export.averaged_weights(folder)
        for name, value in network.state_dict().items():
            assert torch.allclose(value, trained[name], rtol=1e-3, atol=1e-6)
    network = HyperUNet(tasks.DEFORMABLE_WIDTHS, tasks.DEFORMABLE_UNITS)
    network.load_state_dict(export.averaged_weights(warp))
    for got, expected in zip(networks.bake(0.3), network.bake(0.3), strict=True):
        assert torch.allclose(got[0], expected[0], rtol=1e-2, atol=1e-3)
    template = synthesis.mean_centroids(synthesis.load_subjects(sorted(maps.iterdir())[:2]))
    x, y, z = template.float().unbind(1)
    assert torch.allclose(networks.template, torch.stack([-x, -z, y], 1), atol=1e-4)
    assert file.stat().st_size < 12e6


def test_command_line_from_scans_to_parcellation(tmp_path, unhurried, capsys):
    scans, folder, file = (tmp_path / n for n in ("scans", "training", "vm.safetensors"))
    scans.mkdir()
    people.write_scans(scans, 4)
    assert train("voxelmorph", "--data", scans, "--images", "_t1.nii.gz", "--out", folder) == 0
    assert train("export", "--voxelmorph", folder, "--out", file) == 0
    moving, fixed, parcels = scans / "p0_t1.nii.gz", scans / "p1_t1.nii.gz", tmp_path / "parcels.nii.gz"
    assert main(["-m", "deform", "-e", "192", "-w", str(file), "--labels", str(scans / "p0_seg.nii.gz"), str(parcels),
                 str(moving), str(fixed)]) == 0
    seen = sitk.GetArrayFromImage(sitk.ReadImage(str(parcels)))
    known = sitk.GetArrayFromImage(sitk.ReadImage(str(scans / "p0_seg.nii.gz")))
    assert set(seen.ravel().tolist()) <= set(known.ravel().tolist()) and seen.max() > 0
    model = load_model(weights=file, device="cpu", transform="deform")
    assert model.name == "voxelmorph"
    with pytest.raises(UsageError, match="-m deform"):
        model.register(sitk.ReadImage(str(moving)), sitk.ReadImage(str(fixed)), "affine")


def test_synthesized_voxelmorph_training_from_the_command_line(tmp_path, unhurried):
    maps = tmp_path / "maps"
    maps.mkdir()
    people.write_maps(maps, 3)
    assert train("voxelmorph", "--data", maps, "--synthesize", "--validation", 1, "--out", tmp_path / "o") == 0
    assert read_checkpoint(tmp_path / "o")["step"] == 1
