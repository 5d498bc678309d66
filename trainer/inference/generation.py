"""The generate stage: texts that continue prompts, one after the other."""

import codecs
from collections.abc import Iterator, Sequence

from trainer.config import Config, GenerateSection
from trainer.errors import UsageError
from trainer.inference.engine import Engine
from trainer.inference.loading import load_model
from trainer.inference.sampling import Sampling
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder
from trainer.tokens.tokenizer import END_OF_TEXT, TextEncoder
from trainer.training.peers import choose_device


def generate_ids(
    model: GPT, prompt: Sequence[int], config: GenerateSection, seed: int, num_ids: int | None = None
) -> Iterator[int]:
    """Ids that continue a prompt, one by one, until an end token or `max_tokens`. The same seed gives the same ids.

    `num_ids` is the tokenizer's vocabulary where it is smaller than the model's: ids beyond it have no text.

    Raises UsageError if prompt and answer together pass the model's longest context.
    """
    room = model.config.max_positions - len(prompt)
    if room < config.max_tokens:
        raise UsageError(
            f"a prompt of {len(prompt)} tokens leaves {max(0, room)} of model.max_positions {model.config.max_positions}; "
            f"lower max_tokens {config.max_tokens}, or shorten the prompt"
        )
    engine = Engine(model, 1, len(prompt) + config.max_tokens, num_ids)
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature, top_p=config.top_p, seed=seed)
    engine.add(prompt, sampling)
    while not engine.is_idle:
        for written in engine.step():
            if written.finish_reason != "stop":
                yield written.id


def stream_text(encoder: TextEncoder, ids: Iterator[int]) -> Iterator[str]:
    """Text as it comes: a character is given out when all of its bytes are there."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in ids:
        text = decoder.decode(encoder.decode_bytes([token]))
        if text:
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


def generate_text(
    config: Config, folder: RunFolder, encoder: TextEncoder, prompts: Sequence[str]
) -> Iterator[tuple[int, str, Iterator[str]]]:
    """For each prompt: the newest checkpoint's step, the prompt, and the text that continues it, streamed."""
    section = config.generate
    device = choose_device(config.device, 0)
    ids_of_prompts = [prompt_ids(encoder, prompt) for prompt in prompts]
    longest = max(map(len, ids_of_prompts), default=1) + section.max_tokens
    loaded = load_model(config, folder, device, min(longest, config.model.max_positions))
    for number, (prompt, ids) in enumerate(zip(prompts, ids_of_prompts, strict=True)):
        new_ids = generate_ids(loaded.model, ids, section, section.seed + number, encoder.vocab_size)
        yield loaded.step, prompt, stream_text(encoder, new_ids)


def prompt_ids(encoder: TextEncoder, prompt: str) -> list[int]:
    """A prompt at the start of a document."""
    return [END_OF_TEXT, *encoder.encode(prompt)]
