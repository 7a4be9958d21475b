"""Redaction of secrets. In: a message or an address. Out: the same text with ``***`` in place of secrets."""

from __future__ import annotations

import os
import re

KEY_VARIABLES = ("OPENAI_API_KEY", "BETTERSYNTH_CAPTIONER_AUTHORIZATION")
"""Environment variables with secrets of a captioner's server; their values are redacted in every message."""
_NAME = (
    r"(?:[\w.-]*[-_.])?(?:api[-_]?key|key|token|secret|password|passwd|pwd|pass|sig|signature|auth|authorization|bearer|"
    r"credentials?)"
)
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^\s#]*@")
# A password with an unescaped #: the text after the first colon is not a port.
_BROKEN_USER = re.compile(r"(?<=://)[^\s/@?#:'\"<>]*:(?!\d{1,5}(?:[/?#\s'\"<>,;)]|$))\S*@")
_FIELD = re.compile(rf"([?&;]{_NAME}=)[^&;#\s'\"<>]+", re.IGNORECASE)
_HEADER = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
_MIN_LENGTH = 6


def redacted(text: str) -> str:
    """Redact user names and secrets in URLs and authorization headers, and the values of ``KEY_VARIABLES``."""
    for variable in KEY_VARIABLES:
        for secret in {os.environ.get(variable, ""), *os.environ.get(variable, "").split()[-1:]}:
            if len(secret) >= _MIN_LENGTH:
                text = text.replace(secret, "***")
    text = _USER.sub("***@", _BROKEN_USER.sub("***@", text))
    return _HEADER.sub(r"\1 ***", _FIELD.sub(r"\1***", text))


def is_secret_name(name: str) -> bool:
    """Return whether a URL query field with this name holds a secret, e.g. ``api_key`` (but not ``max_tokens``)."""
    return _SECRET_NAME.fullmatch(name) is not None
