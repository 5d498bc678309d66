"""The corpus steps inside a pipeline of datatrove, for what one job does not hold: its executors run on Slurm and on Ray.

    reader of datatrove --> CleanDocuments --> JsonlWriter --> trainer prepare: equal and near-equal documents, split, mix

The one place that imports datatrove, and no other module imports this one. A document comes out with the bytes that the first
phase of `trainer prepare` gives it; docs/corpus.md shows a whole script.
"""

from typing import Any

from datatrove.pipeline.base import PipelineStep
from datatrove.utils.typeshelper import StatHints

from trainer.config_corpus import CorpusSection
from trainer.corpus.cleaning import clean_document
from trainer.corpus.readings import Document
from trainer.corpus.steps.draft import Draft, Dropped


class CleanDocuments(PipelineStep):  # type: ignore[misc]
    """Takes each document through `corpus.steps`; what is left out is counted as `dropped_RULE` in datatrove's statistics.

    The metadata of a document that stays say its `language`, and in `changes` how often which rule changed it.
    """

    type = "🧹 - CLEAN"
    name = "pretrain-run"

    def __init__(self, config: CorpusSection, language: str = "en", *, is_html: bool = False) -> None:
        """`language` is that of the texts where no step identifies it; `is_html` says that they are pages.

        Deduplication, split and mix in `config` have no effect here: they look at all documents together.
        """
        super().__init__()
        self._config, self._language, self._is_html = config, language, is_html

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Yields the documents that stay. Raises MissingDependencyError, CorpusError at the first one."""
        for document in data or ():
            self.stat_update(StatHints.total)
            with self.track_time():
                outcome = self._clean(document.text)
            if isinstance(outcome, Dropped):
                self.stat_update(StatHints.dropped, f"dropped_{outcome.rule}")
                continue
            document.text = outcome.text
            document.metadata |= {"language": outcome.language, "changes": dict(outcome.changes)}
            self.stat_update(StatHints.forwarded)
            self.update_doc_stats(document)
            yield document

    def _clean(self, text: str) -> Draft | Dropped:
        if len(text) > self._config.max_chars:
            return Dropped("too_long", f"{len(text)} characters; corpus.max_chars is {self._config.max_chars}")
        return clean_document(self._config, Document("datatrove", text, "", 1, self._is_html), self._language)
