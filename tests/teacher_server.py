"""An OpenAI-compatible server on loopback that answers, or misbehaves, by a script."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-test-qzxwvkjyptmnrsgu"  # no letters of hexadecimal numbers: addresses in logs hold those


def completion(text, finish="stop"):
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def error(message, **more):
    return {"error": {"message": message, "type": "x", "code": None, "param": None, **more}}


class Server:
    """Answers request number n with `script(n, body)`: (status, content, headers), or a dict alone."""

    def __init__(self, script):
        self.bodies, self.raw, self.headers, lock = [], [], [], threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                body = json.loads(raw)
                with lock:
                    outer.raw.append(raw)
                    outer.bodies.append(body)
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                    number = len(outer.bodies)
                answer = script(number, body)
                status, content, *more = answer if isinstance(answer, tuple) else (200, answer)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                headers = {"Content-Length": str(len(data))} | (more[0] if more else {})
                self.close_connection = int(headers["Content-Length"]) != len(data)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
