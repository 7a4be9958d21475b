"""Addresses of served captioners hold no secrets, and no message shows one."""

from __future__ import annotations

import pickle

import pytest

from bettersynth_assets.config.address import address, is_address
from bettersynth_assets.config.profile import load_profile
from bettersynth_assets.errors import ConfigError, UserError
from bettersynth_assets.errors.redaction import is_secret_name, redacted

SECRET = "s3cr3t-word"


@pytest.mark.parametrize(
    "model",
    [
        f"http://user:{SECRET}@host:8000/v1#name",
        f"https://{SECRET}@host/v1#name",
        f"HTTP://user:{SECRET}@host/v1#name",
        f"http://user:{SECRET}@host/v1",
        f"http://user:p@{SECRET}@host/v1#name",
        f"http://user:p#{SECRET}@host/v1#name",
        f"http://user:p/{SECRET}@host/v1#name",
        f"http://user:p?{SECRET}@host/v1#name",
        f"http://user:p'{SECRET}@host/v1#name",
        f"http://user:p {SECRET}@host/v1#name",
        f"http://host/v1?api_key={SECRET}#name",
        f"http://host/v1?top_k=5&access_token={SECRET}#name",
        f"http://host/v1?OPENAI-API-KEY={SECRET}&n=1#name",
        f"http://host/v1?password={SECRET}#name",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_shown(model, tmp_path):
    assert is_address(model)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as error:
        address(model)
    assert SECRET not in str(error.value) and "***" in str(error.value)
    path = tmp_path / "own.yaml"
    path.write_text(f'extends: miniature\nmodels: {{captioner: "{model}"}}\n')
    with pytest.raises(ConfigError, match=r"models\.captioner = .*remove it and set OPENAI_API_KEY") as error:
        load_profile(str(path))
    assert SECRET not in str(error.value)


def test_the_error_of_an_invalid_profile_shows_no_secret_of_its_captioner(tmp_path):
    path = tmp_path / "own.yaml"
    captioner = f"http://user:{SECRET}@host/v1#name"
    for text in (
        f"extends: miniature\nmodels: {captioner!r}\n",
        f"extends: miniature\nmodels: {{captioner: [{captioner!r}]}}\n",
        f"extends: miniature\nmodels: {{captioner: {captioner!r}\n",
    ):
        path.write_text(text)
        with pytest.raises(ConfigError) as error:
            load_profile(str(path))
        assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "name", ["max_tokens", "add_special_tokens", "stop_token_ids", "skip_special_tokens", "top_k", "min_p", "keyword"]
)
def test_ordinary_fields_are_not_treated_as_secrets(name):
    assert not is_secret_name(name)
    assert address(f"http://host/v1?{name}=1#org/model@main").fields == {name: 1}
    assert redacted(f"http://host:80/v1?{name}=1#org/model@main") == f"http://host:80/v1?{name}=1#org/model@main"


@pytest.mark.parametrize("model", ["http://[::1/v1#m", "http://host:abc/v1#m", "http://host:99999/v1#m"])
def test_an_invalid_address_is_named(model):
    with pytest.raises(ConfigError, match=r"models\.captioner = .* is not a valid address"):
        address(model)


def test_every_user_error_is_redacted(monkeypatch):
    error = UserError(f"GET https://me:{SECRET}@host/a and Authorization: Bearer {SECRET}-long")
    assert str(error) == "GET https://***@host/a and Authorization: Bearer ***"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert redacted(f"key {SECRET}!") == "key ***!"
    assert redacted("a plain message: 5 > 4, a@b.c") == "a plain message: 5 > 4, a@b.c"
