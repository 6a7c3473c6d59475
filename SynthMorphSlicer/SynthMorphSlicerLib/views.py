"""The slice views themselves: where they look, and pictures of them.  Without a main window nothing happens."""

from pathlib import Path

import slicer
import vtk
from slicer.i18n import tr as _

_modes = []  # that the crosshair had before anything was marked with it


def crosshair():
    """The scene's crosshair, or None."""
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")


def jumpTo(ras):
    """Centre all slice views on a point of the world, and mark it with the crosshair."""
    slicer.modules.markups.logic().JumpSlicesToLocation(*ras, True)
    node = crosshair()
    if node is not None:
        if not _modes:
            _modes.append(node.GetCrosshairMode())
        node.SetCrosshairRAS(*ras)
        node.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowBasic)


def restoreCrosshair():
    """Show the crosshair as it was before :func:`jumpTo`, or hide it again."""
    node = crosshair()
    if node is not None and _modes:
        node.SetCrosshairMode(_modes[0])
    _modes.clear()


def show(volumeNode):
    """Show a volume in the slice views unless it is there already."""
    shown = {node.GetBackgroundVolumeID() for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")}
    if volumeNode.GetID() not in shown and slicer.app.layoutManager() is not None:
        slicer.util.setSliceViewerLayers(background=volumeNode, foreground=None, fit=True)


def shownSliceWidgets():
    """The slice widgets of the present layout that show a volume, by name."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return {}
    shown = _shownNames(manager, "vtkMRMLSliceNode")
    widgets = {name: manager.sliceWidget(name) for name in manager.sliceViewNames()}
    return {name: widget for name, widget in widgets.items() if (not shown or name in shown) and
            widget.mrmlSliceNode() is not None and
            widget.sliceLogic().GetSliceCompositeNode().GetBackgroundVolumeID() is not None}


def shownThreeDViews():
    """The 3D views of the present layout."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return []
    shown = _shownNames(manager, "vtkMRMLViewNode")
    views = [manager.threeDWidget(index).threeDView() for index in range(manager.threeDViewCount)]
    return [view for view in views if not shown or view.mrmlViewNode().GetLayoutName() in shown]


def takePictures(folder, threeD=False):
    """The views as a person sees them now: (caption, path of a PNG) pairs.

    :param threeD: the 3D views, too.
    """
    seen = []
    for widget in shownSliceWidgets().values():
        node = widget.mrmlSliceNode()
        seen.append((f"{node.GetOrientation()}, {node.GetSliceOffset():.1f} mm", widget.sliceView()))
    seen += [(_("3D: surfaces coloured by displacement"), view) for view in (shownThreeDViews() if threeD else ())]
    pictures = []
    for caption, view in seen:
        path = Path(folder) / f"{len(pictures)}.png"
        view.forceRender()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(view.renderWindow())
        grab.ReadFrontBufferOff()
        writer = vtk.vtkPNGWriter()
        writer.SetFileName(str(path))
        writer.SetInputConnection(grab.GetOutputPort())
        writer.Write()
        pictures.append((caption, str(path)))
    return pictures


def _shownNames(manager, kind):
    nodes = manager.layoutLogic().GetViewNodes()
    found = [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]
    return {node.GetLayoutName() for node in found if node.IsA(kind)}
