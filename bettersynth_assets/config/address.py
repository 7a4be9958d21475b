"""Parser of a captioner server's address, the value of a profile's ``models.captioner``.

    http://host:port/v1?field=value#name

``name`` is the model's name on the server. The query fields are added to each request. An address must not contain
secrets, because profiles are copied, committed and displayed; secrets are read from the environment.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.errors.redaction import is_secret_name

SCHEMES = ("http://", "https://")
FROM_ENVIRONMENT = (
    "remove it and set OPENAI_API_KEY in the environment (sent as a bearer token), or "
    "BETTERSYNTH_CAPTIONER_AUTHORIZATION (the whole Authorization header, e.g. 'Basic ...')"
)


class Address(NamedTuple):
    """The parsed address of a captioner's server."""

    url: str
    name: str
    fields: dict[str, Any]
    """Fields of each request."""

    @property
    def key(self) -> str:
        """The part of the address on which captions depend."""
        return " ".join(["served", self.name, *(f"{name}={value!r}" for name, value in sorted(self.fields.items()))])


def is_address(model: str) -> bool:
    """Return whether a profile's captioner is the address of a server."""
    return model.lower().startswith(SCHEMES)


def check_no_secrets(model: str) -> None:
    """Check that an address contains no user name, password or secret field.

    Raises:
        ConfigError: the address contains one; the message shows the address without it.
    """
    parts = _split(model)
    # An unescaped # or / in a password ends the netloc early; the @ is then in a later part.
    is_cut = ":" in parts.netloc and not parts.netloc.rpartition(":")[2].rstrip("]").isdigit() and "@" in model
    if "@" in parts.netloc or is_cut:
        raise _holds_user(model)
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if is_secret_name(name):
            raise ConfigError(f"models.captioner = {model!r} contains a secret, {name!r}: {FROM_ENVIRONMENT}")


def _holds_user(model: str) -> ConfigError:
    scheme, _, rest = model.partition("://")
    shown = f"{scheme}://***@{rest.rpartition('@')[2]}"
    return ConfigError(f"models.captioner = {shown!r} contains a user name or password: {FROM_ENVIRONMENT}")


def address(model: str) -> Address:
    """Parse an address; field values are parsed as JSON if valid, else kept as strings.

    Raises:
        ConfigError: the address names no model or contains a secret.
    """
    check_no_secrets(model)
    parts = _split(model)
    if not parts.fragment:
        raise ConfigError(
            f"models.captioner = {model!r} names no model: append # and the model's name on the server, "
            f"e.g. {model.rstrip('#')}#llava-hf/llava-1.5-7b-hf"
        )
    url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return Address(url, parts.fragment, {name: _value(text) for name, text in parse_qsl(parts.query)})


def _split(model: str) -> Any:
    try:
        parts = urlsplit(model)
        _ = parts.port
    except ValueError as error:
        if "@" in model:  # `user:password@host` with a character that ends the netloc
            raise _holds_user(model) from None
        fix = "write http://host:port/v1#name"
        raise ConfigError(f"models.captioner = {model!r} is not a valid address ({error}): {fix}") from None
    return parts


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
