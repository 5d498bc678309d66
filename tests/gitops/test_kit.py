"""The example files: they parse, and what they say of runs agrees with what the chart renders."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.cli import _parser
from k8s.helm import find_helm
from k8s.render import render, run_object
from k8s.rules import check
from k8s.run import load_run
from tests.gitops.recorded import GITOPS

FILES = sorted(GITOPS.rglob("*.yaml"))


def document(path: str, kind: str) -> dict[str, Any]:
    (found,) = [each for each in yaml.safe_load_all((GITOPS / path).read_text()) if each["kind"] == kind]
    return found


@pytest.mark.parametrize("file", [file for file in FILES if "workflows" not in file.parts], ids=lambda file: file.name)
def test_every_manifest_is_an_object_with_a_name(file: Path) -> None:
    for each in yaml.safe_load_all(file.read_text()):
        assert each["apiVersion"]
        assert each["kind"]
        assert each["metadata"]["name"]


def test_application_prunes_and_heals_without_what_waits_or_recreates() -> None:
    application = document("argocd/application.yaml", "Application")
    policy = application["spec"]["syncPolicy"]
    assert policy["automated"] == {"prune": True, "selfHeal": True}
    assert set(policy["syncOptions"]) == {"ServerSideApply=true", "RespectIgnoreDifferences=true", "ApplyOutOfSyncOnly=true"}
    assert application["spec"]["source"]["path"] == "runs"
    assert "finalizers" not in application["metadata"]


@pytest.mark.parametrize("backend", ["job", "pytorchjob", "mpijob"])
def test_what_the_launcher_changes_is_what_argo_cd_ignores(backend: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"{{backend: {backend}, nodes: 2, trainer: {{preset: tiny}}}}")
    run = run_object(render(load_run(tmp_path / "run.yaml"), "default", find_helm()))
    group = run["apiVersion"].partition("/")[0]
    ignored = [
        each["jsonPointers"]
        for each in document("argocd/application.yaml", "Application")["spec"]["ignoreDifferences"]
        if (each["group"], each["kind"]) == (group, run["kind"])
    ]
    changed = {  # k8s/control.py: scale and stop
        "job": {"/spec/completions", "/spec/parallelism", "/spec/suspend"},
        "pytorchjob": {"/spec/pytorchReplicaSpecs/Worker/replicas", "/spec/runPolicy/suspend"},
        "mpijob": {"/spec/mpiReplicaSpecs/Worker/replicas", "/spec/runPolicy/suspend"},
    }[backend]
    assert [set(each) for each in ignored] == [changed]
    for pointer in changed - {"/spec/suspend", "/spec/runPolicy/suspend"}:
        value = run
        for key in pointer.split("/")[1:]:
            value = value[key]
        assert value == 2


def test_helm_release_neither_waits_nor_remediates() -> None:
    spec = document("flux/helmrelease.yaml", "HelmRelease")["spec"]
    for action in ("install", "upgrade"):
        assert spec[action] == {"disableWait": True, "disableWaitForJobs": True, "remediation": {"retries": 0}}
    assert spec["driftDetection"] == {"mode": "warn"}


def test_helm_release_holds_values_that_render_without_findings(tmp_path: Path) -> None:
    values = document("flux/helmrelease.yaml", "HelmRelease")["spec"]["values"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    objects = render(load_run(tmp_path / "run.yaml"), "default", find_helm())
    assert [finding for finding in check(objects) if finding.level == "error"] == []


def test_workflow_runs_the_tested_script_for_run_files_and_never_for_runs() -> None:
    workflow = yaml.safe_load((GITOPS / "workflows" / "retrain.yaml").read_text())
    assert workflow[True] == {"push": {"branches": ["main"], "paths": ["configs/**"]}}  # YAML 1.1 takes `on` for true
    steps = workflow["jobs"]["retrain"]["steps"]
    assert steps[0]["with"]["fetch-depth"] == 0
    assert "sh .pretrain-run/k8s/gitops/retrain.sh --push" in steps[-1]["run"]
    assert workflow["concurrency"]["cancel-in-progress"] is False


def test_documentation_names_files_that_are_there_and_commands_that_parse() -> None:
    text = (GITOPS.parents[1] / "docs" / "gitops.md").read_text()
    for path in re.findall(r"k8s/gitops/[\w./-]*\w", text):
        assert (GITOPS.parents[1] / path).exists(), path
    commands = [line.split() for line in re.findall(r"^ +launcher (.+)$", text, re.MULTILINE)]
    assert {command[0] for command in commands} >= {"render", "verify", "retire", "stop"}
    for command in commands:
        assert _parser().parse_args(command).command == command[0]


def test_a_rendered_file_is_written_once_and_is_what_its_name_says(tmp_path: Path) -> None:
    text = "{nodes: 2, gitops: true, image: {digest: 'sha256:" + "0" * 64 + "'}, trainer: {preset: tiny}}"
    (tmp_path / "run.yaml").write_text(text)

    def launcher(*words: str) -> str:
        command = [sys.executable, "-m", "k8s", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=GITOPS.parents[1]).stdout

    file = Path(launcher("render", "-f", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "runs")).strip())
    assert launcher("verify", "--path", str(file)) == f"{file.stem}: is what its name says\n"
    run = run_object(list(yaml.safe_load_all(file.read_text())))
    assert "suspend" not in run["spec"]
    assert run["metadata"]["annotations"]["kustomize.toolkit.fluxcd.io/ssa"] == "IfNotPresent"
