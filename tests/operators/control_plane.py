"""A real control plane without nodes, as processes of this machine.

    etcd <- kube-apiserver <- kube-controller-manager   makes Jobs' pods and service accounts, collects garbage
                           <- training-operator         makes PyTorchJobs' pods and services; its webhook really rejects
                           <- mpi-operator              makes MPIJobs' workers, launcher, secret and config map

There is no kubelet and no scheduler: pods stay Pending until a test says what became of them (set_pod_phase). Admission is that
of a real cluster: RBAC, Pod Security, service accounts, admission policies. All ports are free ones and all files lie in one
folder, so several control planes run side by side.
"""

import shutil
import signal
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from kubernetes.client import ApiException, CoreV1Api

from k8s.kind.toolbox import Toolbox
from tests.operators import credentials, operators
from tests.operators.api import Api
from tests.operators.components import COMPONENTS, Layout, arguments
from tests.operators.processes import Server, machine_address, wait_until
from tests.operators.statuses import pod_status

# Two folders for one certificate: the operator waits until there is a file at this path, written into its code, and then its
# webhook reads the certificate from its folder for temporary files, which is each control plane's own.
_AWAITED = Path("/tmp/k8s-webhook-server/serving-certs/tls.crt")
_LEASE = ("coordination.k8s.io/v1", "Lease", "mpi-operator", "mpi-operator")


class ControlPlane:
    """The processes, and what a test needs to talk to them. Start it from the main thread."""

    def __init__(self, folder: Path, toolbox: Toolbox) -> None:
        self.layout = Layout(folder)
        self._toolbox = toolbox
        self._tokens = credentials.make_tokens()
        self._servers: dict[str, Server] = {}
        self._apis: dict[str, Api] = {}

    # --- life

    def start_all(self) -> None:
        """From an empty folder to operators that answer, in about ten seconds. When it fails it leaves nothing running."""
        layout = self.layout
        for path in (layout.temporary_folder, layout.log("x").parent, layout.ca_file.parent):
            path.mkdir(parents=True)
        credentials.write_token_file(layout.token_file, self._tokens)
        credentials.write_signing_key(layout.signing_key)
        for name in COMPONENTS:
            command = [self._toolbox.path(name), *arguments(name, layout)]
            self._servers[name] = Server(name, command, layout.environment(), layout.log(name))
        try:
            self.start("etcd")
            self.start("kube-apiserver")
            for user in credentials.USERS:
                credentials.write_kubeconfig(layout.kubeconfig(user), layout.server, layout.ca_file, user, self._tokens[user])
            operators.install(self.api(), self._toolbox, machine_address(), layout.webhook_port)
            self._servers["kube-controller-manager"].start()  # after the CRDs: it looks for new kinds only every 30 s
            self._servers["mpi-operator"].start()
            self._make_webhook_certificate()
            self.start("training-operator")
            self._wait_ready("kube-controller-manager")
            self._wait_ready("mpi-operator")
        except BaseException:
            self.close()
            raise

    def start(self, name: str) -> None:
        """Start a component that does not run, and wait until it does its work."""
        if name == "mpi-operator":
            self._release_lease()
        if name == "training-operator" and not _AWAITED.exists():
            _AWAITED.parent.mkdir(parents=True, exist_ok=True)
            _AWAITED.write_text("Put here by tests of training-operator, which waits for this file and does not read it.\n")
        self._servers[name].start()
        self._wait_ready(name)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a component and wait for its end; by SIGKILL it is a crash."""
        self._servers[name].stop(number)

    def restart(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop and start; the API server comes back at the same address with the same objects."""
        self.stop(name, number)
        self.start(name)

    def running(self, name: str) -> bool:
        return self._servers[name].running

    def start_missing(self) -> None:
        """Start what a test has stopped and left so."""
        for name in COMPONENTS:
            if not self.running(name):
                self.start(name)

    def close(self) -> None:
        """End everything at once, whatever it is doing; the logs stay."""
        for api in self._apis.values():
            api.close()
        for server in reversed(self._servers.values()):
            server.stop(signal.SIGKILL)
        shutil.rmtree(self.layout.folder / "etcd", ignore_errors=True)  # 64 MB that nobody reads again

    def logs(self) -> dict[str, str]:
        """The last lines of each component."""
        return {name: server.tail() for name, server in self._servers.items()}

    # --- talking to it

    def kubeconfig(self, user: str = "admin") -> Path:
        """A kubeconfig file of a user (credentials.USERS): admin may do everything, viewer nothing."""
        return self.layout.kubeconfig(user)

    def api(self, user: str = "admin") -> Api:
        """Objects of all kinds, as this user sees them."""
        if user not in self._apis:
            self._apis[user] = Api(self.kubeconfig(user))
        return self._apis[user]

    def make_namespace(self, name: str, pod_security: str = "restricted") -> None:
        """A namespace that enforces a Pod Security level, ready for pods."""
        labels = {"pod-security.kubernetes.io/enforce": pod_security}
        self.api().create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        manager = self._servers["kube-controller-manager"]
        manager.wait_until(lambda: self._exists("v1", "ServiceAccount", "default", name), f"the service account of {name}")

    def set_pod_phase(
        self, namespace: str, name: str, phase: str, *, exit_code: int | None = None, restart_count: int = 0, message: str = ""
    ) -> None:
        """Say what became of a pod, as a kubelet would: Pending, Running, Succeeded or Failed, for each of its containers.

        `exit_code` is by default 0 for Succeeded, else 1. With `restart_count` and a phase of Pending or Running it is that of
        the attempt before. `message` is what the container left as its termination message.
        """
        pod = self.api().get("v1", "Pod", name, namespace)
        status = pod_status(pod, phase, exit_code, restart_count, message)
        CoreV1Api(self.api().client).patch_namespaced_pod_status(name, namespace, {"status": status})

    # --- readiness

    def _wait_ready(self, name: str) -> None:
        server, url = self._servers[name], self.layout.health_url(name)
        server.wait_until(lambda: _answers(url), f"answers {url}")
        if name == "training-operator":
            server.wait_until(lambda: operators.webhook_rejects(self.api()), "its webhook rejects")
        if name == "mpi-operator":
            server.wait_until(self._lease_taken, "it leads")

    def _make_webhook_certificate(self) -> None:
        """Let training-operator make its certificate, and put that where a kubelet would mount it.

        It makes the certificate first of all things and can go on only when its files are there: so it is started twice.
        """
        server = self._servers["training-operator"]
        server.start()
        wait_until(
            lambda: "tls.crt" in operators.read_webhook_secret(self.api()),
            "training-operator's certificate",
            on_failure=server.tail,
        )
        server.stop(signal.SIGKILL)
        folder = self.layout.temporary_folder / "k8s-webhook-server" / "serving-certs"
        folder.mkdir(parents=True)
        for name, data in operators.read_webhook_secret(self.api()).items():
            (folder / name).write_bytes(data)

    def _release_lease(self) -> None:
        """An operator that ends keeps its lease for 15 s more, and its successor would wait for that."""
        if self._exists(*_LEASE):
            self.api().delete(*_LEASE)

    def _lease_taken(self) -> bool:
        return self._exists(*_LEASE) and bool(self.api().get(*_LEASE)["spec"].get("holderIdentity"))

    def _exists(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> bool:
        try:
            self.api().get(api_version, kind, name, namespace)
        except ApiException as error:
            if error.status != 404:
                raise
            return False
        return True


def _answers(url: str) -> bool:
    """Whether a health check says yes. Whose certificate the server shows is of no interest here: some are made in memory."""
    trusting = ssl._create_unverified_context()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting))
    try:
        with opener.open(url, timeout=5) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False
