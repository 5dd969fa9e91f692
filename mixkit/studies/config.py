"""What a run may be asked: names, types, ranges, defaults and help of the parameters of a notebook.
The command line, study files, notebooks and controls all check through here, without waiting for torch."""

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import SimpleNamespace

from mixkit._common import InputError, unknown
from mixkit.losses import definitions


@dataclass(frozen=True)
class Parameter:
    """One parameter: the type is the default's; a number must lie in [low, high], a string in `choices` where given.

    open: the ends of the range are left out.
    """

    default: object
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    open: bool = False

    def checked(self, name: str, value: object) -> object:
        """`value` in the parameter's type; InputError where it has another type or lies outside the range."""
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not kind:
            hint = ""
            if isinstance(value, str) and kind in (int, float):
                hint = "; in YAML write a number without quotes, 1.0e-5 rather than 1e-5"
            raise InputError(f"{name} is {value!r}, a {type(value).__name__}; it must be a {kind.__name__}{hint}")
        if self.choices and value not in self.choices:
            raise unknown(name, value, self.choices)
        if kind in (int, float) and not self._holds(value):
            raise InputError(f"{name} is {value!r}; it must be {self._range()}")
        return value

    def _holds(self, value: float) -> bool:
        within = self.low <= value <= self.high and value != math.inf
        return within and not (self.open and value in (self.low, self.high))

    def _range(self) -> str:
        if self.high == math.inf:
            finite = "finite and " if isinstance(self.default, float) else ""
            return f"a finite number above {self.low:g}" if self.open else f"{finite}at least {self.low:g}"
        return f"in ({self.low:g}, {self.high:g})" if self.open else f"in [{self.low:g}, {self.high:g}]"


# The last: MLE that learns <backspace> from corrections, without SequenceMatch.
NAMES = ("mle", "mixce", "tailr", "sequencematch", "mle-backspace")
DIVERGENCES = ("chi2-mixture", "chi2", "js", "rkl")
FINETUNE = {
    "study": Parameter("scratch", "the run is kept in runs/<study>/<run name>/"),
    "name": Parameter("", "what the run's name begins with; by default the objective and its coefficient"),
    "corpus": Parameter("tales", "tales, pydoc, wikitext, openwebtext, writingprompts, hub:NAME or a .txt/.jsonl/.csv"),
    "train_texts": Parameter(2000, "at most so many texts to train on", 1),
    "validation_texts": Parameter(200, "at most so many texts to choose the best checkpoint by", 1),
    "test_texts": Parameter(500, "at most so many texts for perplexity, prompts and the human reference", 1),
    "model": Parameter("tiny", "tiny, smollm2-135m, gpt2 ... gpt2-xl, run:NAME, a folder or a model of the hub"),
    "objective": Parameter("mixce", ", ".join(NAMES), choices=NAMES),
    "eta": Parameter(0.5, "MixCE: share of the forward cross-entropy in [0, 1]; 1 is MLE", 0, 1),
    "gamma": Parameter(1e-7, "TaiLr: share of the one-hot target in the proxy in [0, 1]; 0 is MLE", 0, 1),
    "w_min": Parameter(0.2, "TaiLr: the smallest weight of a token in [0, 1]; 1 is MLE", 0, 1),
    "alpha": Parameter(0.01, "SequenceMatch: above 0; the smaller, the closer the occupancies", 0, math.inf, open=True),
    "discount": Parameter(0.998, "SequenceMatch: in (0, 1); about 1 / (1 - discount) tokens matter", 0, 1, open=True),
    "divergence": Parameter("chi2-mixture", f"SequenceMatch: {', '.join(DIVERGENCES)}", choices=DIVERGENCES),
    "noise_rate": Parameter(0.02, "with <backspace>: wrong tokens spliced in, a position, in [0, 0.5]", 0, 0.5),
    "mle_warmup": Parameter(0.2, "SequenceMatch: share of the steps with MLE alone, at first", 0, 1),
    "mle_decay": Parameter(0.3, "SequenceMatch: share of the steps in which MLE's part falls", 0, 1),
    "mle_minimum": Parameter(0.2, "SequenceMatch: MLE's part of the loss from then on", 0, 1),
    "buffer_texts": Parameter(128, "SequenceMatch: how many of the model's own texts are kept", 1),
    "refill_texts": Parameter(32, "SequenceMatch: how many of them are sampled anew", 1),
    "refill_every": Parameter(10, "SequenceMatch: every so many steps of training", 1),
    "epochs": Parameter(3.0, "passes over the training texts; 0 only samples and judges", 0),
    "max_steps": Parameter(-1, "stop after so many optimizer steps; -1 goes by epochs", -1),
    "batch_size": Parameter(32, "texts in a batch, on each device", 1),
    "accumulation": Parameter(1, "batches in an optimizer step", 1),
    "learning_rate": Parameter(5e-4, "peak of AdamW's linear decay", 0, 1),
    "max_tokens": Parameter(160, "texts are cut after so many tokens", 2),
    "evaluations": Parameter(4, "validations during training", 1),
    "patience": Parameter(0, "stop after so many validations without a better nll; 0 never stops early", 0),
    "precision": Parameter(
        "auto", "auto (bf16 where a GPU has it), bf16 or float32", choices=("auto", "bf16", "float32")
    ),
    "prompts": Parameter(250, "test texts whose beginnings are continued", 1),
    "prompt_tokens": Parameter(10, "length of a prompt in tokens", 1),
    "max_new_tokens": Parameter(100, "longest continuation in tokens", 1),
    "sample_sets": Parameter(3, "independent sets of continuations; their spread is the interval of MAUVE", 1),
    "temperature": Parameter(1.0, "divides the logits; 1 samples from the model as it is", 1e-3, 100),
    "top_p": Parameter(1.0, "keep the likeliest tokens that together reach it; 1 keeps all", 1e-6, 1),
    "top_k": Parameter(0, "keep so many likeliest tokens; 0 keeps all", 0),
    "reader": Parameter("gpt2-large|start", "model whose features MAUVE compares: the first that needs no download"),
    "coherence_reader": Parameter("", "encoder for coherence of prompt and continuation: minilm; empty leaves it out"),
    "judge": Parameter("", "another model, for judge perplexity: smollm2-135m, gpt2-large; empty leaves it out"),
    "seed": Parameter(0, "of training and sampling", 0, 2**31),
    "keep_model": Parameter(True, "keep the weights, so that other runs can start from run:NAME"),
}
TRADEOFF = {
    "study": Parameter("quick", "folder under runs/ that a study has filled"),
    "quality": Parameter("mauve", "metric on the vertical axis"),
    "diversity": Parameter("distinct_2", "metric on the horizontal axis"),
}
SWEEP = {
    "study": Parameter("sweep", "the sweep is kept in runs/<study>/"),
    "base_study": Parameter("quick", "study file to start from: quick, gpt2, ... or the path of a .yaml"),
    "objectives": Parameter("mle mixce tailr", f"those to compare, of {', '.join(NAMES)}"),
    "eta_low": Parameter(0.1, "MixCE: the smallest eta, in [0, 1]", 0, 1),
    "eta_high": Parameter(0.9, "MixCE: the largest eta, in [0, 1]", 0, 1),
    "eta_points": Parameter(3, "MixCE: how many values from one to the other, evenly", 1, 50),
    "gamma_low": Parameter(1e-3, "TaiLr: the smallest gamma, in [1e-9, 1]", 1e-9, 1),
    "gamma_high": Parameter(0.1, "TaiLr: the largest gamma, in [1e-9, 1]", 1e-9, 1),
    "gamma_points": Parameter(2, "TaiLr: how many values from one to the other, by equal factors", 1, 50),
    **{name: FINETUNE[name] for name in ("alpha", "discount", "divergence")},
    "noise_rate": Parameter(0.03, "with <backspace>: wrong tokens spliced in, a position, in [0, 0.5]", 0, 0.5),
    "corpus": Parameter("", "a corpus's name or a file; empty: as in base_study"),
    "model": Parameter("", "a model's name; empty: as in base_study"),
    "train_texts": Parameter(0, "texts to train on; 0: as in base_study", 0),
    "epochs": Parameter(0.0, "passes over them; 0: as in base_study", 0),
    "max_steps": Parameter(0, "optimizer steps, whatever the epochs; 0: as in base_study", 0),
    "prompts": Parameter(0, "test texts whose beginnings are continued; 0: as in base_study", 0),
    "seeds": Parameter(1, "how many: the whole sweep with seed 0, 1, ...", 1, 100),
    "run_now": Parameter(False, "run the sweep before the panel appears; for papermill, where nobody presses Run"),
}
WEIGHTS = {
    **{name: FINETUNE[name] for name in ("eta", "gamma", "w_min")},
    "mix": Parameter(0.5, "share of the forward KL in the mix of two KLs, in [0, 1]", 0, 1),
}
KNOWN_TRUTH = {
    "vocab": Parameter(20, "tokens of the random chain, the end among them", 2),
    "zeros": Parameter(0.5, "share of its transitions that are forbidden, in [0, 1]", 0, 1),
    "seeds": Parameter(5, "how many of the published study's five seeds", 1, 5),
    "epochs": Parameter(50, "passes over the training texts, at most", 1),
    "eta": Parameter(0.99, "the eta shown first: the nearest of 0, 0.01, 0.1, 0.5, 0.9, 0.99 and 1", 0, 1),
    "study": Parameter("quick", "folder under runs/ of a study on tales"),
}
BACKTRACKING = {
    "actions": Parameter("the cat sat < ran away", "an action sequence: words, and < for <backspace>"),
    "alpha": Parameter(0.1, "SequenceMatch in the small world: above 0", 0, math.inf, open=True),
    "discount": Parameter(0.9, "the small world's discount, in (0, 1)", 0, 1, open=True),
    "base": Parameter(5, "of the arithmetic", 2, 10),
    "digits": Parameter(2, "of each number, zeros in front", 1, 4),
    "train_questions": Parameter(900, "questions to learn from", 1),
    "test_questions": Parameter(150, "questions never seen in training; as many again choose the checkpoint", 2),
    "steps": Parameter(1000, "optimizer steps of each objective", 1),
    "noise_rate": Parameter(0.05, "wrong tokens spliced in, a position, in [0, 0.5]", 0, 0.5),
    "seed": Parameter(0, "of questions, training and sampling", 0, 2**31),
}
COEFFICIENTS = {  # what else bears on an objective's outcome; the first is always part of a run's name
    "mle": (),
    "mixce": ("eta",),
    "tailr": ("gamma", "w_min"),
    "sequencematch": (
        *("alpha", "discount", "divergence", "noise_rate", "mle_warmup", "mle_decay", "mle_minimum"),
        *("buffer_texts", "refill_texts", "refill_every"),
    ),
    "mle-backspace": ("noise_rate",),
}


def check(given: Mapping[str, object], spec: Mapping[str, Parameter] = FINETUNE) -> dict[str, object]:
    """All parameters: those given, checked, and the defaults of the others. InputError names what is wrong with one."""
    for name in given:
        if name not in spec:
            raise unknown("parameter", name, spec)
    return {name: p.checked(name, given.get(name, p.default)) for name, p in spec.items()}


def check_notebook(namespace: Mapping[str, object], spec: Mapping[str, Parameter] = FINETUNE) -> SimpleNamespace:
    """A notebook's parameters out of its globals(), checked, as attributes.

    papermill puts what it was given into a cell of its own, unknown names too, which would pass unnoticed: that cell,
    the first that begins with `# Parameters`, is read for names that the notebook does not have.
    """
    injected = next((cell for cell in namespace.get("In", ()) if cell.startswith("# Parameters\n")), "")
    assigned = {t.id for node in ast.parse(injected).body if isinstance(node, ast.Assign) for t in node.targets}
    missing = [name for name in spec if name not in namespace]
    if missing:
        raise InputError(f"the parameters cell has no {', '.join(missing)}; put the line back")
    return SimpleNamespace(**check({name: namespace[name] for name in [*spec, *sorted(assigned - set(spec))]}, spec))


def make_objective(parameters: Mapping[str, object]):
    """The objective that the parameters ask for, with its own coefficients only."""
    from mixkit.losses.objectives import objective  # here, as torch takes seconds to import

    name = parameters["objective"].removesuffix("-backspace")
    own = {c.name for c in definitions.OBJECTIVES[name].coefficients if c.in_loss}
    return objective(name, **{c: parameters[c] for c in COEFFICIENTS[name] if c in own})


def make_backtracking(parameters: Mapping[str, object]):
    """How the model learns to take tokens back; None for the objectives that know no <backspace>."""
    from mixkit.models.on_policy import Backtracking  # here, as torch takes seconds to import

    asked = COEFFICIENTS[parameters["objective"]]
    own = [field.name for field in fields(Backtracking) if field.name in asked]
    return Backtracking(**{name: parameters[name] for name in own}) if own else None
