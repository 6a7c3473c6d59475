"""The benchmark's variants and its view of transforms, on a made-up brain."""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not there", allow_module_level=True)
sys.path.append(str(ROOT / "benchmarks"))

from peers import report, runners, scoring, variants  # noqa: E402
from peers.results import Results  # noqa: E402
from synthmorph_torch.geometry import Space  # noqa: E402
from synthmorph_torch.transforms import apply  # noqa: E402

TABLE = """scheme,label,name,common_id,common_name,side,core
malf,1,ventricle,3,Lateral-Ventricle,left,1
malf,2,cortex,2,Cerebral-Cortex,left,1
malf,3,white,1,Cerebral-White-Matter,left,1
malf,4,pallidum,10,Pallidum,left,1
"""


@pytest.fixture
def pair(tmp_path):
    """A ball of four shells, brighter inwards but for a dark middle, on a grid of 2 mm that points left, back, up."""
    (tmp_path / "common_labels.csv").write_text(TABLE)
    index = np.indices((40, 36, 32)) - np.array([19.5, 17.5, 15.5])[:, None, None, None]
    radius = np.sqrt((index**2).sum(0))
    shells = np.select([radius < 3, radius < 9, radius < 13, radius < 15], [1, 3, 2, 2], 0)
    shells[(radius < 9) & (index[2] > 5)] = 4
    space = Space((32, 36, 40), np.diag([2.0, 2.0, 2.0, 1.0]))
    labels = space.image(shells.astype(np.uint8))
    image = space.image(np.array([0, 200, 600, 1000, 900], np.float32)[shells])
    return variants.Pair("a-b", image, labels, image, labels, tmp_path)


def middle_of(image, level=0):
    voxels = np.argwhere(sitk.GetArrayViewFromImage(image) > level)[:, ::-1]
    return Space.of(image).to_world(voxels.mean(0))


@pytest.mark.parametrize("name", ["turned", "thick", "resliced", "inverted", "t2-like", "flair-like", "noisy",
                                  "oblique"])
def test_labels_stay_with_the_image(pair, name):
    made = variants.VARIANTS[name](pair)
    level = 500 if name == "noisy" else 50
    np.testing.assert_allclose(middle_of(made.moving, level), middle_of(made.moving_labels), atol=1.5)
    assert made.fixed is pair.fixed
    assert sitk.GetArrayViewFromImage(made.moving_labels).sum() == sitk.GetArrayViewFromImage(pair.moving_labels).sum()


def test_the_same_again(pair):
    first, second = (sitk.GetArrayFromImage(variants.noisy(pair).moving) for _ in range(2))
    assert (first == second).all()


def test_turned_moves_by_thirty_millimetres_and_grows(pair):
    made = variants.turned(pair)
    shift = middle_of(made.moving_labels) - middle_of(pair.moving_labels)
    assert np.linalg.norm(shift) == pytest.approx(30, abs=1.0)
    np.testing.assert_allclose(made.moving_labels.GetSpacing(), 2.2)
    np.testing.assert_allclose(made.moving.GetDirection(), np.eye(3).ravel())


def test_contrasts_are_ordered_as_their_names_say(pair):
    def shades(image):
        values, labels = (sitk.GetArrayFromImage(x) for x in (image, pair.moving_labels))
        return [np.median(values[labels == n]) for n in (1, 2, 3)]

    fluid, grey, white = shades(variants.t2_like(pair).moving)
    assert fluid > grey > white
    fluid, grey, white = shades(variants.flair_like(pair).moving)
    assert grey > white > fluid
    fluid, grey, white = shades(variants.inverted(pair).moving)
    assert fluid > grey > white


def test_cuts_take_a_third_of_the_height(pair):
    whole = Space.of(pair.fixed).corners()[:, 2]
    top, bottom = (Space.of(cut(pair).fixed).corners()[:, 2] for cut in (variants.cut_top, variants.cut_bottom))
    third = np.ptp(whole) / 3
    assert top.min() == whole.min() and whole.max() - top.max() == pytest.approx(third, abs=2)
    assert bottom.max() == whole.max() and bottom.min() - whole.min() == pytest.approx(third, abs=2)


def test_chain_of_files_acts_in_the_order_in_which_they_are_named(pair, tmp_path):
    runners.write_matrix(runners.ras_to_lps([[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]),
                         tmp_path / "affine.tfm")
    field = np.zeros((40, 36, 32, 3), np.float32)
    field[..., 2] = 3
    sitk.WriteImage(Space.of(pair.fixed).image(field, vector=True), str(tmp_path / "warp.nii.gz"))
    runners.finish(tmp_path, "warp.nii.gz", "affine.tfm")
    chain = scoring.read_chain(tmp_path)
    np.testing.assert_allclose(chain.TransformPoint((10.0, 10.0, 10.0)), (5, 10, 26), atol=1e-5)
    sitk.WriteImage(apply(chain, pair.moving, pair.fixed), str(tmp_path / "moved.nii.gz"))
    assert scoring.rewarp(chain, pair.moving, pair.fixed, tmp_path / "moved.nii.gz") == pytest.approx(1)


def test_results_are_kept_and_replaced(tmp_path):
    results = Results(tmp_path / "results.csv")
    row = {"method": "greedy", "variant": "plain", "pair": "a-b", "status": "done", "mean_dice": 0.8}
    results.add(row)
    results.add({**row, "variant": "thick", "mean_dice": 0.7})
    results.add({**row, "mean_dice": 0.9})
    table = report.Table(results.read())
    assert table.values("greedy", "plain", "mean_dice") == [0.9]
    assert table.loss("greedy", "thick") == pytest.approx(0.2)
    results.drop([("greedy", "plain", "a-b")])
    assert list(results.read()) == [("greedy", "thick", "a-b")]
