"""Structures of atlases as segments, and back: names, colours, terminology.

The engine keeps of a structure whatever columns its table has.  Those that Slicer writes into colour tables
(``Type_CodeMeaning`` and so on) become a segment's terminology here, and a terminology becomes such columns.
"""

import slicer
import vtk

TERMINOLOGY = "TerminologyEntry"  # Slicer's name of the tag
PARTS = ("Category", "Type", "TypeModifier", "Region", "RegionModifier")
FIELDS = ("CodingScheme", "CodeValue", "CodeMeaning")
COLUMNS = tuple(f"{part}_{field}" for part in PARTS for field in FIELDS)
LARGEST = 32767  # label that a written label map can hold
PREFIX = "Label_"  # of the IDs of segments that stand for labels of an atlas


def segmentOf(structure):
    """ID and segment of a structure as the worker describes it: ``label``, ``name``, ``colour``, ``terminology``."""
    segment = slicer.vtkSegment()
    segment.SetName(structure["name"])
    segment.SetColor(*[part / 255 for part in structure["colour"]])
    segment.SetLabelValue(structure["label"])
    for key, value in _tags(structure["terminology"]).items():
        segment.SetTag(key, value)
    return f"{PREFIX}{structure['label']}", segment


def numbersOf(known):
    """Label of each segment by ID: that of the atlas it came from, else its own value, else one that is free.

    :param known: list of (ID, segment).
    """
    numbers = {identifier: int(identifier[len(PREFIX):]) for identifier, _segment in known
               if identifier.startswith(PREFIX) and identifier[len(PREFIX):].isdigit()}
    for identifier, segment in known:
        if identifier not in numbers:
            taken = set(numbers.values())
            number = segment.GetLabelValue()
            numbers[identifier] = number if 0 < number <= LARGEST and number not in taken else next(
                free for free in range(1, LARGEST) if free not in taken)
    return numbers


def rowOf(label, segment):
    """The row of a segment in a colour table, by column."""
    entry = columns(tagOf(segment, TERMINOLOGY))
    red, green, blue = (round(255 * part) for part in segment.GetColor())
    return {"LabelValue": label, "Name": segment.GetName(), "Color_R": red, "Color_G": green, "Color_B": blue,
            "Color_A": 255, **{column: entry.get(column, "") for column in COLUMNS}}


def tagOf(segment, name):
    """A tag of a segment, or an empty string."""
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else ""


def columns(entry):
    """A terminology entry of a segment as columns of a colour table."""
    words = entry.split("~")
    if len(words) < 4:
        return {}
    codes = [*words[1:4], *words[5:7]]  # between them stands the name of the list of regions
    return {f"{part}_{field}": text for part, code in zip(PARTS, codes) for field, text in zip(FIELDS, code.split("^"))}


def entryOf(terminology):
    """Columns of a colour table as a terminology entry; an empty string if they name no type."""
    codes = ["^".join(terminology.get(f"{part}_{field}", "") for field in FIELDS) for part in PARTS]
    return "~".join(["", *codes[:3], "", *codes[3:]]) if terminology.get("Type_CodeValue") else ""


def _tags(terminology):
    """Tags of a segment from what a table, or the header of a segmentation file, said about it."""
    if terminology.get("Tags"):
        pairs = [tag.partition(":") for tag in terminology["Tags"].split("|")]
        return {key: value for key, _colon, value in pairs if key}
    entry = entryOf(terminology)
    return {TERMINOLOGY: entry} if entry else {}
