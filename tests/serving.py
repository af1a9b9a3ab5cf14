"""A kvant serve of its own, as the tests of the server and its measurements start and ask it."""
import atexit
import http.client
import json
import os
import signal
import subprocess
import tempfile
import time

BUILD = os.environ.get("KVANT_BUILD", "build")
TIMEOUT_S = float(os.environ.get("KVANT_TIMEOUT", "120"))  # of an answer; longer under a sanitizer


class Server:
    def __init__(self, model, *arguments, env=None):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        environment = dict(os.environ, **(env or {}))
        self.process = subprocess.Popen([os.path.join(BUILD, "kvant"), "serve", model, "--port", "0",
                                         *arguments],
                                        stdout=subprocess.DEVNULL, stderr=self.log, env=environment)
        atexit.register(self.process.kill)  # a test that breaks off leaves nothing running
        self.port = 0
        for _ in range(600):
            with open(self.log.name, encoding="utf-8", errors="replace") as file:
                text = file.read()
            if " on http://" in text:
                self.port = int(text.split(" on http://")[1].split(",")[0].rsplit(":", 1)[1])
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"kvant serve did not start: {text}")

    def request(self, method, path, body=None, headers=None, timeout=TIMEOUT_S):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        try:
            return response.status, json.loads(content)
        except ValueError:
            return response.status, content

    def post(self, path, body, **more):
        return self.request("POST", path, body, **more)

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def stream(self, path, body):
        """The events of a stream; the last is "[DONE]" where there is one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        connection.request("POST", path, json.dumps(dict(body, stream=True)).encode())
        response = connection.getresponse()
        events = []
        for part in response.read().decode().split("\n\n"):
            if part.startswith("data: "):
                events.append(part[6:] if part == "data: [DONE]" else json.loads(part[6:]))
        connection.close()
        return response, events

    def memory_kb(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(TIMEOUT_S / 4)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return -1


def say(text, **more):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8, **more}


def idle(server, seconds=10):
    for _ in range(int(seconds * 20)):
        status, slots = server.get("/slots")
        if status == 200 and not any(s["is_processing"] for s in slots):
            return True
        time.sleep(0.05)
    return False
