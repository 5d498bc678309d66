"""The largest clusters of near-duplicates, with the beginnings of some of their texts, for people to look at."""

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

from trainer.corpus.account import SAMPLE_CHARS, Cluster, ClusterText
from trainer.corpus.deduplicating import NEAR, Duplicates
from trainer.corpus.work import Row

MAX_CLUSTERS, MAX_CLUSTER_TEXTS = 20, 4

Beginnings = dict[int, tuple[str, str]]
"""By a document's number: its id, and how it begins."""


class Members(BaseModel):
    """One cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    shown: dict[int, float]
    """By number: some documents with their similarity to the first one, which stays."""


class Clusters(BaseModel):
    """Those that will be shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    largest: tuple[Members, ...]

    @staticmethod
    def of(duplicates: Duplicates) -> "Clusters":
        near = duplicates.records[duplicates.records["kind"] == NEAR]
        roots, sizes = np.unique(near["of"], return_counts=True)
        found = []
        for place in np.lexsort((roots, -sizes))[:MAX_CLUSTERS]:
            others = near[near["of"] == roots[place]][: MAX_CLUSTER_TEXTS - 1]
            shown = {int(roots[place]): 1.0} | {int(each["number"]): float(each["similarity"]) for each in others}
            found.append(Members(size=int(sizes[place]) + 1, shown=shown))
        return Clusters(largest=tuple(found))

    def beginning(self, number: int, name: str, row: Row) -> Beginnings:
        """Of a document that will be shown; nothing of others."""
        shown = any(number in members.shown for members in self.largest)
        return {number: (name, row.text[:SAMPLE_CHARS])} if shown else {}

    def told(self, beginnings: Mapping[int, tuple[str, str]]) -> list[Cluster]:
        """For the account."""
        return [
            Cluster(
                size=members.size,
                texts=tuple(
                    ClusterText(id=beginnings[number][0], similarity=round(similarity, 3), text=beginnings[number][1])
                    for number, similarity in members.shown.items()
                ),
            )
            for members in self.largest
        ]
