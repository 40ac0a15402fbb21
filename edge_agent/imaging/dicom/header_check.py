"""Acceptance by header: the modality, the body part and the view.

Pure: headers in, refusals and warnings out. A header that names another modality or body part is
refused. What a header omits becomes a warning at most, because many headers are incomplete. Headers
can also be wrong, so `core.content_check` and `imaging.inversion_check` check the pixels.
"""

from __future__ import annotations

import re
import unicodedata

from edge_agent.core.radiograph import ImageWarning
from edge_agent.imaging.dicom import tags
from edge_agent.imaging.dicom.header import DicomHeader
from edge_agent.imaging.errors import make_refusal
from hilum.codes import ErrorCode, WarningCode

_DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_RADIOGRAPHS = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
        _DX_FOR_PROCESSING,
    }
)
_SECONDARY_CAPTURES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
        "1.2.840.10008.5.1.4.1.1.7.2",  # Multi-frame Grayscale Byte; one frame is one picture
        "1.2.840.10008.5.1.4.1.1.7.3",  # Multi-frame Grayscale Word
        "1.2.840.10008.5.1.4.1.1.7.4",  # Multi-frame True Color
    }
)
_RADIOGRAPHIC_MODALITIES = frozenset({"CR", "DX", "RG"})
# Modalities of secondary captures that do not declare what was captured.
_UNSPECIFIC = frozenset({"", "OT", "SC"})

_CHEST_WORDS = re.compile(
    r"CHEST|CXR|LUNG|PULMO|THORA(X|C)|TORAX|TORACE|TORAC|POITRINE|BRUST|\u80f8|\u0413\u0420\u0423\u0414"
)
_SPINE_WORDS = re.compile(
    r"SPINE|SPINAL|VERTEBRA|WIRBEL|WERVEL|RACHIS|COLUMNA|COLUNA|COLONN|COLOANA|LUMBA|LOMBA"
    r"|\u690e|\u041f\u041e\u0417\u0412\u041e\u041d"
)
_UNSPECIFIC_BODY_PARTS = frozenset(
    {"", "UNKNOWN", "UNDEFINED", "UNSPECIFIED", "OTHER", "NONE", "DEFAULT", "NA", "N/A"}
)
# Chest, thoracic cavity, lung, mediastinum, heart, and regions that include the chest, as SNOMED
# CT and as the older SRT codes (PS3.16 CID 4031).
_CHEST_CODES = frozenset(
    {"51185008", "816094009", "302551006", "43799004", "39607008", "72410000", "80891009"}
    | {"86598002", "416550000", "416775004", "416152001", "416319003", "417437006"}
    | {"T-D3000", "T-D3200", "T-28000", "T-D3300", "T-32000", "R-FAB55", "R-FAB56"}
    | {"R-FAB52", "R-FAB53", "R-FAB54", "T-280A0"}
)

_PA = frozenset({"PA"})
_AP = frozenset({"AP"})
_LATERAL = frozenset(
    {"LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT", "LLD", "RLD", "XTL", "ML", "LM"}
)
# PS3.16 CID 4010, as SNOMED CT and SRT.
_VIEW_CODES = {
    "272479007": "PA",
    "R-10214": "PA",
    "R-40888": "PA",
    "399348003": "AP",
    "R-10206": "AP",
    "399067008": "LL",
    "R-102CD": "LL",
    "399198007": "RL",
    "R-10232": "RL",
    "399173006": "LL",
    "R-10236": "LL",
}

WARNINGS = {
    WarningCode.AP_VIEW: "Taken anterior to posterior; the model was made for PA views.",
    WarningCode.UNKNOWN_VIEW: "Nothing states from which side it was taken; the model was made for "
    "PA views.",
    WarningCode.LATERAL_VIEW: "A lateral view; the model was made for PA views.",
    WarningCode.MISSING_WINDOW: "The header gives no window; one was estimated from the picture.",
    WarningCode.BURNED_IN_POSSIBLE: "Text or marks may be part of the picture.",
    WarningCode.LOOKS_INVERTED: "Bone looks dark and lungs look bright; the picture may be "
    "inverted.",
}


def make_warning(code: WarningCode) -> ImageWarning:
    """Return a warning with the message of its code."""
    return ImageWarning(code, WARNINGS[code])


def check_header(header: DicomHeader) -> None:
    """Refuse what the header declares as no chest radiograph, or as not meant for display.

    Raises:
        StudyImageRefused: WRONG_MODALITY, FOR_PROCESSING or BODY_PART_NOT_CHEST.
    """
    sop_class = header.get_text(tags.SOP_CLASS_UID)
    modality = header.get_text(tags.MODALITY).upper()
    allowed = _RADIOGRAPHIC_MODALITIES
    if sop_class in _RADIOGRAPHS:
        allowed = _RADIOGRAPHIC_MODALITIES | {""}
    elif sop_class in _SECONDARY_CAPTURES:
        allowed = _RADIOGRAPHIC_MODALITIES | _UNSPECIFIC
    if modality not in allowed or (sop_class and not is_radiograph_class(sop_class)):
        raise make_refusal(
            ErrorCode.WRONG_MODALITY,
            "This is not a radiograph (CR, DX, or a secondary capture of one).",
            "Send the chest radiograph itself, not another examination or a report.",
        )
    intent = header.get_text(tags.PRESENTATION_INTENT_TYPE).upper()
    if sop_class == _DX_FOR_PROCESSING or intent == "FOR PROCESSING":
        raise make_refusal(
            ErrorCode.FOR_PROCESSING,
            "This is raw detector data (FOR PROCESSING), not a picture for display.",
            "Send the FOR PRESENTATION image of the same exposure.",
        )
    _check_body_part(header)


def is_radiograph_class(sop_class: str) -> bool:
    """Return whether objects of this SOP class can contain a radiograph."""
    return sop_class in _RADIOGRAPHS or sop_class in _SECONDARY_CAPTURES


def _check_body_part(header: DicomHeader) -> None:
    body_part = header.get_text(tags.BODY_PART_EXAMINED)
    declared = [] if _fold(body_part) in _UNSPECIFIC_BODY_PARTS else [is_chest_name(body_part)]
    for region in header.get_items(tags.ANATOMIC_REGION_SEQUENCE):
        code, meaning = region.get_text(tags.CODE_VALUE), region.get_text(tags.CODE_MEANING)
        if code or meaning:
            declared.append(code in _CHEST_CODES or is_chest_name(meaning))
    if declared and not any(declared):
        raise make_refusal(
            ErrorCode.BODY_PART_NOT_CHEST,
            "The header declares another body part than the chest.",
            "Send a frontal chest radiograph; if this is one, correct its body part.",
        )


def is_chest_name(body_part: str) -> bool:
    """Return whether the name of a body part, in any of several languages, includes the chest."""
    folded = _fold(body_part)
    return bool(_CHEST_WORDS.search(folded)) and not _SPINE_WORDS.search(folded)


def _fold(text: str) -> str:
    """Return the text in upper case and without accents."""
    decomposed = unicodedata.normalize("NFKD", text.upper())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter)).strip()


def read_view_position(header: DicomHeader) -> str:
    """Return PA, AP, LL, RL or what else the header declares; empty where it declares none."""
    position = header.get_text(tags.VIEW_POSITION).upper().split()
    if position:
        return position[0]  # Further words describe how the patient stood or lay.
    for item in header.get_items(tags.VIEW_CODE_SEQUENCE):
        code = item.get_text(tags.CODE_VALUE)
        if code in _VIEW_CODES:
            return _VIEW_CODES[code]
    # Rows that run from front to back, or back to front, show the patient from the side.
    if header.get_text(tags.PATIENT_ORIENTATION).upper()[:1] in {"A", "P"}:
        return "LATERAL"
    return ""


def warn_about_view(view: str) -> ImageWarning | None:
    """Return the warning for a view; None for PA."""
    if view in _PA:
        return None
    if view in _AP:
        return make_warning(WarningCode.AP_VIEW)
    return make_warning(WarningCode.LATERAL_VIEW if view in _LATERAL else WarningCode.UNKNOWN_VIEW)


def warn_about_burned_in_text(header: DicomHeader) -> ImageWarning | None:
    """Return a warning where the picture may contain text; None where it does not.

    It may where the header declares it, or where a secondary capture does not deny it.
    """
    declared = header.get_text(tags.BURNED_IN_ANNOTATION).upper()
    is_captured = header.get_text(tags.SOP_CLASS_UID) in _SECONDARY_CAPTURES
    if declared == "YES" or (is_captured and declared != "NO"):
        return make_warning(WarningCode.BURNED_IN_POSSIBLE)
    return None
