"""Passwords and tokens in URLs, masked before anything is logged, recorded or shown."""

from __future__ import annotations

import re

__all__ = ["masked", "masked_url"]

_MASK = "***"

_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")
# Of a URL in the path of another one, as with archives and proxies.
_INNER = re.compile(r"://[^/@]*@")
_PARAMETER = re.compile(r";([^=/;]*)=[^/;]*")

# A URL in a text, or the path and query of one, as HTTP libraries show it.
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{,30}://[^\s\"'<>]*|(?<![^\s\"'=(])/[^\s\"'<>?]*\?[^\s\"'<>]*")


def masked_url(url: str) -> str:
    """Return a URL without what may be secret: its userinfo, the values of its query, and its fragment.

    All values are masked: services give their tokens names of all kinds.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "", url
    end = min((place for place in map(rest.find, "/?#") if place >= 0), default=len(rest))
    userinfo, at, host = rest[:end].rpartition("@")
    if _HOST.fullmatch(host) is None:
        # Not a port, so it may be a password with a slash in it.
        return f"{scheme}{mark}{_MASK}"
    before, hash_mark, fragment = rest[end:].partition("#")
    path, question_mark, query = before.partition("?")
    userinfo, fragment = _MASK if userinfo else "", _MASK if fragment else ""
    path = _INNER.sub(f"://{_MASK}@", _PARAMETER.sub(rf";\1={_MASK}", path))
    query = "".join(map(_field, re.split("([&;])", query)))
    return f"{scheme}{mark}{userinfo}{at}{host}{path}{question_mark}{query}{hash_mark}{fragment}"


def _field(field: str) -> str:
    name, equals, value = field.partition("=")
    if equals:
        return f"{name}={_MASK}" if value else field
    return field if field in ("", "&", ";") else _MASK


def masked(text: str) -> str:
    """Return a text with `masked_url` applied to each URL in it."""
    return _IN_TEXT.sub(lambda found: masked_url(found[0]), text)
