"""The host's PythonQt accent: what module code may assume must hold here too."""

import pytest


def test_properties_are_attributes(host):
    import qt
    button = qt.QPushButton("Register")
    assert button.text == "Register" and button.enabled and button.name == ""
    button.text = "Cancel"
    assert button.text == "Cancel"
    with pytest.raises(TypeError):
        button.text()
    with pytest.raises(AttributeError):
        button.txet = "misspelt"
    with pytest.raises(AttributeError):
        button.text = 3
    box = qt.QSpinBox()
    box.value = 3.7
    assert box.value == 3


def test_signals_by_name_and_by_attribute(host):
    import qt
    button, heard = qt.QPushButton(), []

    def first(checked):
        heard.append(checked)

    button.connect("clicked(bool)", first)
    button.clicked.connect(lambda: heard.append("attribute"))
    button.click()
    button.disconnect("clicked(bool)", first)
    button.click()
    assert heard == [False, "attribute", "attribute"]


def test_ctk_and_mrml_widgets(host):
    import ctk
    import slicer
    with pytest.raises(ValueError):
        ctk.ctkCollapsibleButton("text")
    slider, heard = ctk.ctkSliderWidget(), []
    slider.minimum, slider.maximum = 0.01, 0.99
    slider.connect("valueChanged(double)", lambda value: heard.append(value))
    slider.value = 5.0
    assert slider.value == 0.99 and heard[-1] == 0.99
    slider.singleStep = 0.05
    slider.value = 0.35
    assert slider.value == heard[-1] == 7 * 0.05 != 0.35
    slicer.mrmlScene.Clear(0)
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.noneEnabled = True
    selector.setMRMLScene(slicer.mrmlScene)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "a")
    assert selector.currentNode() is None and selector.nodeCount() == 1
    selector.setCurrentNode(node)
    assert selector.currentNode() is node
    slicer.mrmlScene.RemoveNode(node)
    assert selector.currentNode() is None
    selector.setMRMLScene(None)


def test_views_draw(host):
    import numpy as np
    import slicer
    from SynthMorphSlicerLib.selftest import headVolume
    slicer.mrmlScene.Clear(0)
    slicer.util.setSliceViewerLayers(background=headVolume("head"), fit=True)
    picture = slicer.app.layoutManager().sliceWidget("Red").picture((120, 120))
    assert picture.shape == (120, 120, 3) and np.ptp(picture) > 100
    slicer.mrmlScene.Clear(0)


def test_refused_connections(host):
    """A bounded slider for an unbounded number, a widget of the wrong type: Slicer raises, so the host must."""
    import ctk
    import parameternode
    import qt
    with pytest.raises(RuntimeError):
        parameternode._connector(ctk.ctkSliderWidget(), parameternode.Parameter("x", float, 0.5))
    with pytest.raises(RuntimeError):
        parameternode._connector(qt.QSpinBox(), parameternode.Parameter("x", float, 0.5))
