"""Small models with random weights, and what they write without a cache."""

import torch

from trainer.config import ModelSection
from trainer.model.gpt import GPT

SMALL = ModelSection(vocab_size=512, hidden_size=64, num_layers=3, num_heads=8, num_kv_heads=2, ffn_size=96)
QK_NORM = SMALL.model_copy(update={"qk_norm": True})


def model_of(config: ModelSection, num_positions: int = 512) -> GPT:
    model = GPT(config, num_positions)
    model.init_weights(7)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # larger weights than at the start, so that attention is far from uniform
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(0, 0.1, generator=generator))
    return model.eval()


def uncached_greedy(model: GPT, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model.logits(model(torch.tensor([ids]))[0, -1]).argmax()))
    return ids[len(prompt) :]
