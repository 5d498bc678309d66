"""A registry of images beside the cluster: of an image that has changed, only the changed layers travel to the node.

It runs as a container on the network of kind's nodes, from the registry that is built as all tools are, and keeps what it was
given in a volume of docker. Docker reaches it on a loopback port, which it takes without TLS; nodes reach it by its address.
"""

import tempfile
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from k8s.kind.commands import LocalClusterError, wait_until
from k8s.kind.docker import Docker
from k8s.kind.toolbox import Toolbox, version

NAME = "pretrain-run-registry"
PROGRAM = "registry"
NETWORK = "kind"
"""The network that kind makes for its nodes."""
_PORT = 5000
_CONFIG = f"""\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: /var/lib/registry}}}}
http: {{addr: ":{_PORT}"}}
"""
_START_S, _PUSH_S = 60.0, 900.0


@dataclass(frozen=True)
class Registry:
    """The one registry of this machine's docker, running or not."""

    docker: Docker
    toolbox: Toolbox

    def push(self, image: str) -> str:
        """Give it an image of this docker; returns the name by which a node pulls it, without TLS. Raises LocalClusterError."""
        self._start()
        pushed = f"localhost:{self._port()}/{image}"
        self.docker("tag", image, pushed)
        try:
            self.docker("push", "--quiet", pushed, deadline_s=_PUSH_S)
        finally:
            self.docker("rmi", "--no-prune", pushed)
        address = self.docker("inspect", NAME, "--format", f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}')
        return f"{address.strip()}:{_PORT}/{image}"

    def stop(self) -> None:
        """Take the container away; its volume stays, so that the next cluster gets no layer twice."""
        self.docker("rm", "--force", "--volumes=false", NAME)

    def _start(self) -> None:
        if self._answers():
            return
        self.docker("rm", "--force", NAME)  # one that has ended, or of another version
        options = ["--detach", "--name", NAME, "--network", NETWORK, "--publish", f"127.0.0.1::{_PORT}"]
        self.docker("run", *options, "--volume", f"{NAME}:/var/lib/registry", self._image())
        wait_until(self._answers, f"{NAME} answers", _START_S, lambda: self.docker("logs", "--tail", "5", NAME))

    def _answers(self) -> bool:
        """Whether one of this version runs and listens."""
        try:
            if self.docker("inspect", NAME, "--format", "{{.Config.Image}}").strip() != _tag():
                return False
            with closing(HTTPConnection("127.0.0.1", self._port(), timeout=10)) as connection:
                connection.request("GET", "/v2/")
                return connection.getresponse().status == 200
        except (LocalClusterError, OSError):
            return False

    def _port(self) -> int:
        """Where this machine reaches it."""
        return int(self.docker("port", NAME, str(_PORT)).split()[0].rpartition(":")[2])  # 127.0.0.1:49153

    def _image(self) -> str:
        if not self.docker.has(_tag()):
            with tempfile.TemporaryDirectory(prefix="registry-") as scratch:
                config = Path(scratch) / "registry.yaml"
                config.write_text(_CONFIG)
                files = {f"/usr/local/bin/{PROGRAM}": self.toolbox.path(PROGRAM), "/etc/registry.yaml": config}
                self.docker.import_files(_tag(), files, [PROGRAM, "serve", "/etc/registry.yaml"])
        return _tag()


def _tag() -> str:
    return f"local/registry:{version(PROGRAM)}"
