"""A causal language model of a few thousand weights with its tokenizer, of `transformers` and `tokenizers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXTS = (
    "def add(a, b):\n    return a + b\n",
    "class Stack:\n    def push(self, item):\n        self.items.append(item)\n",
    "for n in range(10):\n    if n % 2:\n        print(n)\n",
    "import os\n\n\ndef read(path):\n    with open(path) as file:\n        return file.read()\n",
)


def tokenizer(texts: tuple[str, ...] = TEXTS, size: int = 320) -> Any:
    """Byte-level BPE trained on `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", pad_token="<|end|>")


def model(vocabulary: int, seed: int = 0, **fields: Any) -> Any:
    """A Llama with grouped heads and random weights, large enough that its distributions are not flat."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    values = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "eos_token_id": 0,
        "bos_token_id": 0,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **{**values, **fields})).eval()


def save(folder: Path, seed: int = 0, **fields: Any) -> Path:
    """Writes both into `folder`, as a model of one's own would be."""
    made = tokenizer()
    model(len(made), seed, **fields).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder
