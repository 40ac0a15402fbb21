"""Stable codes of errors and warnings, which callers may rely on."""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """The reason why there is no result. Codes keep their meaning; new ones may be added."""

    # The study image is at fault: send another one.
    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    UNSUPPORTED_SYNTAX = "unsupported_syntax"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    MULTI_FRAME = "multi_frame"
    WRONG_MODALITY = "wrong_modality"
    BODY_PART_NOT_CHEST = "body_part_not_chest"
    FOR_PROCESSING = "for_processing"
    NOT_A_CHEST = "not_a_chest"
    ROTATED = "rotated"
    INVERTED = "inverted"
    TOO_LARGE = "too_large"
    TOO_SMALL = "too_small"
    # The request is at fault: correct it.
    INVALID_REQUEST = "invalid_request"
    UNKNOWN_MODEL = "unknown_model"
    # The caller is not known, or has no permission: use another credential.
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    # A temporary condition: try again later.
    OVERLOADED = "overloaded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NOT_READY = "not_ready"
    CHANGE_IN_PROGRESS = "change_in_progress"
    # The agent's machine is at fault: its operator must act.
    DECODER_FAILED = "decoder_failed"
    ENGINE_FAILED = "engine_failed"
    BUNDLE_INVALID = "bundle_invalid"
    CONFIG_INVALID = "config_invalid"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    INTERNAL = "internal"


class ClientErrorCode(StrEnum):
    """The reason why a call failed, set by `hilum.client` and never sent by an agent."""

    UNREACHABLE = "unreachable"
    TLS_FAILED = "tls_failed"
    NOT_AN_AGENT = "not_an_agent"
    WRONG_ANSWER = "wrong_answer"
    CANCELLED = "cancelled"
    FILE_UNREADABLE = "file_unreadable"


class WarningCode(StrEnum):
    """There is a result, but the image is outside what the model was made for."""

    AP_VIEW = "ap_view"
    UNKNOWN_VIEW = "unknown_view"
    LATERAL_VIEW = "lateral_view"
    MISSING_WINDOW = "missing_window"
    BURNED_IN_POSSIBLE = "burned_in_possible"
    LOOKS_INVERTED = "looks_inverted"
    LOOKS_ROTATED = "looks_rotated"
    CONTENT_UNSURE = "content_unsure"
