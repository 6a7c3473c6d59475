"""The in-Slicer unit test of Testing/Python, on the test host."""

import unittest

import pytest


@pytest.mark.parametrize("name", [
    "test_signs", "test_imageGeometry", "test_transformEqualsWorker", "test_movingViewedEqualsMoved",
    "test_saveAndReload", "test_attachKeepsLinearParent", "test_refusals", "test_segmentsKeepEverything",
    "test_labelMapsBecomeSegments", "test_carriedPointsAndModels", "test_jacobianMap",
    "test_displacementMagnitudeAndGrid", "test_keptResults", "test_surfacesShowDisplacement", "test_curveAndPDF",
    "test_viewsAreRestored"])
def test_scene(module, name):
    from SynthMorphSceneTest import SynthMorphSceneTest
    result = unittest.TestResult()
    SynthMorphSceneTest(name).run(result)
    problems = [text for _, text in result.failures + result.errors]
    assert not problems, problems[0]
    assert result.testsRun == 1
