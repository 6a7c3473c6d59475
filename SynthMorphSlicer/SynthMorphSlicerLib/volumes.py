"""How large each structure of a segmentation is: in cubic millimetres, left against right, against the atlas.

    rows = volumes.table(segmentationNode)  # as the segmentation is now, with what a person has corrected
    print(tables.asCSV(volumes.titles(), rows))
"""

import json

from slicer.i18n import tr as _

from . import scene, segments

ATLAS_VOLUMES = scene.ATTRIBUTE + "atlasVolumes"  # attribute: mm3 in the atlases by segment ID


def titles():
    """Column titles of :func:`table`."""
    return [_("Structure"), _("mm³"), _("Asymmetry %"), _("Atlas mm³"), _("Change %")]


def table(segmentationNode):
    """One row of text for each segment.

    Volumes are in cubic millimetres.  Asymmetry is 100 (left - right) / mean of both, where the names tell the sides;
    change is against the mean of the atlases, where the segmentation came from atlases.
    """
    from synthmorph_torch.volumes import compare
    sizes = segments.sizesOf(segmentationNode)
    atlas = atlasVolumes(segmentationNode)
    numbers = {identifier: number for number, identifier in enumerate(sizes)}
    names = {numbers[i]: segmentationNode.GetSegmentation().GetSegment(i).GetName() for i in sizes}
    rows = compare({numbers[i]: volume for i, (_voxels, volume) in sizes.items()},
                   {numbers[i]: voxels for i, (voxels, _volume) in sizes.items()}, names,
                   [{numbers[i]: volume for i, volume in atlas.items() if i in numbers}])
    return [[row.name, f"{row.volume_mm3:.0f}", _text(row.asymmetry_percent, "+.1f"),
             _text(row.atlas_mm3, ".0f"), _text(row.change_percent, "+.1f")] for row in rows]


def atlasVolumes(segmentationNode):
    """Mean volume in the atlases, mm3, by segment ID; empty for a segmentation that did not come from atlases."""
    try:
        return json.loads(segmentationNode.GetAttribute(ATLAS_VOLUMES) or "{}")
    except ValueError:  # somebody else wrote there
        return {}


def _text(value, form):
    return "" if value is None else format(value, form)
