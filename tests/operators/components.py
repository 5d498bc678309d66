"""How each program of the control plane is started: its arguments, files and ports."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tests.operators import credentials
from tests.operators.processes import free_port

COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "training-operator", "mpi-operator")
"""In the order of their start."""


@dataclass(frozen=True)
class Layout:
    """Where everything of one control plane is: one folder, and ports that were free."""

    folder: Path
    etcd_port: int = field(default_factory=free_port)
    etcd_peer_port: int = field(default_factory=free_port)
    apiserver_port: int = field(default_factory=free_port)
    manager_port: int = field(default_factory=free_port)
    webhook_port: int = field(default_factory=free_port)
    training_port: int = field(default_factory=free_port)
    mpi_port: int = field(default_factory=free_port)

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.apiserver_port}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "apiserver" / "apiserver.crt"  # kube-apiserver makes it when it first starts, issuer included

    @property
    def token_file(self) -> Path:
        return self.folder / "tokens.csv"

    @property
    def signing_key(self) -> Path:
        return self.folder / "service-accounts.key"

    @property
    def temporary_folder(self) -> Path:
        return self.folder / "tmp"

    def kubeconfig(self, user: str) -> Path:
        return self.folder / f"{user.replace(':', '-')}.kubeconfig"

    def log(self, component: str) -> Path:
        return self.folder / "logs" / f"{component}.log"

    def environment(self) -> dict[str, str]:
        """Of all components. No proxy among it, and a folder for temporary files that is this control plane's own."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "TMPDIR": str(self.temporary_folder)}

    def health_url(self, component: str) -> str:
        return {
            "etcd": f"http://127.0.0.1:{self.etcd_port}/readyz",
            "kube-apiserver": f"{self.server}/readyz",
            "kube-controller-manager": f"https://127.0.0.1:{self.manager_port}/healthz",
            "training-operator": f"http://127.0.0.1:{self.training_port}/readyz",
            "mpi-operator": f"http://127.0.0.1:{self.mpi_port}/healthz",
        }[component]


def arguments(component: str, layout: Layout) -> list[str]:
    """The command line of a component, without the program."""
    return {
        "etcd": _etcd,
        "kube-apiserver": _apiserver,
        "kube-controller-manager": _manager,
        "training-operator": _training_operator,
        "mpi-operator": _mpi_operator,
    }[component](layout)


def _etcd(layout: Layout) -> list[str]:
    client, peer = (f"http://127.0.0.1:{port}" for port in (layout.etcd_port, layout.etcd_peer_port))
    return [
        f"--data-dir={layout.folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # what a test stores need not outlive the machine
        "--log-level=warn",
    ]


def _apiserver(layout: Layout) -> list[str]:
    return [
        f"--etcd-servers=http://127.0.0.1:{layout.etcd_port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",  # which would publish that address, and it may not be loopback
        f"--secure-port={layout.apiserver_port}",
        f"--cert-dir={layout.ca_file.parent}",
        f"--token-auth-file={layout.token_file}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={layout.signing_key}",
        f"--service-account-signing-key-file={layout.signing_key}",
        "--service-cluster-ip-range=10.254.0.0/16",
        "--enable-aggregator-routing=true",  # straight to endpoints, see tests.operators.operators
    ]


def _manager(layout: Layout) -> list[str]:
    return [
        f"--kubeconfig={layout.kubeconfig(credentials.CONTROLLER_MANAGER)}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={layout.manager_port}",
        f"--service-account-private-key-file={layout.signing_key}",
        f"--root-ca-file={layout.ca_file}",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def _training_operator(layout: Layout) -> list[str]:
    return [
        f"--kubeconfig={layout.kubeconfig(credentials.TRAINING_OPERATOR)}",
        "--enable-scheme=pytorchjob",  # all would want the CRDs of kinds that we do not use
        f"--webhook-server-port={layout.webhook_port}",
        "--metrics-bind-address=0",
        f"--health-probe-bind-address=127.0.0.1:{layout.training_port}",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def _mpi_operator(layout: Layout) -> list[str]:
    return [
        f"-kubeConfig={layout.kubeconfig(credentials.MPI_OPERATOR)}",
        f"-health-port={layout.mpi_port}",
        "-lock-namespace=mpi-operator",
        "-kube-api-qps=200",
        "-kube-api-burst=400",
    ]
