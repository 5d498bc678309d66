"""The byte-level BPE tokenizer: trained here, saved as files that Hugging Face loads, used through tiktoken.

`tokenizer.json` is the contract. Encoding goes through tiktoken, built from the ranks in that file: the same ids (a fuzz test
holds them equal), about 7 to 10 times as fast as `tokenizers` (docs/lab.md).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import tiktoken
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from trainer.config import NUM_SPECIAL_TOKENS
from trainer.errors import TokenizerError
from trainer.files import write_file, write_json

END_OF_TEXT = 0
"""Ends each document, and stands before the first one."""
IM_START = 1
IM_END = 2

# MiniMind's names and ids, so that text prepared for it means the same here.
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
    "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>",
    "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>", "<tts_text_bos_single>",
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>",
    "<|buffer1|>", "<|buffer2|>", "<|buffer3|>", "<|buffer4|>", "<|buffer5|>", "<|buffer6|>", "<|buffer7|>", "<|buffer8|>",
    "<|buffer9|>",
)  # fmt: skip
assert len(SPECIAL_TOKENS) == NUM_SPECIAL_TOKENS

# GPT-2's split of text into words, which `pre_tokenizers.ByteLevel` applies; tiktoken must be given it in so many words.
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"

INVISIBLE = "\u200b"
"""The zero-width space that makes text of what looks like a special token."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, min_frequency: int) -> Tokenizer:
    """Train byte-level BPE on an iterator of texts. The same texts give the same tokenizer, byte for byte.

    A small corpus may hold fewer pairs than `vocab_size` asks for; the vocabulary then stays smaller.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that Hugging Face's AutoTokenizer and the trainer read."""
    write_file(folder / TOKENIZER_FILE, tokenizer.to_str(pretty=True).encode())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[IM_START],
        "eos_token": SPECIAL_TOKENS[IM_END],
        "pad_token": SPECIAL_TOKENS[END_OF_TEXT],
        "unk_token": SPECIAL_TOKENS[END_OF_TEXT],
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
        "chat_template": chat_template(),
    }
    write_json(folder / CONFIG_FILE, config)


def chat_template(*, marks_answers: bool = True) -> str:
    """The Jinja template by which Hugging Face's tokenizers render a conversation; trainer.tokens.chat does the same.

    `marks_answers` puts `{% generation %}` around what a loss counts, which transformers and TRL read. Plain Jinja does not
    know that tag, so files for other readers do without it.
    """
    text = (resources.files("trainer.tokens") / CHAT_TEMPLATE_FILE).read_text(encoding="utf-8").rstrip("\n")
    # the character itself: llama.cpp's template reader knows no \u escapes
    text = text.replace("INVISIBLE", f"'{INVISIBLE}'").replace("in SPECIAL_TOKENS", f"in {json.dumps(SPECIAL_TOKENS)}")
    return text if marks_answers else re.sub(r"{%- (end)?generation -%}\n", "", text)


class TextEncoder:
    """Text to ids and back, by tiktoken from the ranks in a tokenizer.json."""

    def __init__(self, file: Path) -> None:
        """Read tokenizer.json. Raises TokenizerError if it is missing or not a byte-level BPE with our special tokens."""
        try:
            data = file.read_bytes()
            content = json.loads(data)
        except FileNotFoundError:
            raise TokenizerError(f"{file}: no tokenizer here; run `trainer tokenizer` first") from None
        except ValueError as error:
            raise TokenizerError(f"{file}: damaged: {error}") from None
        self.file = file
        self.sha256 = hashlib.sha256(data).hexdigest()
        self._ranks, self._specials = _ranks_and_specials(content, file)
        self.vocab_size = len(self._ranks) + len(self._specials)

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        return tiktoken.Encoding(
            name="trainer", pat_str=SPLIT_PATTERN, mergeable_ranks=self._ranks, special_tokens=self._specials
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text; what looks like a special token in it is text, not control."""
        return self._encoding.encode_ordinary(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self._encoding.decode(ids)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Bytes of ids, exactly; special tokens give their names."""
        return self._encoding.decode_bytes(ids)

    def bytes_per_id(self) -> list[int]:
        """Length of each id's text in bytes, by id; special tokens count as 0."""
        lengths = [0] * self.vocab_size
        for piece, rank in self._ranks.items():
            lengths[rank] = len(piece)
        return lengths


def check_vocabulary(encoder: TextEncoder, vocab_size: int) -> None:
    """Raises TokenizerError if the model has no embedding for some of the tokenizer's ids."""
    if encoder.vocab_size > vocab_size:
        raise TokenizerError(
            f"{encoder.file}: has {encoder.vocab_size} ids, but model.vocab_size is {vocab_size}; "
            f"set model.vocab_size to {encoder.vocab_size} or more, or train the tokenizer anew"
        )


def _ranks_and_specials(content: dict[str, Any], file: Path) -> tuple[dict[bytes, int], dict[str, int]]:
    try:
        specials = {str(token["content"]): int(token["id"]) for token in content["added_tokens"]}
        vocabulary: dict[str, int] = content["model"]["vocab"]
        splitter = content["pre_tokenizer"]
        kind = content["model"]["type"], splitter["type"]
        plain = (splitter.get("add_prefix_space"), splitter.get("use_regex", True), content.get("normalizer"))
    except (KeyError, TypeError):
        raise TokenizerError(f"{file}: not a tokenizer.json of Hugging Face's tokenizers") from None
    if kind != ("BPE", "ByteLevel"):
        raise TokenizerError(
            f"{file}: is {kind[0]} over {kind[1]}, but only byte-level BPE is read here; `trainer tokenizer` trains one"
        )
    if plain != (False, True, None):
        raise TokenizerError(f"{file}: needs add_prefix_space false, use_regex true and no normalizer, not {plain}")
    if specials.get(SPECIAL_TOKENS[END_OF_TEXT]) != END_OF_TEXT:
        raise TokenizerError(f"{file}: {SPECIAL_TOKENS[END_OF_TEXT]} must have id {END_OF_TEXT}, which ends documents here")
    to_byte = {char: byte for byte, char in enumerate(_byte_alphabet())}
    try:
        ranks = {bytes(to_byte[char] for char in piece): rank for piece, rank in vocabulary.items() if piece not in specials}
    except KeyError as error:
        raise TokenizerError(f"{file}: damaged: {error} in its vocabulary is no byte") from None
    return ranks, specials


def _byte_alphabet() -> Iterator[str]:
    """The printable character that byte-level BPE writes for each byte (GPT-2's bytes_to_unicode, in byte order)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    shifted = 0
    for byte in range(256):
        if byte in printable:
            yield chr(byte)
        else:
            yield chr(256 + shifted)
            shifted += 1


def readable(piece: bytes) -> str:
    """A piece as a person reads it: text where its bytes are whole characters, else hexadecimal; blanks made visible."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return "<" + piece.hex(" ").upper() + ">"
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", lambda match: f"<{ord(match[0]):02X}>", text)
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")
