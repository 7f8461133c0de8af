"""The paper's students as shapes, and what is counted of a model: no weights, and no torch.

With these shapes planning a run needs no network. Every model is counted on a skeleton without
memory (`models/skeleton.py`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """What a planned run is made of, in parameters; what `models/plan.py` calculates with.

    Attributes:
        model: Name of the student.
        layers: Number of layers.
        width: Width d of the hidden states.
        queries: Width of all query heads together.
        keys: Width of all key heads together; the values have the same.
        intermediate: Width of the MLP.
        gated: Whether the MLP has a gate beside its up projection.
        backbone: Parameters that are frozen and have no trained copy: the transformer.
        language_model: The same with the output layer of a language model; None where there is
            none.
        head: Parameters of the classification head, of which PEFT trains a copy.
        adapter: Parameters of the adapter.
        linear: Parameters in the weights of linear layers of the transformer, which 4 bits round.
        largest: Parameters of the largest piece that is gathered at once: a layer or the embedding.
        adapted_inputs: Sum of the input widths of all linear layers that carry an adapter.
        adapted_ranks: Sum of their ranks.
    """

    model: str
    layers: int
    width: int
    queries: int
    keys: int
    intermediate: int
    gated: bool
    backbone: int
    language_model: int | None
    head: int
    adapter: int
    linear: int
    largest: int
    adapted_inputs: int
    adapted_ranks: int

    @property
    def total(self) -> int:
        """All parameters of the classifier with its adapter, the head and its copy included."""
        return self.backbone + 2 * self.head + self.adapter

    @property
    def trainable(self) -> int:
        """Parameters that are trained: the adapter and the copy of the head."""
        return self.adapter + self.head


@dataclass(frozen=True)
class Shape:
    """The shape of a decoder of the Llama family.

    Attributes:
        layers: Number of layers.
        width: Width d of the hidden states.
        intermediate: Width of the gated MLP.
        heads: Query heads.
        kv_heads: Key and value heads.
        vocabulary: Number of token embeddings, with padding.
        tied: Whether the output layer of the language model is the embedding.
        qkv_bias: Whether q, k and v have biases (Qwen2).
    """

    layers: int
    width: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    qkv_bias: bool = False


STUDENTS = {
    "Qwen/Qwen2.5-1.5B": Shape(28, 1536, 8960, 12, 2, 151936, tied=True, qkv_bias=True),
    "Qwen/Qwen2.5-3B": Shape(36, 2048, 11008, 16, 2, 151936, tied=True, qkv_bias=True),
    "Qwen/Qwen2.5-7B": Shape(28, 3584, 18944, 28, 4, 152064, tied=False, qkv_bias=True),
    "Qwen/Qwen2.5-14B": Shape(48, 5120, 13824, 40, 8, 152064, tied=False, qkv_bias=True),
    "meta-llama/Meta-Llama-3-8B": Shape(32, 4096, 14336, 32, 8, 128256, tied=False),
    "lmsys/vicuna-7b-v1.5": Shape(32, 4096, 11008, 32, 32, 32000, tied=False),
    "smollm2-135m": Shape(30, 576, 1536, 9, 3, 49152, tied=True),
}
"""Students whose shape is known here: those of the paper by their hub ids, and the embedded one."""

_CALLED = {"llama3-8b": "meta-llama/Meta-Llama-3-8B", "vicuna-7b": "lmsys/vicuna-7b-v1.5"}
"""What the paper calls them."""


def known_student(name: str) -> str | None:
    """The student of `STUDENTS` that is meant by a name.

    Args:
        name: A hub id, with or without its owner and in any case; or the paper's name.
    """
    short = name.rsplit("/", 1)[-1].lower()
    by_short = {known.rsplit("/", 1)[-1].lower(): known for known in STUDENTS}
    return (by_short | _CALLED).get(short)
