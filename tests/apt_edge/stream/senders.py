"""Who sends: a process that writes into a named pipe, and a small RTSP server (RFC 2326, MPEG-TS over RTP in TCP)."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

WRITE = """
import sys, time
with open(sys.argv[1], "rb") as file, open(sys.argv[2], "wb") as pipe:
    pipe.write(file.read()[:int(sys.argv[3]) or None])
    pipe.flush()
    print("written", flush=True)
    time.sleep(60)
"""
PAYLOAD = 7 * 188  # bytes of MPEG-TS in a packet


class PipeWriter:
    """Writes a file, or its first `count` bytes, into a pipe, and then holds the pipe open until it is killed."""

    def __init__(self, video: Path, pipe: Path, count: int = 0) -> None:
        command = [sys.executable, "-S", "-c", WRITE, str(video), str(pipe), str(count)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def kill(self) -> None:
        """Kill it when everything is in the pipe."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"written\n"
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()


class RtspServer:
    """Plays an MPEG-TS file to one client after another, each time from its beginning.

    Args:
        video: the file.
        port: 0 for a free one.
        stalls: after the last packet be silent instead of closing the connection.
    """

    def __init__(self, video: Path, port: int = 0, stalls: bool = False) -> None:
        self._data, self._stalls = video.read_bytes(), stalls
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.requests: list[str] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> None:
        """Close everything."""
        self._stopped.set()
        with socket.create_connection(("127.0.0.1", self.port)):  # wakes the one who accepts
            pass
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._stopped.is_set():
            client, _ = self._listener.accept()
            with client, client.makefile("rb") as lines:
                while not self._stopped.is_set() and self._answer(client, lines):
                    pass

    def _answer(self, client: socket.socket, lines: object) -> bool:
        """Answer one request; False after the last one."""
        head = []
        while (line := lines.readline().decode().strip()) or not head:
            if not line:
                return False
            head.append(line)
        method = head[0].split()[0]
        self.requests.append(method)
        number = next(line.split()[1] for line in head if line.lower().startswith("cseq"))
        extra, body = "", ""
        if method == "OPTIONS":
            extra = "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
            extra = "Content-Type: application/sdp\r\n"
        elif method == "SETUP":
            extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        elif method == "PLAY":
            extra = "Session: 1\r\n"
        answer = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{extra}Content-Length: {len(body)}\r\n\r\n{body}"
        client.sendall(answer.encode())
        if method == "PLAY":
            self._play(client)
            return False
        return True

    def _play(self, client: socket.socket) -> None:
        for number, start in enumerate(range(0, len(self._data), PAYLOAD)):
            packet = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, number * 3000, 1)
            packet += self._data[start : start + PAYLOAD]
            client.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
        while self._stalls and not self._stopped.wait(0.05):
            pass
