"""A server of OpenAI's chat protocol, like vLLM's, around one of our captioners or around a function that returns any
response; it records its requests."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from PIL import Image

from bettersynth_assets.models.captioners.llava import LlavaCaptioner

NAME = "org/tiny-llava"
MODELS = {"data": [{"id": NAME}, {"id": "org/other"}]}
Reply = tuple[int, dict[str, str], bytes]
"""Status, headers, body; status 0 closes the connection without an answer."""


def completion(content: Any, finish_reason: str = "stop") -> Reply:
    """Return a valid response with the given content."""
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    return 200, {}, json.dumps({"choices": [choice]}).encode()


def image_of(body: dict[str, Any]) -> Image.Image:
    """Return the image of a request."""
    picture, _ = body["messages"][0]["content"]
    data = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,"))
    return Image.open(io.BytesIO(data))


@dataclass
class Served:
    """State of a server."""

    captioner: LlavaCaptioner | None
    address: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    """Statuses that the next requests are answered with."""
    script: Callable[[dict[str, Any]], Reply] | None = None
    """Answers in the captioner's place."""
    listing: Reply | None = None
    """Answer to a request for the models."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of all requests."""
    lock: Lock = field(default_factory=Lock)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return one choice; its finish reason says whether the token limit truncated the captioner's tokens."""
        _, question = body["messages"][0]["content"]
        image = image_of(body)
        ended = []

        def texts(tokens: Any) -> list[str]:
            ended.append(3 in tokens[0].tolist())
            return self.captioner._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)

        with self.lock:
            self.asked.append(body)
            self.captioner._texts = texts
            (text,) = self.captioner.captions([image], prompt=question["text"], max_new_tokens=body["max_tokens"])
        return {"message": {"role": "assistant", "content": text}, "finish_reason": "stop" if ended[0] else "length"}


@contextmanager
def serving(captioner: LlavaCaptioner | None) -> Iterator[Served]:
    """Run a server on a free port of this machine while the block runs."""
    state = Served(captioner)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.headers.append(dict(self.headers))
            found = self.path == "/v1/models"
            self.send(*(state.listing or (200 if found else 404, {}, json.dumps(MODELS).encode())))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.headers.append(dict(self.headers))
            if state.refusals:
                self.send(state.refusals.pop(0), {}, json.dumps({"error": "the image has no size"}).encode())
            elif state.script is not None:
                with state.lock:
                    state.asked.append(body)
                self.send(*state.script(body))
            else:
                self.send(200, {}, json.dumps({"choices": [state.answer(body)]}).encode())

        def send(self, status: int, headers: dict[str, str], data: bytes) -> None:
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            with suppress(ConnectionError):  # the client has closed the connection
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            """Keep the log out of the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})  # shutdown waits for one interval
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
