"""What the process server of tests.support.ranks has loaded when it forks a rank. Nothing here may start a thread."""

import torch
import torch._dynamo
import torch.distributed  # noqa: F401

import trainer.cli
import trainer.evaluation.evaluating
import trainer.inference.generation
import trainer.running
import trainer.training.dpo
import trainer.training.pretrain
import trainer.training.sft  # noqa: F401
