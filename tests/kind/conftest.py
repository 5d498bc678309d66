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
from tests.kind.reference import Undisturbed
from tests.kind.stories import DATA_CLAIM, IMAGE, Stories

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
def stories(cluster: LocalCluster, _reference: Undisturbed | None, tmp_path: Path) -> Iterator[Stories]:
    """What a test does with runs; it leaves none to the next one."""
    stories = Stories(cluster, tmp_path)
    stories.make_data_claim()
    yield stories
    stories.remove_runs()


@pytest.fixture(scope="session")
def _reference(
    request: pytest.FixtureRequest, cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Undisturbed | None]:
    """Started before the first story, if any test compares with it."""
    if all("undisturbed" not in item.fixturenames for item in request.session.items):
        yield None
        return
    reference = Undisturbed(cluster.docker, tmp_path_factory.mktemp("undisturbed"))
    yield reference
    reference.remove()


@pytest.fixture(scope="session")
def undisturbed(_reference: Undisturbed) -> Undisturbed:
    """What the run that stories disturb does by itself."""
    return _reference
