"""A small model that has learned nothing yet, with a tokenizer for code.

Chen et al. 2021, section 3.2: a tokenizer of prose spends many tokens on indentation; with tokens for
runs of white space code takes about 30% fewer. Here byte-level BPE learns on code itself which runs, most
often a line break with its indentation, are worth a token; every text is its own again. Files are outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from quadriga.platform.errors import UserError

END = "<|end|>"
LEAST_VOCABULARY = 257


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


def tokenizer(texts: Iterable[str], size: int, *, runs: bool = True) -> Any:
    """A tokenizer trained on `texts`.

    Args:
        texts: of the corpus.
        size: of the vocabulary, at most.
        runs: a run of white space may be one token; if not, it is spelled out, to be compared with.

    Raises:
        UserError: the vocabulary is smaller than what it must hold.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if size <= LEAST_VOCABULARY:
        raise UserError(f"--vocabulary: expected more than {LEAST_VOCABULARY}, got {size}")
    made = Tokenizer(models.BPE())
    # The last space before a word belongs to the word, as everywhere in byte-level BPE.
    spelled = [] if runs else [pre_tokenizers.Split(Regex(r"\s(?=\s)"), "isolated")]
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([*spelled, pre_tokenizers.Digits(individual_digits=True), bytes_])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
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
