"""One real cluster for a whole session, kept up afterwards; the image in it; an empty namespace for each test."""

import os
import shutil
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from k8s.errors import LauncherError
from k8s.kind.local_cluster import LocalCluster
from k8s.kind.toolbox import ToolError
from tests.kind.stories import DATA_CLAIM, IMAGE, Stories
from tests.support.runs import losses, rows_by_step

ARTEFACTS = Path(os.environ.get("KIND_ARTEFACTS", "dist/kind-artefacts"))
_session: list[LocalCluster] = []


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the cluster before the first test, whose time limit is shorter than a first build.

    pytest calls this for every session that has read this folder, so other folders' tests must not count here.
    """
    wanted = any(item.get_closest_marker("kind") and "cluster" in item.fixturenames for item in session.items)
    if not wanted or session.config.option.collectonly:
        return
    started = time.monotonic()
    os.environ |= {"NO_PROXY": "*", "no_proxy": "*"}  # the cluster is on this machine
    try:
        cluster = LocalCluster.find()
        cluster.up()
        if not cluster.docker.has(IMAGE):
            pytest.exit(f"{IMAGE}: no such image; `make image-cpu` builds it", returncode=3)
        cluster.load(IMAGE)
        cluster.toolbox.path("helm")
    except (LauncherError, ToolError) as error:
        pytest.exit(f"no cluster: {error}", returncode=3)
    print(f"kind: cluster and image ready after {time.monotonic() - started:.0f} s", file=sys.stderr)
    _session.append(cluster)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Save what the cluster has to say when a test fails."""
    report = yield
    if report.failed and _session and report.when == "call":
        folder = ARTEFACTS / item.name
        shutil.rmtree(folder, ignore_errors=True)
        _session[0].save_artefacts(folder)
        report.sections.append(("artefacts", str(folder)))
    return report


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> LocalCluster:
    """The cluster, with both operators and the image, and nothing of earlier sessions."""
    stories = Stories(_session[0], tmp_path_factory.mktemp("cluster"))
    stories.remove_runs()
    stories.kubectl("delete", "pvc", DATA_CLAIM, "--ignore-not-found", "--timeout=120s")
    return _session[0]


@pytest.fixture
def stories(cluster: LocalCluster, tmp_path: Path) -> Iterator[Stories]:
    """What a test does with runs; none of earlier tests is left, and none of this one's."""
    stories = Stories(cluster, tmp_path)
    stories.remove_runs()
    stories.make_data_claim()
    yield stories
    stories.remove_runs()


class Undisturbed:
    """Rows of each step and losses of the run that the stories disturb, by one process on one pod."""

    def __init__(self, run: Path) -> None:
        self.rows = rows_by_step(run)
        self.losses = losses(run)


@pytest.fixture(scope="session")
def undisturbed(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Trained once a session."""
    stories = Stories(cluster, tmp_path_factory.mktemp("undisturbed"))
    stories.remove_runs()
    stories.make_data_claim()
    run = stories.submit("undisturbed", backend="job", nodes=1)
    run.wait_for_phase("Succeeded", deadline_s=900)
    folder = run.copy()
    stories.remove_runs()
    return Undisturbed(folder)
