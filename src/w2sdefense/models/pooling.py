"""What a classifier reads of a text: here always one token, whose state is the text's feature.

Some families of encoders can classify by all tokens instead (`classifier_pooling` in their config).
A fresh head is told to read the first token; one that was trained on all of them is refused.
"""

from __future__ import annotations

from transformers import PretrainedConfig

from w2sdefense.errors import ModelError

_FIRST = {"eurobert": "bos"}
"""What families call the first token that do not say `cls`."""


def read_first_token(config: PretrainedConfig) -> None:
    """Have a fresh head read the first token, in a family that can read others."""
    if hasattr(config, "classifier_pooling"):
        config.classifier_pooling = _first_token(config)


def require_first_token(config: PretrainedConfig, spec: str) -> None:
    """Insist that a head, which learned what its config says, reads one token.

    Args:
        config: Config of a classifier, or of the base of an adapter that brings its head.
        spec: What the user called it.

    Raises:
        ModelError: It reads all of them.
    """
    first = _first_token(config)
    pooling = getattr(config, "classifier_pooling", first)
    if pooling != first:
        raise ModelError(
            f"{spec} classifies by all tokens of a text (classifier_pooling: {pooling}); features "
            "are read at one token here.",
            f"Use a model that was trained with classifier_pooling: {first}.",
        )


def _first_token(config: PretrainedConfig) -> str:
    return _FIRST.get(config.model_type, "cls")
