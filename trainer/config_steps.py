"""The config's sections on what is done to one document: repair, language, rules, redaction. All of it is off by default.

Each threshold of a rule is a field; `null` turns that rule off. Where the numbers come from: docs/corpus-rules.md.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from trainer.config_section import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]
LanguageCode = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
Redaction = Literal["email", "ip", "phone", "identity", "card", "secret"]
NGramLimit = tuple[Annotated[int, Field(ge=2, le=20)], Share]
"""Words (of Chinese: characters) in an n-gram, and the most that such n-grams may make up of a document."""


class HtmlSection(Section):
    """Main text of HTML pages."""

    main_content: bool = True
    """Leave out navigation, headers, footers and the like; false: all text of the page."""
    max_chars: PositiveInt = 10_000_000
    """Larger pages are dropped, in characters of HTML."""
    max_depth: Annotated[int, Field(ge=8, le=2000)] = 500
    """Pages whose elements are nested deeper are dropped; browsers stop at 512."""


class LanguageSection(Section):
    """Language of each document, by fastText's model in the package: nothing is downloaded."""

    identify: bool = False
    """Find out each document's language; false: it is the language of its source."""
    min_confidence: Share = 0.65
    """Below it a document's language is unknown, `und` (FineWeb's 0.65, arXiv 2406.17557, section 3.3)."""
    keep: tuple[LanguageCode, ...] = ()
    """Documents in other languages are dropped; empty: none. Needs identify."""

    @model_validator(mode="after")
    def _keep_has_effect(self) -> Self:
        if self.keep and not self.identify:
            raise ValueError("keep has no effect without identify: true; set it, or remove keep")
        return self


class GopherSection(Section):
    """Document rules of Gopher for English (arXiv 2112.11446, section A.1.1)."""

    min_words: NonNegativeInt | None = 50
    """Fewest words."""
    max_words: PositiveInt | None = 100_000
    """Most words."""
    min_mean_word_chars: NonNegativeFloat | None = 3.0
    """Least mean length of words, in characters."""
    max_mean_word_chars: PositiveFloat | None = 10.0
    """Greatest mean length of words, in characters."""
    max_symbols_per_word: NonNegativeFloat | None = 0.1
    """Most hash signs for each word, and most ellipses for each word."""
    max_bullet_lines: Share | None = 0.9
    """Greatest share of lines that start with a bullet."""
    max_ellipsis_lines: Share | None = 0.3
    """Greatest share of lines that end with an ellipsis."""
    min_alphabetic_words: Share | None = 0.8
    """Least share of words with a letter in them."""
    min_stop_words: NonNegativeInt | None = 2
    """Fewest different ones of: the, be, to, of, and, that, have, with."""


class RepetitionSection(Section):
    """Repetition within one document: Gopher's rules (arXiv 2112.11446, table A1). N-grams are of words."""

    max_duplicate_lines: Share | None = 0.30
    """Greatest share of lines that stood there before."""
    max_duplicate_paragraphs: Share | None = 0.30
    """Greatest share of paragraphs that stood there before."""
    max_duplicate_line_chars: Share | None = 0.20
    """Greatest share of the characters in such lines."""
    max_duplicate_paragraph_chars: Share | None = 0.20
    """Greatest share of the characters in such paragraphs."""
    max_top_ngrams: tuple[NGramLimit, ...] = ((2, 0.20), (3, 0.18), (4, 0.16))
    """Greatest share of the characters in the most frequent n-gram, for each n."""
    max_duplicate_ngrams: tuple[NGramLimit, ...] = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    """Greatest share of the characters in n-grams that stood there before, for each n."""


class ChineseRepetitionSection(RepetitionSection):
    """Repetition within one document in Chinese. N-grams are of characters, two for each word (FineWeb-2, cmn_Hani)."""

    # a section of its own: where a run file gives one of these fields, the others keep these defaults and not English ones
    max_duplicate_lines: Share | None = 0.287
    """Greatest share of lines that stood there before."""
    max_top_ngrams: tuple[NGramLimit, ...] = ((4, 0.256), (6, 0.201), (8, 0.171))
    """Greatest share of the characters in the most frequent n-gram, for each n."""
    max_duplicate_ngrams: tuple[NGramLimit, ...] = (
        *((10, 0.198), (12, 0.182), (14, 0.167)),
        *((16, 0.154), (18, 0.14), (20, 0.127)),
    )
    """Greatest share of the characters in n-grams that stood there before, for each n."""


class C4Section(Section):
    """Line rules of C4 for English (arXiv 1910.10683, section 2.2, and its published code)."""

    terminal_punctuation: bool = True
    """Remove lines that do not end in . ! ? or a quotation mark. Preset fineweb leaves this rule off, as FineWeb does."""
    min_words_per_line: NonNegativeInt | None = 3
    """Remove shorter lines, in words."""
    max_word_chars: PositiveInt | None = 1000
    """Remove lines with a longer word, in characters."""
    javascript: bool = True
    """Remove lines that speak of JavaScript."""
    policy: bool = True
    """Remove lines that speak of terms of use, privacy policy or cookies."""
    citations: bool = True
    """Take [1], [edit] and [citation needed] out of lines."""
    min_sentences: NonNegativeInt | None = 5
    """Fewest sentences of a document after that."""
    lorem_ipsum: bool = True
    """Drop documents with this filler text."""
    curly_bracket: bool = True
    """Drop documents with an opening curly bracket outside of code."""


class FineWebSection(Section):
    """Document rules of FineWeb for English (arXiv 2406.17557, section 3.6, and its published code)."""

    min_punctuated_lines: Share | None = 0.12
    """Least share of lines that end in punctuation."""
    max_short_lines: Share | None = 0.67
    """Greatest share of lines of at most 30 characters."""
    max_duplicate_line_chars: Share | None = 0.1
    """Greatest share of characters in lines that stood there before. The paper says 0.1; its code had 0.01."""
    max_lines_per_word: NonNegativeFloat | None = 0.3
    """Most line ends for each word: above it a document is a list."""


class ChineseSection(Section):
    """Rules for Chinese: characters where English has words. Sources and measurements: docs/corpus-rules.md."""

    boilerplate: bool = True
    """Remove lines of navigation, sharing, copyright, registration and advertisement."""
    min_han_chars: NonNegativeInt | None = 16
    """Fewest Han characters: the shortest classical poem has 20."""
    min_han_share: Share | None = 0.5
    """Least share of Han characters, where a foreign word or number counts as one."""
    max_symbol_share: Share | None = 0.15
    """Greatest share of characters that are no letters, digits, blanks or punctuation."""
    min_full_width_punctuation: Share | None = 0.4
    """Least share of Chinese marks among the marks that have both a Chinese and an ASCII form."""
    min_punctuated_lines: Share | None = 0.106
    """Least share of lines that end in punctuation (FineWeb-2's configuration for cmn_Hani)."""
    max_short_lines: Share | None = 0.67
    """Greatest share of lines of less than 10 characters without punctuation at their end."""
    max_chars_per_mark: PositiveFloat | None = 60.0
    """Most Han characters for each punctuation mark: lists of key words have hardly any."""
    max_ellipsis_lines: Share | None = 0.3
    """Greatest share of lines that end with an ellipsis, as previews do."""
    max_bullet_lines: Share | None = 0.9
    """Greatest share of lines that start with a bullet."""
    repetition: ChineseRepetitionSection = ChineseRepetitionSection()
    """Repetition; n-grams are of characters, two for each word in FineWeb-2's cmn_Hani. From 100 characters on."""


class QualitySection(Section):
    """Rules on what is text worth learning from."""

    english: Literal["none", "gopher", "c4", "fineweb"] = "none"
    """gopher: sections gopher and repetition; c4: section c4; fineweb: all four, as FineWeb does."""
    chinese: Literal["none", "web"] = "none"
    """web: section han."""
    keep_code: bool = True
    """Lines of code (fenced, or indented by four) are never removed, and documents are judged by the lines around them."""
    gopher: GopherSection = GopherSection()
    """Thresholds of Gopher's quality rules."""
    repetition: RepetitionSection = RepetitionSection()
    """Thresholds of Gopher's repetition rules."""
    c4: C4Section = C4Section()
    """C4's line rules."""
    fineweb: FineWebSection = FineWebSection()
    """Thresholds of FineWeb's rules."""
    han: ChineseSection = ChineseSection()
    """Thresholds for Chinese."""


class HarmfulSection(Section):
    """Documents dropped by words."""

    use_default: bool = False
    """Use the small lists that come with the package, English and Chinese."""
    files: tuple[str, ...] = ()
    """Word lists: UTF-8, a word or phrase a line, # for comments; a phrase of Han characters matches anywhere."""
    max_hits_per_1000_chars: NonNegativeFloat = 1.0
    """More hits than this for each 1,000 characters drop a document."""
    min_hits: PositiveInt = 2
    """With fewer hits a document stays, however short it is."""


class RedactionSection(Section):
    """What names or reaches a person, or opens a door."""

    replace: tuple[Redaction, ...] = ()
    """Replaced by placeholders such as <EMAIL>."""
    drop: tuple[Redaction, ...] = ()
    """A document that holds one of these is dropped."""
    urls: Literal["keep", "host", "replace"] = "keep"
    """host: scheme and host stay; replace: <URL>."""
    private_addresses: bool = False
    """Also take addresses that nobody is reached by: private, loopback, link-local, documentation."""
    phone_regions: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], ...] = ("CN",)
    """Regions whose national numbers count as phone numbers; numbers that begin with + always do."""

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        both = sorted(set(self.replace) & set(self.drop))
        if both:
            raise ValueError(f"{both[0]} stands in replace and in drop; choose one")
        return self


class DecontaminationSection(Section):
    """Documents that hold passages of evaluation sets are dropped."""

    files: tuple[str, ...] = ()
    """Evaluation files: text, or JSON lines of which every string counts; `box:NAME` comes with the package."""
    words: Annotated[int, Field(ge=5, le=50)] = 13
    """Length of a passage in words (13 as for GPT-3, arXiv 2005.14165, appendix C)."""
    han_chars: Annotated[int, Field(ge=8, le=100)] = 20
    """Length of a passage in Chinese, in characters."""


class StepsSection(Section):
    """What is done to each document, in this order."""

    html: HtmlSection = HtmlSection()
    """Main text of HTML pages."""
    repair: bool = False
    """Repair mojibake, text that was decoded by the wrong table (ftfy)."""
    language: LanguageSection = LanguageSection()
    """Language of each document."""
    quality: QualitySection = QualitySection()
    """Rules on lines and documents."""
    harmful: HarmfulSection = HarmfulSection()
    """Harmful text by word lists."""
    redaction: RedactionSection = RedactionSection()
    """Personal data and secrets."""
    decontamination: DecontaminationSection = DecontaminationSection()
    """Passages of evaluation sets."""
