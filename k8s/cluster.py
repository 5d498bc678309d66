"""The one place that talks to an API server, by the official client.

Every request has a deadline, and every refusal becomes one line.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError, MaxRetryError, TimeoutError

from k8s.errors import ClusterError, NotThereError
from k8s.kubeconfig import access

Manifest = dict[str, Any]

FIELD_MANAGER = "pretrain-run-launcher"
"""Owner of the fields that the launcher applies, beside Helm's and the operators' own."""

CONNECT_S, READ_S = 5.0, 10.0
WRITE_S = 30.0
"""A change passes through admission webhooks, which have 10 s each."""
FOLLOW_S = 3600.0
"""A followed log that says nothing for this long is taken for broken."""
_PAGE = 500
_MOST_MESSAGE_CHARS = 400

API_VERSIONS = {"PyTorchJob": "kubeflow.org/v1", "MPIJob": "kubeflow.org/v2beta1", "Job": "batch/v1"}
"""Of the kinds that run."""

INSTALLED_BY = {
    "kubeflow.org/v1": "Kubeflow's training-operator 1.9 (docs/operations.md), or use backend job, which needs none",
    "kubeflow.org/v2beta1": "Kubeflow's mpi-operator 0.8 (docs/operations.md), or use backend job, which needs none",
    "monitoring.coreos.com/v1": "Prometheus Operator, or set monitor.enabled: false",
}
"""Who brings an API that may be missing."""


@dataclass(frozen=True, slots=True)
class Resource:
    """How the server spells a kind."""

    api_version: str
    plural: str
    namespaced: bool

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Of one object, or of all; without a namespace, of all namespaces."""
        root = "/api" if "/" not in self.api_version else "/apis"
        parts = [
            root,
            self.api_version,
            f"namespaces/{namespace}" if self.namespaced and namespace else "",
            self.plural,
            name,
            subresource,
        ]
        return "/".join(part for part in parts if part)


@dataclass
class Cluster:
    """A namespace of a cluster."""

    api: client.ApiClient
    namespace: str
    context: str
    silence_s: float | None = None
    """Seconds that the server may be silent; unset: READ_S, and WRITE_S while it changes something."""
    _resources: dict[str, dict[str, Resource]] = field(default_factory=dict)

    @staticmethod
    def connect(
        namespace: str | None = None,
        context: str | None = None,
        kubeconfig: Path | None = None,
        silence_s: float | None = None,
    ) -> "Cluster":
        """By kubeconfig, or inside a pod by its service account. Sends nothing yet. Raises ClusterError, UsageError."""
        found = access(context, kubeconfig)
        return Cluster(found.api, namespace or found.namespace or "default", found.context, silence_s)

    def request(
        self,
        method: Literal["GET", "POST", "PATCH", "DELETE"],
        path: str,
        what: str,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
        content_type: str = "application/json",
        has: Sequence[str] = (),
    ) -> Any:
        """One request and its JSON, an object with the keys of `has`. `what` is named in errors. Raises ClusterError."""
        text = self.text(method, path, what, query, body, content_type)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise self._no_answer(what, "a web page" if text.lstrip()[:1] == "<" else "something that is not JSON") from None
        if not isinstance(value, dict) or any(value.get(key) is None for key in has):
            raise self._no_answer(what, "JSON of another kind")
        return value

    def text(
        self,
        method: Literal["GET", "POST", "PATCH", "DELETE"],
        path: str,
        what: str,
        query: Sequence[tuple[str, str]] = (),
        body: object = None,
        content_type: str = "application/json",
    ) -> str:
        """One request and what the server said. Raises ClusterError."""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        request = self.api.param_serialize(
            method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        silence_s = self.silence_s or (READ_S if method == "GET" else WRITE_S)
        with _told(what, self.context, silence_s):
            response = self.api.call_api(*request, _request_timeout=(CONNECT_S, silence_s))
            response.read()
            if not 200 <= response.status <= 299:
                raise ApiException(status=response.status, reason=response.reason, body=_text(response.data))
            return _text(response.data)

    def _no_answer(self, what: str, got: str) -> ClusterError:
        return ClusterError(
            f"{self.context}: {what}: {self.api.configuration.host} answered with {got}, which no API server does; is the "
            "address right, or is a proxy or a login page before it?"
        )

    def resource(self, kind: str, api_version: str) -> Resource:
        """How the server spells a kind. Raises NotThereError if it does not serve it."""
        if api_version not in self._resources:
            root = "/api" if "/" not in api_version else "/apis"
            try:
                listed = self.request("GET", f"{root}/{api_version}", api_version, has=("resources",))["resources"]
            except NotThereError:
                listed = []
            self._resources[api_version] = {
                each["kind"]: Resource(api_version, each["name"], each["namespaced"])
                for each in listed
                if "/" not in each["name"]
            }
        known = self._resources[api_version]
        if kind not in known:
            way_out = INSTALLED_BY.get(api_version, "what brings it")
            raise NotThereError(f"{self.context}: the cluster serves no {kind} of {api_version}; install {way_out}")
        return known[kind]

    def serves(self, kind: str, api_version: str) -> bool:
        """Whether the server knows a kind."""
        try:
            self.resource(kind, api_version)
        except NotThereError:
            return False
        return True

    def apply(self, manifest: Manifest, *, dry_run: bool = False, force: bool = False) -> Manifest:
        """Server-side apply; returns the object as the server has it, or would have it."""
        path, what = self._place(manifest["kind"], manifest["apiVersion"], manifest["metadata"]["name"])
        query = [("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict"), ("force", str(force).lower())]
        query += [("dryRun", "All")] if dry_run else []
        applied: Manifest = self.request("PATCH", path, what, query, manifest, "application/apply-patch+yaml", ("metadata",))
        return applied

    def get(self, kind: str, name: str, api_version: str) -> Manifest:
        """One object. Raises NotThereError."""
        path, what = self._place(kind, api_version, name)
        found: Manifest = self.request("GET", path, what, has=("metadata",))
        return found

    def list(self, kind: str, api_version: str, labels: str = "", namespace: str | None = None) -> list[Manifest]:
        """All objects of a kind that carry the labels; of a kind without namespaces, all."""
        resource = self.resource(kind, api_version)
        query = [("limit", str(_PAGE))] + ([("labelSelector", labels)] if labels else [])
        items: list[Manifest] = []
        token = ""
        while True:
            page = [*query, ("continue", token)] if token else query
            answer = self.request(
                "GET", resource.path(namespace or self.namespace), resource.plural, page, has=("items", "metadata")
            )
            items += [{"kind": kind, "apiVersion": api_version, **item} for item in answer["items"]]
            token = answer["metadata"].get("continue", "")
            if not token:
                return items

    def patch(self, kind: str, name: str, api_version: str, change: Mapping[str, Any], subresource: str = "") -> Manifest:
        """Merge a change into an object."""
        path, what = self._place(kind, api_version, name, subresource)
        content_type = "application/merge-patch+json"
        patched: Manifest = self.request(
            "PATCH", path, what, [("fieldManager", FIELD_MANAGER)], dict(change), content_type, ("metadata",)
        )
        return patched

    def delete(self, kind: str, name: str, api_version: str) -> None:
        """Delete an object; what it owns follows, each pod with its grace period."""
        path, what = self._place(kind, api_version, name)
        self.text("DELETE", path, what, [("propagationPolicy", "Background")])

    def allowed(self, verb: str, kind: str, api_version: str, subresource: str = "") -> bool:
        """Whether the server would let us."""
        resource = self.resource(kind, api_version)
        group = api_version.rpartition("/")[0]
        attributes = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource.plural}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes | ({"subresource": subresource} if subresource else {})},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self.request("POST", path, "access review", body=review, has=("status",))["status"].get("allowed"))

    def log_lines(
        self, pod: str, *, follow: bool = False, since_s: int | None = None, last_lines: int | None = None
    ) -> Iterator[str]:
        """A pod's log, line by line, each beginning with the server's time stamp; with `follow` until the pod ends."""
        query = [("follow", str(follow).lower()), ("timestamps", "true"), ("container", "pytorch")]
        query += [("sinceSeconds", str(since_s))] if since_s is not None else []
        query += [("tailLines", str(last_lines))] if last_lines is not None else []
        path, what = self._place("Pod", "v1", pod, "log")
        request = self.api.param_serialize(
            "GET", path, query_params=query, header_params={"Accept": "*/*"}, auth_settings=["BearerToken"]
        )
        with _told(what, self.context, READ_S):
            answer = self.api.call_api(*request, _request_timeout=(CONNECT_S, FOLLOW_S if follow else READ_S))
            if answer.status != 200:
                answer.read()
                raise ApiException(status=answer.status, reason=answer.reason, body=_text(answer.data))
            response = answer.response
            rest = b""
            for block in response.stream(4096, decode_content=False):
                *lines, rest = (rest + block).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if rest:
                yield rest.decode(errors="replace")

    def _place(self, kind: str, api_version: str, name: str, subresource: str = "") -> tuple[str, str]:
        path = self.resource(kind, api_version).path(self.namespace, name, subresource)
        return path, f"{kind}/{name}" + (f"/{subresource}" if subresource else "")


def _text(data: bytes | str | None) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data or ""


@contextmanager
def _told(what: str, context: str, silence_s: float) -> Iterator[None]:
    """Turn the client's exceptions into one line with the way out."""
    try:
        yield
    except ApiException as error:
        raise _translated(error, what, context) from None
    except MaxRetryError as error:
        raise ClusterError(
            f"{context}: the API server does not answer ({_brief(error.reason)}); is the cluster up, the VPN on?"
        ) from None
    except TimeoutError:
        raise ClusterError(
            f"{context}: {what}: no answer within {silence_s:.0f} s; try again, or wait longer with --request-timeout S"
        ) from None
    except (HTTPError, OSError) as error:
        raise ClusterError(f"{context}: {what}: the connection broke ({_brief(error)}); try again") from None


def _translated(error: ApiException, what: str, context: str) -> ClusterError:
    message = _message_of(error)
    if error.status == 401:
        return ClusterError(f"{context}: the API server does not know us: the token has expired or is wrong; log in again")
    if error.status == 403 and "is forbidden: violates PodSecurity" not in message and "User" in message:
        return ClusterError(f"{context}: {message}; ask for a Role with that verb (docs/security.md)")
    if error.status == 404:
        return NotThereError(f"{context}: {what}: {message}")
    if error.status == 409:
        return ClusterError(f"{context}: {what}: {message}; somebody else changed it: look with `launcher diff`")
    way_out = "; the server is in trouble: try again later" if error.status >= 500 else ""
    return ClusterError(f"{context}: {what}: {message} (HTTP {error.status}){way_out}")


def _message_of(error: ApiException) -> str:
    """The server's own words, short; of a page in their place its title."""
    text = str(error.body or error.reason or "").strip()
    with suppress(TypeError, ValueError, KeyError, RecursionError):
        text = str(json.loads(text)["message"])
    if text.startswith("<"):
        title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        text = f"a web page, {title[1].strip()!r}" if title else "a web page and no word of an API server"
    text = " ".join(text.split()) or "no reason given"
    return text if len(text) <= _MOST_MESSAGE_CHARS else f"{text[: _MOST_MESSAGE_CHARS - 1]}…"


def _brief(error: object) -> str:
    """The end of a chain of reasons, without the client's own objects."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^.*?(object at 0x[0-9a-f]+>|port=\d+\)): ", "", text).removeprefix("Failed to establish a new connection: ")
    text = re.sub(r"^\('(.*?)', .*\)$", r"\1", text)
    return text if len(text) <= 160 else f"{text[:159]}…"
