"""Atlases on the disk and a patient in the scene: real people where the data pack is, else made-up heads."""

import csv

import numpy as np
from workplace import DATA, loadVolume

SPACING = 2.0  # mm; real scans are thinned out, so that the tests are quick
STRUCTURES = {52: "Left Lateral Ventricle", 51: "Right Lateral Ventricle", 60: "Left Thalamus", 59: "Right Thalamus"}
COLUMNS = ("LabelValue", "Name", "Color_R", "Color_G", "Color_B", "Color_A", "Category_CodingScheme",
           "Category_CodeValue", "Category_CodeMeaning", "Type_CodingScheme", "Type_CodeValue", "Type_CodeMeaning")
CODES = ("SCT", "123037004", "Anatomical Structure", "SCT")


def library(folder, names=("anna", "bert"), broken="broken"):
    """A folder with one atlas for each name, and one that lacks its label map."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        image, labels = _person(number)
        _write(image, folder / name / "t1.nrrd")
        _write(labels, folder / name / "labels.nrrd")
        with open(folder / name / "names.csv", "w", newline="") as file:
            rows = [(label, text, 10 * place, 200, 30, 255, *CODES, str(label), text)
                    for place, (label, text) in enumerate(STRUCTURES.items())]
            csv.writer(file).writerows([COLUMNS, *rows])
    (folder / broken).mkdir()
    _write(_person(0)[0], folder / broken / "t1.nrrd")
    return folder


def patient(folder):
    """A volume node, and the true label array on its grid, whose order is that of the node."""
    import slicer
    nodes = []
    for name, image in zip(("patient", "truth"), _person(2)):
        _write(image, folder / f"{name}.nrrd")
        nodes.append(loadVolume(folder / f"{name}.nrrd", name))
    truth = slicer.util.arrayFromVolume(nodes[1]).copy()
    slicer.mrmlScene.RemoveNode(nodes[1])
    return nodes[0], truth


def dice(one, other):
    """Overlap of two masks."""
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def _person(number):
    """Image and label map of the first, second and third person, as SimpleITK images."""
    import SimpleITK as sitk
    if DATA is None:
        return _head(number)
    name = ("1000", "1001", "1113")[number]
    image, labels = (sitk.ReadImage(str(DATA / "malf" / f"{name}_{kind}.nii.gz")) for kind in ("t1", "glm"))
    array = sitk.GetArrayFromImage(labels)
    kept = sitk.GetImageFromArray(np.where(np.isin(array, list(STRUCTURES)), array, 0).astype(np.int16))
    kept.CopyInformation(labels)
    size = [int(n * s / SPACING) for n, s in zip(image.GetSize(), image.GetSpacing())]
    return (sitk.Resample(sitk.SmoothingRecursiveGaussian(image, 1.0), size, sitk.Transform(), sitk.sitkLinear,
                          image.GetOrigin(), [SPACING] * 3, image.GetDirection(), 0, sitk.sitkFloat32),
            sitk.Resample(kept, size, sitk.Transform(), sitk.sitkNearestNeighbor, image.GetOrigin(), [SPACING] * 3,
                          image.GetDirection(), 0, sitk.sitkInt16))


def _head(number):
    """A made-up head with two ventricles and two "thalami"."""
    import slicer
    from SynthMorphSlicerLib import scene
    from SynthMorphSlicerLib.selftest import headVolume
    node = headVolume("head", ((6.0, -3.0, 2.0), (-5.0, 4.0, 3.0), (0.0, 0.0, 0.0))[number])
    array, place = slicer.util.arrayFromVolume(node).copy(), scene.ijkToRAS(node)
    slicer.mrmlScene.RemoveNode(node)
    left = np.broadcast_to(np.arange(array.shape[2]) < array.shape[2] // 2, array.shape)
    labels = np.zeros(array.shape, np.int16)
    labels[(array == 20) & left], labels[(array == 20) & ~left] = 52, 51
    labels[(array == 80) & left], labels[(array == 80) & ~left] = 60, 59
    return scene.toImage(array, place), scene.toImage(labels, place)


def _write(image, path):
    import SimpleITK as sitk
    sitk.WriteImage(image, str(path), True)
