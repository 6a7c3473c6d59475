"""The slice views themselves: where they look, and pictures of them.  Without a main window nothing happens."""

from pathlib import Path

import slicer
import vtk


def jumpTo(ras):
    """Centre all slice views on a point of the world, and mark it with the crosshair."""
    slicer.modules.markups.logic().JumpSlicesToLocation(*ras, True)
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        crosshair.SetCrosshairRAS(*ras)
        crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowBasic)


def show(volumeNode):
    """Show a volume in the slice views unless it is there already."""
    composites = slicer.mrmlScene.GetNodesByClass("vtkMRMLSliceCompositeNode")
    shown = {composites.GetItemAsObject(n).GetBackgroundVolumeID() for n in range(composites.GetNumberOfItems())}
    if volumeNode.GetID() not in shown and slicer.app.layoutManager() is not None:
        slicer.util.setSliceViewerLayers(background=volumeNode, foreground=None, fit=True)


def shownSliceWidgets():
    """The slice widgets of the present layout that show a volume, by name."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return {}
    nodes = manager.layoutLogic().GetViewNodes()
    shown = {nodes.GetItemAsObject(index).GetLayoutName() for index in range(nodes.GetNumberOfItems())}
    widgets = {name: manager.sliceWidget(name) for name in manager.sliceViewNames()}
    return {name: widget for name, widget in widgets.items() if (not shown or name in shown) and
            widget.mrmlSliceNode() is not None and
            widget.sliceLogic().GetSliceCompositeNode().GetBackgroundVolumeID() is not None}


def takePictures(folder):
    """The slice views as a person sees them now: (caption, path of a PNG) pairs."""
    pictures = []
    for widget in shownSliceWidgets().values():
        view, path = widget.sliceView(), Path(folder) / f"{len(pictures)}.png"
        view.forceRender()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(view.renderWindow())
        grab.ReadFrontBufferOff()
        writer = vtk.vtkPNGWriter()
        writer.SetFileName(str(path))
        writer.SetInputConnection(grab.GetOutputPort())
        writer.Write()
        node = widget.mrmlSliceNode()
        pictures.append((f"{node.GetOrientation()}, {node.GetSliceOffset():.1f} mm", str(path)))
    return pictures
