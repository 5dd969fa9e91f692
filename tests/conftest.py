"""Shared fixtures and two switches of the test session.

MIXKIT_NO_SKIPS=1 (as in CI): a skipped test fails the run, except for tests of WikiText-2's file, which the kit does
not carry. MIXKIT_CHECK_SHAPES=1: every call into losses, metrics and models is checked against its shape annotations.
"""

import os
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.modules.setdefault("rfc3987_syntax", None)  # 2 s of import; see studies/run.py
if os.environ.get("MIXKIT_CHECK_SHAPES"):
    from jaxtyping import install_import_hook

    import tests.shapes  # noqa: F401  the hook itself imports only `tests`

    install_import_hook(["mixkit.losses", "mixkit.metrics", "mixkit.models"], "tests.shapes.check_shapes")
ABSENT = "WikiText-2's validation split is not"
SHARED = Path(os.environ.get("MIXKIT_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def wikitext_file() -> Path:
    path = SHARED / "data" / "wikitext2" / "valid.txt"
    if not path.is_file():
        pytest.skip(f"{ABSENT} at {path}")
    return path


@pytest.fixture(scope="session")
def toy():
    """A random GPT-2 of two layers and its byte-level BPE, with the texts that the tokenizer is made from."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from mixkit.models.loading import byte_level_bpe
    from mixkit.texts.corpora import load_corpus

    texts = load_corpus("tales", train=64, validation=8, test=8).train
    tokenizer = byte_level_bpe(texts, 400)
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
    drop = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(vocab_size=len(tokenizer), **sizes, **drop, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval(), tokenizer, texts


def pytest_terminal_summary(terminalreporter):
    if forbidden := _forbidden_skips(terminalreporter):
        terminalreporter.write_line(f"{forbidden} tests were skipped where none may be (MIXKIT_NO_SKIPS)", red=True)


def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and exitstatus == 0 and _forbidden_skips(reporter):
        session.exitstatus = 1


def _forbidden_skips(reporter) -> int:
    if not os.environ.get("MIXKIT_NO_SKIPS"):
        return 0
    return sum(ABSENT not in report.longrepr[-1] for report in reporter.stats.get("skipped", []))
