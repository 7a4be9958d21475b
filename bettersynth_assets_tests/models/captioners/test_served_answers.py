"""Responses of a captioning server: row faults, environment faults, redirects, API keys."""

from __future__ import annotations

import json
from threading import Event

import pytest
import requests
from PIL import Image

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.captioners import served_answers
from bettersynth_assets.models.captioners.served import ServedCaptioner
from bettersynth_assets.records.reserved import CaptionError
from bettersynth_assets_tests.helpers.caption_server import NAME, completion, image_of, serving

IMAGES = [Image.new("RGB", (40 + at, 30), (9 * at, 0, 0)) for at in range(4)]
BAD = 41
"""Width of the image that is answered badly."""


@pytest.fixture
def server():
    with serving(None) as state:
        state.script = lambda body: completion("a red dog")
        yield state


@pytest.fixture
def pauses(monkeypatch):
    """Record each wait in seconds instead of waiting."""
    found: list[float] = []
    monkeypatch.setattr(served_answers.time, "sleep", found.append)
    return found


def captions(server, **how):
    captioner = ServedCaptioner(f"{server.address}#{NAME}", batch=2)
    return captioner.captions(IMAGES, prompt="what?", max_new_tokens=9, keys=["r0", "r1", "r2", "r3"], **how)


def body(value):
    return 200, {}, json.dumps(value).encode()


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ((200, {"Content-Type": "text/html"}, b"<html>502 Bad Gateway</html>"), r"no chat completion .*<html>502"),
        ((200, {}, b""), "no chat completion"),
        ((200, {}, b"\xff\xfe\x00"), "no chat completion"),
        ((200, {}, b"[" * 50_000), "no chat completion"),
        (body([]), "no chat completion"),
        (body("a dog"), "no chat completion"),
        (body({}), "no chat completion"),
        (body({"choices": []}), "no chat completion"),
        (body({"choices": None}), "no chat completion"),
        (body({"choices": [None]}), "no chat completion"),
        (body({"choices": [{"message": "a dog"}]}), "no chat completion"),
        (body({"choices": [{"message": {}}]}), "no chat completion"),
        (completion(None), r"no text \(NoneType\)"),
        (completion(5), r"no text \(int\)"),
        (completion({"text": "a dog"}), r"no text \(dict\)"),
        (completion([{"type": "text", "text": "a dog"}]), r"no text \(list\)"),
        (completion("a\x00dog"), r"U\+0000"),
        (completion("a dog \ud83d"), r"U\+D83D"),
        (completion("dog " * 2_500), "10000 characters"),
        ((200, {}, b'{"choices": [' + b" " * 200_000), "longer than 65536 bytes"),
        ((400, {}, b"bad image"), r"answered 400 \(row r1\): bad image"),
        ((413, {}, b""), "answered 413"),
    ],
)  # fmt: skip
def test_a_response_without_a_caption_fails_only_its_row(server, reply, why):
    server.script = lambda asked: reply if image_of(asked).width == BAD else completion("a red dog")
    answers = captions(server)
    assert [answers[0], *answers[2:]] == ["a red dog"] * 3
    assert isinstance(answers[1], CaptionError) and answers[1].reason == "caption_failed"
    with pytest.raises(CaptionError, match=why):
        raise answers[1]
    asked = sum(image_of(item).width == BAD for item in server.asked)
    assert asked == (1 if reply[0] >= 400 else served_answers.ANSWER_TRIES)


def test_a_response_that_succeeds_on_retry_is_used(server):
    replies = [(200, {}, b"oops"), completion("a dog")]
    server.script = lambda asked: replies.pop(0) if image_of(asked).width == BAD else completion("a red dog")
    assert captions(server) == ["a red dog", "a dog", "a red dog", "a red dog"]


def test_a_response_truncated_by_the_token_limit_ends_with_its_last_sentence(server):
    text = "A view of Mt. Fuji. A boat in the"
    server.script = lambda asked: completion(text, {40: "stop", 41: "length"}.get(image_of(asked).width, "max_tokens"))
    assert captions(server) == [text, *["A view of Mt. Fuji."] * 3]


def test_a_busy_server_is_retried_a_few_times_after_the_delay_that_it_asks_for(server, pauses):
    busy = (429, {"Retry-After": "7"}, b"slow down")
    server.script = lambda asked: busy if image_of(asked).width == BAD else completion("a red dog")
    answers = captions(server)
    assert "answered 429 (row r1) 5 times: slow down" in answers[1].detail
    assert pauses == [7.0] * 4
    del pauses[:]
    server.script = lambda asked: (503, {"Retry-After": "86400"}, b"") if image_of(asked).width == BAD else busy
    captions(server)
    assert max(pauses) == served_answers.MAX_WAIT
    del pauses[:]
    server.script = lambda asked: (500, {}, b"") if image_of(asked).width == BAD else completion("a red dog")
    captions(server)
    assert pauses == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.slow
@pytest.mark.parametrize("reply", [(0, {}, b""), (200, {"Content-Length": "99"}, b'{"choices": ')])
def test_a_broken_connection_fails_only_its_row_after_several_attempts(server, pauses, monkeypatch, reply):
    monkeypatch.setattr(served_answers, "SECONDS", 0.5)
    server.script = lambda asked: reply if image_of(asked).width == BAD else completion("a red dog")
    answers = captions(server)
    assert [answers[0], *answers[2:]] == ["a red dog"] * 3
    assert "broke off" in answers[1].detail and "(row r1), 5 times" in answers[1].detail


def test_a_row_that_times_out_fails_alone(server, pauses, monkeypatch):
    monkeypatch.setattr(served_answers, "SECONDS", 0.4)

    def slow(asked):
        if image_of(asked).width == BAD:
            Event().wait(1.2)
        return completion("a red dog")

    server.script = slow
    answers = captions(server)
    assert [answers[0], *answers[2:]] == ["a red dog"] * 3
    assert "did not answer within 0.4 s (row r1), 2 times" in answers[1].detail


def test_a_response_that_arrives_too_slowly_times_out(server):
    answer = requests.get(f"{server.address}/models", stream=True)
    with answer, pytest.raises(CaptionError, match="not complete within 0 s"):
        served_answers._read_body(answer, 99_999, 0.0)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ((401, {}, b"no key"), r"answered 401 .*no key: set OPENAI_API_KEY in the environment"),
        ((403, {}, b"wrong key"), r"answered 403 .*set OPENAI_API_KEY"),
        ((404, {}, b"no such model"), r"answered 404 .*no such model"),
        ((405, {}, b""), "answered 405"),
    ],
)
def test_an_error_that_would_fail_every_row_stops_the_run_at_once(server, reply, why):
    server.script = lambda asked: reply
    with pytest.raises(ConfigError, match=why):
        captions(server)
    assert len(server.asked) <= 2


@pytest.mark.parametrize("listing", [b"<html>", b"[]", b'{"data": null}', b'{"data": [5]}', b"[" * 50_000])
def test_an_address_that_returns_no_list_of_models_is_refused(server, listing):
    server.listing = (200, {}, listing)
    with pytest.raises(ConfigError, match=r"/models is no list of models .* ends in /v1"):
        ServedCaptioner(f"{server.address}#{NAME}")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_the_other_host_receives_no_image(server, status):
    with serving(None) as other:
        other.script = lambda asked: completion("stolen")
        target = {"Location": f"{other.address}/chat/completions"}
        server.script = lambda asked: (status, target, b"")
        with pytest.raises(ConfigError, match=rf"redirects to '{other.address}.*to the final address"):
            captions(server)
        server.listing = (status, {"Location": f"{other.address}/models"}, b"")
        with pytest.raises(ConfigError, match="redirects to"):
            ServedCaptioner(f"{server.address}#{NAME}")
        assert other.asked == [] and other.headers == []


def test_the_api_key_comes_only_from_the_environment(server, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hidden\nmachine captions.test login me password hidden\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # not required for a server on this machine
    captions(server)
    assert not any("Authorization" in headers for headers in server.headers)
    captioner = ServedCaptioner(f"{server.address}#{NAME}")
    session = captioner._endpoint._session
    session.trust_env = True
    prepared = session.prepare_request(requests.Request("GET", "http://captions.test/v1/models"))
    assert "Authorization" not in prepared.headers
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    captions(server)
    assert server.headers[-1]["Authorization"] == "Bearer sk-1"
    monkeypatch.setenv("BETTERSYNTH_CAPTIONER_AUTHORIZATION", "Basic abc")
    captions(server)
    assert server.headers[-1]["Authorization"] == "Basic abc"


def test_an_api_key_that_the_server_echoes_is_not_shown(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    server.script = lambda asked: (401, {}, b"Incorrect API key: sk-very-secret-key")
    with pytest.raises(ConfigError, match=r"Incorrect API key: \*\*\*") as error:
        captions(server)
    assert "very-secret" not in str(error.value)
    server.script = lambda asked: (400, {}, b"header 'Bearer sk-very-secret-key'")
    assert not any("very-secret" in str(error) for error in captions(server))


def test_no_images_send_no_request(server):
    captioner = ServedCaptioner(f"{server.address}#{NAME}")
    assert captioner.captions([], prompt="", max_new_tokens=3) == [] and server.asked == []
