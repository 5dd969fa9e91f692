"""Is entropy calibration a way to choose eta? On chains everything is exact: python -m tests.benchmarks.tune_chains

For chains with few and many training texts and five seeds: eta* where EntCE is 0, against the eta of least avg. js and
of least forward + reverse KL (MixCE by eta), and what each choice costs in these measures.
"""

import numpy as np
import pandas as pd
import torch

from mixkit.losses import MixCE
from mixkit.toys import MarkovChain, fit, forward_cross_entropy
from mixkit.toys.bigram import SEEDS

ETAS = (0.001, 0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0)
TEXTS = (500, 5_000, 50_000)


def entropy_calibration(p: MarkovChain, q: MarkovChain) -> torch.Tensor:
    """Mean nll of Q's own texts - mean nll of P's texts, both under Q, in nats per token. Exact."""
    own, human = forward_cross_entropy(q, q), forward_cross_entropy(p, q)
    return own / q.expected_visits().sum(-1) - human / p.expected_visits().sum(-1)


def search(texts: int) -> pd.DataFrame:
    """One row per seed: eta* of EntCE, the best eta by both measures, and the measures at each."""
    chain = MarkovChain.random(20, 0.5, SEEDS)
    batch = min(1000, texts // 5)
    fitted = fit(
        chain, [MixCE(eta) for eta in ETAS], SEEDS, train=texts, development=max(100, texts // 10), batch=batch
    )
    records = pd.DataFrame(fitted.records())
    gap = entropy_calibration(fitted.chain, fitted.learned).detach().numpy()
    rows = []
    for i, seed in enumerate(SEEDS):
        runs = records[records["seed"] == seed].set_index("eta")
        kls = runs["forward_kl"] + runs["reverse_kl"]
        signs = np.flatnonzero(np.diff(np.sign(gap[:, i])))
        star = ETAS[-1]  # MLE, if it is too sharp already
        if gap[-1, i] > 0 and len(signs):
            k = signs[-1]
            share = -gap[k, i] / (gap[k + 1, i] - gap[k, i])
            star = float(np.exp(np.log(ETAS[k]) + share * np.log(ETAS[k + 1] / ETAS[k])))
        near = min(ETAS, key=lambda eta: abs(np.log(eta / star)))
        rows.append(
            {
                "texts": texts,
                "seed": seed,
                "EntCE of MLE": gap[-1, i],
                "eta*": star,
                "eta of least js": runs["avg_js"].idxmin(),
                "eta of least KLs": kls.idxmin(),
                "js at eta* / least": runs["avg_js"][near] / runs["avg_js"].min(),
                "js of MLE / least": runs["avg_js"][1.0] / runs["avg_js"].min(),
                "KLs at eta* / least": kls[near] / kls.min(),
                "KLs of MLE / least": kls[1.0] / kls.min(),
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    table = pd.concat([search(texts) for texts in TEXTS])
    print(table.to_string(index=False, float_format="{:.3g}".format))
    print(table.drop(columns="seed").groupby("texts").median().to_string(float_format="{:.3g}".format))
