"""What every group of settings has in common: typed, closed, immutable, documented."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A group of settings: unknown keys are refused, values are checked, nothing changes later."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )


class MethodConfig(Settings):
    """Base of every method's hyperparameters; a method's file subclasses it once."""
