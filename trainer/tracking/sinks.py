"""The sinks of a stage: none in processes that are not the first."""

import hashlib
import sys

from trainer.config import TRAINING_STAGES, Config, StageName
from trainer.run_folder import RunFolder
from trainer.tracking.hub import Sink, Tracker
from trainer.tracking.json_lines import JsonLines
from trainer.tracking.terminal import Terminal
from trainer.world import World

_WANDB_STAGES: tuple[StageName, ...] = (*TRAINING_STAGES, "evaluate")


def make_tracker(config: Config, folder: RunFolder, world: World, stage: StageName | None) -> Tracker:
    """A tracker with the sinks that the config asks for; without a stage, of one that only watches others. Raises
    MissingDependencyError.
    """
    run = config.hash()
    if not world.is_first:
        return Tracker(run)
    sinks: list[Sink] = [JsonLines(folder.events), Terminal(sys.stderr)]
    if config.tracking.prometheus_port is not None:
        from trainer.tracking.prometheus_sink import Prometheus

        sinks.append(Prometheus(config.tracking.prometheus_port, config.name))
    if config.tracking.wandb.enabled and stage in _WANDB_STAGES:
        from trainer.tracking.wandb_sink import Wandb  # imports wandb, about 1 s

        # the same folder is the same run, after a resume too; another folder is another run even with an equal config
        run_id = hashlib.sha256(f"{run} {folder.path.resolve()}".encode()).hexdigest()[:16]
        values = config.model_dump(mode="json") | {"run": run}
        sinks.append(Wandb(config.tracking.wandb, config.name, run_id, folder.path, values))
    return Tracker(run, sinks, stage if stage in TRAINING_STAGES else "pretrain")
