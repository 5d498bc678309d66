"""Docker: the daemon that answers, or one of our own where nobody runs one and we may; images built, imported, pulled.

A daemon of our own keeps everything in one folder of the cache and is ended by its pid file.
"""

import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from k8s.kind.commands import LocalClusterError, run, succeeds, wait_until

FILES = Path(__file__).parent / "files"
_PACKAGES = "docker.io containerd runc debootstrap iptables conntrack socat jq gcc libc6-dev"
_CAP_SYS_RESOURCE = 24
_START_S, _STOP_S, _QUESTION_S = 60.0, 30.0, 60.0


@dataclass(frozen=True)
class Docker:
    """A docker command that builds with BuildKit, and where a daemon of our own keeps its files."""

    command: str
    folder: Path

    @staticmethod
    def find(folder: Path) -> "Docker":
        """The first docker on PATH that can build with BuildKit: with buildx, or from before 23. Raises LocalClusterError."""
        known = [path for entry in os.get_exec_path() if (path := Path(entry) / "docker").is_file()]
        for path in known:
            if succeeds([path, "buildx", "version"], _QUESTION_S) or _version(path) < 23:
                return Docker(str(path), folder)
        if known:
            raise LocalClusterError(f"{known[0]} cannot build with BuildKit; install its buildx plugin (docker-buildx)")
        raise LocalClusterError("no docker on PATH; install Docker, or on Debian: apt-get install " + _PACKAGES)

    def __call__(self, *words: str | Path, deadline_s: float = _QUESTION_S) -> str:
        """One docker command. Raises LocalClusterError."""
        return run([self.command, *words], deadline_s)

    def answers(self) -> bool:
        """Whether there is a daemon."""
        return succeeds([self.command, "info", "--format", "{{.ServerVersion}}"], 20.0)

    def start(self) -> bool:
        """See to it that a daemon answers; True if it had to be started. Raises LocalClusterError."""
        if self.answers():
            return False
        if os.geteuid() != 0:
            raise LocalClusterError("no docker daemon answers, and only root can start one; start Docker")
        for name in ("dockerd", "runc", "jq"):
            if shutil.which(name) is None:
                raise LocalClusterError(f"no docker daemon answers, and there is no {name}; apt-get install {_PACKAGES}")
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["dockerd", "--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec")]
        command += ["--pidfile", str(self._pid_file)]
        if not may_have_sys_resource(Path("/proc/self/status").read_text()):
            command += ["--add-runtime", f"less={FILES / 'runc-without-sys-resource'}", "--default-runtime", "less"]
        log = self.folder / "dockerd.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        wait_until(
            lambda: self.answers() or process.poll() is not None,
            "dockerd answers",
            _START_S,
            lambda: log.read_text(errors="replace")[-600:],
        )
        if process.poll() is not None:
            raise LocalClusterError(f"dockerd ended at once: {log.read_text(errors='replace')[-600:]}")
        return True

    def stop(self) -> bool:
        """End the daemon if it is ours; True if it was."""
        try:
            pid = int(self._pid_file.read_text())
            os.kill(pid, signal.SIGTERM)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return False
        deadline = time.monotonic() + _STOP_S
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.2)
        return True

    def has(self, image: str) -> bool:
        """Whether an image is here."""
        return succeeds([self.command, "image", "inspect", image], _QUESTION_S)

    def identity(self, image: str) -> str:
        """The id of an image that is here, a hash of its content. Raises LocalClusterError."""
        return self("image", "inspect", image, "--format", "{{.Id}}").strip()

    def build(self, folder: Path, tag: str, deadline_s: float, arguments: Mapping[str, str] | None = None) -> None:
        """Build a folder's Dockerfile by BuildKit. Raises LocalClusterError."""
        options = [word for name, value in (arguments or {}).items() for word in ("--build-arg", f"{name}={value}")]
        command = [self.command, "build", "--quiet", "--tag", tag, *options, str(folder)]
        run(command, deadline_s, environment={"DOCKER_BUILDKIT": "1"})

    def import_files(self, tag: str, files: Mapping[str, Path], entry: Sequence[str] = (), deadline_s: float = 300.0) -> None:
        """An image that holds nothing but these files, by their paths in it, and a folder for temporary files."""
        changes = ["--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin"]
        if entry:
            changes += ["--change", "ENTRYPOINT [" + ", ".join(f'"{word}"' for word in entry) + "]"]
        with tempfile.TemporaryDirectory(prefix="image-") as scratch:
            archive = Path(scratch) / "root.tar"
            with tarfile.open(archive, "w") as tar:
                folder = tarfile.TarInfo("tmp")
                folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
                tar.addfile(folder)
                for path, source in files.items():
                    tar.add(source, path.lstrip("/"), filter=_of_root)
            self("import", *changes, archive, tag, deadline_s=deadline_s)

    @property
    def _pid_file(self) -> Path:
        return self.folder / "dockerd.pid"


def may_have_sys_resource(status: str) -> bool:
    """Whether a process of this /proc/PID/status, and its children, may ever have CAP_SYS_RESOURCE."""
    bounds = next((line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")), "0")
    return bool(int(bounds, 16) >> _CAP_SYS_RESOURCE & 1)


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode, entry.mtime = 0o755, 0
    return entry


def _version(path: Path) -> int:
    """The major version of a docker command."""
    words = run([path, "--version"], _QUESTION_S).split()  # Docker version 20.10.24, build 297e128
    head = words[2].partition(".")[0] if len(words) > 2 else ""
    return int(head) if head.isdecimal() else 99
