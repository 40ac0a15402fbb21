"""The agent's errors, grouped by who must act. Each transport maps them in one place.

Every error has a stable code, a message that says what is wrong, and a hint that says what to do.
Neither may hold patient data.
"""

from __future__ import annotations

from hilum.codes import ErrorCode


class HilumError(Exception):
    """Base of all errors that Hilum raises on purpose."""

    default_code = ErrorCode.INTERNAL
    default_hint = ""

    def __init__(
        self, message: str, *, code: ErrorCode | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.hint = self.default_hint if hint is None else hint

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders; the default would drop the keyword arguments.
        return (_rebuild, (type(self), self.message, self.code, self.hint), vars(self))


def _rebuild(kind: type[HilumError], message: str, code: ErrorCode, hint: str) -> HilumError:
    return kind(message, code=code, hint=hint)


class CallerError(HilumError):
    """The caller must act."""


class StudyImageRefused(CallerError):
    """This study image cannot be analysed."""

    default_code = ErrorCode.NOT_AN_IMAGE
    default_hint = "Send a frontal chest radiograph as DICOM, JPEG, PNG or TIFF."


class InvalidRequest(CallerError):
    """The request does not follow the contract."""

    default_code = ErrorCode.INVALID_REQUEST


class UnknownModel(CallerError):
    """The request names a model that this agent does not serve."""

    default_code = ErrorCode.UNKNOWN_MODEL


class Unauthenticated(CallerError):
    """No credential was sent, or it is not a known one."""

    default_code = ErrorCode.UNAUTHENTICATED
    default_hint = "Send an API key (`Authorization: Bearer ...`) or use a client certificate."


class Forbidden(CallerError):
    """The caller's role does not permit the action, or another site's page sent the request."""

    default_code = ErrorCode.FORBIDDEN
    default_hint = "Ask the operator of this agent for a credential with the role that this needs."


class TryLater(HilumError):
    """The same request may succeed later, perhaps after `retry_after_s`. Nothing must be done."""

    default_code = ErrorCode.OVERLOADED
    default_hint = "Try again in a moment."
    retry_after_s: float | None = None


class Overloaded(TryLater):
    """The queue is full."""


class NotReady(TryLater):
    """The agent is starting or stopping."""

    default_code = ErrorCode.NOT_READY


class DeadlineExceeded(TryLater):
    """The caller's deadline passed before the work began."""

    default_code = ErrorCode.DEADLINE_EXCEEDED
    default_hint = "Allow more time, or send fewer images at once."


class ChangeInProgress(TryLater):
    """Another change of the served models has not ended."""

    default_code = ErrorCode.CHANGE_IN_PROGRESS
    default_hint = "Wait until it has ended; `hilum-edge model list` shows its step."


class OperatorError(HilumError):
    """The operator of this agent must act."""


class BundleInvalid(OperatorError):
    """The bundle is damaged, incomplete or made for another agent."""

    default_code = ErrorCode.BUNDLE_INVALID
    default_hint = "Fetch the bundle again; a bundle whose digests do not match is never run."


class ConfigInvalid(OperatorError):
    """The agent's settings cannot be used."""

    default_code = ErrorCode.CONFIG_INVALID


class AuditUnavailable(OperatorError):
    """Accesses cannot be logged, so they are refused."""

    default_code = ErrorCode.AUDIT_UNAVAILABLE
    default_hint = "See the agent's log. The most frequent cause is a full disk."


class DecoderFailed(OperatorError):
    """The decoder failed: a crash, a time-out or too little memory."""

    default_code = ErrorCode.DECODER_FAILED
    default_hint = (
        "The agent is still running. If the same file fails again, keep it for the maintainers."
    )


class EngineFailed(OperatorError):
    """The engine did not compute outputs, or not those that were recorded."""

    default_code = ErrorCode.ENGINE_FAILED
    default_hint = "See the agent's log. If it happens again, restart the agent."
