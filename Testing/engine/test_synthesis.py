"""Random images from label maps."""
from __future__ import annotations

import numpy as np
import people
import pytest
import SimpleITK as sitk
import torch
from synthmorph_torch import matrices, spatial
from synthmorph_torch.errors import ImageError
from synthmorph_torch.training import synthesis
from synthmorph_torch.training.synthesis import MIRROR, NONE, STRUCTURES

N, MM = 32, 6.0


@pytest.fixture(scope="module")
def subject():
    return synthesis.make_subject(*people.head())


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_subject_knows_its_structures(subject):
    names = [name for name, _ in STRUCTURES]
    left, right = names.index("left-putamen"), names.index("right-putamen")
    assert subject.centroids[left, 0] < -15 and subject.centroids[right, 0] > 15
    index = spatial.transform_points(subject.matrix, subject.centroids.T[None])[0].round().long()
    blobs = [names.index(n) for n in ("left-putamen", "right-amygdala", "brain-stem")]
    assert [int(subject.labels[tuple(index[:, b])]) for b in blobs] == blobs
    inside = torch.nonzero(subject.labels < NONE).double().mean(0)  # the origin is the centre of the brain
    assert torch.allclose(spatial.transform_points(subject.matrix, torch.zeros(1, 3, 1).double())[0, :, 0], inside)


def test_other_labels_are_skull_fluid_and_air(subject):
    assert subject.others == (0, 24, 515)
    assert subject.brain[NONE:].tolist() == [False, True, False]
    assert subject.fluid[NONE:].tolist() == [False, True, False]
    assert subject.structure[NONE:].tolist() == [NONE] * 3


def test_mirror_swaps_sides(subject):
    mirrored = synthesis.make_subject(*people.head(), mirror=True)
    flipped = subject.centroids[list(MIRROR[:NONE])] * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(mirrored.centroids, flipped, atol=1e-9)
    expected = torch.tensor(MIRROR)[subject.structure[subject.labels]]
    assert torch.equal(mirrored.structure[mirrored.labels], expected)
    assert torch.linalg.det(mirrored.matrix) * torch.linalg.det(subject.matrix) < 0


def test_mirroring_names_is_an_involution():
    names = [name for name, _ in STRUCTURES]
    for name, other in zip(names, MIRROR, strict=False):
        assert names[other] == (name.replace("left", "right") if "left" in name else name.replace("right", "left"))


def test_file_gives_the_same_subject(subject, tmp_path):
    path = people.write_maps(tmp_path, 1)[0]
    read = synthesis.load_subject(path)
    assert torch.equal(read.labels, subject.labels)
    assert torch.allclose(read.matrix, subject.matrix, atol=1e-4)
    assert len(synthesis.load_subjects([path])) == 2


def test_fine_maps_are_thinned(tmp_path):
    labels, to_ras = people.head()
    fine = labels.repeat(3, 0).repeat(3, 1).repeat(3, 2)
    path = tmp_path / "fine.nii.gz"
    sitk.WriteImage(people.image_of(fine.astype(np.int16), to_ras @ np.diag([1 / 3, 1 / 3, 1 / 3, 1])), str(path))
    subject = synthesis.load_subject(path)
    assert float(torch.linalg.det(subject.matrix).abs()) == pytest.approx(1 / 8)  # 2-mm voxels


@pytest.mark.parametrize(("change", "says"), [
    (lambda labels: np.where(labels == 18, 2, labels), "lacks left-amygdala: "),
    (lambda labels: np.where(labels < 30, 0, labels), "and more"),
    (lambda labels: labels + 0.5, "integers"),
])
def test_unfit_maps_are_refused(change, says, tmp_path):
    labels, to_ras = people.head()
    path = tmp_path / "map.nii.gz"
    sitk.WriteImage(people.image_of(change(labels).astype(np.float32), to_ras), str(path))
    with pytest.raises(ImageError, match=says):
        synthesis.load_subject(path)


def test_rendered_image(subject):
    for _ in range(8):
        matrix = synthesis.random_affine(30, 45, 0.1, 0.1, "cpu")
        points = synthesis.place(subject, (N,) * 3, MM, matrix, warp_mm=3.0)
        image, structures = synthesis.render(subject, points, MM)
        assert image.shape == (1, 1, N, N, N) and image.dtype == torch.float32
        assert float(image.min()) == 0 and float(image.max()) == pytest.approx(1)
        assert structures.shape == (1, N, N, N) and structures.dtype == torch.int64
        assert int(structures.min()) >= 0 and int(structures.max()) == NONE


def test_place_without_transform_keeps_the_brain_in_the_middle(subject):
    points = synthesis.place(subject, (N,) * 3, MM, torch.eye(4).double(), warp_mm=0.0)
    structures = synthesis.structures_at(subject, points)[0]
    index = torch.nonzero(structures < NONE).double().mean(0)
    assert torch.allclose(index, torch.full((3,), N / 2).double(), atol=0.3)
    left = [i for i, (name, _) in enumerate(STRUCTURES) if name.startswith("left")]
    on_left = torch.nonzero(torch.isin(structures, torch.tensor(left))).double()
    assert on_left[:, 0].mean() > N / 2 + 3  # LIA: the first axis runs to the left


def test_random_affine_stays_within_its_limits():
    for _ in range(20):
        shift, angles, scales, shears = matrices.decompose(synthesis.random_affine(30, 45, 0.1, 0.1, "cpu"))
        assert shift.abs().max() <= 30 and angles.abs().max() <= 45 + 1e-6
        assert (scales - 1).abs().max() <= 0.1 + 1e-6 and shears.abs().max() <= 0.1 + 1e-6


def test_same_palette_paints_alike():
    first = synthesis.make_subject(*people.head())
    labels, to_ras = people.head()
    labels[labels == 24] = 85  # a label that the first lacks
    labels[:3, :3, :3] = 515
    second = synthesis.make_subject(labels, to_ras)
    means = synthesis.random_palette(first)
    other = synthesis.same_palette(means, first, second)
    assert torch.equal(other[:NONE], means[:NONE])
    assert float(other[NONE + second.others.index(515)]) == float(means[NONE + first.others.index(515)])
    assert float(other[NONE + second.others.index(85)]) == 0


def test_blur_is_a_gaussian():
    image = torch.zeros(1, 1, 25, 25, 25)
    image[..., 12, 12, 12] = 1
    smooth = synthesis.blur(image, 1.5)
    assert float(smooth.sum()) == pytest.approx(1, abs=1e-5)
    distance = torch.arange(25) - 12.0
    for axis in (2, 3, 4):
        profile = smooth.sum(dim=[d for d in range(5) if d != axis])
        assert float((profile * distance**2).sum()) == pytest.approx(1.5**2, rel=0.1)
    line = synthesis.blur(image, (0.0, 2.0, 0.0))
    assert torch.nonzero(line)[:, 2:].unique(dim=0).tolist() == [[12, y, 12] for y in range(7, 18)]
    assert torch.equal(synthesis.blur(image, 0.1), image)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_blur_one_axis_only(axis):
    along, across = torch.zeros(2, 1, 1, 24, 24, 24).unbind()
    stripes = (torch.arange(24) % 2).float()
    shape = [1] * 5
    shape[axis + 2] = -1
    along = along + stripes.view(shape)
    shape = [1] * 5
    shape[(axis + 1) % 3 + 2] = -1
    across = across + stripes.view(shape)
    inner = (..., *[slice(6, 18)] * 3)
    assert float(synthesis.thick_slices(along, 4.0, axis)[inner].std()) < 0.05
    assert torch.allclose(synthesis.thick_slices(across, 4.0, axis)[inner], across[inner], atol=1e-5)
    assert torch.equal(synthesis.thick_slices(along, 1.0, axis), along)


def test_cut_view_blanks_one_end():
    image = torch.zeros(1, 1, 40, 40, 40)
    image[..., 5:35, 5:35, 5:35] = 1
    cuts = []
    for _ in range(20):
        cut = synthesis.cut_view(image)
        profiles = [cut.amax(dim=[d for d in range(5) if d != axis]) for axis in (2, 3, 4)]
        counts = [int(p.sum()) for p in profiles]
        assert sorted(counts)[1:] == [30, 30] and min(counts) >= 19
        shortest = profiles[counts.index(min(counts))]
        assert int(shortest[5]) + int(shortest[34]) >= 1  # the other end stays
        assert set(cut.unique().tolist()) == {0.0, 1.0}
        cuts.append(min(counts))
    assert len(set(cuts)) > 3


def test_constant_images_survive_degradation():
    assert float(synthesis.normalise(torch.full((1, 1, 4, 4, 4), 3.0)).abs().max()) == 0
    assert torch.isfinite(synthesis.degrade(torch.zeros(1, 1, 16, 16, 16), 4.0)).all()


def test_real_label_map(data):
    subject = synthesis.load_subject(data("synthseg/training_seg_01.nii.gz"))
    for index, (name, _) in enumerate(STRUCTURES):
        side = float(subject.centroids[index, 0])
        assert (side < -3 if "left" in name else side > 3 if "right" in name else abs(side) < 6), name
    points = synthesis.place(subject, (48,) * 3, 4.0, torch.eye(4).double(), 3.0)
    image, structures = synthesis.render(subject, points, 4.0)
    assert float(image.max()) == pytest.approx(1) and len(structures.unique()) == NONE + 1
