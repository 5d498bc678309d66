"""The parts of a run file, each with the rules that it can check alone (k8s.values puts them together).

The docstring under a field is its entry in values.yaml, the schema and the README's table.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

MAX_NAME_CHARS = 40
"""Operators append `-worker-N` and the like to a run's name, and a pod's name ends at 63 characters."""

HASH_CHARS = 10
"""Of a run's hash, in its objects' names."""

LARGEST_EXACT = (1 << 53) - 1
"""Helm reads numbers as 64-bit floats: a larger integer would change on its way."""

SECRET_NAME = "(?i)((^|_)key($|_)|(^|_)token($|_)|secret|passw|credential|api_?key)"
"""Environment variables of such names hold secrets: their values come from a Secret."""

Port = Annotated[int, Field(ge=1024, le=65535)]
RunName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=MAX_NAME_CHARS - HASH_CHARS - 1)]
Object = dict[str, Any]
"""A Kubernetes object or a part of one, handed on as it stands."""

_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$"
Quantity = Annotated[str, Field(pattern=_QUANTITY)]
Amounts = dict[str, Quantity | NonNegativeInt | NonNegativeFloat]
"""Resource name to quantity."""
Fingerprint = Annotated[str, Field(pattern=r"^(sha256:)?[0-9a-f]{64}$")]


class _Entry(BaseModel):
    """A part of a Kubernetes object: what we rely on is named, all else is handed on."""

    model_config = ConfigDict(frozen=True, extra="allow", alias_generator=to_camel)


class Named(_Entry):
    """An entry with a name."""

    name: Annotated[str, Field(min_length=1)]


class Input(Named):
    """A volume and where it is mounted."""

    mount_path: Annotated[str, Field(pattern=r"^/.+$")]


class Mount(Named):
    """A mount of a volume."""

    mount_path: Annotated[str, Field(pattern=r"^/.+$")]


class ObjectMetadata(Named):
    """Name, and labels and annotations if there are any."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class WholeObject(_Entry):
    """A Kubernetes object."""

    api_version: Annotated[str, Field(min_length=1)]
    kind: Annotated[str, Field(min_length=1)]
    metadata: ObjectMetadata


class Part(BaseModel):
    """A frozen part of the run file. Unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=False,
        use_attribute_docstrings=True,
        validate_default=True,
        alias_generator=to_camel,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic would take `nodes: yes` for 1
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError(
                f"is the truth value {str(value).lower()} (YAML reads yes, no, on and off so, too); for the word use quotes"
            )
        return value


class ImagePart(Part):
    """The container image."""

    repository: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._:/-]*$")] = "pretrain-run"
    """Registry and repository."""
    tag: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")] | None = None
    """Tag; unset: the chart's appVersion. `latest` is refused: a run must know what it runs."""
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """Digest; wins over the tag, and is required where `gitops` is on."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When nodes fetch it."""
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets for a private registry."""


class ElasticPart(Part):
    """A number of nodes that may change while the run goes on."""

    enabled: bool = False
    """Let the run go on with any number of nodes from min to max."""
    min: PositiveInt = 1
    """Fewest nodes that train; with fewer the run waits."""
    max: PositiveInt = 4
    """Most nodes that train; more would wait as spares."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; swap them or raise max")
        return self


class RendezvousPart(Part):
    """How the nodes' agents find each other."""

    port: Port = 29400
    """Port of the store on the first node."""
    join_timeout_seconds: PositiveInt = 1800
    """Agents wait this long for each other: longer than the slowest image pull."""
    last_call_seconds: PositiveInt = 5
    """Once min is reached, late nodes get this long to join the same round."""
    dns_timeout_seconds: PositiveInt = 300
    """The first node's name must resolve within this time."""


class MpiPart(Part):
    """Settings of backend mpijob."""

    ssh_port: Port = 2222
    """Port of sshd in the workers: above 1023, as nothing runs as root."""
    launcher_cpu: Quantity = "500m"
    """CPU of the launcher, which only starts and watches mpirun."""
    launcher_memory: Quantity = "2Gi"
    """Memory of the launcher."""


class ShmPart(Part):
    """Shared memory at /dev/shm; a container's own default of 64 MB ends data loaders and NCCL with a bus error."""

    size: Quantity = "1Gi"
    """Its size; what is in use counts against the memory limit."""


class VolumePart(Part):
    """Where files live."""

    kind: Literal["claim", "existing", "emptyDir", "none"] = "claim"
    """claim: a claim of the run's own, kept on uninstall; existing: one that is there; emptyDir: lost with the pod; none."""
    claim_name: str | None = None
    """existing: name of the claim."""
    sub_path: Annotated[str, Field(pattern=r"^[^/].*$")] | None = None
    """existing: folder in it."""
    size: Quantity = "20Gi"
    """claim, emptyDir: its size."""
    storage_class: str | None = None
    """claim: its class; unset: the cluster's default."""
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"] = "ReadWriteMany"
    """claim: ReadWriteMany where pods are on several nodes."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.kind == "existing") != (self.claim_name is not None):
            raise ValueError(f"kind {self.kind} with claimName {self.claim_name}: kind existing and claimName go together")
        return self


class StoragePart(Part):
    """Volumes."""

    runs: VolumePart = VolumePart()
    """Run folders: events, checkpoints, logs; at /runs. All pods of a run must see the same files."""
    data: VolumePart = VolumePart(kind="none")
    """Corpus, tokenizer and token shards that runs share; at /data. none: each run keeps its own in its folder."""
    data_read_only: bool = False
    """Mount /data read-only: what stages would make there must be there."""
    scratch_size: Quantity = "10Gi"
    """Limit of /tmp, which holds caches of compilers and wandb's files."""
    inputs: tuple[Input, ...] = ()
    """Further volumes with `mountPath`, read-only: raw text, say. Each is a Kubernetes volume and a mountPath."""


class GangPart(Part):
    """All pods of a run are placed together or not at all, by a gang scheduler."""

    enabled: bool = False
    """pytorchjob and mpijob: give the operator's pod group a schedulingPolicy."""
    queue: str | None = None
    """Queue of Volcano and the like."""
    schedule_timeout_seconds: PositiveInt | None = None
    """Give up placing after this time."""


class KueuePart(Part):
    """Kueue admits the run when its queue has room."""

    queue_name: str | None = None
    """LocalQueue; unset: Kueue is not asked."""
    priority_class: str | None = None
    """WorkloadPriorityClass."""
    topology_level: str | None = None
    """Node label within whose value all pods should lie, for instance cloud.google.com/gce-topology-block."""
    topology_required: bool = False
    """Wait until all pods fit there, instead of preferring it."""


class SchedulingPart(Part):
    """Where pods run."""

    priority_class_name: str | None = None
    """PriorityClass of pods."""
    scheduler_name: str | None = None
    """Scheduler of pods; unset: the cluster's default."""
    node_selector: dict[str, str] = {}
    """Labels that a node must have."""
    tolerations: tuple[Object, ...] = ()
    """Taints that pods accept; with gpus, the taint of the GPU's resource name is accepted anyway."""
    affinity: Object = {}
    """Affinity of pods."""
    topology_spread_constraints: tuple[Object, ...] = ()
    """Spread of pods."""
    one_pod_per_node: bool = False
    """Never place two pods of the run on one node."""
    gang: GangPart = GangPart()
    """Gang scheduling."""
    kueue: KueuePart = KueuePart()
    """Kueue."""


class DisruptionPart(Part):
    """What may take pods away."""

    budget: bool = True
    """A PodDisruptionBudget: a drain leaves at least the nodes that the run needs."""
    safe_to_evict: bool = False
    """Let autoscalers move pods."""


class NetworkPart(Part):
    """Networking."""

    interface: str | None = "eth0"
    """Interface of NCCL and gloo; null: they choose by themselves."""
    policy: bool = True
    """A NetworkPolicy: pods of the run reach each other and DNS, and nothing else."""
    egress: tuple[Object, ...] = ()
    """Further egress rules of the policy, for wandb or an object store."""
    nccl_debug: Literal["VERSION", "WARN", "INFO", "TRACE"] | None = None
    """What NCCL tells."""


class SecurityPart(Part):
    """Who the containers run as. All else is fixed to what Pod Security's level `restricted` asks for."""

    run_as_user: PositiveInt = 1000
    """User id."""
    run_as_group: PositiveInt = 1000
    """Group id."""
    fs_group: PositiveInt = 1000
    """Group that owns volumes."""
    service_account_name: str | None = None
    """An account that is there; unset: one of the run's own, without rights and without a token."""


class WandbPart(Part):
    """Weights & Biases. The key lives in a Secret that is there already; without one, runs are kept offline."""

    enabled: bool = False
    """Send events to wandb."""
    existing_secret: str | None = None
    """Name of the Secret; unset: offline, to be uploaded by `wandb sync` later."""
    secret_key: str = "WANDB_API_KEY"
    """Key in the Secret."""


class MonitorPart(Part):
    """Prometheus."""

    enabled: bool = False
    """Serve metrics in the first pod and make a PodMonitor (needs Prometheus Operator's CRD)."""
    port: Port = 9400
    """Port of the metrics."""
    interval: Annotated[str, Field(pattern=r"^[0-9]+(s|m)$")] = "30s"
    """How often they are fetched."""
    labels: dict[str, str] = {}
    """Labels by which Prometheus selects the monitor."""


class FingerprintsPart(Part):
    """SHA-256 of what lies on volumes, as part of the run's hash: new data under an old path is a new run."""

    data: Fingerprint | None = None
    """Of the data set's manifest."""
    tokenizer: Fingerprint | None = None
    """Of tokenizer.json."""
    checkpoint: Fingerprint | None = None
    """Of the manifest of the checkpoint that training starts from."""


class ExtraPart(Part):
    """What the values above have no word for."""

    env: tuple[Named, ...] = ()
    """Environment variables, as in a container; a secret's value comes by valueFrom."""
    env_from: tuple[Object, ...] = ()
    """ConfigMaps and Secrets whose entries become environment variables."""
    volumes: tuple[Named, ...] = ()
    """Volumes."""
    volume_mounts: tuple[Mount, ...] = ()
    """Mounts of the trainer's container."""
    init_containers: tuple[Named, ...] = ()
    """Containers that run first."""
    containers: tuple[Named, ...] = ()
    """Containers that run beside and end by themselves; for others use initContainers with restartPolicy: Always."""
    pod_labels: dict[str, str] = {}
    """Labels of pods."""
    pod_annotations: dict[str, str] = {}
    """Annotations of pods."""
    objects: tuple[WholeObject, ...] = ()
    """Objects that belong to the run."""


class ResourcesPart(Part):
    """Requests and limits of each pod. Helm merges them with these defaults, name by name."""

    requests: Amounts = {"cpu": "2", "memory": "6Gi"}
    """What a node must have free."""
    limits: Amounts = {"memory": "6Gi"}
    """What a pod may use at most. Memory counts /dev/shm and what is in memory for checkpoints."""
