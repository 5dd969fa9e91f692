"""The benchmark's ways do the same work. What they take is not asked here."""

import pytest

from tests.benchmarks import head as bench
from tests.benchmarks import judging as bench_judging


@pytest.mark.slow
def test_the_ways_to_read_texts_find_the_same_features():
    rows = bench_judging.reading(rounds=1, texts=6)  # raises where they differ
    lengths = [tokens for tokens, *_ in rows]
    assert lengths == sorted(lengths) and lengths[-1] > 3 * lengths[0]
    assert all(theirs > 0 and ours > 0 for _, theirs, ours in rows)


@pytest.mark.slow
def test_every_row_has_its_time():
    rows = bench_judging.counting("middlemarch", rounds=1, texts=20, words=16)
    rows += bench.steps(rounds=1, texts=2, max_tokens=40) + bench.sampling(rounds=1, texts=2, max_new_tokens=4)
    rows += bench.whole_steps(1, 2, 8, ("mle", "gem"), n_embd=8, n_layer=1, n_head=2, vocab_size=50)
    assert len(rows) == 10 and all(seconds > 0 for _, seconds in rows)
