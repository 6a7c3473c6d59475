"""The typed parameter node: everything a user can set, saved with the scene."""

import enum
from typing import Annotated

from slicer import (
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTransformNode,
)
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

# Enumerations are saved by name: renaming a member breaks saved scenes.


class TransformType(enum.Enum):
    """What the registration may do to the moving volume; the values are the engine's names."""

    JOINT = "joint"
    AFFINE = "affine"
    RIGID = "rigid"
    DEFORMABLE = "deform"

    def label(self):
        return {TransformType.JOINT: _("Affine and deformable"), TransformType.AFFINE: _("Affine only"),
                TransformType.RIGID: _("Rigid only"),
                TransformType.DEFORMABLE: _("Deformable only (already aligned)")}[self]

    def deforms(self):
        """True if lambda has a meaning."""
        return self in (TransformType.JOINT, TransformType.DEFORMABLE)


class ModelChoice(enum.Enum):
    """Which weights to use."""

    AUTO = "auto"
    OFFICIAL = "official"
    COMPACT = "compact"

    def label(self):
        return {ModelChoice.AUTO: _("Official if found, else compact"), ModelChoice.OFFICIAL: _("Official SynthMorph"),
                ModelChoice.COMPACT: _("Compact (comes with this extension)")}[self]


class Fusion(enum.Enum):
    """How the labels of several atlases become one; the values are the engine's names."""

    LOCAL = "local"
    MAJORITY = "majority"
    STAPLE = "staple"

    def label(self):
        return {Fusion.LOCAL: _("Local similarity"), Fusion.MAJORITY: _("Majority"), Fusion.STAPLE: _("STAPLE")}[self]


class Direction(enum.Enum):
    """Which way a transform moves many items."""

    FORWARD = "forward"
    INVERSE = "inverse"

    def label(self):
        return {Direction.FORWARD: _("Forward: from the moving to the fixed volume"),
                Direction.INVERSE: _("Inverse: from the fixed to the moving volume")}[self]


class Precision(enum.Enum):
    """Of the networks' arithmetic."""

    FULL = "full"
    FAST = "fast"
    HALF = "half"

    def label(self):
        return {Precision.FULL: _("Full (32 bit)"), Precision.FAST: _("Fast (TensorFloat-32, NVIDIA GPUs only)"),
                Precision.HALF: _("Half (bfloat16, networks 0.1 mm off)")}[self]


class Variants(enum.Enum):
    """What to register one after the other, to compare the results."""

    LAMBDAS = "lambdas"
    TRANSFORMS = "transforms"
    REFINEMENT = "refinement"

    def label(self):
        return {Variants.LAMBDAS: _("Lambda 0.2, 0.5 and 0.8"), Variants.TRANSFORMS: _("Affine, then deformable too"),
                Variants.REFINEMENT: _("Without and with refinement")}[self]

    def steps(self):
        """Settings of each, by the names of :class:`SynthMorphParameterNode`."""
        return {Variants.LAMBDAS: [{"regularization": value} for value in (0.2, 0.5, 0.8)],
                Variants.TRANSFORMS: [{"transformType": TransformType.AFFINE}, {"transformType": TransformType.JOINT}],
                Variants.REFINEMENT: [{"refinement": 0}, {"refinement": -1}]}[self]


@parameterNodeWrapper
class SynthMorphParameterNode:
    """Inputs, settings and outputs of a registration.

    The ``make...`` members say whether an output is wanted; the ``output...`` member beside each holds the node that
    is updated in place, or None until the first run makes one.
    """

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    initialTransform: vtkMRMLTransformNode
    carriedLabels: list[vtkMRMLNode]
    carriedPoints: list[vtkMRMLNode]

    transformType: TransformType = TransformType.JOINT
    regularization: Annotated[float, WithinRange(0.01, 0.99)] = 0.5
    model: ModelChoice = ModelChoice.AUTO
    device: str = "auto"
    extent: Annotated[int, Choice([192, 256])] = 256
    steps: Annotated[int, WithinRange(5, 12)] = 7
    refinement: Annotated[int, WithinRange(-1, 200)] = -1
    precision: Precision = Precision.FULL
    threads: Annotated[int, WithinRange(0, 64)] = 0
    keepTemporaryFiles: bool = False

    makeTransform: bool = True
    outputTransform: vtkMRMLTransformNode
    makeVolume: bool = True
    outputVolume: vtkMRMLScalarVolumeNode
    makeJacobian: bool = False
    outputJacobian: vtkMRMLScalarVolumeNode
    makeSegmentation: bool = True
    outputSegmentation: vtkMRMLSegmentationNode
    attachMoving: bool = False

    overlayOpacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.5

    reviewRegion: vtkMRMLSegmentationNode
    reviewSegment: str = ""
    fixedLabels: vtkMRMLSegmentationNode
    reviewDisagreement: bool = False
    initials: str = ""
    signComment: str = ""
    fixedLandmarks: vtkMRMLMarkupsFiducialNode
    movingLandmarks: vtkMRMLMarkupsFiducialNode
    correctionRadius: Annotated[int, WithinRange(10, 100)] = 40

    variants: Variants = Variants.LAMBDAS

    atlases: str = ""  # folders of those that are ticked, as JSON
    patientVolume: vtkMRMLScalarVolumeNode
    fusion: Fusion = Fusion.LOCAL
    atlasSegmentation: vtkMRMLSegmentationNode

    movingTransform: vtkMRMLTransformNode
    movingDirection: Direction = Direction.FORWARD
    movingItems: list[vtkMRMLNode]
    movingReference: vtkMRMLScalarVolumeNode
