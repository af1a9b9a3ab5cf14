"""Drives a headless Chromium over its debugging protocol: keys, sizes, colour schemes, pictures. Nothing but Python."""
import base64
import http.client
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import time

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9}


def find():
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


class Browser:
    def __init__(self, folder):
        self.profile = os.path.join(folder, "profile")
        self.process = subprocess.Popen([find(), "--headless=new", "--no-sandbox", "--disable-gpu",
                                         "--remote-debugging-port=0",
                                         "--remote-allow-origins=*", f"--user-data-dir={self.profile}",
                                         "about:blank"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.n, self.requests, self.errors, self.buffer = 0, [], [], b""
        path = os.path.join(self.profile, "DevToolsActivePort")
        for _ in range(600):
            if os.path.exists(path) and open(path, encoding="ascii").read().count("\n"):
                break
            time.sleep(0.1)
        with open(path, encoding="ascii") as file:
            self.port = int(file.readline())
        self.socket = self.connect()
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def connect(self):
        for _ in range(100):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            connection.request("GET", "/json")
            pages = [t for t in json.loads(connection.getresponse().read()) if t["type"] == "page"]
            connection.close()
            if pages:
                break
            time.sleep(0.1)
        place = pages[0]["webSocketDebuggerUrl"].split("/", 3)[3]
        s = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        s.sendall(f"GET /{place} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += s.recv(4096)
        self.buffer = self.buffer.split(b"\r\n\r\n", 1)[1]
        return s

    def take(self, n):
        while len(self.buffer) < n:
            part = self.socket.recv(1 << 16)
            if not part:
                raise OSError("the browser has gone")
            self.buffer += part
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def message(self):
        """RFC 6455, section 5.2: one message of the browser, which masks nothing."""
        text = b""
        while True:
            first, second = self.take(2)
            length = second & 0x7f
            if length == 126:
                length = struct.unpack(">H", self.take(2))[0]
            elif length == 127:
                length = struct.unpack(">Q", self.take(8))[0]
            text += self.take(length)
            if first & 0x80:
                return json.loads(text)

    def call(self, method, **parameters):
        self.n += 1
        data = json.dumps({"id": self.n, "method": method, "params": parameters}).encode()
        mask = secrets.token_bytes(4)
        size = struct.pack(">BBH", 0x81, 0xfe, len(data)) if 126 <= len(data) < 65536 else \
            struct.pack(">BB", 0x81, 0x80 | len(data)) if len(data) < 126 else struct.pack(">BBQ", 0x81, 0xff,
                                                                                           len(data))
        self.socket.sendall(size + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))
        while True:
            answer = self.message()
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            elif answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(answer["params"])
            if answer.get("id") == self.n:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, url, width, height, dark=False, phone=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=phone)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def value(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return result["result"].get("value")

    def wait(self, expression, seconds=60):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.value(expression):
                return True
            time.sleep(0.05)
        return False

    def key(self, name, alt=False, shift=False):
        code = KEYS.get(name, ord(name.upper()[0]))
        more = {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name,
                      code=name if name in KEYS else f"Key{name.upper()}",
                      windowsVirtualKeyCode=code, modifiers=alt + 8 * shift,
                      **(more if kind == "keyDown" else {}))

    def type(self, text):
        self.call("Input.insertText", text=text)

    def picture(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)
