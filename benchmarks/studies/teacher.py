"""An OpenAI-compatible server over a model on this machine, for studies of the network teacher.

    python -m benchmarks.studies.teacher --model SOURCE

Answers /v1/chat/completions and /v1/models on a free port of the loopback interface, whose address is the
one line on standard output. Requests that arrive together are one batch. Temperature, top_p, seed and
max_tokens are honoured, and so is `response_format` with a JSON schema, by constrained decoding with
llguidance: models this small write no JSON by themselves. It ends when its standard input does.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.studies.teacher_model import BadRequestError, Job, TeacherModel
from runtimes.agent import claim_stdout
from toolkit.cli import run_to_exit
from toolkit.errors import EdgePLMError
from toolkit.models import resolve_model

_GATHER_SECONDS = 0.25  # requests that arrive within it share a batch
_MOST_ROWS = 32
_LONGEST_BODY = 4_000_000  # bytes
_PACKAGES = Path(__file__).resolve().parents[2]


class Server:
    """The HTTP side: reads requests, batches them for one worker, writes answers."""

    def __init__(self, model: TeacherModel) -> None:
        self._model = model
        self._jobs: queue.Queue[Job] = queue.Queue()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def serve_forever(self) -> None:
        """Answer until the process ends."""
        threading.Thread(target=self._work, daemon=True).start()
        self._http.serve_forever()

    def models(self) -> dict[str, Any]:
        """The answer to /v1/models."""
        return {"object": "list", "data": [{"id": self._model.name, "object": "model", "owned_by": "local"}]}

    def complete(self, body: Any) -> dict[str, Any]:
        """The answer to /v1/chat/completions. Raises BadRequestError."""
        job = self._read(body)
        self._jobs.put(job)
        ids, ended = job.answer.result()
        used, written = len(job.ids), len(ids) + ended
        return {
            "id": f"chatcmpl-{job.seed}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self._model.name,
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop" if ended else "length",
                    "message": {"role": "assistant", "content": self._model.decode(ids)},
                }
            ],
            "usage": {
                "prompt_tokens": used, "completion_tokens": written, "total_tokens": used + written
            },
        }  # fmt: skip

    def _read(self, body: Any) -> Job:
        if not isinstance(body, dict):
            raise BadRequestError("the body is no JSON object")
        if body.get("stream") or body.get("n", 1) != 1:
            which = "stream" if body.get("stream") else "n"
            raise BadRequestError("answers are whole, and one a request", which)
        messages = body.get("messages")
        if not (
            isinstance(messages, list) and messages
            and all(isinstance(m, dict) and isinstance(m.get("content"), str)
                    and m.get("role") in ("system", "user", "assistant") for m in messages)
        ):  # fmt: skip
            raise BadRequestError("needs messages with role and content", "messages")
        form = body.get("response_format") or {"type": "text"}
        schema = None
        if form.get("type") == "json_schema":
            schema = json.dumps(form.get("json_schema", {}).get("schema", {}))
        elif form.get("type") != "text":
            raise BadRequestError("response_format is text or json_schema", "response_format")
        ids = self._model.encode(messages)
        most = _number(body, "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens",
                       256, 1, self._model.context)  # fmt: skip
        if len(ids) + most > self._model.context:
            raise BadRequestError(
                f"{len(ids)} tokens and {most:.0f} for the answer are more than the context, "
                f"{self._model.context}", "messages",
            )  # fmt: skip
        return Job(
            ids,
            int(_number(body, "seed", 0, 0, 2**63 - 1)),
            _number(body, "temperature", 1.0, 0, 2),
            _number(body, "top_p", self._model.top_p, 1e-6, 1),
            int(most),
            schema,
        )

    def _work(self) -> None:
        waiting: list[Job] = []
        while True:
            waiting += [self._jobs.get()] if not waiting else []
            until = time.monotonic() + _GATHER_SECONDS
            while len(waiting) < _MOST_ROWS and (left := until - time.monotonic()) > 0:
                try:
                    waiting.append(self._jobs.get(timeout=left))
                except queue.Empty:
                    break
            batch = [job for job in waiting if job.together == waiting[0].together][:_MOST_ROWS]
            waiting = [job for job in waiting if not any(job is each for each in batch)]
            batch.sort(key=lambda job: (len(job.ids), job.seed))
            try:
                for job, answer in zip(batch, self._model.generate(batch), strict=True):
                    job.answer.set_result(answer)
            except Exception as error:
                for job in batch:
                    job.answer.set_exception(error)


def _number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadRequestError(f"{name} is a number from {low:g} to {high:g}", name)
    return value


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """One connection."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.rstrip("/") == "/v1/models":
                self._send(200, server.models())
            else:
                self._fail(404, f"no such path: {self.path}")

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            if self.path.rstrip("/") != "/v1/chat/completions" or not 0 < size <= _LONGEST_BODY:
                self.close_connection = True
                self._fail(404 if size else 400, f"no such path: {self.path}, or no body")
                return
            try:
                self._send(200, server.complete(json.loads(self.rfile.read(size))))
            except BadRequestError as error:
                self._fail(400, str(error), error.param)
            except ValueError as error:
                self._fail(400, f"the body is not valid JSON ({error})")
            except Exception as error:
                self._fail(500, f"{type(error).__name__}: {error}")

        def _fail(self, status: int, message: str, param: str | None = None) -> None:
            kind = "invalid_request_error" if status < 500 else "server_error"
            self._send(status, {"error": {"message": message, "type": kind, "param": param, "code": None}})

        def _send(self, status: int, document: Any) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: prompts are people's texts."""

    return Handler


@contextmanager
def teacher_server(source: str, *, dtype: str = "float32", top_p: float = 1.0) -> Iterator[str]:
    """A server of `source` in a process of its own for the length of the block; yields its base URL.

    Raises EdgePLMError if it does not start.
    """
    command = [sys.executable, "-P", "-m", "benchmarks.studies.teacher", "--model", source, "--dtype", dtype,
               "--top-p", str(top_p)]  # fmt: skip
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    ) as process:  # fmt: skip
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise EdgePLMError(f"ended with status {process.wait()}", where="the teacher's server")
            yield json.loads(line)["url"]
        finally:
            process.terminate()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve; errors a user can mend are one line on standard error."""
    run_to_exit(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", required=True, metavar="SOURCE")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--top-p", type=float, default=1.0, help="of requests that name none")
    given = parser.parse_args(arguments)
    stdout = claim_stdout()
    server = Server(TeacherModel(resolve_model(given.model), dtype=given.dtype, top_p=given.top_p))
    stdout.write(json.dumps({"url": server.url}) + "\n")
    stdout.flush()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.read(0, 1)  # until the one who started it has ended


if __name__ == "__main__":
    main()
