"""Two volumes in one picture: squares, a curtain, their difference, the edges of one on the other.

All take arrays (k, j, i) on one grid as they are shown, 0 black and 1 white, and give what is shown between 0 and 1.
"""

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

SQUARES = 8  # of the checkerboard, along the longest axis
EDGE_SHARE = 0.06  # of the voxels that are drawn as edges
SMOOTH_MM = 1.0


def checkerboard(first, second, spacing):
    """Cubes of two arrays in turn; spacing (i, j, k) in mm keeps them cubes in the world."""
    side = max(n * s for n, s in zip(first.shape[::-1], spacing)) / SQUARES
    k, j, i = (np.floor(np.arange(n) * s / side).astype(int) for n, s in zip(first.shape, spacing[::-1]))
    odd = (k[:, None, None] + j[None, :, None] + i[None, None, :]) % 2
    return np.where(odd, second, first).astype(np.float32)


def curtain(first, second, ijkToRAS, share):
    """The first array on one side of a plane, the second on the other; ``share`` (0 to 1) is where it hangs.

    The plane is perpendicular to the array's axis that runs most from left to right; the first array lies left of it
    on the screen of a radiologist's view, that is on the patient's right.
    """
    axis = int(np.argmax(np.abs(ijkToRAS[0, :3])))  # of i, j, k
    number = first.shape[2 - axis]
    place = (np.arange(number) + 0.5) / number
    place = 1 - place if ijkToRAS[0, axis] > 0 else place  # 0 on the patient's right
    shape = [1, 1, 1]
    shape[2 - axis] = number
    return np.where(place.reshape(shape) < share, first, second).astype(np.float32)


def difference(first, second):
    """Grey where the two are alike, darker or brighter where the second is."""
    return (0.5 + 0.5 * (second - first)).astype(np.float32)


def edges(first, second, spacing):
    """The first array, dimmed, with the strongest edges of the second in white."""
    strength = _gradient(second, spacing)
    limit = np.quantile(strength, 1 - EDGE_SHARE)
    return np.where((strength > limit) & (strength > 0), 1.0, 0.7 * first).astype(np.float32)


def _gradient(array, spacing):
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[::-1])
    image.SetSpacing(*spacing)
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array, np.float32).ravel(), deep=True))
    smooth = vtk.vtkImageGaussianSmooth()
    smooth.SetInputData(image)
    smooth.SetStandardDeviations(*[SMOOTH_MM / s for s in spacing])
    magnitude = vtk.vtkImageGradientMagnitude()
    magnitude.SetInputConnection(smooth.GetOutputPort())
    magnitude.SetDimensionality(3)
    magnitude.Update()
    return vtk_to_numpy(magnitude.GetOutput().GetPointData().GetScalars()).reshape(array.shape)
