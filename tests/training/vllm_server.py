"""A server that speaks what TRL asks of `vllm serve`: python vllm_server.py PORT [DIES_AT]

Its responses follow from the prompt and from how many are asked, so that two trainings draw the same. It dies with the
request of this number, in the middle of its reply.
"""

from __future__ import annotations

import json
import os
import random
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

VOCABULARY = 250


def completions(asked: dict[str, Any]) -> dict[str, Any]:
    choices = []
    for prompt in asked["prompt"]:
        for number in range(asked["n"]):
            rng = random.Random(f"{prompt} {number} {asked['temperature']}")
            ids = [rng.randrange(VOCABULARY) for _ in range(asked["max_tokens"])]
            names = [f"token_id:{token}" for token in ids]
            logprobs = {
                "tokens": names,
                "token_logprobs": [-1.0] * len(ids),
                "top_logprobs": [None] * len(ids),
            }
            choices.append({"prompt_token_ids": prompt, "token_ids": ids, "logprobs": logprobs})
    return {"choices": choices}


class Handler(BaseHTTPRequestHandler):
    requests = 0
    dies_at = int(sys.argv[2]) if len(sys.argv) > 2 else 0

    def do_GET(self) -> None:
        self._reply({"data": [{"id": "served"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        if self.path != "/v1/completions":
            self._reply({"success": True})
            return
        Handler.requests += 1
        self._reply(completions(asked), dies=Handler.requests == Handler.dies_at)

    def _reply(self, answer: dict[str, Any], dies: bool = False) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if dies else body)
        if dies:
            self.wfile.flush()
            os._exit(1)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is shown."""


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
