"""Weights of sources to how often each document stands in the training text. Pure.

With weights w (made to add up to 1), b bytes of training text and limits r of repeats, the amount T of text is the largest
that needs no source more often than its limit:

    T = min over sources of b * r / w        repeats = T * w / b

A source that is repeated 2.3 times has each document twice, and three of ten a third time, chosen by the document's own hash.
"""

import hashlib
import math
from collections.abc import Mapping

from trainer.config_corpus import CorpusSection


def repeats_by_source(config: CorpusSection, text_bytes: Mapping[str, int]) -> dict[str, float]:
    """How often each source is taken; 1 for all where there are no weights. Sources without text are left out of the sum."""
    weighted = [source for source in config.sources if source.weight is not None and text_bytes.get(source.name, 0)]
    if not weighted:
        return {source.name: 1.0 for source in config.sources}
    total = sum(source.weight or 0.0 for source in weighted)
    shares = {source.name: (source.weight or 0.0) / total for source in weighted}
    amount = min(text_bytes[source.name] * source.max_repeats / shares[source.name] for source in weighted)
    return {name: amount * share / text_bytes[name] for name, share in shares.items()}


def most_copies(repeats: float) -> int:
    """No document stands in the training text more often."""
    return math.ceil(repeats)


def copies(document: bytes, repeats: float) -> int:
    """How often the document with this fingerprint stands in the training text."""
    whole = int(repeats + 1e-9)
    number = int.from_bytes(hashlib.blake2b(document, digest_size=8, person=b"mix").digest(), "big")
    return whole + (number < (repeats - whole) * 2**64)
