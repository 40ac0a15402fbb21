"""The content check: a verdict on an image from its pixels, independent of its header.

A small network outputs probabilities. This module turns them into a verdict by the bundle's
thresholds, a high one for refusals and a lower one for warnings:

1.  No chest: refused (NOT_A_CHEST).
2.  Else, a lateral view: a warning (LATERAL_VIEW), the same as for a header that declares one.
    Else, not clearly a frontal chest: a warning (CONTENT_UNSURE).
3.  Rotated: refused (ROTATED), or a warning (LOOKS_ROTATED).
4.  Inverted, that is, dark bone: refused (INVERTED), or a warning (LOOKS_INVERTED).

A detector finds nothing in a chest that is upside down, and an empty list would be read as 'no
abnormality'. Therefore images that are clearly wrong are refused. The network has learnt 3 and 4
from frontal chests only, so they refuse only where 1 and 2 neither refuse nor warn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from edge_agent.core.radiograph import ImageWarning
from edge_agent.errors import StudyImageRefused
from hilum.codes import ErrorCode, WarningCode
from hilum.manifest import ContentCheckThresholds

OUTPUTS: Final = 8
_SUM_TOLERANCE: Final = 1e-2

_MESSAGES: Final = {
    ErrorCode.NOT_A_CHEST: "The picture does not show a chest.",
    ErrorCode.ROTATED: "The chest is rotated: it is on its side or upside down.",
    ErrorCode.INVERTED: "The grey values are inverted: bone is dark, air is bright.",
    WarningCode.CONTENT_UNSURE: "The picture looks only partly like a frontal chest radiograph.",
    WarningCode.LATERAL_VIEW: "The picture looks like a lateral view; the model was made for PA "
    "views.",
    WarningCode.LOOKS_ROTATED: "The chest may be rotated: on its side or upside down.",
    WarningCode.LOOKS_INVERTED: "Bone looks dark and lungs look bright; the picture may be "
    "inverted.",
}
_HINTS: Final = {
    ErrorCode.NOT_A_CHEST: "Send a frontal chest radiograph; if this is one, tell the operator.",
    ErrorCode.ROTATED: "Turn the picture upright and send it again.",
    ErrorCode.INVERTED: "Correct the grey scale (in DICOM: PhotometricInterpretation, "
    "PresentationLUTShape) and send it again.",
}


class ContentOutputsInvalid(ValueError):
    """Outputs that no valid network gives: a wrong shape, not finite, or no probabilities."""


@dataclass(frozen=True, slots=True)
class ContentProbabilities:
    """The network's probabilities for one picture, in the order of its outputs.

    Attributes:
        frontal: a frontal chest. `frontal`, `lateral` and `other` sum to 1.
        lateral: a lateral chest.
        other: no chest.
        turns: upright, then turned clockwise by 90, 180 and 270 degrees; they sum to 1.
        inverted: dark bone.
    """

    frontal: float
    lateral: float
    other: float
    turns: tuple[float, float, float, float]
    inverted: float

    @classmethod
    def from_outputs(cls, outputs: NDArray[np.float32]) -> Self:
        """Read one row of the network's outputs.

        Args:
            outputs: f32 of shape (8,).

        Returns:
            The probabilities, clamped to 0 to 1.

        Raises:
            ContentOutputsInvalid: they are no probabilities.
        """
        if outputs.shape != (OUTPUTS,):
            raise ContentOutputsInvalid(f"shape {outputs.shape}, expected ({OUTPUTS},)")
        # Written so that not-a-number fails too.
        if not bool(np.all((outputs >= -_SUM_TOLERANCE) & (outputs <= 1 + _SUM_TOLERANCE))):
            raise ContentOutputsInvalid("values outside of 0 to 1")
        content, turns = outputs[:3], outputs[3:7]
        for part in (content, turns):
            if abs(float(part.sum()) - 1) > _SUM_TOLERANCE:
                raise ContentOutputsInvalid("probabilities that do not sum to 1")
        values = [min(1.0, max(0.0, float(value))) for value in outputs]
        return cls(
            frontal=values[0],
            lateral=values[1],
            other=values[2],
            turns=(values[3], values[4], values[5], values[6]),
            inverted=values[7],
        )

    @property
    def not_frontal(self) -> float:
        """Probability of a lateral view or of no chest."""
        return self.lateral + self.other

    @property
    def turned(self) -> float:
        """Probability that the chest is not upright."""
        return sum(self.turns[1:])


@dataclass(frozen=True, slots=True)
class ContentVerdict:
    """The result of the content check: a refusal, or warnings, or neither.

    `refusal` is NOT_A_CHEST, ROTATED, INVERTED or None. Detection runs only if it is None.
    """

    probabilities: ContentProbabilities
    refusal: ErrorCode | None
    warnings: tuple[ImageWarning, ...]

    def raise_if_refused(self) -> None:
        """Raise the refusal, if there is one.

        Raises:
            StudyImageRefused: NOT_A_CHEST, ROTATED or INVERTED.
        """
        if self.refusal is not None:
            raise StudyImageRefused(
                _MESSAGES[self.refusal], code=self.refusal, hint=_HINTS[self.refusal]
            )

    def merge_warnings(self, warnings: Sequence[ImageWarning]) -> tuple[ImageWarning, ...]:
        """Return `warnings`, then those of this check whose code is not yet among them."""
        known = {warning.code for warning in warnings}
        return (*warnings, *(w for w in self.warnings if w.code not in known))


def _is_refused(probability: float, refuse_from: float) -> bool:
    """Compare with a threshold. 1 disables the refusal, even if a probability rounds to 1."""
    return refuse_from < 1 and probability >= refuse_from


def assess_content(
    probabilities: ContentProbabilities, thresholds: ContentCheckThresholds
) -> ContentVerdict:
    """Return the verdict on one picture, by the module's rules 1 to 4."""
    refusals: list[ErrorCode] = []
    warnings: list[WarningCode] = []
    if _is_refused(probabilities.other, thresholds.refuse_other):
        refusals.append(ErrorCode.NOT_A_CHEST)
    elif probabilities.lateral >= thresholds.warn_lateral:
        warnings.append(WarningCode.LATERAL_VIEW)
    elif probabilities.not_frontal >= thresholds.warn_not_frontal:
        warnings.append(WarningCode.CONTENT_UNSURE)
    is_clearly_frontal = not refusals and not warnings
    for probability, warn_from, refuse_from, warning, refusal in (
        (
            probabilities.turned,
            thresholds.warn_turned,
            thresholds.refuse_turned,
            WarningCode.LOOKS_ROTATED,
            ErrorCode.ROTATED,
        ),
        (
            probabilities.inverted,
            thresholds.warn_inverted,
            thresholds.refuse_inverted,
            WarningCode.LOOKS_INVERTED,
            ErrorCode.INVERTED,
        ),
    ):
        if is_clearly_frontal and _is_refused(probability, refuse_from):
            refusals.append(refusal)
        elif probability >= warn_from:
            warnings.append(warning)
    return ContentVerdict(
        probabilities=probabilities,
        refusal=refusals[0] if refusals else None,
        warnings=tuple(ImageWarning(code, _MESSAGES[code]) for code in warnings),
    )
