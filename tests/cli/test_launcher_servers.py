"""The launcher before kubeconfigs and servers that are not what they should be: one short line, the right code, soon."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>" + b"<p>Please sign in.</p>" * 400 + b"</body></html>"
DISCOVERY = {"resources": [{"kind": "Job", "name": "jobs", "namespaced": True}]}


def launcher(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "KUBERNETES_SERVICE_HOST"}
    environment |= {"KUBECONFIG": "", "HOME": "/nowhere"} | changes
    command = [sys.executable, "-m", "k8s", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def line_of(ended: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """The one line that a refused launcher ends with."""
    assert ended.returncode == code, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert len(line) < 500
    assert ended.stdout == ""
    return line


def write_kubeconfig(path: Path, server: str) -> Path:
    values = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "office",
        "contexts": [{"name": "office", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path.write_text(yaml.safe_dump(values))
    return path


@contextmanager
def server(status: int, body: bytes, headers: dict[str, str]) -> Iterator[str]:
    """A real server that says the same to everybody."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PATCH = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            """Silence."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def status_body(message: str) -> bytes:
    return json.dumps({"kind": "Status", "message": message}).encode()


@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [
        (200, PAGE, "answered with a web page, which no API server does; is the address right, or is a proxy or a login page"),
        (200, b'{"resources": [', "answered with something that is not JSON, which no API server does"),
        (200, b"", "answered with something that is not JSON, which no API server does"),
        (200, b"{}", "answered with JSON of another kind, which no API server does"),
        (200, b"[1, 2]", "answered with JSON of another kind, which no API server does"),
        (200, json.dumps(DISCOVERY).encode(), "answered with JSON of another kind, which no API server does"),
        (
            401,
            status_body("Unauthorized"),
            "office: the API server does not know us: the token has expired or is wrong; log in",
        ),
        (403, status_body('jobs is forbidden: User "eve" cannot list resource "jobs"'), "ask for a Role with that verb"),
        (403, PAGE, "kubeflow.org/v1: a web page, 'Sign in' (HTTP 403)"),
        (500, b"x" * 100_000, "(HTTP 500); the server is in trouble: try again later"),
        (503, PAGE, "a web page, 'Sign in' (HTTP 503); the server is in trouble: try again later"),
    ],
)
def test_a_server_that_is_no_api_server_is_told_in_one_short_line(
    status: int, body: bytes, wanted: str, tmp_path: Path
) -> None:
    with server(status, body, {"Content-Type": "text/html"}) as address:
        line = line_of(launcher("list", "--kubeconfig", str(write_kubeconfig(tmp_path / "config", address))))
    assert line.startswith("launcher: office: ")
    assert wanted in line


def test_a_login_page_behind_a_redirect_is_told_too(tmp_path: Path) -> None:
    with server(200, PAGE, {}) as page, server(302, b"", {"Location": f"{page}/login"}) as address:
        line = line_of(launcher("doctor", "--kubeconfig", str(write_kubeconfig(tmp_path / "config", address))))
    assert "answered with a web page" in line


def test_a_silent_server_is_left_after_the_time_that_one_gives_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        kubeconfig = str(write_kubeconfig(tmp_path / "config", address))
        line = line_of(launcher("list", "--request-timeout", "1", "--kubeconfig", kubeconfig))
        listening.accept()[0].close()
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):  # silence is not waited for twice
            listening.accept()
    assert line == (
        "launcher: office: kubeflow.org/v1: no answer within 1 s; try again, or wait longer with --request-timeout S"
    )


def test_without_a_wish_a_silent_server_gets_ten_seconds() -> None:
    from k8s.cluster import READ_S

    assert READ_S == 10


def test_a_server_that_hangs_up_and_one_that_is_not_there_are_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def hang_up() -> None:
            for _ in range(2):
                listening.accept()[0].close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        kubeconfig = str(write_kubeconfig(tmp_path / "config", address))
        line = line_of(launcher("list", "--kubeconfig", kubeconfig))
        thread.join()
    assert line.startswith("launcher: office: ")
    assert "object at" not in line
    line = line_of(launcher("list", "--kubeconfig", kubeconfig))
    assert line == (
        "launcher: office: the API server does not answer ([Errno 111] Connection refused); is the cluster up, the VPN on?"
    )


def test_https_to_a_server_without_it_is_told(tmp_path: Path) -> None:
    with server(200, b"{}", {}) as address:
        kubeconfig = write_kubeconfig(tmp_path / "config", address.replace("http:", "https:"))
        line = line_of(launcher("list", "--kubeconfig", str(kubeconfig)))
    assert line.startswith("launcher: office: the API server does not answer (")
    assert "object at" not in line


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"\x00\x01\x02\xff", "is no kubeconfig: "),
        (b"just words", "is no kubeconfig: it holds no list of contexts, clusters and users"),
        (b"- 1\n- 2\n", "is no kubeconfig: it holds no list of contexts, clusters and users"),
        (b"", "is no kubeconfig: "),
        (b"a: [1", "is no kubeconfig: "),
        (b"apiVersion: v1\nkind: Config\n", "is no kubeconfig: "),
        (b"contexts: 5\ncurrent-context: a\n", "is no kubeconfig: it holds no list of contexts, clusters and users"),
        (b"contexts: [{name: a, context: {cluster: gone, user: u}}]\ncurrent-context: a\n", "is no kubeconfig: "),
    ],
)
def test_a_kubeconfig_of_garbage_is_told_in_one_short_line(content: bytes, wanted: str, tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_bytes(content)
    assert line_of(launcher("list", "--kubeconfig", str(file))).startswith(f"launcher: {file}: {wanted}")


@pytest.mark.parametrize("address", ["not an address", "ftp://a", "localhost"])
def test_a_server_that_is_no_address_is_told(address: str, tmp_path: Path) -> None:
    line = line_of(launcher("list", "--kubeconfig", str(write_kubeconfig(tmp_path / "config", address))))
    assert line == f"launcher: office: server {address!r} of its kubeconfig is no address; https://HOST:PORT is one"


def test_certificates_of_garbage_are_told(tmp_path: Path) -> None:
    with server(200, b"{}", {}) as address:
        file = write_kubeconfig(tmp_path / "config", address.replace("http:", "https:"))
        values = yaml.safe_load(file.read_text())
        values["clusters"][0]["cluster"]["certificate-authority-data"] = "Z2FyYmFnZQ=="
        file.write_text(yaml.safe_dump(values))
        line = line_of(launcher("list", "--kubeconfig", str(file)))
    assert line.startswith("launcher: office: ")
    assert "certificate" in line


def test_no_kubeconfig_anywhere_is_told_by_the_place_that_was_looked_at(tmp_path: Path) -> None:
    assert line_of(launcher("list", "--kubeconfig", "nowhere"), 2) == "launcher: --kubeconfig nowhere: no such file"
    wanted = "set KUBECONFIG or give --kubeconfig FILE"
    line = line_of(launcher("list", KUBECONFIG="/nowhere/config"))
    assert line == f"launcher: no cluster: KUBECONFIG=/nowhere/config: no such file; {wanted}"
    line = line_of(launcher("list"))
    assert line == f"launcher: no cluster: there is no /nowhere/.kube/config; {wanted}"
    line = line_of(launcher("list", "--kubeconfig", str(tmp_path)))
    assert line == f"launcher: {tmp_path}: is a folder; give a kubeconfig file"
    kubeconfig = write_kubeconfig(tmp_path / "config", "https://127.0.0.1:1")
    line = line_of(launcher("list", "--context", "home", "--kubeconfig", str(kubeconfig)))
    assert line == "launcher: no context 'home' in the kubeconfig; known: office"
