"""A server of OpenAI's chat protocol around one of our captioners, as vLLM's is; what it was asked is kept."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from PIL import Image

from bettersynth_assets.models.llava import LlavaCaptioner

NAME = "org/tiny-llava"


@dataclass
class Served:
    """One server's state."""

    captioner: LlavaCaptioner | None
    address: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    """Statuses that the next requests are answered with."""
    lock: Lock = field(default_factory=Lock)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """One choice, as the captioner's tokens are: cut off by the limit, or ended."""
        picture, question = body["messages"][0]["content"]
        data = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,"))
        image = Image.open(io.BytesIO(data))
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
    """A server on a free port of this machine, while the block runs."""
    state = Served(captioner)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.say(200 if self.path == "/v1/models" else 404, {"data": [{"id": NAME}, {"id": "org/other"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if state.refusals:
                self.say(state.refusals.pop(0), {"error": "the image has no size"})
            else:
                self.say(200, {"choices": [state.answer(body)]})

        def say(self, status: int, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            """Nothing into the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
