"""Writing text token by token with a key-value cache."""

import codecs
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trainer.config import Config, GenerateSection
from trainer.errors import UsageError
from trainer.inference.loading import load_model
from trainer.model.gpt import GPT, KeyValueCache
from trainer.run_folder import RunFolder
from trainer.tokens.tokenizer import END_OF_TEXT, IM_END, TextEncoder
from trainer.training.peers import choose_device


@torch.inference_mode()
def generate_ids(
    model: GPT, prompt: Sequence[int], config: GenerateSection, seed: int, num_ids: int | None = None
) -> Iterator[int]:
    """Ids that continue a prompt, one by one, until an end token or `max_tokens`. The same seed gives the same ids.

    `num_ids` is the tokenizer's vocabulary where it is smaller than the model's: ids beyond it have no text.

    Raises UsageError if prompt and answer together pass the model's longest context.
    """
    device = model.embed_tokens.weight.device
    room = model.config.max_positions - len(prompt)
    if room < config.max_tokens:
        raise UsageError(
            f"a prompt of {len(prompt)} tokens leaves {max(0, room)} of model.max_positions {model.config.max_positions}; "
            f"lower max_tokens {config.max_tokens}, or shorten the prompt"
        )
    cache = KeyValueCache(model.config, 1, len(prompt) + config.max_tokens, device, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.tensor([list(prompt)], device=device)
    for _ in range(config.max_tokens):
        logits_V = model.logits(model(ids_BT, cache=cache)[0, -1])[:num_ids]
        token = choose(logits_V.cpu(), config.temperature, config.top_p, generator)
        if token in (END_OF_TEXT, IM_END):
            return
        yield token
        ids_BT = torch.tensor([[token]], device=device)


def choose(logits_V: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One id from logits on CPU: the most probable at temperature 0, else drawn from the nucleus of mass `top_p`."""
    if temperature == 0:
        return int(logits_V.argmax())
    probabilities, order = torch.softmax(logits_V / temperature, dim=-1).sort(descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    probabilities[before >= top_p] = 0.0  # the first id always stays: nothing is before it
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])


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
