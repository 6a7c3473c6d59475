"""The worker's words for what it does, in the user's language."""

from slicer.i18n import tr as _

STAGES = {"loading model": _("Loading the model"), "preparing images": _("Preparing the images"),
          "affine transform": _("Affine transform"), "deformable transform": _("Deformable transform"),
          "refinement": _("Refinement"), "writing transforms": _("Writing transforms"),
          "writing results": _("Writing results"), "reading the atlases": _("Reading the atlases"),
          "starting": _("Starting"), "fusing": _("Fusing"), "moving": _("Moving"), "Jacobian": _("Jacobian map"),
          "carrying labels": _("Carrying labels along"), "trying again on the CPU": _("Trying again on the CPU"),
          "reading the images": _("Reading the images"), "measuring": _("Measuring"),
          "looking for hot spots": _("Looking for hot spots"), "judging": _("Judging"),
          "writing the report": _("Writing the report"), "correcting": _("Correcting"),
          "joining the correction": _("Joining the correction"), "downloading": _("Downloading"), "done": _("Done")}


def label(stage):
    """What to show for a stage, which may be one of a part of the work: "lambda 0.3: refinement"."""
    part, colon, name = stage.rpartition(": ")
    return f"{part}{colon}{STAGES.get(name, name)}"
