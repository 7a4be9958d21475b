"""A vLLM server for speed tests. In: its program and a checkpoint. Out: an address, inside a ``with`` block.

Image and prefix caches are disabled, because a speed test submits its first batch twice.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests


@contextmanager
def served(vllm: str, model: Path, at_once: int) -> Iterator[str]:
    """Serve the model with vLLM while the block runs; yield the address in a profile's format."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program, *options = shlex.split(vllm)
    command = [
        program, "serve", str(model), "--served-model-name", "llava", "--port", str(port),
        "--max-model-len", "1024", "--max-num-seqs", str(at_once), "--mm-processor-cache-gb", "0",
        "--no-enable-prefix-caching", "--gpu-memory-utilization", "0.8", *options,
    ]  # fmt: skip
    with Path(model.parent, "vllm.log").open("w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            while server.poll() is None:
                time.sleep(1)
                try:
                    if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                        break
                except requests.RequestException:
                    continue
            else:
                raise SystemExit(f"vLLM ended with {server.returncode}:\n{Path(log.name).read_text()[-4000:]}")
            yield f"http://127.0.0.1:{port}/v1?add_special_tokens=true#llava"
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
                server.wait()
