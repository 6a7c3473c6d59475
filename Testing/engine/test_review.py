"""Measures, hot spots, verdict and landmarks, against known answers."""
from __future__ import annotations

import dataclasses
import json

import cases
import numpy as np
import pytest
import SimpleITK as sitk
from synthmorph_torch import review, transforms
from synthmorph_torch.errors import ImageError, UsageError
from synthmorph_torch.geometry import Space
from synthmorph_torch.review import checks, landmarks, measures, verdict
from synthmorph_torch.review.measures import value_of
from synthmorph_torch.review.tolerances import TOLERANCES, Tolerance


@pytest.fixture(scope="module")
def good():
    return cases.case()


def ruined(good, matrix, shift=(0, 0, 0)):
    """The right answer after a wrong affine of the fixed image."""
    wrong = np.eye(4)
    wrong[:3, :3], wrong[:3, 3] = matrix, shift
    both = cases.truth() @ wrong
    return dataclasses.replace(good, forward=transforms.affine_transform(both),
                               backward=transforms.affine_transform(np.linalg.inv(both)))


TURN = np.reshape(sitk.VersorTransform((1, 0, 0), 0.7).GetMatrix(), (3, 3))  # 40 degrees


def bump(space, center, height, width=15.0):
    """Transform that moves points near a centre along x by up to ``height`` mm."""
    index = np.stack(np.meshgrid(*map(np.arange, space.shape), indexing="ij"), -1)
    weight = np.exp(-((space.to_world(index) - center) ** 2).sum(-1) / (2 * width**2))
    residual = np.stack([height * weight, 0 * weight, 0 * weight])
    return transforms.residual_transform(residual, space, cases.truth())


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, "ok", "bad"), (2.5, "look", "look"), (4.0, "bad", "ok")])
def test_tolerances_know_which_way_is_better(value, low, high):
    assert Tolerance(2, 3).status(value) == low and Tolerance(3, 2).status(value) == high
    assert Tolerance(2, 3).status(None) == "" == Tolerance(2, 3).status(float("nan"))
    assert Tolerance(2, 3, "mm").text == "≤ 2 mm, bad above 3 mm" and "≥ 3" in Tolerance(3, 2).text


def test_tolerances_name_their_source():
    for tolerance in TOLERANCES.values():
        assert "TG-132" in tolerance.source or tolerance.source == "SynthMorphSlicer"


def test_table_of_the_right_answer(good):
    pairs = review.Landmarks.pair([[10, 20, 30], [-20, 0, 5]], np.array([[10, 20, 30], [-20, 0, 5]]) * cases.SCALE)
    pairs = dataclasses.replace(pairs, moving=pairs.moving + [[0, 0, 3], [0, 0, 0]], names=("AC", ""))
    rows = review.table(dataclasses.replace(good, landmarks=pairs, names={17: "Left hippocampus"}))
    expected = np.prod(cases.SCALE)
    assert value_of(rows, "folding_count") == 0 and value_of(rows, "jacobian_p50") == pytest.approx(expected, abs=1e-3)
    assert value_of(rows, "sd_log") == pytest.approx(0, abs=1e-3)
    assert value_of(rows, "consistency_max") < 1e-3 and value_of(rows, "residual_max") < 1e-3
    assert value_of(rows, "total_mean") > 1
    assert value_of(rows, "nmi_after") > value_of(rows, "nmi_before")
    assert value_of(rows, "mean_dice") > 0.85 > value_of(rows, "mean_dice_before")
    assert value_of(rows, "tre_mean") == pytest.approx(1.5) and value_of(rows, "tre_max") == pytest.approx(3)
    by_key = {row.key: row for row in rows}
    assert by_key["tre_max"].status == "ok" and by_key["folding_percent"].status == "ok"
    assert by_key["hd95_17"].name == "Left hippocampus: 95 % Hausdorff distance" and by_key["hd95_17"].unit == "mm"
    assert by_key["tre_1"].name == "Landmark AC" and by_key["tre_2"].name == "Landmark 2"
    assert json.dumps([row.as_dict() for row in rows])


def test_table_inside_a_mask(good):
    """J is 1 at the back and less in the bump's slope: the mask decides what is seen."""
    center = np.array([0.0, -40.0, 0.0])
    bent = dataclasses.replace(good, forward=bump(Space.of(good.fixed), center, 8.0))
    space = Space.of(good.fixed)
    index = np.stack(np.meshgrid(*map(np.arange, space.shape), indexing="ij"), -1)
    y = space.to_world(index)[..., 1].transpose(2, 1, 0)
    rows = {name: review.table(bent, space.image(mask.astype(np.uint8)))
            for name, mask in (("front", y < -20), ("back", y > 30))}
    assert value_of(rows["front"], "residual_max") > 7 > 0.1 > value_of(rows["back"], "residual_max")
    with pytest.raises(ImageError, match="no voxel"):
        review.table(bent, space.image(np.zeros(space.shape[::-1], np.uint8)))


def test_comparison_beside_each_other(good):
    tables = {"right": review.table(good), "mirrored": review.table(ruined(good, np.diag([-1.0, 1, 1])))}
    lines = review.compare(tables)
    assert lines[0] == ["Measure", "Unit", "right", "mirrored"]
    dice = next(line for line in lines if line[0] == "Mean Dice")
    assert float(dice[2]) > float(dice[3])


def test_hot_spots_are_where_they_are():
    good = cases.case(landmarks=review.Landmarks.pair([[0, 0, 0], [30, 0, 0]], [[0, 0, 1], [40, 0, 0]]))
    center = np.array([10.0, -20.0, 10.0])
    bent = dataclasses.replace(good, forward=bump(Space.of(good.fixed), center, -25.0, 10.0), backward=None)
    spots = {spot.kind: spot for spot in review.hot_spots(bent)}
    assert set(spots) == {"folding", "expansion", "compression", "displacement", "structure", "landmark"}
    assert np.linalg.norm(np.array(spots["displacement"].point) - center) < 6
    assert spots["displacement"].value == pytest.approx(25, abs=1.5)
    assert spots["folding"].value <= 0 and spots["expansion"].value > 1
    assert spots["folding"].point[0] < center[0] + 3 < spots["expansion"].point[0] + 20
    assert spots["landmark"].name == "Worst landmark: 2" and spots["landmark"].point == (30, 0, 0)
    x, y, z = spots["folding"].point
    assert spots["folding"].ras == (-x, -y, z)
    several = [s for s in review.hot_spots(bent, count=3) if s.kind == "expansion"]
    assert len(several) == 3 and several[0].value >= several[1].value >= several[2].value
    distances = [np.linalg.norm(np.subtract(a.point, b.point)) for a in several for b in several if a is not b]
    assert min(distances) >= 10


def test_an_affine_has_no_folding_to_go_to(good):
    kinds = {spot.kind for spot in review.hot_spots(good)}
    assert "structure" in kinds and not kinds & {"folding", "displacement", "landmark"}


@pytest.mark.parametrize(("matrix", "shift", "key"), [
    (np.diag([-1.0, 1, 1]), (0, 0, 0), "affine_flip"), (TURN, (0, 0, 0), "edges_lead"),
    (np.eye(3), (0, 60, 0), "overlap_seen"), (np.diag([0.45, 1, 1]), (0, 0, 0), "affine_low"),
    (np.array([[1, 1.2, 0], [0, 1, 0], [0, 0, 1]]), (0, 0, 0), "affine_stretch"),
    (np.eye(3), (25, 0, 0), "edges_lead")])
def test_ruined_results_are_called_failed(good, matrix, shift, key):
    found = review.judge(plain := ruined(good, matrix, shift), review.table(dataclasses.replace(
        plain, moving_labels=None, fixed_labels=None)))
    assert found.word == "failed" and found.status == "bad"
    assert key in {reason.key for reason in found.reasons if reason.status == "bad"}
    assert all(reason.sentence.endswith(".") for reason in found.reasons)


def test_the_right_answer_is_not_called_failed(good):
    plain = dataclasses.replace(good, moving_labels=None, fixed_labels=None)
    rows = review.table(plain)
    found = review.judge(plain, rows)
    assert found.word == "good" and not found.reasons and found.checks
    assert review.judge(plain, rows, disagreement=30.0).word == "failed"
    assert review.judge(plain, rows, disagreement=6.0).word == "look closely"


def test_images_with_nothing_in_common_are_doubtful_at_first_sight(good):
    assert not review.is_doubtful(good)
    array = np.random.default_rng(0).random(sitk.GetArrayFromImage(good.moving).shape)
    noise = sitk.GetImageFromArray(array.astype(np.float32))
    noise.CopyInformation(good.moving)
    assert review.is_doubtful(dataclasses.replace(good, moving=noise))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_head_beside_the_other_is_doubtful_at_first_sight(good, axis):
    there, back = cases.truth(), np.linalg.inv(cases.truth())
    beside = np.eye(4)
    beside[axis, 3] = 40.0
    forward, backward = (transforms.affine_transform(m) for m in (there @ beside, np.linalg.inv(beside) @ back))
    assert review.is_doubtful(dataclasses.replace(good, forward=forward, backward=backward))


@pytest.mark.parametrize(("key", "value", "status"), [
    ("folding_percent", 0.05, "look"), ("folding_percent", 1.0, "bad"), ("sd_log", 0.7, "look"), ("sd_log", 1.5, "bad"),
    ("jacobian_max", 100.0, "bad"), ("consistency_p95", 2.5, "look"), ("mean_dice", 0.7, ""), ("mean_dice", 0.3, "bad"),
    ("tre_mean", 4.0, "bad"), ("tre_max", 6.0, "look")])
def test_measures_out_of_tolerance_are_reasons(key, value, status):
    tolerance = key.replace("percent", "").strip("_").replace("mean_dice", "dice")
    found = list(verdict.measured_checks([measures.measure(key, "", "", value, "", tolerance)]))
    assert [one.status for one in found] == [status or "ok"] and f"{value:g}"[:3] in found[0].sentence


@pytest.mark.parametrize(("after", "status"), [(1.3, "ok"), (1.19, "look"), (1.05, "bad")])
def test_less_alike_than_before(after, status):
    rows = [measures.measure("nmi_before", "", "", 1.2), measures.measure("nmi_after", "", "", after)]
    assert [one.status for one in verdict.measured_checks(rows)] == [status]


def test_disagreement_is_a_distance(good):
    other = transforms.affine_transform(cases.truth() + np.diag([0, 0, 0, 0.0]) + np.eye(4, k=3) * 5)
    assert review.disagreement_mm(good.forward, other, good) == pytest.approx(5, abs=1e-3)


def test_shape_of_an_affine():
    turn = np.eye(4)
    turn[:3, :3] = np.reshape(sitk.VersorTransform((0, 0, 1), 0.5).GetMatrix(), (3, 3)) @ np.diag([1.0, 2, 0.5])
    shape = checks.AffineShape.of(turn)
    assert not shape.flips and shape.scales == pytest.approx((0.5, 1, 2)) and shape.stretch == pytest.approx(4)
    assert shape.degrees == pytest.approx(np.degrees(0.5))
    assert checks.AffineShape.of(turn @ np.diag([1, 1, -1, 1])).flips


# Landmarks


POINTS = np.array([[0.0, 0, 0], [25, 5, -3], [-20, -15, 10]])


def test_landmark_errors(good):
    pairs = review.Landmarks.pair(POINTS, POINTS * cases.SCALE + [[0, 0, 0], [3, 0, 4], [0, 2, 0]])
    np.testing.assert_allclose(review.errors(good.forward, pairs), [0, 5, 2], atol=1e-9)
    assert review.errors(good.forward, review.Landmarks.pair([], [])).shape == (0,)


def test_correction_meets_the_landmarks_and_leaves_the_rest(good):
    pairs = review.Landmarks.pair(POINTS, POINTS * cases.SCALE + [[0, 6, 0], [-5, 0, 4], [0, 0, 0]])
    before = np.array(good.forward.GetParameters())
    fixed = review.correct(good.forward, good.backward, pairs, radius=30, spacing=3)
    np.testing.assert_array_equal(before, good.forward.GetParameters())  # undoing is keeping the old one
    assert fixed.errors_before.max() > 6 and fixed.errors_after.max() < 0.5
    assert fixed.smallest_jacobian > 0
    far = np.array([[60.0, 60, 60], [-70, 40, 0]])
    np.testing.assert_allclose(transforms.apply_to_points(fixed.forward, far),
                               transforms.apply_to_points(good.forward, far), atol=1e-9)
    there = transforms.apply_to_points(fixed.forward, POINTS + 4)
    np.testing.assert_allclose(transforms.apply_to_points(fixed.backward, there), POINTS + 4, atol=0.3)
    corrected = dataclasses.replace(good, forward=fixed.forward, backward=fixed.backward)
    assert value_of(review.table(corrected), "folding_count") == 0


def test_contradicting_landmarks_do_not_fold(good):
    """Two points change places: no invertible map near the old one can do that, and the correction must not try."""
    a, b = np.array([-4.0, 0, 0]), np.array([4.0, 0, 0])
    pairs = review.Landmarks.pair([a, b], [b * cases.SCALE, a * cases.SCALE])
    fixed = review.correct(good.forward, good.backward, pairs, radius=30, spacing=2)
    assert fixed.smallest_jacobian > 0


def test_bad_landmarks_are_refused(good):
    with pytest.raises(UsageError, match="partner"):
        review.Landmarks.pair([[0, 0, 0]], [[0, 0, 0], [1, 1, 1]])
    with pytest.raises(UsageError, match="no position"):
        review.Landmarks.pair([[0, 0, np.nan]], [[0, 0, 0]])
    with pytest.raises(UsageError, match="at least one"):
        review.correct(good.forward, good.backward, review.Landmarks.pair([], []))
    with pytest.raises(UsageError, match="radius"):
        review.correct(good.forward, good.backward, review.Landmarks.pair(POINTS, POINTS), radius=0)


def test_points_from_every_format(tmp_path):
    markup = {"markups": [{"coordinateSystem": "RAS", "controlPoints": [{"label": "A", "position": [-1, -2, 3]}]}]}
    files = {"a.mrk.json": json.dumps(markup),
             "a.fcsv": "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
                       "0,1,2,3,0,0,0,1,1,1,0,A,,\n",
             "a.csv": "label,r,a,s,defined\nA,-1,-2,3,1\n", "b.csv": "name,L,P,S\nA,1,2,3\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        points, names = review.read_points(tmp_path / name)
        np.testing.assert_array_equal(points, [[1, 2, 3]])
        assert names == ("A",)


@pytest.mark.parametrize(("name", "text"), [
    ("a.mrk.json", "{}"), ("a.fcsv", "0,x,y,z"), ("a.csv", "a,b\n1,2\n"), ("c.csv", ""), ("d.csv", "l,p,s\n"),
    ("a.json", '{"markups": [{"coordinateSystem": "LPS", "controlPoints": []}]}')])
def test_points_that_are_none(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ImageError, match="no points"):
        review.read_points(tmp_path / name)
    with pytest.raises(ImageError, match="cannot be read"):
        review.read_points(tmp_path / "absent.csv")


def test_landmarks_survive_a_file(tmp_path):
    pairs = review.Landmarks.pair(POINTS, POINTS + 1, ("a", "b, c", "d"))
    landmarks.write_landmarks(pairs, tmp_path / "l.csv")
    again = landmarks.read_landmarks(tmp_path / "l.csv")
    np.testing.assert_allclose(again.moving, pairs.moving)
    assert again.names == pairs.names
