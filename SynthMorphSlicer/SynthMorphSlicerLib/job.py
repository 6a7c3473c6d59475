"""What a registration is asked to do, and what came of it, in plain values and node IDs."""

from dataclasses import dataclass, field

OUTPUTS = ("transform", "volume", "jacobian", "segmentation")
CLASSES = {"transform": "vtkMRMLTransformNode", "volume": "vtkMRMLScalarVolumeNode",
           "jacobian": "vtkMRMLScalarVolumeNode", "segmentation": "vtkMRMLSegmentationNode"}


class InputError(ValueError):
    """The inputs cannot be registered; the text is one sentence for the user."""


@dataclass
class Settings:
    """How to register; see :meth:`RegistrationLogic.register` for the meaning of each."""

    transform: str = "joint"
    regularization: float = 0.5
    model: str = "auto"
    device: str = "auto"
    extent: int = 256
    steps: int = 7
    refinement: int | None = None
    precision: str = "full"
    threads: int = 0

    def request(self, preview=False):
        """What the worker is told of them, whatever it is asked to register."""
        options = {"transform": self.transform, "regularization": self.regularization, "extent": self.extent,
                   "steps": self.steps, "refine": self.refinement, "preview": preview}
        return {"options": options, "model": self.model, "device": self.device, "precision": self.precision,
                "threads": self.threads}


def lambdaOf(parameters):
    """The lambda of a parameter node, which holds the slider's sums of steps, such as 0.35000000000000003."""
    return round(parameters.regularization, 2)


def isSameLambda(first, second):
    """True if two lambdas are one to the slider, which shows two decimals."""
    return abs(first - second) < 0.005


def settingsOf(parameters):
    """How to register, as a parameter node says."""
    return Settings(
        transform=parameters.transformType.value, regularization=lambdaOf(parameters),
        model=parameters.model.value, device=parameters.device, extent=parameters.extent, steps=parameters.steps,
        refinement=None if parameters.refinement < 0 else parameters.refinement,
        precision=parameters.precision.value, threads=parameters.threads)


@dataclass
class Job:
    """One registration: what goes in, what is wanted, and what came out.  Nodes are kept by ID, never by pointer."""

    fixedID: str
    movingID: str
    settings: Settings
    wanted: dict  # output name -> node ID to update, "" for a new node; absent if not wanted
    labelIDs: tuple = ()
    pointIDs: tuple = ()
    initialID: str = ""
    attach: bool = False
    replaceEdited: bool = False
    preview: bool = False  # without the finest part of the refinement that its settings ask for
    folder: str = ""
    labelFiles: list = field(default_factory=list)
    layers: list = field(default_factory=list)  # (segments) of each file, in the order of the files
    empty: list = field(default_factory=list)
    carried: dict = field(default_factory=dict)  # ID of a markup or model -> ID of its copy
    outputs: dict = field(default_factory=dict)  # output name -> node
    started: float = 0.0
    provenance: dict = field(default_factory=dict)
    note: str = ""
    reason: str = ""  # why this model was used
    goesOn: bool = False  # in full from a preview of the same lambda
    kept: str = ""  # what was said of a segmentation that was changed by hand
    seconds: float = 0.0
    fingerprint: str = ""  # of the transform as the worker gave it
