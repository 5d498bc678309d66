"""Tools are built once, by whoever comes first, and what goes wrong is said in one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from k8s.kind import toolbox
from k8s.kind.toolbox import TOOLS, Toolbox, ToolError

pytestmark = pytest.mark.operators

QUICK = "kubeconform"  # the smallest of them: seconds, and less with Go's cache warm


def test_every_tool_has_an_exact_version_and_checksums() -> None:
    for name, tool in TOOLS.items():
        folder = toolbox.MODULES / tool.wrapper
        assert re.fullmatch(r"v\d+\.\d+\.\d+", toolbox.version(name)), name
        assert f"{tool.module} {toolbox.version(name)} h1:" in (folder / "go.sum").read_text(), name
    assert {folder.name for folder in toolbox.MODULES.iterdir()} == {tool.wrapper for tool in TOOLS.values()}


def test_callers_at_the_same_time_build_once_and_get_the_same_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "k8s.kind.toolbox", QUICK]
    go_cache = subprocess.run(["go", "env", "GOCACHE"], capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    environment = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path),
        "GOCACHE": go_cache,
    }  # which would lie in the new folder as well
    callers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [caller.communicate(timeout=150) for caller in callers]
    assert [caller.returncode for caller in callers] == [0, 0, 0], said
    (program,) = {out.split()[1] for out, _ in said}
    assert sum("built in" in err for _, err in said) == 1
    assert subprocess.run([program, "-h"], capture_output=True, timeout=30, check=False).returncode in (0, 1)
    left = {path.name for path in Path(program).parents[1].iterdir()}
    assert left == {Path(program).parent.name, "build.lock"}  # no log, nothing half made


def test_build_that_fails_says_why_and_where_its_log_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY", "off")
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    cache = tmp_path / "cache"
    with pytest.raises(ToolError, match=r"^kubeconform: go build failed with code 1: .*GOPROXY=off.*; log: (\S+)$") as failure:
        Toolbox(cache, say=lambda _: None).path(QUICK)
    assert "GOPROXY=off" in Path(str(failure.value).split("log: ")[1]).read_text()
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []


def test_deadline_ends_a_build_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="not built within the deadline"):
        Toolbox(tmp_path, say=lambda _: None).path(QUICK, deadline_s=0.0)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_without_go_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"Go is not on PATH; install Go 1\.26 or newer"):
        Toolbox(tmp_path).path(QUICK)


def test_go_that_is_too_old_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = tmp_path / "go"
    go.write_text('#!/bin/sh\necho "go: go.mod requires go >= 1.26 (running go 1.22.1; GOTOOLCHAIN=local)" >&2\nexit 1\n')
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ToolError, match=r"this Go is too old \(.*running go 1\.22\.1.*\); install Go 1\.26"):
        Toolbox(tmp_path / "cache").path(QUICK)


def test_unknown_tool_is_answered_with_the_list() -> None:
    with pytest.raises(ToolError, match="kubctl: no such tool; there are coredns, crictl, etcd, helm"):
        Toolbox().path("kubctl")


@pytest.mark.parametrize("name", ["training-operator", "mpi-operator"])
def test_source_is_the_module_at_the_pinned_version(name: str) -> None:
    source = Toolbox().source(name)
    assert source.name == f"{name}@{toolbox.version(name)}"
    assert (source / "manifests" / "overlays" / "standalone" / "kustomization.yaml").exists()
