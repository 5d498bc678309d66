"""Small models with random weights, and what they write without a cache."""

import torch

from trainer.checkpoint.format import MODEL_FILE, OPTIMIZER_FILE, CheckpointManifest, TrainingState
from trainer.checkpoint.writing import CheckpointWriter
from trainer.config import Config, ModelSection
from trainer.events import CheckpointSaved
from trainer.model.gpt import GPT
from trainer.run_folder import RunFolder
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder

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


def save_run(config: Config, model: GPT, step: int = 7) -> None:
    """A run folder with this model as its only checkpoint; config and tokenizer are the caller's."""
    folder = RunFolder.of(config)
    folder.claim(config)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tokenizer = TextEncoder(folder.tokenizer / TOKENIZER_FILE)
    manifest = CheckpointManifest(
        stage="pretrain", state=TrainingState(step=step), run=config.hash(), data_sha256="", tokenizer_sha256=tokenizer.sha256,
        precision="fp32", versions={}, config=config.model_dump(mode="json"), files={},
    )  # fmt: skip
    writer = CheckpointWriter(folder.checkpoints_of("pretrain"), keep=2)
    shapes = {MODEL_FILE: {name: tuple(tensor.shape) for name, tensor in tensors.items()}, OPTIMIZER_FILE: {}}
    writer.save(shapes, [(MODEL_FILE, name, tensor) for name, tensor in tensors.items()], lambda: manifest)
    writer.finish()
    (outcome,) = writer.outcomes()
    assert isinstance(outcome, CheckpointSaved), outcome


def memorise(model: GPT, conversations: list[tuple[list[int], list[int]]], most_steps: int = 500) -> GPT:
    """Train a model until it answers each prompt with its answer, surely, and then ends the turn."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(most_steps):
        worst = 0.0
        for prompt, answer in conversations:
            ids = torch.tensor([prompt + answer])
            logits = model.logits(model(ids[:, :-1])[0, len(prompt) - 1 :])
            losses = torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="none")
            losses.mean().backward()
            worst = max(worst, float(losses.detach().max()))
        if worst < 0.1:
            return model.eval()
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError(f"not learned within {most_steps} steps: {worst}")
