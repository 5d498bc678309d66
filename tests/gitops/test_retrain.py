"""retrain.sh in a real Git repository: which commits start a run, and which do not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gitops.recorded import GITOPS

ROOT = GITOPS.parents[1]
SCRIPT = GITOPS / "retrain.sh"
RUN_FILE = """\
name: demo
nodes: 2
image: {digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
trainer:
  preset: tiny
  seed: 1
  pretrain: {steps: 100, optimizer: {lr: 0.001}}
"""


class Repository:
    """A Git repository of run files, and a bare one that it pushes to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.origin = folder / "origin.git"
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | {
            "PYTHONPATH": str(ROOT),
            "LAUNCHER": f"{sys.executable} -m k8s",
            "HOME": str(folder),
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        self.folder.mkdir()
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(self.origin)], check=True, env=self.environment)
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "test")
        self.git("config", "user.email", "test@example.com")
        self.git("remote", "add", "origin", str(self.origin))

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout

    def commit(self, **files: str) -> None:
        """Write files of configs/ (`__` for a dot) and commit them."""
        (self.folder / "configs").mkdir(exist_ok=True)
        for name, text in files.items():
            (self.folder / "configs" / name.replace("__", ".")).write_text(text)
        self.git("add", ".")
        self.git("commit", "-q", "-m", "change")

    def retrain(self, *arguments: str) -> list[str]:
        """Run the script; returns the files that it has committed, and that its commit holds nothing else."""
        before = self.git("rev-parse", "HEAD").strip()
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        assert self.git("status", "--porcelain") == ""
        changed = self.git("diff", "--name-status", before, "HEAD").split()
        assert changed == [word for line in done.stdout.split() for word in ("A", line)]
        return done.stdout.split()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(SCRIPT), *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """With one run file, whose run has been started."""
    repository = Repository(tmp_path)
    repository.commit(demo__yaml=RUN_FILE)
    (first,) = repository.retrain()
    assert first.startswith("runs/demo-")
    return repository


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lr: 0.001", "lr: 0.002"),
        ("seed: 1", "seed: 2"),
        ("steps: 100", "steps: 200"),
        ("sha256:0", "sha256:1"),
        ("trainer:", f"fingerprints: {{data: {'a' * 64}}}\ntrainer:"),
    ],
    ids=["learning rate", "seed", "steps", "image", "data fingerprint"],
)
def test_another_training_input_is_exactly_one_new_file(repository: Repository, old: str, new: str) -> None:
    runs = repository.git("ls-files", "runs").split()
    assert old in RUN_FILE
    repository.commit(demo__yaml=RUN_FILE.replace(old, new))
    (added,) = repository.retrain()
    assert sorted([*runs, added]) == repository.git("ls-files", "runs").split()
    assert repository.retrain() == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nodes: 2", "nodes: 4"),
        ("nodes: 2", "nodes: 2\nelastic: {enabled: true, min: 1, max: 4}"),
        ("nodes: 2", "nodes: 2\nscheduling: {kueue: {queueName: night}}"),
        ("nodes: 2", "nodes: 2\nresources: {requests: {cpu: 8}}"),
        ("nodes: 2", "nodes: 2 # two machines are enough"),
        ("{steps: 100, optimizer: {lr: 0.001}}", "{optimizer: {lr: 0.0010}, steps: 100}"),
        ("name: demo\nnodes: 2\n", "nodes: 2\nname: demo\n"),
    ],
    ids=["nodes", "elastic", "queue", "resources", "comment", "order of keys", "order of sections"],
)
def test_what_does_not_change_the_result_starts_nothing(repository: Repository, old: str, new: str) -> None:
    assert old in RUN_FILE
    repository.commit(demo__yaml=RUN_FILE.replace(old, new))
    assert repository.retrain() == []


def test_a_second_call_makes_nothing(repository: Repository) -> None:
    assert repository.retrain() == []


def test_another_data_manifest_is_exactly_one_new_file(repository: Repository) -> None:
    repository.commit(demo__manifest__json='{"tokens": 1000}')
    (first,) = repository.retrain()
    repository.commit(demo__manifest__json='{"tokens": 2000}')
    (second,) = repository.retrain()
    assert first != second
    repository.commit(demo__manifest__json='{"tokens": 1000}')
    assert repository.retrain() == []  # trained already


def test_one_commit_of_two_run_files_starts_two_runs_in_one_commit(repository: Repository) -> None:
    repository.commit(
        demo__yaml=RUN_FILE.replace("seed: 1", "seed: 5"), other__yaml=RUN_FILE.replace("name: demo", "name: other")
    )
    demo, other = repository.retrain()
    assert (demo[:10], other[:11]) == ("runs/demo-", "runs/other-")
    message = repository.git("log", "-1", "--format=%s").split()
    assert message == ["Start", *(Path(file).stem for file in (demo, other))]


def test_a_retired_run_is_not_started_again_by_a_later_commit(repository: Repository) -> None:
    (run,) = repository.git("ls-files", "runs").split()
    repository.git("rm", "-q", run)
    repository.git("commit", "-q", "-m", "Retire")
    repository.commit(demo__yaml=RUN_FILE.replace("nodes: 2", "nodes: 3"))
    done = repository.run()
    assert done.returncode == 0
    assert "was trained and retired" in done.stderr
    assert repository.git("status", "--porcelain") == ""
    assert repository.git("ls-files", "runs") == ""


def test_a_run_file_with_a_mistake_starts_nothing_and_says_why(repository: Repository) -> None:
    repository.commit(demo__yaml=RUN_FILE.replace("lr:", "learning_rate:"))
    before = repository.git("rev-parse", "HEAD")
    done = repository.run()
    assert done.returncode != 0
    assert "learning_rate" in done.stderr
    assert repository.git("rev-parse", "HEAD") == before


def test_an_image_without_a_digest_is_refused(repository: Repository) -> None:
    repository.commit(demo__yaml="\n".join(line for line in RUN_FILE.splitlines() if not line.startswith("image")))
    done = repository.run()
    assert done.returncode != 0
    assert "gitops needs image.digest" in done.stderr


def test_push_goes_on_top_of_what_others_pushed_meanwhile(repository: Repository, tmp_path: Path) -> None:
    repository.git("push", "-q", "-u", "origin", "main")
    other = tmp_path / "other"
    repository.git("clone", "-q", str(repository.origin), str(other))
    (other / "README").write_text("theirs")
    for command in (
        ["add", "."],
        ["-c", "user.name=o", "-c", "user.email=o@e", "commit", "-q", "-m", "theirs"],
        ["push", "-q"],
    ):
        subprocess.run(["git", *command], cwd=other, env=repository.environment, check=True, timeout=30)
    repository.commit(demo__yaml=RUN_FILE.replace("seed: 1", "seed: 9"))
    done = repository.run("--push")
    assert done.returncode == 0, done.stderr
    repository.git("fetch", "-q")
    assert repository.git("rev-parse", "HEAD") == repository.git("rev-parse", "origin/main")
    assert (repository.folder / "README").exists()


def test_a_clone_without_history_is_refused(repository: Repository, tmp_path: Path) -> None:
    repository.commit(demo__yaml=RUN_FILE.replace("seed: 1", "seed: 3"))
    shallow = tmp_path / "shallow"
    repository.git("clone", "-q", "--depth", "1", f"file://{repository.folder}", str(shallow))
    done = subprocess.run(
        ["sh", str(SCRIPT)], cwd=shallow, env=repository.environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "fetch all of it" in done.stderr
