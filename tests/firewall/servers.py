"""Servers and clients of a lab: a small web server and an SSH server behind the firewall; curl and ssh before it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

_WEB = """
import http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128
    daemon_threads = True
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"there")
    def log_message(self, *words): pass
Server(("::", int(sys.argv[1])), Handler).serve_forever()
"""
SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else "")
_PATIENCE = 20.0


def wait_for_port(two, host: str, port: int) -> None:
    """Until somebody listens at a TCP port of a host. AssertionError after a while."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with two.inside(host), socket.socket(socket.AF_INET6) as one, contextlib.suppress(OSError):
            one.connect(("::1", port))
            return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens at port {port}")


@contextlib.contextmanager
def web_server(two, host: str = "b", port: int = 80):
    """A web server at a host, of IPv4 and IPv6, which answers "there"."""
    with two.popen(host, [sys.executable, "-S", "-c", _WEB, str(port)], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_port(two, host, port)
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def ssh_server(two, folder: Path, host: str = "b", port: int = 22):
    """OpenSSH's server with a key that is thrown away; gives the client's command, without the words to run."""
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True, timeout=20
        )
    told = {
        "Port": port, "HostKey": folder / "host", "AuthorizedKeysFile": folder / "user.pub", "StrictModes": "no",
        "UsePAM": "no", "PermitRootLogin": "prohibit-password", "PidFile": "none", "MaxStartups": "100",
    }  # fmt: skip
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in told.items()))
    # It wants /run/sshd, and gets one that nobody else sees.
    start = (
        f"mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec {SSHD} -D -e -f {folder / 'sshd_config'}"
    )
    with two.popen(host, ["unshare", "--mount", "sh", "-c", start], stderr=subprocess.PIPE) as process:
        try:
            wait_for_port(two, host, port)
            yield [
                "ssh", "-F", "none", "-i", str(folder / "user"), "-p", str(port), "-o", "BatchMode=yes",
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=15",
                "-o", "LogLevel=ERROR",
            ]  # fmt: skip
        finally:
            process.kill()


def fetches(two, address: str, host: str = "a", port: int = 80) -> bool:
    """Whether curl gets the page."""
    where = f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"
    done = two.run(host, ["curl", "-sg", "-m", "15", where], capture_output=True, text=True, timeout=30)
    return done.returncode == 0 and done.stdout == "there"


def logs_in(two, client: list[str], address: str, host: str = "a") -> bool:
    """Whether ssh gets in and runs something there."""
    command = [*client, f"root@{address}", "echo", "inside"]
    done = two.run(host, command, capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stderr
    return done.stdout == "inside\n"
