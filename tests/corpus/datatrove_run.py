"""A pipeline of datatrove with the corpus steps in it, run by its own executor.

    python -m tests.corpus.datatrove_run CONFIG IN OUT TASKS

It runs in the environment of `make test-datatrove`, where datatrove is.
"""

import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from trainer.config_corpus import CorpusSection
from trainer.corpus.datatrove_step import CleanDocuments


def main() -> None:
    """Entry point."""
    config, folder, out, tasks = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    section = CorpusSection.model_validate_json(config.read_bytes())
    pipeline = [JsonlReader(folder), CleanDocuments(section), JsonlWriter(f"{out}/texts")]
    LocalPipelineExecutor(pipeline, tasks=tasks, logging_dir=f"{out}/logs").run()


if __name__ == "__main__":
    main()
