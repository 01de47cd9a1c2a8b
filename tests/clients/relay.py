#!/usr/bin/env python3
"""Stand between a test suite and a daemon: relay.py [--pulls] LISTEN DAEMON_SOCKET

Two suites need what a daemon on a unix socket does not give by itself:
  - docker-py's one websocket case only knows how to connect over TCP: LISTEN is then `tcp`, on the loopback, and the
    port is chosen by the kernel;
  - bollard's tests pull every image before they use it: with --pulls the relay is the registry. It answers a pull of an
    image that the daemon has as a registry with nothing newer would, and of another as one that has no such image.
Everything else passes through untouched, half-closed streams included. Prints the address as DOCKER_HOST wants it once
it listens; ends when its standard input does, so that it never outlives its caller.

Each connection carries one request: the relay asks the daemon to close after it, so that no later request on a
kept-alive connection can slip past unseen.
"""

import argparse
import asyncio
import json
import os
import re
import sys
import urllib.parse

HEAD_LIMIT = 64 * 1024
PULL = re.compile(r"POST (?:/v[0-9.]+)?/images/create\?(\S*) HTTP/1\.1")


class Relay:
    """What every connection needs to know: where the daemon is, and whether pulls are answered here."""

    def __init__(self, daemon: str, pulls: bool):
        self.daemon = daemon
        self.pulls = pulls

    async def serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        try:
            head = await client.readuntil(b"\r\n\r\n")
            pull = PULL.match(head.decode("latin-1")) if self.pulls else None
            query = urllib.parse.parse_qs(pull[1]) if pull else {}
            if "fromImage" in query:
                answer.write(await self.pull(query))
            else:
                await self.forward(one_request(head), client, answer)
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # a client that goes away in the middle is a case that suites test
        finally:
            answer.close()

    async def forward(self, head: bytes, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        reply, request = await asyncio.open_unix_connection(self.daemon)
        request.write(head)
        upward = asyncio.create_task(copy(client, request))
        try:
            await copy(reply, answer)
        finally:
            upward.cancel()
            request.close()

    async def pull(self, query: dict[str, list[str]]) -> bytes:
        """The whole response to a pull, seen from a daemon whose registry has just what the daemon has."""
        name, tag = query["fromImage"][0], query.get("tag", [""])[0]
        if not tag and ":" not in name.rpartition("/")[2]:
            tag = "latest"
        image = f"{name}:{tag}" if tag else name
        reply, request = await asyncio.open_unix_connection(self.daemon)
        path = urllib.parse.quote(image)
        request.write(f"GET /images/{path}/json HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n".encode())
        status = (await reply.readline()).split()[1]
        request.close()
        if status != b"200":
            return response("404 Not Found", {"message": f"pull access denied for {name}, repository does not exist"})
        repository, _, tag = image.rpartition(":")
        return response("200 OK", {"status": f"Pulling from {repository}", "id": tag},
                        {"status": f"Status: Image is up to date for {image}"})


def one_request(head: bytes) -> bytes:
    """The head with the demand to close the connection afterwards, unless it becomes another protocol's."""
    if re.search(rb"(?im)^upgrade:", head):
        return head
    kept = re.sub(rb"(?im)^connection:[^\r]*\r\n", b"", head)
    return kept.removesuffix(b"\r\n") + b"Connection: close\r\n\r\n"


def response(status: str, *lines: dict) -> bytes:
    body = "".join(json.dumps(line) + "\r\n" for line in lines).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(1 << 16):
        target.write(data)
        await target.drain()
    if target.can_write_eof():
        target.write_eof()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pulls", action="store_true", help="answer pulls of the images that the daemon has")
    parser.add_argument("listen", help="path of a socket to make, or `tcp`")
    parser.add_argument("daemon", help="path of the daemon's socket")
    arguments = parser.parse_args()
    relay = Relay(arguments.daemon, arguments.pulls)
    if arguments.listen == "tcp":
        server = await asyncio.start_server(relay.serve, "127.0.0.1", 0, limit=HEAD_LIMIT)
        print(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    else:
        server = await asyncio.start_unix_server(relay.serve, arguments.listen, limit=HEAD_LIMIT)
        print(f"unix://{arguments.listen}", flush=True)
    async with server:
        await asyncio.to_thread(sys.stdin.read)
        # Without ceremony: whoever is still connected has lost the caller, too.
        os._exit(0)


asyncio.run(main())
