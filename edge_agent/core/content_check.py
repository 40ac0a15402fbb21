"""The gate by content: what a picture itself shows, whatever its header says.

A small network gives probabilities; this turns them into a verdict by the bundle's thresholds:

1.  No chest, surely: refused (NOT_A_CHEST).
2.  Else a chest from the side: a warning (LATERAL_VIEW), as where the header says so; or else not
    clearly a frontal chest: a warning (CONTENT_UNSURE).
3.  Turned, surely: refused (ROTATED). Perhaps: a warning (LOOKS_ROTATED).
4.  Bone dark, surely: refused (INVERTED). Perhaps: a warning (LOOKS_INVERTED).

A detector that looks at a chest on its head finds nothing, and that silence would be taken for
'nothing there': therefore what is surely wrong is refused. The network has learnt 3 and 4 from
frontal chests, so there they can only refuse where 1 and 2 have no doubt.
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
from hilum.manifest import GateThresholds

OUTPUTS: Final = 8
_SUM_TOLERANCE: Final = 1e-2

_MESSAGES: Final = {
    ErrorCode.NOT_A_CHEST: "The picture does not show a chest.",
    ErrorCode.ROTATED: "The chest lies on its side or stands on its head.",
    ErrorCode.INVERTED: "The grey values are inverted: bone is dark, air is bright.",
    WarningCode.CONTENT_UNSURE: "The picture looks only partly like a frontal chest radiograph.",
    WarningCode.LATERAL_VIEW: "The picture looks like a lateral view; the model was made for PA "
    "views.",
    WarningCode.LOOKS_ROTATED: "The chest may lie on its side or stand on its head.",
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
    """Outputs that no sound gate gives: wrong shape, not finite, no probabilities."""


@dataclass(frozen=True, slots=True)
class ContentProbabilities:
    """What the network says of one picture, in the order of its outputs.

    `frontal`, `lateral` and `other` (no chest) sum to 1, and so do `turns`: upright, then turned
    clockwise by 90, 180 and 270 degrees. `inverted` is that of dark bone.
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

        Raises:
            GateOutputsInvalid: they are no probabilities.
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
    """What follows from what a picture shows: a refusal, or warnings, or nothing.

    `refusal` is NOT_A_CHEST, ROTATED, INVERTED or None. Where it is None the detector may look.
    """

    probabilities: ContentProbabilities
    refusal: ErrorCode | None
    warnings: tuple[ImageWarning, ...]

    def raise_if_refused(self) -> None:
        """Raise StudyImageRefused if the picture is refused."""
        if self.refusal is not None:
            raise StudyImageRefused(
                _MESSAGES[self.refusal], code=self.refusal, hint=_HINTS[self.refusal]
            )

    def merge_warnings(self, warnings: Sequence[ImageWarning]) -> tuple[ImageWarning, ...]:
        """Warnings from elsewhere, then those of the gate whose code is not yet among them."""
        known = {warning.code for warning in warnings}
        return (*warnings, *(w for w in self.warnings if w.code not in known))


def _surely(probability: float, refuse_from: float) -> bool:
    """A threshold of 1 switches the refusal off, also where rounding gives a probability of 1."""
    return refuse_from < 1 and probability >= refuse_from


def assess_content(seen: ContentProbabilities, thresholds: GateThresholds) -> ContentVerdict:
    """Turn probabilities into a verdict by the module's rules 1 to 4."""
    refusals: list[ErrorCode] = []
    warned: list[WarningCode] = []
    if _surely(seen.other, thresholds.refuse_other):
        refusals.append(ErrorCode.NOT_A_CHEST)
    elif seen.lateral >= thresholds.warn_lateral:
        warned.append(WarningCode.LATERAL_VIEW)
    elif seen.not_frontal >= thresholds.warn_not_frontal:
        warned.append(WarningCode.CONTENT_UNSURE)
    surely_frontal = not refusals and not warned
    for probability, warn_from, refuse_from, warning, refusal in (
        (
            seen.turned,
            thresholds.warn_turned,
            thresholds.refuse_turned,
            WarningCode.LOOKS_ROTATED,
            ErrorCode.ROTATED,
        ),
        (
            seen.inverted,
            thresholds.warn_inverted,
            thresholds.refuse_inverted,
            WarningCode.LOOKS_INVERTED,
            ErrorCode.INVERTED,
        ),
    ):
        if surely_frontal and _surely(probability, refuse_from):
            refusals.append(refusal)
        elif probability >= warn_from:
            warned.append(warning)
    return ContentVerdict(
        probabilities=seen,
        refusal=refusals[0] if refusals else None,
        warnings=tuple(ImageWarning(code, _MESSAGES[code]) for code in warned),
    )
