"""Learning rate and weight decay as pure functions of the step."""

import math

from trainer.config_training import ScheduleSection


def lr_factor(schedule: ScheduleSection, step: int, num_steps: int) -> float:
    """Factor of the peak rate at which step `step` (from 0) of `num_steps` is taken.

    The warm-up rises in a straight line and reaches 1 at its last step. Then, with f the final ratio:
    cosine: f + (1 - f) (1 + cos(pi x)) / 2, x from 0 to 1 over the rest (SGDR, arXiv 1608.03983);
    wsd: 1, and over the last `decay_fraction` of all steps 1 - (1 - f) sqrt(x) (arXiv 2405.18392);
    constant: 1.
    """
    warmup = min(schedule.warmup_steps, num_steps)
    if step < warmup:
        return (step + 1) / warmup
    last = num_steps - 1
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "cosine":
        x = (step - warmup) / max(1, last - warmup)
        return schedule.final_ratio + (1 - schedule.final_ratio) * (1 + math.cos(math.pi * x)) / 2
    decay_steps = min(round(schedule.decay_fraction * num_steps), num_steps - warmup)
    into_decay = step - (last - decay_steps)
    if into_decay <= 0:
        return 1.0
    return 1 - (1 - schedule.final_ratio) * math.sqrt(into_decay / decay_steps)


def weight_decay_factor(schedule: ScheduleSection, step: int, num_steps: int) -> float:
    """Factor of the weight decay in step `step`: 1, or a straight line from 1 to 0 behind the last step."""
    return 1.0 if schedule.weight_decay == "constant" else 1.0 - step / num_steps
