"""The extension as the Extensions Index and CMake see it; needs neither Slicer nor the test host."""

import ast
import json
import re
import struct
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "SynthMorphSlicer"
sys.path.insert(0, str(MODULE))
CMAKE = (ROOT / "CMakeLists.txt").read_text()
UI = sorted((MODULE / "Resources/UI").glob("*.ui"))


def listed(name):
    block = re.search(rf"set\({name}\n(.*?)\)", (MODULE / "CMakeLists.txt").read_text(), re.DOTALL)
    return block.group(1).split()


def metadata(name):
    return re.search(rf'^set\({name} "([^"\n]*)"\)$', CMAKE, re.MULTILINE).group(1)


def test_every_python_file_is_listed():
    there = {path.relative_to(MODULE).as_posix() for path in MODULE.rglob("*.py") if "__pycache__" not in path.parts}
    assert set(listed("MODULE_PYTHON_SCRIPTS")) == there


def test_every_resource_is_listed():
    there = {path.relative_to(MODULE).as_posix() for path in (MODULE / "Resources").rglob("*") if path.is_file()}
    assert set(listed("MODULE_PYTHON_RESOURCES")) == there


def test_index_entry_and_cmake_agree():
    entry = json.loads((ROOT / "SynthMorph.json").read_text())
    assert b"\r" not in (ROOT / "SynthMorph.json").read_bytes()
    assert set(entry) == {"$schema", "build_dependencies", "build_subdirectory", "category", "scm_revision", "scm_url",
                          "tier"}
    assert entry["category"] == "Registration"
    assert entry["build_dependencies"] == metadata("EXTENSION_DEPENDS").split() == ["PyTorch"]
    assert "project(SynthMorph)" in CMAKE
    repository = entry["scm_url"].removesuffix(".git").rsplit("/", 1)[1]
    assert repository.startswith("Slicer")
    assert entry["scm_url"].removesuffix(".git") == metadata("EXTENSION_HOMEPAGE")


def test_pictures_of_the_index_are_in_the_repository():
    for url in [metadata("EXTENSION_ICONURL"), *metadata("EXTENSION_SCREENSHOTURLS").split()]:
        picture = ROOT / url.split("/main/", 1)[1]
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n", picture
    icon = (ROOT / "Resources/Icons/SynthMorphSlicer.png").read_bytes()
    assert struct.unpack(">II", icon[16:24]) == (128, 128)
    assert (MODULE / "Resources/Icons/SynthMorphSlicer.svg").is_file()
    assert (ROOT / "LICENSE.txt").is_file()


def test_files_read_at_start_up_import_nothing_heavy():
    """Slicer's own and small modules only; torch never, in the whole Slicer wing."""
    allowed = set(sys.stdlib_module_names) | {"slicer", "vtk", "qt", "ctk", "numpy", "SynthMorphSlicerLib"}
    for path in [MODULE / "SynthMorphSlicer.py", *(MODULE / "SynthMorphSlicerLib").glob("*.py")]:
        tree = ast.parse(path.read_text())
        for node in tree.body:
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                     [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else [])
            for name in names:
                assert name.split(".")[0] in allowed or name == "synthmorph_torch", f"{path.name} imports {name}"
        assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))
                    and "torch" in ast.dump(node) and "synthmorph_torch" not in ast.dump(node)], path


def test_reload_knows_every_module():
    from SynthMorphSlicerLib import MODULES
    there = {path.stem for path in (MODULE / "SynthMorphSlicerLib").glob("*.py")} - {"__init__"}
    assert set(MODULES) == there
    for position, name in enumerate(MODULES):  # each after those it imports
        tree = ast.parse((MODULE / "SynthMorphSlicerLib" / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                imported = [node.module] if node.module else [alias.name for alias in node.names]
                assert all(MODULES.index(other) < position for other in imported), name


def test_ui_hands_the_scene_to_every_selector_and_names_real_parameters():
    names, bound = [], set()
    for path in UI:
        tree = ElementTree.parse(path)
        selectors = {widget.get("name") for widget in tree.iter("widget") if "NodeComboBox" in widget.get("class")}
        connected = {connection.findtext("receiver") for connection in tree.iter("connection")
                     if connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"}
        assert selectors == connected, path
        bound |= {prop.findtext("string") for prop in tree.iter("property")
                  if prop.get("name") == "SlicerParameterName"}
        names += [widget.get("name") for widget in tree.iter("widget")]
    source = (MODULE / "SynthMorphSlicerLib/parameters.py").read_text()
    members = set(re.findall(r"^    (\w+): ", source, re.MULTILINE))
    assert bound <= members and members - bound == {"carriedLabels", "carriedPoints", "device", "reviewSegment",
                                                    "initials", "signComment", "atlases", "movingItems"}
    assert len(names) == len(set(names))  # the panel has them in one place


def test_paths_are_of_files_or_of_folders():
    """In the .ui file, because the names of these filters cannot be reached from Python in every build on Qt 6."""
    filters = {widget.get("name"): prop.findtext("set") for path in UI
               for widget in ElementTree.parse(path).iter("widget") for prop in widget.findall("property")
               if widget.get("class") == "ctkPathLineEdit" and prop.get("name") == "filters"}
    assert filters == {"pythonPathLineEdit": "ctkPathLineEdit::Files", "weightsPathLineEdit": "ctkPathLineEdit::Dirs",
                       "transformPathLineEdit": "ctkPathLineEdit::Files"}


def test_the_tutorial_presses_buttons_that_are_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tutorial = re.search(r"### Tutorial\n(.*?)\n### If something goes wrong", readme, re.DOTALL).group(1)
    pressed = {" ".join(name.split()) for name in re.findall(r"\*\*([^*]+)\*\*", tutorial)}
    buttons = {text.findtext("string") for path in UI for widget in ElementTree.parse(path).iter("widget")
               if widget.get("class") == "QPushButton" for text in widget.findall("property")
               if text.get("name") == "text"}
    pressed = {name for name in pressed if not name.endswith(".")}  # those that end so are headings
    data = {"CT-MR Brain", "MRHead", "Lambda", "Jacobian map", "Stop, keep what is done"}  # no buttons, or renamed ones
    assert len(pressed) > 25 and pressed - data <= buttons


def test_every_stage_of_the_worker_has_words_in_the_panel():
    sources = [*(MODULE / "synthmorph_torch").glob("worker*.py"), MODULE / "synthmorph_torch/registration.py",
               MODULE / "synthmorph_torch/transfer.py", MODULE / "synthmorph_torch/review/__init__.py"]
    told = {stage for path in sources for stage in re.findall(
        r'(?:report|start|tell|progress)\((?:stage=)?"([^"]+)"', path.read_text())}
    known = set(re.findall(r'"([^"]+)": _\(', (MODULE / "SynthMorphSlicerLib/stages.py").read_text()))
    assert len(told) > 12 and told <= known


@pytest.mark.parametrize("path", sorted((MODULE / "SynthMorphSlicerLib").glob("*.py")), ids=lambda path: path.name)
def test_slicer_wing_reads_on_every_supported_python(path):
    """Slicer 5.10 has Python 3.12; nothing newer is used."""
    ast.parse(path.read_text(), feature_version=(3, 10))


def test_everything_one_can_touch_has_a_tool_tip():
    kinds = ("QPushButton", "QCheckBox", "QComboBox", "QSpinBox", "ctkSliderWidget", "ctkPathLineEdit",
             "qMRMLNodeComboBox", "qMRMLCheckableNodeComboBox", "QTableWidget", "QLineEdit")
    widgets = [widget for path in UI for widget in ElementTree.parse(path).iter("widget")
               if widget.get("class") in kinds]
    assert len(widgets) > 30
    for widget in widgets:
        tips = [prop.findtext("string") for prop in widget.findall("property") if prop.get("name") == "toolTip"]
        assert tips and tips[0], widget.get("name")
