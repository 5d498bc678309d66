"""The trainer's config: frozen values, every rule checked at birth, no torch.

One run is one `Config`. What changes its result (data choices, model, batch, schedule, seed, numbers' precision) makes its
identity, `Config.identity()`; where it runs and how it is watched does not (trainer.config_section).
The docstring under a field is its entry in the JSON schema.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from trainer.config_corpus import CorpusSection as CorpusSection
from trainer.config_corpus import SourceSection as SourceSection
from trainer.config_engine import EngineSection
from trainer.config_section import Name, Section, canonical_json, nearest_divisors, unidentified
from trainer.config_serving import ServeSection
from trainer.config_training import PretrainSection, TrainingSection
from trainer.config_tuning import ChatSection, DpoSection, GrpoSection, RewardSection, SftSection

NUM_SPECIAL_TOKENS = 36
"""Reserved ids at the start of every vocabulary: MiniMind's 21 specials, 6 tool and think marks, 9 spares."""

NUM_BYTES = 256
"""A byte-level vocabulary holds each byte once, so that it can spell any text."""

MAX_TOKENS_PER_STEP = 1 << 24
"""A step's target tokens are counted in float32 beside the gradients, which is exact below this number."""
FLEX_MIN_HEAD_SIZE = 16
"""FlexAttention's kernels take no smaller heads (torch 2.11)."""


StageName = Literal[
    "prepare", "tokenizer", "encode", "pretrain", "sft", "reward", "dpo", "grpo", "evaluate", "generate", "report"
]
TrainingStage = Literal["pretrain", "sft", "reward", "dpo", "grpo"]
TRAINING_STAGES: tuple[TrainingStage, ...] = get_args(TrainingStage)
"""Stages that train, in the order in which they run."""
WRITING_STAGES: tuple[TrainingStage, ...] = tuple(stage for stage in TRAINING_STAGES if stage != "reward")
"""Those whose weights write text: each stage starts from the nearest of them before it. A reward model only judges."""


class KillSpec(Section):
    """A planned fault: SIGKILL to one rank, once, to watch the run come back."""

    rank: NonNegativeInt
    """The rank to kill."""
    at_step: PositiveInt
    """Kill it when this optimizer step has been logged, in steps."""


class LaunchSection(Section):
    """How `trainer run` starts training on this machine. Under torchrun, deepspeed or Kubernetes it has no effect."""

    processes: PositiveInt = 1
    """Training processes to start under torchrun; 1 trains in the calling process."""
    threads_per_process: PositiveInt | None = None
    """CPU threads of each process; unset: the machine's cores shared out evenly."""
    max_restarts: NonNegativeInt = 3
    """How often torchrun may restart the processes after a failure."""
    kill: tuple[KillSpec, ...] = ()
    """Faults to inject, for demonstrations and tests."""


class TokenizerSection(Section):
    """Training of the byte-level BPE tokenizer; its size is `model.vocab_size`."""

    max_train_bytes: PositiveInt = 1_000_000_000
    """Text to train on, in bytes: a larger corpus is sampled by document hash, which bounds the memory."""
    min_frequency: PositiveInt = 2
    """A pair of pieces must occur this often to be merged."""


class TokensSection(Section):
    """Clean documents to rows of tokens."""

    row_tokens: Annotated[int, Field(ge=8, le=1 << 20)] = 512
    """Length of a training row, in tokens: the context that the model is trained on."""
    packing: Literal["best_fit", "concat"] = "best_fit"
    """best_fit: a document is cut only where it is longer than a row; concat: rows are filled to the last token."""
    verify_hashes: bool = unidentified(True)
    """Compare the shards with their SHA-256 before training: about 1 s per GB at each start, on the first process."""
    workers: NonNegativeInt = unidentified(0)
    """Processes that encode; 0: one per core. The bytes written do not depend on it."""


class ModelSection(Section):
    """The GPT's shape: Llama's layers, so that other tools read its weights as they are."""

    vocab_size: Annotated[int, Field(gt=0, le=1 << 24)] = 6400
    """Number of token ids."""
    hidden_size: PositiveInt = 512
    """Width of the residual stream."""
    num_layers: PositiveInt = 8
    """Transformer blocks."""
    num_heads: PositiveInt = 8
    """Query heads."""
    num_kv_heads: PositiveInt = 2
    """Key and value heads, each shared by num_heads / num_kv_heads query heads."""
    ffn_size: PositiveInt = 1408
    """Width of the SwiGLU layer."""
    rope_theta: PositiveFloat = 1e6
    """Base of the rotary position frequencies."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    qk_norm: bool = False
    """Normalise each query and key head (Qwen3's shape)."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability of dropping an activation of a block's two outputs."""
    max_positions: PositiveInt = 32768
    """Longest context for generation, in tokens."""

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def num_parameters(self) -> int:
        """Trained numbers, the tied embedding counted once."""
        attention = 2 * self.hidden_size * self.head_size * (self.num_heads + self.num_kv_heads)
        norms = 2 * self.hidden_size + (2 * self.head_size if self.qk_norm else 0)
        layer = attention + 3 * self.hidden_size * self.ffn_size + norms
        return self.num_layers * layer + self.vocab_size * self.hidden_size + self.hidden_size

    def flops_per_token(self, row_tokens: int) -> int:
        """FLOPs to train on one token: 6 per weight plus 12 L d T for attention (PaLM, arXiv 2204.02311, appendix B)."""
        return 6 * self.num_parameters + 12 * self.num_layers * self.hidden_size * row_tokens

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.hidden_size % self.num_heads:
            nearest = nearest_divisors(self.hidden_size, self.num_heads)
            raise ValueError(f"num_heads {self.num_heads} does not divide hidden_size {self.hidden_size}; nearest: {nearest}")
        if self.head_size % 2:
            raise ValueError(
                f"hidden_size / num_heads is {self.head_size}; rotary positions need an even number: change num_heads"
            )
        if self.num_heads % self.num_kv_heads:
            nearest = nearest_divisors(self.num_heads, self.num_kv_heads)
            raise ValueError(f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}; nearest: {nearest}")
        if self.vocab_size < NUM_SPECIAL_TOKENS + NUM_BYTES:
            least = NUM_SPECIAL_TOKENS + NUM_BYTES
            raise ValueError(
                f"vocab_size {self.vocab_size} is below {least}: {NUM_SPECIAL_TOKENS} reserved ids and 256 bytes; raise it"
            )
        return self


class ValidationSection(Section):
    """Bits per byte on held-out text while training."""

    every_steps: PositiveInt = 500
    """Steps between two validations; there is always one after the last step."""
    max_rows_per_source: PositiveInt = 64
    """Rows of each source, spread over all of it; the same ones each time."""


class CheckpointSection(Section):
    """When the state is saved, and how many copies stay."""

    every_steps: PositiveInt = 500
    """Steps between two saves; a save also follows the last step and a stop signal."""
    every_s: PositiveFloat | None = 300.0
    """Seconds after which a save is due in any case; null: steps alone decide."""
    keep: Annotated[int, Field(ge=2)] = 3
    """Newest checkpoints to keep; at least 2, so that a damaged one has a predecessor."""


class WandbSection(Section):
    """Weights & Biases. The API key comes from the environment or wandb's own login, never from a config."""

    enabled: bool = False
    """Send events to wandb; --use_wandb turns it on."""
    project: str = "pretrain-run"
    """Project name; --wandb_project sets it."""
    run_name: str | None = None
    """Run name; --wandb_run_name sets it; unset: the config's name."""
    mode: Literal["auto", "online", "offline"] = "auto"
    """auto: online where a key is known, else offline; `wandb sync` uploads an offline run later."""
    deadline_s: PositiveFloat = 60.0
    """Seconds that wandb gets at the start and at the end; training never waits for it in between."""


class TrackingSection(Section):
    """How a run is watched."""

    log_every_steps: PositiveInt = 10
    """Steps between two lines."""
    measure_peak: bool = True
    """Time a matrix product at the start (about 0.3 s), so that MFU is a share of what this machine can do."""
    profile: bool = False
    """Write a trace of training's steps 6 to 8 on the first process to RUN/trace.json, for ui.perfetto.dev."""
    prometheus_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Serve metrics for Prometheus on this port of the first process; unset: none."""
    wandb: WandbSection = WandbSection()
    """Weights & Biases."""


class EvaluationTask(Section):
    """Questions with a right answer, as JSON lines: docs/evaluation.md has the forms."""

    name: Name
    """The name under which results list it."""
    path: Annotated[str, Field(min_length=1)]
    """A .jsonl file; `box:NAME` comes with the package."""
    kind: Literal["choice", "preference"] = "choice"
    """choice: the right one of several texts; preference: the chosen of two conversations."""
    form: Literal["text", "chat"] = "text"
    """Of choices. text: the choice continues the question; chat: the assistant says it when a user asks the question."""
    split: Literal["all", "held_out", "train"] = "all"
    """Of preferences: all pairs, those that chat.held_out holds out, or those that dpo trains on where it is given them."""
    delimiter: str = " "
    """Stands between question and choice in form text."""
    max_items: PositiveInt | None = None
    """Only the first so many items; unset: all."""


class EvaluateSection(Section):
    """Held-out bits per byte of the trained model beside baselines fitted on the same training split, and tasks."""

    max_rows_per_source: PositiveInt | None = None
    """Rows of each source, spread over all of it; unset: all held-out rows."""
    batch_rows: PositiveInt = 16
    """Rows in one forward pass."""
    tasks: tuple[EvaluationTask, ...] = ()
    """What else the model is asked."""
    checkpoints: tuple[str, ...] = ()
    """Checkpoints to evaluate, or folders of which to take the newest one; unset: the newest one of each stage.

    Of several, the texts that continue generate.prompts are shown side by side.
    """

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"task name {name!r} is used twice; each task needs its own")
        return self


class GenerateSection(Section):
    """Text written by the model."""

    prompts: tuple[str, ...] = ("",)
    """What it continues; an empty prompt starts a new document."""
    max_tokens: PositiveInt = 128
    """Most tokens to write for each prompt."""
    temperature: Annotated[float, Field(ge=0.0, le=10.0)] = 0.8
    """0: always the most probable token; 1: the model's own distribution."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """Sample from the most probable tokens that hold this share of the probability (arXiv 1904.09751)."""
    seed: NonNegativeInt = 0
    """The same seed writes the same text."""


class Config(Section):
    """Everything that one run of the trainer needs to know."""

    name: Name = unidentified("run")
    """Name of the run: lower-case letters, digits and dashes."""
    run_dir: Path | None = unidentified(None)
    """Folder of the run; unset: runs/NAME."""
    data_dir: Path | None = unidentified(None)
    """Folder of corpus, tokenizer and token shards, which runs may share; unset: the run folder."""
    stages: Annotated[tuple[StageName, ...], Field(min_length=1)] = unidentified(
        ("prepare", "tokenizer", "encode", "pretrain", "evaluate", "generate", "report")
    )
    """What `trainer run` does, in this order; a stage that is done is skipped."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 1234
    """Determines the initial weights, the order of the rows and all noise."""
    device: Literal["auto", "cuda", "mps", "cpu"] = unidentified("auto")
    """auto: cuda where there is one, else mps, else cpu."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of matrix products; weights and optimizer stay fp32. auto: bf16 where this machine computes it faster."""
    engine: EngineSection = unidentified(EngineSection())
    """Engine of training: data parallelism, FSDP2 or DeepSpeed."""
    activation_checkpointing: bool = unidentified(False)
    """Keep only each block's input and compute the rest again in the backward pass: a third more work, far less memory."""
    attention: Literal["auto", "blocks", "sdpa", "flex"] = unidentified("auto")
    """auto: blocks of matrix products on CPU; on GPUs FlexAttention where compiled, else torch's fused attention."""
    compile: bool = unidentified(False)
    """Run the model through torch.compile: 20 to 90 s at the start, then faster; worth it above about 10 minutes."""
    deterministic: bool = unidentified(False)
    """Ask torch for algorithms with reproducible bits, and fail where there is none."""
    collective_timeout_s: PositiveFloat = unidentified(120.0)
    """Processes that wait longer than this for each other give up."""

    init_from: Annotated[str, Field(min_length=1)] | None = None
    """A run folder or a checkpoint whose newest weights the run's first training stage starts from; unset: pretraining starts
    at random. Each later stage starts from the one before it. Its tokenizer comes along where the data folder has none yet."""

    launch: LaunchSection = unidentified(LaunchSection())
    """Processes on this machine."""
    corpus: CorpusSection = CorpusSection()
    """Raw text to clean documents."""
    tokenizer: TokenizerSection = TokenizerSection()
    """The tokenizer."""
    tokens: TokensSection = TokensSection()
    """Rows of tokens."""
    model: ModelSection = ModelSection()
    """The model's shape."""
    pretrain: PretrainSection = PretrainSection()
    """Pretraining."""
    chat: ChatSection = ChatSection()
    """Conversations, preference pairs and prompts."""
    sft: SftSection = SftSection()
    """Instruction tuning."""
    reward: RewardSection = RewardSection()
    """The reward model."""
    dpo: DpoSection = DpoSection()
    """Direct preference optimisation."""
    grpo: GrpoSection = GrpoSection()
    """Group relative policy optimisation."""
    validation: ValidationSection = unidentified(ValidationSection())
    """Validation while training."""
    checkpoint: CheckpointSection = unidentified(CheckpointSection())
    """Saving."""
    tracking: TrackingSection = unidentified(TrackingSection())
    """Watching."""
    evaluate: EvaluateSection = unidentified(EvaluateSection())
    """Evaluation after training."""
    generate: GenerateSection = unidentified(GenerateSection())
    """Samples of text."""
    serve: ServeSection = unidentified(ServeSection())
    """Serving the trained model."""

    @property
    def run_folder(self) -> Path:
        """Folder that holds config, events, checkpoints and report."""
        return self.run_dir or Path("runs") / self.name

    @property
    def data_folder(self) -> Path:
        """Folder that holds corpus, tokenizer and token shards."""
        return self.data_dir or self.run_folder

    @property
    def chat_row_tokens(self) -> int:
        """Length of a row of conversations, pairs or prompts."""
        return self.chat.row_tokens or self.tokens.row_tokens

    @property
    def training_stages(self) -> tuple[TrainingStage, ...]:
        """Those of the stages that train."""
        return tuple(stage for stage in TRAINING_STAGES if stage in self.stages)

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of a step, of the stage that has fewest: the largest world size that can do all stages."""
        return min(self.training(stage).num_micro_batches for stage in self.training_stages or ("pretrain",))

    def training(self, stage: TrainingStage) -> TrainingSection:
        """The section of a training stage."""
        section: TrainingSection = getattr(self, stage)
        return section

    def hash(self) -> str:
        """SHA-256 of the identity in canonical JSON: sorted keys, no spaces, UTF-8."""
        return hashlib.sha256(canonical_json(self.identity())).hexdigest()

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        if self.attention == "flex" and self.model.head_size < FLEX_MIN_HEAD_SIZE:
            raise ValueError(
                f"attention flex needs heads of at least {FLEX_MIN_HEAD_SIZE}; model.hidden_size / model.num_heads is "
                f"{self.model.head_size}: set attention to sdpa, or take fewer heads"
            )
        if self.tokens.row_tokens > self.model.max_positions:
            raise ValueError(
                f"tokens.row_tokens {self.tokens.row_tokens} is above model.max_positions {self.model.max_positions}; "
                "lower the first, or raise the second"
            )
        if self.chat_row_tokens > self.model.max_positions:
            raise ValueError(
                f"chat.row_tokens {self.chat_row_tokens} is above model.max_positions {self.model.max_positions}; "
                "lower the first, or raise the second"
            )
        for stage in TRAINING_STAGES:
            self._check_training(stage)
        for kill in self.launch.kill:
            if kill.rank >= self.launch.processes or self.launch.processes == 1:
                count = self.launch.processes
                ranks = f"ranks are 0 to {count - 1}" if count > 1 else "nobody is there to go on; raise it to 2 or more"
                raise ValueError(f"launch.kill names rank {kill.rank}, but with launch.processes {count} {ranks}")
        return self

    def _check_training(self, stage: TrainingStage) -> None:
        """What a training section cannot know alone."""
        section = self.training(stage)
        row_name, row_tokens = "tokens.row_tokens", self.tokens.row_tokens
        if stage != "pretrain":
            row_name, row_tokens = "chat.row_tokens", self.chat_row_tokens
        tokens_per_step = section.global_batch * row_tokens
        if tokens_per_step >= MAX_TOKENS_PER_STEP:
            raise ValueError(
                f"{stage}.global_batch {section.global_batch} x {row_name} {row_tokens} is "
                f"{tokens_per_step} tokens a step; it must stay below {MAX_TOKENS_PER_STEP}: lower {stage}.global_batch"
            )
        if (
            self.engine.kind == "deepspeed"
            and section.optimizer.kind == "muon"
            and (stage == "pretrain" or stage in self.stages)
        ):
            raise ValueError(
                f"{stage}.optimizer.kind muon works with engine.kind ddp and fsdp; DeepSpeed shares out vectors, not matrices: "
                f"set {stage}.optimizer.kind to adamw with a rate of its own (a quarter of Muon's), or choose another engine"
            )
        if (stage == "pretrain" or stage in self.stages) and self.launch.processes > section.num_micro_batches:
            raise ValueError(
                f"launch.processes {self.launch.processes} is above the {section.num_micro_batches} micro-batches of a "
                f"step; lower it, or lower {stage}.micro_batch {section.micro_batch}"
            )
        sources = {"sft": "conversations", "reward": "pairs", "dpo": "pairs", "grpo": "prompts"}.get(stage)
        if sources is not None and stage in self.stages and not getattr(self.chat, sources):
            raise ValueError(f"stages names {stage}, but chat.{sources} is empty; name a source, or leave the stage out")
        if stage == "grpo" and stage in self.stages:
            self._check_grpo()

    def _check_grpo(self) -> None:
        """What writing answers asks for."""
        longest = self.chat_row_tokens + self.grpo.max_tokens
        if longest > self.model.max_positions:
            raise ValueError(
                f"grpo.max_tokens {self.grpo.max_tokens} behind chat.row_tokens {self.chat_row_tokens} is above "
                f"model.max_positions {self.model.max_positions}; lower one of them"
            )
        if self.engine.kind != "ddp":
            raise ValueError(
                f"stages names grpo, which works with engine.kind ddp: each process writes answers with whole weights; "
                f"engine.kind is {self.engine.kind}"
            )
        answers = self.grpo.global_batch * self.grpo.group_size * self.grpo.max_tokens
        if answers >= MAX_TOKENS_PER_STEP:
            raise ValueError(
                f"grpo.global_batch x group_size x max_tokens is {answers} tokens a step; it must stay below "
                f"{MAX_TOKENS_PER_STEP}: lower one of the three"
            )
