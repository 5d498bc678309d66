"""The model: counts, equality with Llama and Qwen3, packed rows, cached generation."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.models import QK_NORM, SMALL, model_of, uncached_greedy
from trainer.config import GenerateSection, ModelSection
from trainer.config_loading import load_config, preset_names
from trainer.errors import UsageError
from trainer.inference.generation import generate_ids
from trainer.inference.sampling import choose
from trainer.model.attention import DocumentMask, attend
from trainer.model.gpt import GPT
from trainer.model.loss import CHUNK_POSITIONS, next_token_loss
from trainer.tokens.shards import IGNORED, TokenRows, read_manifest


@pytest.mark.parametrize("preset", preset_names())
def test_the_declared_parameter_count_is_the_models(preset: str) -> None:
    config = load_config(None, preset=preset).model
    with torch.device("meta"):
        model = GPT(config, 16)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.num_parameters


def test_minimind_26m_has_exactly_25829888_parameters() -> None:
    assert load_config(None, preset="minimind-26m").model.num_parameters == 25_829_888


@pytest.mark.parametrize("config", [SMALL, QK_NORM], ids=["llama", "qwen3"])
def test_logits_equal_those_of_hugging_face(config: ModelSection) -> None:
    import transformers

    model = model_of(config)
    common = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": True,
        "attention_bias": False,
    }
    if config.qk_norm:
        other = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**common))
    else:
        other = transformers.LlamaForCausalLM(transformers.LlamaConfig(**common))
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    missing, unexpected = other.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    ids = torch.arange(200).reshape(2, 100) * 37 % config.vocab_size
    with torch.no_grad():
        theirs = other.eval()(ids).logits
        ours = model.logits(model(ids, DocumentMask.of(torch.ones_like(ids), torch.float32)))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", [SMALL, QK_NORM], ids=["plain", "qk-norm"])
def test_packed_logits_equal_those_of_each_document_alone(config: ModelSection, small_data: Path) -> None:
    model = model_of(config)
    rows = TokenRows(small_data / "tokens", read_manifest(small_data / "tokens"), "train")
    packed = [row for row in range(len(rows)) if rows.rows.row_starts[row + 1] - rows.rows.row_starts[row] > 1][:8]
    assert packed
    inputs, _, documents = (torch.from_numpy(array) for array in rows.read(torch.tensor(packed).numpy()))
    with torch.no_grad():
        together = model.logits(model(inputs, DocumentMask.of(documents, torch.float32)))
        for row in range(len(packed)):
            for number in range(1, int(documents[row].max()) + 1):
                own = documents[row] == number
                alone = model.logits(model(inputs[row][own][None]))[0]
                torch.testing.assert_close(together[row][own], alone, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("seq_len", [1, 5, 64, 65, 200, 512])
def test_blocked_attention_equals_torchs_own_with_the_same_mask(seq_len: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 8, seq_len, 16), torch.randn(2, 2, seq_len, 16), torch.randn(2, 2, seq_len, 16)
    documents = torch.arange(seq_len).div(37, rounding_mode="floor").expand(2, seq_len)
    allowed = (documents[:, :, None] == documents[:, None, :]).tril()
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed[:, None], enable_gqa=True)
    blocked = attend(q, k, v, DocumentMask.of(documents, torch.float32, "blocks"))
    torch.testing.assert_close(blocked, wanted, atol=1e-6, rtol=1e-5)
    dense = attend(q, k, v, DocumentMask.of(documents, torch.float32, "sdpa"))
    torch.testing.assert_close(dense, wanted, atol=0, rtol=0)
    flex = attend(q, k, v, DocumentMask.of(documents, torch.float32, "flex"))
    torch.testing.assert_close(flex, wanted, atol=1e-6, rtol=1e-5)


def test_recomputed_blocks_give_the_same_loss_and_gradients_and_keep_fewer_tensors() -> None:
    config = ModelSection(vocab_size=512, hidden_size=32, num_layers=3, num_heads=4, num_kv_heads=2, ffn_size=64, dropout=0.1)
    ids = torch.arange(128).view(2, 64)
    results = []
    for recompute in (False, True):
        model = GPT(config, 64)
        model.init_weights(1)
        if recompute:
            model.recompute_blocks()
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):  # noqa: B023
            torch.manual_seed(7)
            loss = model(ids, DocumentMask.of(torch.ones_like(ids), torch.float32)).square().sum()
        loss.backward()
        results.append((loss, [parameter.grad for parameter in model.parameters()], sum(kept)))
    (plain, plain_gradients, plain_kept), (again, again_gradients, again_kept) = results
    torch.testing.assert_close(again, plain, atol=0, rtol=0)
    torch.testing.assert_close(again_gradients, plain_gradients, atol=0, rtol=0)
    assert again_kept < plain_kept / 5


@pytest.mark.parametrize("num_positions", [3, CHUNK_POSITIONS, 2 * CHUNK_POSITIONS + 5])
def test_loss_and_its_gradients_equal_torchs_cross_entropy(num_positions: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(1, num_positions, 16, dtype=torch.float32, requires_grad=True)
    embedding = torch.randn(300, 16, requires_grad=True)
    targets = torch.randint(0, 300, (1, num_positions))
    targets[0, ::3] = IGNORED
    wanted = torch.nn.functional.cross_entropy((hidden @ embedding.T)[0], targets[0], reduction="sum", ignore_index=IGNORED)
    used = (targets.flatten() != IGNORED).nonzero().squeeze(1)
    loss = next_token_loss(hidden, embedding, targets, used)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(
        torch.autograd.grad(3 * loss, (hidden, embedding)), torch.autograd.grad(3 * wanted, (hidden, embedding)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(next_token_loss(hidden, embedding, targets, used), wanted, rtol=1e-5, atol=1e-4)


def test_a_batch_of_padding_alone_has_loss_zero_and_no_gradient() -> None:
    hidden = torch.randn(1, 8, 16, requires_grad=True)
    embedding = torch.randn(300, 16, requires_grad=True)
    loss = next_token_loss(hidden, embedding, torch.full((1, 8), IGNORED), torch.empty(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


@pytest.mark.parametrize("config", [SMALL, QK_NORM], ids=["plain", "qk-norm"])
@pytest.mark.parametrize("prompt", [[9], [0, 5, 9, 200, 17]])
def test_cached_generation_equals_uncached(config: ModelSection, prompt: list[int]) -> None:
    model = model_of(config)
    section = GenerateSection(temperature=0.0, max_tokens=40)
    cached = list(generate_ids(model, prompt, section, seed=0))
    wanted = uncached_greedy(model, prompt, 40)
    ends = [index for index, token in enumerate(wanted) if token in (0, 2)]
    assert cached == wanted[: ends[0] if ends else None]
    assert len(cached) > 5


def test_sampling_is_a_function_of_the_seed() -> None:
    model = model_of(SMALL)
    section = GenerateSection(temperature=1.0, max_tokens=20)
    texts = [list(generate_ids(model, [0, 7], section, seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    logits = torch.log(torch.tensor([0.05, 0.5, 0.3, 0.15]))
    generator = torch.Generator().manual_seed(0)
    for top_p, allowed in ((0.4, {1}), (0.5, {1}), (0.51, {1, 2}), (0.81, {1, 2, 3}), (1.0, {0, 1, 2, 3})):
        drawn = {choose(logits, 1.0, top_p, generator) for _ in range(300)}
        assert drawn == allowed, top_p
    assert choose(logits, 0.0, 1.0, generator) == 1


def test_a_prompt_without_room_for_the_answer_is_refused() -> None:
    model = model_of(SMALL.model_copy(update={"max_positions": 64}), 64)
    with pytest.raises(UsageError, match=r"a prompt of 60 tokens leaves 4 of model\.max_positions 64; lower max_tokens 10"):
        next(generate_ids(model, [1] * 60, GenerateSection(max_tokens=10), 0))


def test_initial_weights_are_a_function_of_the_seed() -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        model = GPT(SMALL, 8)
        torch.manual_seed(seed * 31 + 5)  # whatever the global generator holds
        model.init_weights(seed)
        return model.state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed_tokens.weight"], other["embed_tokens.weight"])
