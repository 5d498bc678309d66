"""The run file as frozen values: what the chart's values.yaml may hold, every rule that needs no cluster checked at birth.

Keys are spelled as Helm users write them (camelCase); the part `trainer` is the trainer's own config and spelled as there.
values.yaml, values.schema.json and the table in the chart's README are generated from these classes (k8s.chart_files), so each
docstring under a field is its entry in all three.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from k8s.value_parts import (
    SECRET_NAME,
    DisruptionPart,
    ElasticPart,
    ExtraPart,
    FingerprintsPart,
    ImagePart,
    MonitorPart,
    MpiPart,
    Named,
    NetworkPart,
    Object,
    Part,
    RendezvousPart,
    ResourcesPart,
    RunName,
    SchedulingPart,
    SecurityPart,
    ShmPart,
    StoragePart,
    WandbPart,
)
from trainer.config import TRAINING_STAGES


class RunFile(Part):
    """One run: what is trained, by what, and where."""

    name: RunName = "pretrain-run"
    """Name of the run; its objects are NAME-HASH."""
    backend: Literal["job", "pytorchjob", "mpijob"] = "job"
    """job: an Indexed Job, needs no operator; pytorchjob: Kubeflow's training-operator; mpijob: Kubeflow's mpi-operator."""
    nodes: PositiveInt = 1
    """Pods, one agent each; with elastic: at the start."""
    processes_per_node: PositiveInt = 1
    """Training processes of a pod: one per GPU."""
    elastic: ElasticPart = ElasticPart()
    """A changing number of nodes; not for mpijob."""
    stage: Literal[
        "run", "prepare", "tokenizer", "encode", "pretrain", "sft", "reward", "dpo", "grpo", "evaluate", "generate", "report"
    ] = "run"
    """What the trainer does; run: the config's stages in turn."""
    trainer: Object = Field(default={})
    """The trainer's config: see `trainer config --schema`, and `trainer config --show` for its defaults."""
    fingerprints: FingerprintsPart = FingerprintsPart()
    """Content of volumes, for the run's hash."""
    image: ImagePart = ImagePart()
    """The container image."""
    resources: ResourcesPart = ResourcesPart()
    """Requests and limits of each pod. A memory limit counts /dev/shm and what is in memory for checkpoints."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs of each pod; processesPerNode should be the same."""
    gpu_resource: str = "nvidia.com/gpu"
    """Resource name of a GPU."""
    max_restarts: NonNegativeInt = 10
    """Failures that the whole run may survive; preemption and scaling are free."""
    attempt: NonNegativeInt = 0
    """Raise it to go on with a run that failed for good: restarts and deadline are counted anew. `launcher resume` does."""
    deadline_seconds: PositiveInt | None = None
    """Wall-clock time of the whole run; unset: none."""
    grace_period_seconds: Annotated[int, Field(ge=10)] = 120
    """Time for saving between SIGTERM and SIGKILL."""
    watchdog_seconds: PositiveInt | None = 1800
    """A run that makes no progress for this long is taken for hung and restarted; null: never."""
    rendezvous: RendezvousPart = RendezvousPart()
    """How agents find each other."""
    mpi: MpiPart = MpiPart()
    """Settings of mpijob."""
    storage: StoragePart = StoragePart()
    """Volumes."""
    shm: ShmPart = ShmPart()
    """Shared memory."""
    scheduling: SchedulingPart = SchedulingPart()
    """Where pods run."""
    disruption: DisruptionPart = DisruptionPart()
    """What may take pods away."""
    network: NetworkPart = NetworkPart()
    """Networking."""
    security: SecurityPart = SecurityPart()
    """Who containers run as."""
    wandb: WandbPart = WandbPart()
    """Weights & Biases."""
    monitor: MonitorPart = MonitorPart()
    """Prometheus."""
    gitops: bool = False
    """The run is applied by Argo CD or Flux: needs a digest; the run's object outlives the file's removal until confirmed."""
    keep_on_uninstall: bool = False
    """Leave the run's objects when Helm removes or replaces the release."""
    test_image_pod: bool = True
    """`helm test` does a two-process all-reduce with the run's image."""
    extra: ExtraPart = ExtraPart()
    """Whatever else."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.elastic.enabled and self.backend == "mpijob":
            raise ValueError("elastic.enabled with backend mpijob: MPI's world cannot change; choose backend job or pytorchjob")
        if self.elastic.enabled and not self.elastic.min <= self.nodes <= self.elastic.max:
            raise ValueError(f"nodes {self.nodes} is outside of elastic.min {self.elastic.min} to max {self.elastic.max}")
        if self.elastic.enabled and self.scheduling.kueue.topology_level is not None:
            raise ValueError("scheduling.kueue.topologyLevel with elastic.enabled: Kueue places a fixed number of pods only")
        if self.stage not in ("run", *TRAINING_STAGES) and self.most_nodes * self.processes_per_node > 1:
            raise ValueError(f"stage {self.stage} is one process's work; set nodes: 1 and processesPerNode: 1")
        if self.gitops and self.image.digest is None:
            raise ValueError("gitops needs image.digest: a tag may change without a commit")
        if self.image.tag == "latest":
            raise ValueError("image.tag latest is no version; give a tag or a digest")
        if self.storage.runs.kind == "none":
            raise ValueError("storage.runs.kind none: checkpoints need a place; choose claim, existing or emptyDir")
        if self.storage.runs.kind == "emptyDir" and self.most_nodes > 1:
            raise ValueError(
                f"storage.runs.kind emptyDir with {self.most_nodes} nodes: pods would not see each other's files; "
                "choose claim or existing"
            )
        for variable in self.extra.env:
            _refuse_literal_secret(variable)
        return self

    @property
    def most_nodes(self) -> int:
        """Nodes that may train at the same time."""
        return self.elastic.max if self.elastic.enabled else self.nodes


def _refuse_literal_secret(variable: Named) -> None:
    if "value" in (variable.model_extra or {}) and re.search(SECRET_NAME, variable.name):
        raise ValueError(
            f"extra.env {variable.name} has a literal value, which Git, Helm and the API server would keep; "
            "use valueFrom.secretKeyRef"
        )
