"""Who may talk to the API server of a test: users and tokens, the key that signs service accounts' tokens, kubeconfig files."""

import base64
import secrets
from pathlib import Path

import yaml

TRAINING_OPERATOR = "system:serviceaccount:kubeflow:training-operator"
MPI_OPERATOR = "system:serviceaccount:mpi-operator:mpi-operator"
CONTROLLER_MANAGER = "system:kube-controller-manager"

USERS: dict[str, tuple[str, ...]] = {
    "admin": ("system:masters",),
    "viewer": (),
    # Without --use-service-account-credentials it does everything under its own name, so it needs every right.
    CONTROLLER_MANAGER: ("system:masters",),
    # Named as the service accounts that the operators' own role bindings are for: they run with the rights that they ship.
    TRAINING_OPERATOR: ("system:serviceaccounts", "system:serviceaccounts:kubeflow"),
    MPI_OPERATOR: ("system:serviceaccounts", "system:serviceaccounts:mpi-operator"),
}
"""Groups by user. `viewer` has no right at all; a test that needs a user with some binds a Role to it in its own namespace."""

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def make_tokens() -> dict[str, str]:
    """A new token for each user."""
    return {user: secrets.token_hex(16) for user in USERS}


def write_token_file(path: Path, tokens: dict[str, str]) -> None:
    """The static token file that kube-apiserver reads: token, name, uid, groups."""
    rows = [f'{tokens[user]},{user},{user},"{",".join(groups)}"' for user, groups in USERS.items()]
    _write_private(path, "\n".join(rows) + "\n")


def write_signing_key(path: Path) -> None:
    """A new P-256 key in SEC 1 form (RFC 5915), which needs no more than a random number: Go computes the public half."""
    number = (1 + secrets.randbelow(_P256_ORDER - 1)).to_bytes(32, "big")
    der = bytes.fromhex("30310201010420") + number + bytes.fromhex("a00a06082a8648ce3d030107")
    text = base64.b64encode(der).decode()
    _write_private(path, f"-----BEGIN EC PRIVATE KEY-----\n{text[:64]}\n{text[64:]}\n-----END EC PRIVATE KEY-----\n")


def write_kubeconfig(path: Path, server: str, ca_file: Path, user: str, token: str) -> None:
    """A kubeconfig file that stands alone: the certificate and the token are in it."""
    certificate = base64.b64encode(ca_file.read_bytes()).decode()
    value = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": certificate}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user, "namespace": "default"}}],
        "current-context": "test",
    }
    _write_private(path, yaml.safe_dump(value))


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
