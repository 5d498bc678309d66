"""Low-rank adapters (arXiv 2106.09685): y = W x + (alpha / rank) B A x, with W at rest and only the thin A and B trained.

Shapes: O outputs, I inputs, R rank.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config_tuning import LoraSection
from trainer.model.gpt import GPT
from trainer.model.reward import HEAD

LORA_A, LORA_B = "lora_a", "lora_b"


class LoraLinear(nn.Linear):
    """A linear layer with an adapter. Its weight keeps its name, so the model's own parameters are called as before."""

    def __init__(self, base: nn.Linear, config: LoraSection, generator: torch.Generator) -> None:
        """Shares the weight of `base`. A is drawn, B is zero: the layer computes at first what `base` does."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight = base.weight
        self.register_parameter("bias", None)
        self.scale = config.alpha / config.rank
        drawn_RI = torch.empty(config.rank, base.in_features).normal_(0.0, base.in_features**-0.5, generator=generator)
        self.lora_a = nn.Parameter(drawn_RI.to(base.weight.device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, config.rank, device=base.weight.device))

    def forward(self, input: Tensor) -> Tensor:
        added = functional.linear(functional.linear(input, self.lora_a), self.lora_b)
        return functional.linear(input, self.weight) + self.scale * added


def add_adapters(model: GPT, config: LoraSection, seed: int) -> None:
    """Give the blocks' matrices that the config names adapters, and put the model's other weights at rest, but for a head.

    Equal on any device.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name == HEAD)
    for block in model.blocks:
        for part in (block.self_attn, block.mlp):
            for name, layer in list(part.named_children()):
                if name in config.targets and isinstance(layer, nn.Linear):
                    setattr(part, name, LoraLinear(layer, config, generator))


@torch.no_grad()
def merged_weights(weights: Mapping[str, Tensor], adapters: Mapping[str, Tensor], config: LoraSection) -> dict[str, Tensor]:
    """A model's weights by name with what adapters add to them; new tensors where there is an adapter."""
    merged = dict(weights)
    for name, a_RI in adapters.items():
        if name.endswith(LORA_A):
            layer = name.removesuffix(LORA_A)
            b_OR = adapters[layer + LORA_B]
            weight = weights[f"{layer}weight"]
            added_OI = config.alpha / config.rank * (b_OR.to(weight.device) @ a_RI.to(weight.device))
            merged[f"{layer}weight"] = weight + added_OI
    return merged
