"""What `trainer tokenizer inspect` shows: readable pieces, and bytes per token by source."""

from itertools import islice

from trainer.config import NUM_BYTES, NUM_SPECIAL_TOKENS, Config
from trainer.corpus.reading import JSON_LINES, BadLine, files_at
from trainer.errors import CorpusError
from trainer.run_folder import RunFolder
from trainer.tokens.chat import ChatIds
from trainer.tokens.chat_files import Conversation, Pair, encode_conversation, encode_pair, read_chat_file
from trainer.tokens.encoding import measure_by_source
from trainer.tokens.tokenizer import SPECIAL_TOKENS, TOKENIZER_FILE, TextEncoder, readable

_SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    "for i in range(10):\n    print(i)",
    "床前明月光,疑是地上霜。",
)


def inspect_tokenizer(config: Config, folder: RunFolder, text: str | None, num_pieces: int) -> list[str]:
    """Lines for a person. Blanks are shown as ␣, line ends as ⏎, bytes that are no whole character as hexadecimal."""
    encoder = TextEncoder(folder.tokenizer / TOKENIZER_FILE)
    if text is not None:
        return _cut(encoder, text)
    lines = [f"{encoder.file}: {encoder.vocab_size} ids, sha256 {encoder.sha256[:12]}"]
    specials = ", ".join(f"{number} {name}" for number, name in enumerate(SPECIAL_TOKENS[:3]))
    lines.append(f"special: {specials}, ... {NUM_SPECIAL_TOKENS} in all; then 256 bytes")
    first = NUM_SPECIAL_TOKENS + NUM_BYTES
    if encoder.vocab_size > first:
        chosen = {first + (encoder.vocab_size - 1 - first) * n // max(1, num_pieces - 1) for n in range(num_pieces)}
        lines.append("learned: " + "  ".join(f"{each} {readable(encoder.decode_bytes([each]))}" for each in sorted(chosen)))
    if folder.corpus.exists():
        languages = {source.name: source.language for source in config.corpus.sources}
        for name, value in measure_by_source(folder.corpus, encoder).items():
            lines.append(f"{languages.get(name, '?')}  {name:24} {value:.2f} bytes per token, held out")
    for sample in _SAMPLES:
        lines += _cut(encoder, sample)
    return lines


def inspect_chat(folder: RunFolder, path: str, num_rows: int) -> list[str]:
    """Lines that show a chat file's first rows as the model is taught them: what counts as a target stands between « and ».

    Raises CorpusError at a row that breaks a rule.
    """
    encoder = TextEncoder(folder.tokenizer / TOKENIZER_FILE)
    lines: list[str] = []
    for file in files_at(path, "--chat", JSON_LINES):
        for item in islice(read_chat_file("--chat", file), num_rows - len(lines)):
            if isinstance(item, BadLine):
                raise CorpusError(f"{item.file}:{item.line}: {item.reason}")
            where = f"{item.file}:{item.line}"
            if isinstance(item.row, Conversation):
                lines.append(_taught(encoder, where, encode_conversation(item.row, encoder)))
            elif isinstance(item.row, Pair):
                both = zip(("chosen", "rejected"), encode_pair(item.row, encoder), strict=True)
                lines.append("\n".join(_taught(encoder, f"{where} {name}", chat) for name, chat in both))
    return lines


def _taught(encoder: TextEncoder, where: str, chat: ChatIds) -> str:
    text, before = "", False
    for token, trained in zip(chat.ids, chat.mask, strict=True):
        text += ("«" if trained else "»") if trained != before else "|" if text else ""
        text += readable(encoder.decode_bytes([token]))
        before = trained
    return f"{where}: {len(chat.ids)} tokens, {sum(chat.mask)} of them targets: {text}" + ("»" if before else "")


def _cut(encoder: TextEncoder, text: str) -> list[str]:
    ids = encoder.encode(text)
    pieces = "|".join(readable(encoder.decode_bytes([each])) for each in ids)
    return [f"{len(text)} characters, {len(text.encode())} bytes, {len(ids)} tokens: {pieces}"]
