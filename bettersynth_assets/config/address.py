"""The address of a served captioner, as a profile's ``models.captioner`` holds it.

    http://host:port/v1?field=value#name

The name behind ``#`` is that of the served model, and the fields behind ``?`` go into each request. Secrets have no
place in it, because a profile is copied, committed and shown: they come from the environment.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.errors.redaction import is_secret_name

SCHEMES = ("http://", "https://")
FROM_ENVIRONMENT = (
    "take it out and set OPENAI_API_KEY in the environment (sent as a bearer token), or "
    "BETTERSYNTH_CAPTIONER_AUTHORIZATION (the whole Authorization header, e.g. 'Basic ...')"
)


class Address(NamedTuple):
    """A profile's captioner, taken apart."""

    url: str
    name: str
    fields: dict[str, Any]
    """Of each request."""

    @property
    def key(self) -> str:
        """What captions depend on."""
        return " ".join(["served", self.name, *(f"{name}={value!r}" for name, value in sorted(self.fields.items()))])


def is_address(model: str) -> bool:
    """Whether a profile's captioner is a server's."""
    return model.lower().startswith(SCHEMES)


def check_no_secrets(model: str) -> None:
    """Refuse an address with a user name, a password, or a field that holds a secret.

    Raises:
        ConfigError: it has one; the message shows the address without it.
    """
    parts = _split(model)
    # An unescaped # or / in a password ends the host's part early; the rest of it holds the @ then.
    is_cut = ":" in parts.netloc and not parts.netloc.rpartition(":")[2].rstrip("]").isdigit() and "@" in model
    if "@" in parts.netloc or is_cut:
        raise _holds_user(model)
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if is_secret_name(name):
            raise ConfigError(f"models.captioner = {model!r} holds a secret, {name!r}: {FROM_ENVIRONMENT}")


def _holds_user(model: str) -> ConfigError:
    scheme, _, rest = model.partition("://")
    shown = f"{scheme}://***@{rest.rpartition('@')[2]}"
    return ConfigError(f"models.captioner = {shown!r} holds a user name or password: {FROM_ENVIRONMENT}")


def address(model: str) -> Address:
    """Take an address apart; values are JSON, or else text.

    Raises:
        ConfigError: it names no model, or holds a secret.
    """
    check_no_secrets(model)
    parts = _split(model)
    if not parts.fragment:
        raise ConfigError(
            f"models.captioner = {model!r} names no model: add it behind a #, as the server calls it, "
            f"e.g. {model.rstrip('#')}#llava-hf/llava-1.5-7b-hf"
        )
    url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return Address(url, parts.fragment, {name: _value(text) for name, text in parse_qsl(parts.query)})


def _split(model: str) -> Any:
    try:
        parts = urlsplit(model)
        _ = parts.port
    except ValueError as error:
        if "@" in model:  # `user:password@host` with a character that ends the host's part
            raise _holds_user(model) from None
        fix = "write http://host:port/v1#name"
        raise ConfigError(f"models.captioner = {model!r} is no address ({error}): {fix}") from None
    return parts


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
