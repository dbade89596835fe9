"""A small model that has learned nothing yet, with a tokenizer for code.

Chen et al. 2021, section 3.2: a tokenizer of prose spends many tokens on indentation; with a token for
every run of white space code takes about 30% fewer. The tokenizer is byte-level BPE, so every text is
its own again. Files are outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from quadriga.platform.errors import UserError

END = "<|end|>"
LONGEST_RUN = 24
LEAST_VOCABULARY = 256 + LONGEST_RUN


@dataclass(frozen=True)
class Shape:
    """The size of a model.

    Attributes:
        layers: transformer blocks.
        width: of the hidden states; a multiple of `heads`, each of even width.
        heads: of the attention.
        context: the longest sequence, in tokens.

    Raises:
        UserError: a value with which there is no model.
    """

    layers: int = 6
    width: int = 256
    heads: int = 8
    context: int = 1024

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "context"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.width % (2 * self.heads):
            raise UserError(f"width: expected a multiple of twice the heads ({2 * self.heads}), got {self.width}")


def tokenizer(texts: Iterable[str], size: int, longest_run: int = LONGEST_RUN) -> Any:
    """A tokenizer trained on `texts`.

    Args:
        texts: of the corpus.
        size: of the vocabulary, at most.
        longest_run: runs of 2 up to so many spaces are a token each; 0 for none.

    Raises:
        UserError: the vocabulary is smaller than what it must hold.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if size <= LEAST_VOCABULARY:
        raise UserError(f"--vocabulary: expected more than {LEAST_VOCABULARY}, got {size}")
    runs = [AddedToken(" " * n, normalized=False) for n in range(longest_run, 1, -1)]
    made = Tokenizer(models.BPE())
    # With single spaces and digits apart, merges are spent on words and not on indentation.
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_tokens(runs)
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(runs),
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.add_tokens(runs)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=END)


def model(vocabulary: int, end: int, shape: Shape, seed: int) -> Any:
    """A Llama of this shape with random weights; input and output share one matrix.

    Args:
        vocabulary: size of the tokenizer.
        end: its end token.
        shape: of the model.
        seed: of the weights.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        intermediate_size=-(-8 * shape.width // 3 // 32) * 32,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.context,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def tokens(counted: Any, texts: Sequence[str]) -> int:
    """How many tokens a tokenizer makes of `texts`."""
    return sum(len(counted(text, add_special_tokens=False).input_ids) for text in texts)
