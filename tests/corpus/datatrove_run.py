"""A pipeline of datatrove with the corpus steps in it, run by its own executor.

    python -m tests.corpus.datatrove_run CONFIG IN OUT TASKS local|ray

It runs in the environment of `make test-datatrove`, where datatrove is.
"""

import sys
from pathlib import Path

import ray
from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from trainer.config_corpus import CorpusSection
from trainer.corpus.datatrove_step import CleanDocuments


def main() -> None:
    """Entry point."""
    config, folder, out, tasks, executor = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
    section = CorpusSection.model_validate_json(config.read_bytes())
    pipeline = [JsonlReader(folder), CleanDocuments(section), JsonlWriter(f"{out}/texts")]
    if executor == "local":
        LocalPipelineExecutor(pipeline, tasks=tasks, logging_dir=f"{out}/logs").run()
        return
    with ray.init(num_cpus=tasks, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False):
        RayPipelineExecutor(pipeline, tasks=tasks, mem_per_cpu_gb=0.5, logging_dir=f"{out}/logs").run()


if __name__ == "__main__":
    main()
