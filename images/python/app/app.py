"""The application of the `python` image: small, but it uses what real ones use.

    greet          print the greeting, the user and the folder, then end
    serve [PORT]   answer HTTP on PORT (8080) until SIGTERM
    burn SECONDS   keep one processor busy
"""

import http.server
import os
import signal
import sys
import time
from pathlib import Path

DATA = Path(__file__).parent / "data"


def greet() -> int:
    print(f"{os.environ.get('APP_GREETING', 'hello')}: uid {os.getuid()} in {os.getcwd()}")
    (DATA / "greeted").write_text("yes\n")
    return 0


def serve(port: str = "8080") -> int:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"{os.environ.get('APP_GREETING', 'hello')}: {self.path}\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    # As PID 1 a process gets only the signals that it asks for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with http.server.ThreadingHTTPServer(("", int(port)), Handler) as server:
        print(f"serving on port {port}")
        server.serve_forever()
    return 0


def burn(seconds: str) -> int:
    end, rounds = time.monotonic() + float(seconds), 0
    while time.monotonic() < end:
        rounds += 1
    print(rounds)
    return 0


if __name__ == "__main__":
    verbs = {"greet": greet, "serve": serve, "burn": burn}
    verb, *rest = sys.argv[1:] or ["greet"]
    if verb not in verbs:
        sys.exit(__doc__)
    sys.exit(verbs[verb](*rest))
