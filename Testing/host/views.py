"""Real MRML slice and 3D views drawn off screen: VTK on EGL, Slicer's own slice logics and displayable managers.

The layout manager around them is a stand-in: three slice views and one 3D view that are always there.
"""

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

SLICE_MANAGERS = ("vtkMRMLVolumeGlyphSliceDisplayableManager", "vtkMRMLModelSliceDisplayableManager",
                  "vtkMRMLTransformsDisplayableManager2D", "vtkMRMLSegmentationsDisplayableManager2D",
                  "vtkMRMLMarkupsDisplayableManager", "vtkMRMLColorLegendDisplayableManager")
THREED_MANAGERS = ("vtkMRMLCameraDisplayableManager", "vtkMRMLViewDisplayableManager", "vtkMRMLModelDisplayableManager",
                   "vtkMRMLTransformsDisplayableManager3D", "vtkMRMLSegmentationsDisplayableManager3D",
                   "vtkMRMLThreeDReformatDisplayableManager", "vtkMRMLColorLegendDisplayableManager")


class _View:
    """One off-screen render window with the displayable managers of its kind, made at the first render."""

    def __init__(self, node, factory, managers, applicationLogic):
        self._node, self._factory, self._managers, self._applicationLogic = node, factory, managers, applicationLogic
        self._window = None

    def _make(self, size):
        self._renderer = vtk.vtkRenderer()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.SetSize(*size)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._factory.SetMRMLApplicationLogic(self._applicationLogic)
        for name in self._managers:
            if not self._factory.IsDisplayableManagerRegistered(name):
                self._factory.RegisterDisplayableManager(name)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.Initialize(self._factory, self._renderer)
        self._group.SetMRMLDisplayableNode(self._node)

    def forceRender(self, size=(400, 400)):
        if self._window is None:
            self._make(size)
        self._prepare(self._window.GetSize())
        self._window.Render()

    def picture(self, size=(400, 400)):
        """Render and return the pixels as an array (rows from the top, columns, RGB)."""
        if self._window is None:
            self._make(size)
        self._window.SetSize(*size)
        self.forceRender()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.ReadFrontBufferOff()
        grab.ShouldRerenderOff()
        grab.Update()
        image = grab.GetOutput()
        columns, rows, _ = image.GetDimensions()
        return np.flipud(vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1))[..., :3].copy()

    def _prepare(self, size):
        pass

    def renderWindow(self):
        return self._window

    def close(self):
        if self._window is not None:
            self._group.SetMRMLDisplayableNode(None)
            self._window.Finalize()
            self._window = None


class SliceWidget(_View):
    """qMRMLSliceWidget: a slice node, its logic and, when rendered, the picture."""

    def __init__(self, name, orientation, applicationLogic, scene, node=None):
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(applicationLogic)
        self._logic.SetMRMLScene(scene)
        if node is None:
            node = self._logic.AddSliceNode(name)
            node.SetOrientation(orientation)
        else:  # the layout has made it
            self._logic.SetSliceNode(node)
        node.SetDimensions(400, 400, 1)
        applicationLogic.GetSliceLogics().AddItem(self._logic)
        super().__init__(node, slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), SLICE_MANAGERS,
                         applicationLogic)
        self._logic.GetSliceCompositeNode().SetLayoutName(name)

    def mrmlSliceNode(self):
        return self._node

    def sliceLogic(self):
        return self._logic

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def sliceView(self):
        return self

    def _make(self, size):
        super()._make(size)
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(self._logic.GetImageDataConnection())
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self._image = (mapper, actor)
        self._renderer.AddViewProp(actor)

    def _prepare(self, size):
        self._logic.ResizeSliceNode(*size)
        self._logic.UpdatePipeline()
        connection = self._logic.GetImageDataConnection()
        self._image[1].SetVisibility(connection is not None)
        if connection is not None:
            self._image[0].SetInputConnection(connection)


class ThreeDWidget(_View):
    def __init__(self, applicationLogic, scene):
        node = scene.AddNewNodeByClass("vtkMRMLViewNode", "View1")
        node.SetLayoutName("1")
        super().__init__(node, slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), THREED_MANAGERS,
                         applicationLogic)

    def threeDView(self):
        return self

    def mrmlViewNode(self):
        return self._node

    def resetFocalPoint(self):
        self.resetCamera()

    def resetCamera(self):
        if self._window is not None:
            self._renderer.ResetCamera()


class LayoutManager:
    """slicer.app.layoutManager(): the views by name, and the layout node without the arranging of widgets."""

    def __init__(self, applicationLogic, scene):
        self._slices = {name: SliceWidget(name, orientation, applicationLogic, scene) for name, orientation in
                        (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal"))}
        self._threeD = ThreeDWidget(applicationLogic, scene)
        self._applicationLogic, self._scene = applicationLogic, scene
        self._layoutLogic = slicer.vtkMRMLLayoutLogic()
        self._layoutLogic.SetMRMLScene(scene)
        self._layoutLogic.GetLayoutNode().AddObserver(vtk.vtkCommand.ModifiedEvent, self._onLayoutChanged)

    def _onLayoutChanged(self, layoutNode, event):
        """Make the slice views that a layout needs, as Slicer does; they stay when the layout goes."""
        wanted = self._layoutLogic.GetViewNodes()
        for index in range(wanted.GetNumberOfItems()):
            node = wanted.GetItemAsObject(index)
            if node.IsA("vtkMRMLSliceNode") and node.GetLayoutName() not in self._slices:
                self._slices[node.GetLayoutName()] = SliceWidget(node.GetLayoutName(), node.GetOrientation(),
                                                                 self._applicationLogic, self._scene, node)

    def sliceViewNames(self):
        return tuple(self._slices)

    def sliceWidget(self, name):
        return self._slices.get(name)

    def mrmlSliceLogics(self):
        return self._applicationLogic.GetSliceLogics()

    def threeDViewCount(self):
        return 1

    threeDViewCount = property(threeDViewCount)

    def threeDWidget(self, index):
        return self._threeD

    def layoutLogic(self):
        return self._layoutLogic

    @property
    def layout(self):
        return self._layoutLogic.GetLayoutNode().GetViewArrangement()

    def setLayout(self, layout):
        self._layoutLogic.GetLayoutNode().SetViewArrangement(layout)

    def resetSliceViews(self):
        for widget in self._slices.values():
            widget.sliceLogic().FitSliceToBackground()

    def resetThreeDViews(self):
        self._threeD.resetFocalPoint()

    def close(self):
        for view in (*self._slices.values(), self._threeD):
            view.close()
