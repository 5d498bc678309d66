"""The config's section on serving a trained model."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from trainer.config_section import Section


class ServeSection(Section):
    """The server, and `trainer chat`. Address and port are options of the command; the API key is only in the environment."""

    model_name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """The model's name in the API; unset: the run's name."""
    context_tokens: PositiveInt = 2048
    """Longest prompt and answer together, in tokens; never above model.max_positions. Each slot takes memory for so many."""
    slots: Annotated[int, Field(ge=1, le=1024)] = 8
    """Texts written at the same time."""
    queue: NonNegativeInt = 32
    """Texts that may wait for a slot; beyond them requests are refused with 429."""
    max_output_tokens: PositiveInt = 1024
    """Most tokens of a text; a request for more is cut to them."""
    deadline_s: PositiveFloat = 120.0
    """Seconds that a request may take, waiting included; what is not done by then is given up."""
    drain_s: PositiveFloat = 30.0
    """Seconds that requests under way get to end after a stop signal."""
