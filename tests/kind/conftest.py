"""One real cluster that `make local-kind-test` sees to, the image in it, a namespace for each process of pytest."""

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from k8s.kind.local_cluster import NAMESPACE, LocalCluster, namespace_objects
from tests.kind.control_plane import without_operators
from tests.kind.reference import Undisturbed
from tests.kind.stories import DATA_CLAIM, IMAGE, Stories
from tests.kind.turns import Parts

HERE = Path(__file__).parent
EARLY = ("test_elastic", "reach_sshd", "doctor", "test_mpijob", "goes_on[pytorchjob]", "test_image")
"""Long stories that need operators, before the second elastic run takes these away; then what needs docker alone, while the
first elastic run has the API server away."""
ARTEFACTS = Path(os.environ.get("KIND_ARTEFACTS", "dist/kind-artefacts"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which two processes take them: one has the elastic runs, the other all else."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[int, ...]:
    """Where a test of this folder belongs; others stay before them, in their order."""
    if not item.path.is_relative_to(HERE):
        return ()
    early = [place for place, words in enumerate(EARLY) if words in item.nodeid]
    return early[0] if early else len(EARLY), "[pytorchjob]" not in item.nodeid


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Save what the cluster has to say when a test fails."""
    report = yield
    if report.failed and report.when == "call" and "cluster" in item.fixturenames:
        folder = ARTEFACTS / item.name
        shutil.rmtree(folder, ignore_errors=True)
        LocalCluster.find().save_artefacts(folder)
        report.sections.append(("artefacts", str(folder)))
    return report


@pytest.fixture(scope="session")
def cluster() -> LocalCluster:
    """The cluster, with both operators and the image."""
    os.environ |= {"NO_PROXY": "*", "no_proxy": "*"}  # the cluster is on this machine
    cluster = LocalCluster.find()
    if not cluster.is_up() or not cluster.holds(IMAGE):
        pytest.exit(f"no cluster that has {IMAGE}: `make local-kind-test` makes one, `python -m k8s.kind up {IMAGE}` too", 3)
    return cluster


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The same ones for all processes of one session."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    return Parts.of(folder)


@pytest.fixture(scope="session")
def namespace(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """This process's own, with nothing of earlier sessions."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    name = f"{NAMESPACE}-{worker}" if worker else NAMESPACE
    cluster.apply(namespace_objects(name))
    stories = Stories(cluster, name, tmp_path_factory.mktemp("cluster"))
    stories.remove_runs()
    stories.kubectl("delete", "pvc", DATA_CLAIM, "--ignore-not-found", "--timeout=120s")
    return name


@pytest.fixture
def stories(
    cluster: LocalCluster, namespace: str, parts: Parts, _reference: Undisturbed | None, tmp_path: Path
) -> Iterator[Stories]:
    """What a test does with runs; it leaves none to the next one."""
    with parts.api_server.shared():
        stories = Stories(cluster, namespace, tmp_path)
        stories.make_data_claim()
        yield stories
        stories.remove_runs()


@pytest.fixture
def operators(parts: Parts) -> Iterator[None]:
    """Both operators run. To be asked for before `stories`, as `no_operators`: who waits holds nothing that others need."""
    with parts.operators.shared():
        yield


@pytest.fixture
def no_operators(cluster: LocalCluster, parts: Parts) -> Iterator[None]:
    """None runs."""
    with parts.operators.alone(), without_operators(cluster):
        yield


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """The one that a test is parametrized by, with its operator; to be asked for before `stories`."""
    name: str = request.param
    if name != "job":
        request.getfixturevalue("operators")
    return name


@pytest.fixture(scope="session")
def undisturbed(_reference: Undisturbed) -> Undisturbed:
    """What the run that stories disturb does by itself."""
    return _reference


@pytest.fixture(scope="session")
def _reference(
    request: pytest.FixtureRequest, cluster: LocalCluster, parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed | None:
    """Started before the first story, if any test compares with it."""
    if all("undisturbed" not in item.fixturenames for item in request.session.items):
        return None
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    with parts.reference.alone():
        return Undisturbed.start(cluster.docker, session, tmp_path_factory.mktemp("undisturbed"))
