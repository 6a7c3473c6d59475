"""The in-Slicer unit tests of Testing/Python, on the test host."""

import importlib
import re
import unittest

import pytest
from workplace import ROOT

CASES = [(path.stem, name) for path in sorted((ROOT / "Testing" / "Python").glob("*Test.py"))
         for name in re.findall(r"    def (test_\w+)\(self\)", path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("case", "name"), CASES)
def test_scene(module, case, name):
    result = unittest.TestResult()
    getattr(importlib.import_module(case), case)(name).run(result)
    problems = [text for _, text in result.failures + result.errors]
    assert not problems, problems[0]
    assert result.testsRun == 1
