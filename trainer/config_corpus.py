"""The config's section on raw text: where it comes from, and how it becomes clean documents."""

import codecs
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from trainer.config_section import NOT_IDENTITY, Name, Section, unidentified
from trainer.config_steps import StepsSection

Format = Literal["auto", "jsonl", "text", "html", "warc", "parquet"]


class SourceSection(Section):
    """One named source of raw text."""

    name: Name
    """The name under which validation and reports list it."""
    path: Annotated[str, Field(min_length=1)] = Field(json_schema_extra=dict(NOT_IDENTITY))
    """A file, a folder or a glob; `box:NAME` is the corpus in the box, `hf:OWNER/NAME[@REVISION][/GLOB]` a data set of Hugging
    Face, `-` standard input. docs/corpus.md lists the kinds of files; all may be .gz, .zst or .xz.
    """
    format: Format = "auto"
    """auto: as each file's name says, and JSON lines for standard input; else all files are of this format."""
    text_field: Annotated[str, Field(min_length=1)] = "text"
    """The key of JSON lines, or the column of Parquet, that holds the text."""
    encoding: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] = "auto"
    """Character encoding of text and HTML. auto: UTF-8, else what the file declares or looks like (GB18030, Big5, ...)."""
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] = "en"
    """ISO 639 code of its main language: the rules of the steps go by it where no step identifies a document's own."""
    weight: PositiveFloat | None = None
    """Its share of the training text, relative to the other sources' weights; unset in all sources: all text, once."""
    max_repeats: Annotated[float, Field(ge=1.0, le=100.0)] = 1.0
    """With weights: how often a document may stand in the training text. The source that reaches this first sets the amount."""

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, name: str) -> str:
        if name == "auto":
            return name
        try:
            codecs.lookup(name)
            "a".encode(name)  # which codecs that make no text of bytes, such as base64, refuse
        except LookupError:
            raise ValueError(
                f"{name!r} is no character encoding that Python knows; name one such as utf-8, gb18030 or latin-1, or auto"
            ) from None
        return name


class NearDuplicatesSection(Section):
    """Documents that are nearly the same, by MinHash signatures; the first one stays."""

    enabled: bool = False
    """Leave out near-duplicates. Equal documents are left out in any case."""
    similarity: Annotated[float, Field(ge=0.5, le=1.0)] = 0.6
    """Share of equal n-grams (Jaccard, estimated by 112 hashes) from which on two documents count as the same. By 0.6 two
    editions of poems are found with recall 0.96 and precision 0.9997, by 0.75 with recall 0.91 (docs/lab.md).
    """


class RepeatedLinesSection(Section):
    """Lines that stand in many documents: menus, notices, signatures."""

    max_documents: Annotated[int, Field(ge=2)] | None = None
    """A line in more documents than this is removed from all of them; unset: lines stay."""
    min_chars: PositiveInt = 20
    """Shorter lines stay: in code, poems and lists they repeat with good reason."""


class CorpusSection(Section):
    """Raw text to clean documents."""

    sources: tuple[SourceSection, ...] = ()
    """Where the text comes from, in this order; of two equal documents the first one stays."""
    held_out: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.02
    """Share of documents held out for validation, chosen by each document's own hash."""
    min_chars: PositiveInt = 16
    """Shorter documents are dropped, in characters after all steps."""
    max_chars: PositiveInt = 10_000_000
    """Longer documents are refused as bad lines, in characters: one runaway line must not fill the memory."""
    max_bad_lines: NonNegativeInt = 100
    """The stage fails when more lines than this cannot be read."""
    cut_text_chars: PositiveInt = 20_000
    """A plain text file becomes documents of about this many characters, cut at blank lines; JSON lines stay whole."""
    steps: StepsSection = StepsSection()
    """What is done to each document."""
    repeated_lines: RepeatedLinesSection = RepeatedLinesSection()
    """Lines that stand in many documents."""
    near_duplicates: NearDuplicatesSection = NearDuplicatesSection()
    """Documents that are nearly the same."""
    part_bytes: PositiveInt = 4_000_000
    """Clean text per output file, in bytes: the unit that encoding works on in parallel and resumes by."""
    unit_bytes: PositiveInt = unidentified(32_000_000)
    """Input that a process cleans at a time and that is done again after a kill, in bytes on the disk. The output does not
    depend on it.
    """
    workers: NonNegativeInt = unidentified(0)
    """Processes that clean; 0: one per core, and never more than there are units. The output does not depend on it."""
    memory_bytes: Annotated[int, Field(ge=1 << 20)] = unidentified(1 << 30)
    """Memory for the tables of deduplication, in bytes, beside about 150 MB a process; what is larger goes through the disk."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"source name {name!r} is used twice; each source needs its own")
        return self

    @model_validator(mode="after")
    def _standard_input_is_read_once(self) -> Self:
        if sum(source.path == "-" for source in self.sources) > 1:
            raise ValueError("several sources have path '-', but standard input can be read once only")
        return self

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        unweighted = [source.name for source in self.sources if source.weight is None]
        if unweighted and len(unweighted) < len(self.sources):
            raise ValueError(f"source {unweighted[0]} has no weight, but others have; give one to each source or to none")
        for source in self.sources:
            if source.weight is None and source.max_repeats > 1:
                raise ValueError(
                    f"source {source.name}: max_repeats {source.max_repeats} has no effect without a weight; give one"
                )
        return self
