"""What a header says about whether this is a chest radiograph, and how it was taken.

Pure: headers in, refusals and warnings out. Headers lie (clinical.md's reason for the content
checks in `looks`), so what they do say is taken at its word and what they leave out is a warning.
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
_RADIOGRAPHIC = frozenset({"CR", "DX", "RG"})
# What secondary captures call themselves where they do not say what they are captures of.
_UNTOLD = frozenset({"", "OT", "SC"})

_CHEST_WORDS = re.compile(
    r"CHEST|CXR|LUNG|PULMO|THORA(X|C)|TORAX|TORACE|TORAC|POITRINE|BRUST|\u80f8|\u0413\u0420\u0423\u0414"
)
_SPINE_WORDS = re.compile(
    r"SPINE|SPINAL|VERTEBRA|WIRBEL|WERVEL|RACHIS|COLUMNA|COLUNA|COLONN|COLOANA|LUMBA|LOMBA"
    r"|\u690e|\u041f\u041e\u0417\u0412\u041e\u041d"
)
_UNTOLD_BODY = frozenset(
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
    WarningCode.UNKNOWN_VIEW: "Nothing says from which side it was taken; the model was made for "
    "PA views.",
    WarningCode.LATERAL_VIEW: "A lateral view; the model was made for PA views.",
    WarningCode.MISSING_WINDOW: "The header gives no window; one was estimated from the picture.",
    WarningCode.BURNED_IN_POSSIBLE: "Text or marks may be part of the picture.",
    WarningCode.LOOKS_INVERTED: "Bone looks dark and lungs look bright; the picture may be "
    "inverted.",
}


def make_warning(code: WarningCode) -> ImageWarning:
    """A warning with its standing message."""
    return ImageWarning(code, WARNINGS[code])


def check_header(header: DicomHeader) -> None:
    """Refuse what is not a chest radiograph made for looking at, as far as the header tells.

    Raises:
        StudyImageRefused: WRONG_MODALITY, FOR_PROCESSING or BODY_PART_NOT_CHEST.
    """
    sop_class = header.get_text(tags.SOP_CLASS_UID)
    modality = header.get_text(tags.MODALITY).upper()
    allowed = _RADIOGRAPHIC
    if sop_class in _RADIOGRAPHS:
        allowed = _RADIOGRAPHIC | {""}
    elif sop_class in _SECONDARY_CAPTURES:
        allowed = _RADIOGRAPHIC | _UNTOLD
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
            "This is raw detector data (FOR PROCESSING), not a picture to look at.",
            "Send the FOR PRESENTATION image of the same exposure.",
        )
    _check_body_part(header)


def is_radiograph_class(sop_class: str) -> bool:
    """Whether objects of this SOP class can hold a radiograph."""
    return sop_class in _RADIOGRAPHS or sop_class in _SECONDARY_CAPTURES


def _check_body_part(header: DicomHeader) -> None:
    body_part = header.get_text(tags.BODY_PART_EXAMINED)
    told = [] if _folded(body_part) in _UNTOLD_BODY else [is_chest_name(body_part)]
    for region in header.get_items(tags.ANATOMIC_REGION_SEQUENCE):
        code, meaning = region.get_text(tags.CODE_VALUE), region.get_text(tags.CODE_MEANING)
        if code or meaning:
            told.append(code in _CHEST_CODES or is_chest_name(meaning))
    if told and not any(told):
        raise make_refusal(
            ErrorCode.BODY_PART_NOT_CHEST,
            "The header says that this is another body part than the chest.",
            "Send a frontal chest radiograph; if this is one, correct its body part.",
        )


def is_chest_name(body_part: str) -> bool:
    """Whether a body part, in whatever words, includes the chest."""
    folded = _folded(body_part)
    return bool(_CHEST_WORDS.search(folded)) and not _SPINE_WORDS.search(folded)


def _folded(text: str) -> str:
    """Upper case without accents."""
    decomposed = unicodedata.normalize("NFKD", text.upper())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter)).strip()


def read_view_position(header: DicomHeader) -> str:
    """PA, AP, LL, RL or what else the header says; empty where it does not say."""
    position = header.get_text(tags.VIEW_POSITION).upper().split()
    if position:
        return position[0]  # what follows says how the patient stood
    for item in header.get_items(tags.VIEW_CODE_SEQUENCE):
        code = item.get_text(tags.CODE_VALUE)
        if code in _VIEW_CODES:
            return _VIEW_CODES[code]
    # Rows that run from front to back, or back to front, show the patient from the side.
    if header.get_text(tags.PATIENT_ORIENTATION).upper()[:1] in {"A", "P"}:
        return "LATERAL"
    return ""


def warn_about_view(view: str) -> ImageWarning | None:
    """What to be wary of in this view; None for PA."""
    if view in _PA:
        return None
    if view in _AP:
        return make_warning(WarningCode.AP_VIEW)
    return make_warning(WarningCode.LATERAL_VIEW if view in _LATERAL else WarningCode.UNKNOWN_VIEW)


def warn_about_burned_in_text(header: DicomHeader) -> ImageWarning | None:
    """Whether the picture may hold text: said so, or a secondary capture that does not say."""
    said = header.get_text(tags.BURNED_IN_ANNOTATION).upper()
    captured = header.get_text(tags.SOP_CLASS_UID) in _SECONDARY_CAPTURES
    if said == "YES" or (captured and said != "NO"):
        return make_warning(WarningCode.BURNED_IN_POSSIBLE)
    return None
