"""What can go wrong, as one tree; each leaf knows its HTTP status and problem type.

SectionFourError
├── BadRequest            400  the input is at fault; names the field by a JSON pointer
├── Unauthenticated       401
├── Forbidden             403  the key's role may not do this
├── NotFound              404
├── Conflict              409  the same id with another body, or a state that does not allow it
├── Ceased                410
├── TooLarge              413
├── WrongMediaType        415
├── TooMany               429  others are at it; in a while there is room again
├── FailClosed            503  a basis could not be looked for, so there is no score
├── NotReady              503  a part of the service is not in a state to answer
├── RegimeError                regime.toml has an unknown key, a gap or a contradiction
├── SettingsError
├── KeyringError               a key is missing, destroyed or does not open
├── RegistryError              a model is changed, unsigned, or not of this catalog
├── ReleaseError               rows do not leave: a figure misses its limit
└── HistoryError               the history cannot be learnt from as it stands

A refusal for want of a basis is not here: it is an outcome, recorded like any other.
No message repeats an identifier that was sent.
"""

from __future__ import annotations

#: Where problem types live: `type` of a problem document is this and the code of the error.
PROBLEMS = "/problems/"


class SectionFourError(Exception):
    """Base of everything that this package raises on purpose."""

    status = 500
    code = "internal"
    title = "Something went wrong on our side"

    def __init__(self, detail: str, *, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class BadRequest(SectionFourError):
    status, code, title = 400, "bad-request", "The request is not of the form asked for"


class Unauthenticated(SectionFourError):
    status, code, title = 401, "unauthenticated", "A valid key is needed"


class Forbidden(SectionFourError):
    status, code, title = 403, "forbidden", "This key's role may not do this"


class NotFound(SectionFourError):
    status, code, title = 404, "not-found", "There is no such thing here"


class Conflict(SectionFourError):
    status, code, title = 409, "conflict", "This does not fit what is already recorded"


class Ceased(SectionFourError):
    status, code, title = 410, "ceased", "Operation has ceased; nothing is collected or scored"


class TooLarge(SectionFourError):
    status, code, title = 413, "too-large", "The request is larger than allowed"


class WrongMediaType(SectionFourError):
    status, code, title = 415, "wrong-media-type", "The request is not of a type read here"


class TooMany(SectionFourError):
    status, code, title = 429, "too-many", "There is no room for one more just now"


class FailClosed(SectionFourError):
    status, code, title = 503, "fail-closed", "No basis could be looked for, so there is no score"


class NotReady(SectionFourError):
    status, code, title = 503, "not-ready", "Not ready to answer"


class RegimeError(SectionFourError):
    code, title = "regime", "regime.toml is not usable"


class SettingsError(SectionFourError):
    code, title = "settings", "A setting is not usable"


class KeyringError(SectionFourError):
    code, title = "keyring", "A key is missing, destroyed or does not open"


class RegistryError(SectionFourError):
    status = 503
    code, title = "registry", "The model cannot be trusted"


class HistoryError(SectionFourError):
    code, title = "history", "The history cannot be learnt from as it stands"


class ReleaseError(SectionFourError):
    code, title = "release", "The rows may not leave"
