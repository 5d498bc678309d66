"""The report's section on the corpus: what became of every document, and texts to judge the rules by."""

from collections import Counter
from collections.abc import Sequence

from trainer.corpus.account import Account, Cluster, Sample
from trainer.tracking import units
from trainer.tracking.markup import Markup, element
from trainer.tracking.plot import bar_chart, column_chart
from trainer.tracking.report_parts import figure, section, table

_STEPS = (
    "read", "charset", "html", "repair", "language", "c4", "gopher", "repetition", "fineweb", "chinese", "harmful", "redaction",
    "decontamination", "too_short", "repeated_lines", "duplicate", "near_duplicate", "mix",
)  # fmt: skip
"""Rules by what stands before their dot, in the order in which documents meet them."""

_WORDS = {
    "read": "readable", "too_short": "long enough", "repeated_lines": "not repeated lines alone", "duplicate": "no duplicate",
    "near_duplicate": "no near-duplicate", "mix": "in the mix",
}  # fmt: skip

_MAX_LANGUAGES = 12
_SHOWN_CHARS = 300


def corpus(account: Account | None) -> Markup:
    """Funnel, lengths, languages, rules with samples, clusters; nothing where the corpus has no account."""
    if account is None or not account.sources:
        return Markup("")
    lengths: Counter[int] = Counter()
    languages: Counter[str] = Counter()
    for source in account.sources.values():
        lengths.update(source.lengths)
        languages.update(source.languages)
    charts = element("div", _funnel(account), element("div", _lengths(lengths), _languages(languages)), class_="halves")
    return section("Corpus", _sources(account), charts, *_rules(account), *_changes(account), *_clusters(account.clusters))


def _sources(account: Account) -> Markup:
    """A row for each source."""
    head = ("Source", "Read", "Training", "Held out", "Left out", "Unreadable", "Characters kept", "Training text", "Taken")
    rows = []
    for name, source in account.sources.items():
        counts = source.counts
        out = sum(source.rules.values()) - counts.get("bad", 0)
        kept = units.share(source.clean_chars / source.read_chars) if source.read_chars else "\u2013"
        numbers = (counts["read"], counts["kept"], counts["held_out"], out, counts["bad"])
        rows.append(
            [name, *(f"{value:,}" for value in numbers), kept, units.size(source.train_bytes), f"{source.repeats:.2f} times"]
        )
    return table(head, rows, "figures", "Documents by source")


def _funnel(account: Account) -> Markup:
    """Documents that are left after each step that dropped any."""
    dropped: Counter[str] = Counter()
    for source in account.sources.values():
        for rule, count in source.rules.items():
            dropped[rule.partition(".")[0]] += count
    total = sum(source.counts["read"] + source.counts["bad"] for source in account.sources.values())
    names, left = ["found"], [total]
    for step in sorted(dropped, key=lambda step: (_STEPS.index(step) if step in _STEPS else _STEPS.index("too_short"), step)):
        names.append(_WORDS.get(step, f"past {step}"))
        left.append(left[-1] - dropped[step])
    bars = bar_chart("Documents left after each step", names, [("documents", left)], form=_count)
    return figure("Documents left after each step", bars)


def _count(value: float) -> str:
    return f"{round(value):,}"


def _lengths(lengths: Counter[int]) -> Markup:
    """Documents by length, in powers of two."""
    heading = "Length of the documents, in characters"
    places = range(min(lengths), max(lengths) + 1) if lengths else range(0)
    labels = [f"< {units.count(2**place)}" for place in places]
    return figure(heading, column_chart(heading, labels, [lengths[place] for place in places]))


def _languages(languages: Counter[str]) -> Markup:
    common = languages.most_common(_MAX_LANGUAGES)
    rest = sum(languages.values()) - sum(count for _, count in common)
    named = [*common, ("others", rest)] if rest else common
    bars = bar_chart("Languages", [name for name, _ in named], [("documents", [count for _, count in named])], form=_count)
    return figure("Languages", bars)


def _rules(account: Account) -> list[Markup]:
    """How often each rule dropped a document, with the beginnings of some."""
    counts: Counter[str] = Counter()
    samples: dict[str, list[Sample]] = {}
    for source in account.sources.values():
        counts.update(source.rules)
        for rule, some in source.samples.items():
            samples.setdefault(rule, []).extend(some)
    if not counts:
        return []
    note = element("p", "Open a rule to see how documents begin that it left out.", class_="note")
    rules = (_rule(rule, count, samples.get(rule, [])) for rule, count in counts.most_common())
    return [element("h3", "Left out, by rule"), note, *rules]


def _rule(rule: str, count: int, samples: Sequence[Sample]) -> Markup:
    texts = (
        element(
            "figure",
            element("blockquote", sample.text[:_SHOWN_CHARS] or "\u2013", dir="auto"),
            element("figcaption", f"{sample.id}: {sample.reason}"),
            class_="sample",
        )
        for sample in samples
    )
    return element("details", element("summary", f"{rule}: {units.plural(count, 'document')}"), *texts)


def _changes(account: Account) -> list[Markup]:
    counts: Counter[str] = Counter()
    for source in account.sources.values():
        counts.update(source.changes)
    if not counts:
        return []
    rows = [[rule, f"{count:,}"] for rule, count in counts.most_common()]
    return [element("h3", "Changed in documents that stayed"), table(("What", "Times"), rows, "figures", "Changes by rule")]


def _clusters(clusters: Sequence[Cluster]) -> list[Markup]:
    """The largest clusters: the document that stayed beside some of those that it stands for."""
    if not clusters:
        return []
    note = element("p", "The largest clusters of near-duplicates; the first text of each stayed.", class_="note")
    return [element("h3", "Near-duplicates"), note, *(_cluster(cluster) for cluster in clusters)]


def _cluster(cluster: Cluster) -> Markup:
    texts = (
        element(
            "figure",
            element("blockquote", text.text[:_SHOWN_CHARS], dir="auto"),
            element("figcaption", text.id + ("" if number == 0 else f", similarity {text.similarity:.2f}")),
            class_="sample",
        )
        for number, text in enumerate(cluster.texts)
    )
    first = cluster.texts[0].id if cluster.texts else ""
    summary = element("summary", f"{units.plural(cluster.size, 'document')} like {first}")
    return element("details", summary, element("div", *texts, class_="beside"))
