"""A body from bytes to a typed value, with what is to be said about its form.

Unknown fields are warned of, not refused; fields that look like a secret are refused wherever they
are, for a password is never an input (R-05). Names of unknown fields are repeated only where they
are plain words: a name, too, may hold an identifier.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from flask import request
from msgspec.inspect import AnyType, DictType, StructType, Type, UnionType, VarTupleType, type_info

from sectionfour.errors import BadRequest, TooLarge, WrongMediaType
from sectionfour.web.problems import invalid

JSON = "application/json"
LIMIT = 64 * 1024
READ = LIMIT + 1
DEEPEST = 32
MOST_WARNINGS = 32

Warnings = list[dict[str, str]]
T = TypeVar("T")


class Body(NamedTuple, Generic[T]):
    """`value` is typed; `plain` is all that came, for a digest of it."""

    value: T
    plain: Any
    warnings: Warnings


# What curl and urllib say who are told nothing; the body is JSON or is refused all the same.
_UNSAID = "application/x-www-form-urlencoded"
_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json\Z", re.ASCII)


def received() -> bytes:
    """Return the bytes of the request: TooLarge beyond LIMIT, WrongMediaType for no JSON."""
    environ = request.environ
    unpacked()
    size = environ.get("CONTENT_LENGTH", "")
    if environ.get("CONTENT_TYPE") == JSON and size.isdecimal() and int(size) <= LIMIT:
        data: bytes = environ["wsgi.input"].read(int(size))  # as get_data does, in a tenth the time
        return data
    kind = request.mimetype
    if kind and kind != "application/json" and kind != _UNSAID and not _JSON.match(kind):
        raise WrongMediaType("send application/json")
    data = request.get_data(cache=False)
    if len(data) > LIMIT:  # of a body without a length no more than READ is read
        raise TooLarge("a body has at most 64 KiB")
    return data


def unpacked() -> None:
    """WrongMediaType for a body that is packed, with gzip or otherwise: none is unpacked here."""
    if request.environ.get("HTTP_CONTENT_ENCODING", "").lower() not in ("", "identity"):
        raise WrongMediaType("send the body as it is: what has a Content-Encoding is not read")


def discard(most: int = LIMIT) -> None:
    """Take in a body that nobody looks at: left unread, it ends the caller's connection, as one
    beyond `most` bytes, or of no told length, does."""
    left = request.content_length or 0
    while 0 < left <= most and (data := request.environ["wsgi.input"].read(min(left, LIMIT))):
        left -= len(data)


def read(kind: type[T]) -> Body[T]:
    """Return the request's body as a `kind`; BadRequest names the field that does not fit."""
    return decode(received(), kind)


def decode(data: bytes, kind: type[T]) -> Body[T]:
    try:
        try:
            plain = msgspec.json.decode(data)
        except msgspec.ValidationError:  # a number like 1e400, at a place that `kind` may know
            msgspec.json.decode(data, type=kind)
            raise
        if type(plain) is not dict:
            raise BadRequest("the body is a JSON object", pointer="")
        warnings = _warnings(plain, _shape_of(kind))
        return Body(msgspec.convert(plain, kind), plain, warnings)
    except msgspec.ValidationError as error:
        raise invalid(error, kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(_malformed(error, data), pointer="") from None
    except RecursionError:
        raise BadRequest(f"nested deeper than {DEEPEST}", pointer="") from None


_BYTE = re.compile(r"\(byte (\d+)\)\Z")


def _malformed(error: Exception, data: bytes) -> str:
    """Return what is wrong with bytes that are no JSON, and where, without repeating any.

    >>> [_malformed(ValueError("(byte 6)"), data) for data in (b"", b'{"a": NaN}')]
    ['the body is empty: send a JSON object', 'the body is not JSON in UTF-8: NaN at byte 6']
    """
    if not data.strip():
        return "the body is empty: send a JSON object"
    if data.startswith(b"\xef\xbb\xbf"):
        return "the body is not JSON in UTF-8: leave out the byte order mark before it"
    place = _BYTE.search(str(error))
    if place is None:
        return "the body is not JSON in UTF-8: it ends too early, or a string in it is no UTF-8"
    what = next((n for n in ("NaN", "Infinity") if data.startswith(n.encode(), int(place[1]))), "")
    return f"the body is not JSON in UTF-8: {what or 'wrong'} at byte {place[1]}"


# --- unknown fields, and secrets

#: The fields of an object, those of the objects inside it, and so on; None for what holds none.
Shape = Mapping[str, Any]
_OPEN: Shape = {}  # any name is right, as long as it is no secret's
_KNOWN_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+")
_SECRETS = frozenset(
    [
        "password",
        "passwd",
        "passphrase",
        "passcode",
        "pwd",
        "secret",
        "pin",
        "pincode",
        "cvv",
        "cvc",
        "csc",
        "otp",
        "token",
        "credential",
        "credentials",
        "apikey",
        "privatekey",
        "authorization",
        "bearer",
        "密码",
        "口令",
        "验证码",
        "密碼",
    ]
)
_INSIDE = ("password", "passwd", "passphrase", "secret", "apikey", "privatekey", "密码", "密碼")


def _warnings(plain: dict[str, Any], shape: Shape) -> Warnings:
    found: Warnings = []
    for pointer in _unknown(plain, shape, "", 1):
        if len(found) == MOST_WARNINGS:
            found.append(_warning("unknown_fields", "", "there are more fields that are not known"))
            break
        found.append(_warning("unknown_field", pointer, "the field is not known; it was left out"))
    return found


def _warning(code: str, pointer: str, text: str) -> dict[str, str]:
    return {"code": code, "input_pointer": pointer, "warning": text}


def _unknown(value: Any, shape: Any, pointer: str, depth: int) -> Iterator[str]:
    """Yield a pointer for each field of `value` that `shape` does not have, secrets refused."""
    if depth > DEEPEST:
        raise BadRequest(f"nested deeper than {DEEPEST}", pointer="")
    if type(value) is dict:
        for name, inner in value.items():
            if name in shape:
                below = shape[name]
                if below is not None and (type(inner) is dict or type(inner) is list):
                    yield from _unknown(inner, below, f"{pointer}/{name}", depth + 1)
            else:
                here = f"{pointer}/{_repeatable(name)}"
                _refuse_secrets(name, inner, here, depth)
                if shape is not _OPEN:
                    yield here
    elif type(value) is list:
        for place, inner in enumerate(value):
            yield from _unknown(inner, shape, f"{pointer}/{place}", depth + 1)


def _refuse_secrets(name: str, value: Any, pointer: str, depth: int) -> None:
    """Refuse a field that looks like a secret, and any inside it."""
    if depth > DEEPEST:
        raise BadRequest(f"nested deeper than {DEEPEST}", pointer="")
    if _is_secret(name):
        raise BadRequest(
            "looks like a secret: passwords, codes and tokens are never an input; leave it out",
            pointer=pointer,
        )
    if type(value) is dict:
        for inner_name, inner in value.items():
            _refuse_secrets(inner_name, inner, f"{pointer}/{_repeatable(inner_name)}", depth + 1)
    elif type(value) is list:
        for place, inner in enumerate(value):
            _refuse_secrets("", inner, f"{pointer}/{place}", depth + 1)


def _is_secret(name: str) -> bool:
    """Whether a name, in any of the usual spellings, is that of a secret.

    >>> [_is_secret(n) for n in ("accessToken", "PIN", "user-password", "shipping", "page_views")]
    [True, True, True, False, False]
    >>> _is_secret("\uff30\uff29\uff2e"), _is_secret("p\u00e1ssword")  # wide letters, and accents
    (True, True)
    """
    if not name.isascii():
        letters = unicodedata.normalize("NFKD", name)
        name = "".join(letter for letter in letters if not unicodedata.combining(letter))
    words = [word.lower() for word in _WORDS.findall(name)]
    whole = "".join(words)
    return not _SECRETS.isdisjoint(words) or any(part in whole for part in _INSIDE)


def _repeatable(name: str) -> str:
    return name if _KNOWN_NAME.match(name) else "*"


_shapes: dict[Any, Shape] = {}


def _shape_of(kind: Any) -> Shape:
    found = _shapes.get(kind)
    if found is None:
        found = _shapes[kind] = _shape(type_info(kind))
    return found


def _shape(kind: Type) -> Any:
    match kind:
        case StructType():
            return {field.encode_name: _shape(field.type) for field in kind.fields}
        case UnionType():
            return next((found for one in kind.types if (found := _shape(one)) is not None), None)
        case VarTupleType():
            return _shape(kind.item_type)
        case AnyType() | DictType():
            return _OPEN
    return None
