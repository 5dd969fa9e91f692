"""Settings of runs, sweeps and notebooks: one pydantic model each, with defaults, ranges and help."""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from mixkit._common import RUNS, SHIPPED, InputError, unknown
from mixkit.losses.definitions import COEFFICIENTS, OBJECTIVES, describe, name_parts, parse_objective, short

if TYPE_CHECKING:  # a type checker cannot look into OBJECTIVES
    ObjectiveName = str
    Divergence = str
else:
    ObjectiveName, Divergence = Literal[tuple(OBJECTIVES)], Literal[COEFFICIENTS["divergence"].choices]
UnitInterval = Annotated[float, Field(ge=0, le=1)]


def _check_objective(text: str) -> str:
    """Raise InputError unless the text is an objective, also for a wrong formula."""
    if parse_objective(text)[0].loss == "expressions.Expression":
        from mixkit.losses.expressions import Expression

        Expression(text)
    return text


OBJECTIVE_HELP = f"{', '.join(OBJECTIVES)}, a rival such as power(0.3), or a formula in q"
AnyObjective = Annotated[str, AfterValidator(_check_objective)]
NOT_IN_HASH = {"study", "name", "keep_model"}  # they do not change the outcome of a run
SEED_LIMIT = 2**31
EXAMPLE = "prose"  # the study in data/results/


class Settings(BaseModel):
    """Base of all settings. Unknown names, wrong types and values out of range are InputErrors of one line."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    noun: ClassVar[str] = "parameter"  # what errors call a field

    @classmethod
    def check(cls, values: Mapping[str, object]) -> Self:
        """The settings with these values, and defaults for the others. Raises InputError for the first wrong one."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]  # in pydantic's words, such as "Input should be a valid number"
        kind, value = first["type"], first["input"]
        if kind == "value_error":  # of a validator, which raises InputError
            raise first.get("ctx", {})["error"]
        name, in_list = str(first["loc"][0]), len(first["loc"]) > 1
        if name not in cls.model_fields:
            raise unknown(cls.noun, name, cls.model_fields)
        field, expected = cls.model_fields[name], first["msg"].removeprefix("Input should be ")
        start = f"{name} contains {value!r}; every element must be" if in_list else f"{name} is {value!r}; it must be"
        if kind == "literal_error":
            allowed = get_args(field.annotation)
            raise unknown(name, value, get_args(allowed[0]) if in_list else allowed)
        if kind == "too_short":
            raise InputError(f"{name} is an empty list; give at least one value")
        if kind.endswith("_type"):
            is_quoted = isinstance(value, str) and kind in ("int_type", "float_type")
            hint = "; in YAML write a number without quotes, 1.0e-5 rather than 1e-5" if is_quoted else ""
            raise InputError(f"{start} {expected}, not a {type(value).__name__}{hint}")
        raise InputError(f"{start} {expected if in_list else _range(field)}")

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """The settings of a notebook, from its `globals()`. Raises InputError as `check` does.

        papermill only warns about unknown parameters, so the cell "# Parameters", which it injects, is searched.
        """
        missing = [name for name in cls.model_fields if name not in namespace]
        if missing:
            raise InputError(f"the parameters cell has no {', '.join(missing)}; put the line back")
        injected = next((cell for cell in namespace.get("In", ()) if cell.startswith("# Parameters\n")), "")
        names = re.findall(r"^(\w+) = ", injected, re.MULTILINE)
        return cls.check({name: namespace[name] for name in [*cls.model_fields, *names]})


def bounds(field: FieldInfo) -> tuple[float, float]:
    """The lowest and the highest allowed value of a numeric field, infinite where there is none."""
    low, high = -math.inf, math.inf
    for constraint in field.metadata:
        low = getattr(constraint, "ge", getattr(constraint, "gt", low))
        high = getattr(constraint, "le", getattr(constraint, "lt", high))
    return float(low), float(high)


def _range(field: FieldInfo) -> str:
    low, high = bounds(field)
    is_open = any(hasattr(constraint, "gt") for constraint in field.metadata)
    if math.isfinite(high):
        return f"in ({low:.10g}, {high:.10g})" if is_open else f"in [{low:.10g}, {high:.10g}]"
    finite = "finite and " if field.annotation is float else ""
    return f"a finite number above {low:g}" if is_open else f"{finite}at least {low:g}"


def _coefficient(name: str, default: Any = None, description: str = "") -> Any:
    """A field with the range and help of an objective's coefficient."""
    c = COEFFICIENTS[name]
    ends = {"gt": c.low, "lt": c.high} if c.open else {"ge": c.low, "le": c.high}
    limits: dict[str, Any] = {end: value for end, value in ends.items() if math.isfinite(value)}
    return Field(c.default if default is None else default, description=description or c.help, **limits)


class RunConfig(Settings):
    """Settings of one run: notebook 3, every entry of a study file, and `--set` on the command line."""

    study: str = Field("scratch", description="results go to runs/<study>/<run name>/")
    name: str = Field("", description="beginning of the run's name; empty: the objective and its coefficient")
    corpus: str = Field(
        "tales", description="tales, middlemarch, wikitext, openwebtext, writingprompts, hub:NAME or a .txt/.jsonl/.csv"
    )
    train_texts: int = Field(2000, ge=1, description="largest number of training texts")
    validation_texts: int = Field(200, ge=1, description="largest number of texts for choosing the best checkpoint")
    test_texts: int = Field(500, ge=1, description="largest number of texts for perplexity, prompts and reference")
    model: str = Field("tiny", description="tiny, smollm2-135m, gpt2 ... gpt2-xl, run:NAME, a folder or a hub model")
    objective: AnyObjective = Field("mixce", description=OBJECTIVE_HELP)
    eta: float = _coefficient("eta")
    gamma: float = _coefficient("gamma")
    w_min: float = _coefficient("w_min")
    alpha: float = _coefficient("alpha")
    discount: float = _coefficient("discount")
    divergence: Divergence = _coefficient("divergence")
    noise_rate: float = _coefficient("noise_rate")
    mle_warmup: float = _coefficient("mle_warmup")
    mle_decay: float = _coefficient("mle_decay")
    mle_minimum: float = _coefficient("mle_minimum")
    buffer_texts: int = _coefficient("buffer_texts")
    refill_texts: int = _coefficient("refill_texts")
    refill_every: int = _coefficient("refill_every")
    epochs: float = Field(3.0, ge=0, description="passes over the training texts; 0: sample and evaluate only")
    max_steps: int = Field(-1, ge=-1, description="stop after this many optimizer steps; -1: by epochs")
    batch_size: int = Field(8, ge=1, description="texts per batch and device")
    accumulation: int = Field(1, ge=1, description="batches per optimizer step")
    learning_rate: float = Field(1e-3, ge=0, le=1, description="peak of AdamW's linear decay")
    max_tokens: int = Field(160, ge=2, description="longer texts are cut to this many tokens")
    evaluations: int = Field(4, ge=1, description="validations during training")
    patience: int = Field(0, ge=0, description="stop after this many validations without a better nll; 0: never")
    precision: Literal["auto", "bf16", "float32"] = Field(
        "auto", description="auto (bf16 where a GPU has it), bf16 or float32"
    )
    torch_compile: bool = Field(False, description="compile the model: minutes at the start, then faster steps")
    prompts: int = Field(250, ge=1, description="number of prompts, cut from test texts")
    prompt_tokens: int = Field(10, ge=1, description="length of a prompt in tokens")
    max_new_tokens: int = Field(100, ge=1, description="largest length of a continuation in tokens")
    sample_sets: int = Field(3, ge=1, description="independent sets of continuations; their spread is MAUVE's interval")
    temperature: float = Field(
        1.0, ge=0, le=100, description="divides the logits; 1: the model's own distribution; 0: greedy"
    )
    top_p: float = Field(1.0, ge=1e-6, le=1, description="nucleus sampling: probability kept; 1: all tokens")
    top_k: int = Field(0, ge=0, description="number of most probable tokens kept; 0: all tokens")
    decode_as: str = Field("", description="sample by the stationary distribution of this objective; empty: no")
    reader: str = Field("gpt2-large|start", description="model whose features MAUVE uses: the first without a download")
    coherence_reader: str = Field("", description="encoder for coherence: minilm; empty: coherence is not computed")
    judge: str = Field("", description="model for judge perplexity: smollm2-135m, gpt2-large; empty: not computed")
    seed: int = Field(0, ge=0, le=SEED_LIMIT, description="seed of training and sampling")
    keep_model: bool = Field(True, description="keep the weights, so that other runs can start from run:NAME")

    @model_validator(mode="after")
    def _check_decoding(self) -> Self:
        """Raise InputError unless decode_as is token-weighted and has a unique stationary distribution."""
        text = self.decode_as
        if text.startswith("own: ") or text.split("(")[0] in ("sequencematch", "mle-backspace"):
            allowed = "a token-weighted objective: mixce, tailr, power(0.3), ..."
            raise InputError(f"decode_as is {text!r}; it must be {allowed}")
        if text:
            from mixkit.losses.fixed_points import inverse_of

            inverse_of(self.make_objective(text))
        return self

    def coefficients(self, objective: str = "") -> dict[str, Any]:
        """Values of the coefficients of an objective, by name; by default of the run's. Those of a call come first."""
        definition, given = parse_objective(objective or self.objective)
        return {c.name: given.get(c.name, getattr(self, c.name, c.default)) for c in definition.coefficients}

    def decode_coefficients(self) -> dict[str, Any]:
        """Values of the coefficients of decode_as, by name; empty without it."""
        return self.coefficients(self.decode_as) if self.decode_as else {}

    def canonical(self) -> dict[str, Any]:
        """All settings that can change the outcome of the run: without those that are not used."""
        unused = COEFFICIENTS.keys() - self.coefficients().keys() - self.decode_coefficients().keys()
        off = {name for name in ("decode_as", "torch_compile") if not getattr(self, name)}
        return self.model_dump(exclude=unused | off | NOT_IN_HASH)

    def unusual(self) -> dict[str, str]:
        """The decoding parameters and the seed that are not the default, such as {"top-p": "0.9", "seed": "2"}."""
        values = self.model_dump(include={"temperature", "top_p", "top_k", "seed"}, exclude_defaults=True)
        return {name.replace("_", "-"): short(value) for name, value in values.items()}

    def label(self, role: str = "grid") -> str:
        """The run in a few words: "MixCE η=0.1", "TaiLr γ=0.1, w_min=0.2", "base (MLE)", "MLE, temperature 0.7"."""
        parts = ["base (MLE)" if role == "base" else describe(self.objective, self.coefficients())]
        if self.decode_as:
            parts.append(f"decoded as {describe(self.decode_as, self.decode_coefficients())}")
        for name, value in self.unusual().items():
            parts.append("greedy" if (name, value) == ("temperature", "0") else f"{name} {value}")
        return ", ".join(parts)

    def slug(self) -> str:
        """The run's name without its hash: `name`, or the objective and its coefficients; then what is unusual."""
        parts = [self.name] if self.name else name_parts(self.objective, self.coefficients())
        if self.decode_as:
            parts += ["as", *name_parts(self.decode_as, self.decode_coefficients())]
        return "-".join([*parts, *(name.replace("temperature", "T") + value for name, value in self.unusual().items())])

    def with_objective(self, objective: Any) -> "RunConfig":
        """The settings of a run with this objective, an instance of a class that a notebook defines.

        The objective of the settings is its label, "own: Focal(gamma=2.0)", unless it is the settings' own objective.
        """
        if objective == self.make_objective():
            return self
        label = str(objective)
        if label.startswith("<"):  # Python's default, which contains an address
            label = f"{type(objective).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(objective).items())})"
        return self.model_copy(update={"objective": f"own: {label}"})

    def make_objective(self, text: str = "") -> Any:
        """The objective of the run, or the one with this text, with its own coefficients only."""
        from mixkit.losses import objective

        text = text or self.objective
        values, (definition, _) = self.coefficients(text), parse_objective(text)
        in_loss = {c.name: values[c.name] for c in definition.coefficients if c.in_loss}
        return objective(text.removesuffix("-backspace"), **in_loss)

    def make_sampler(self) -> Any:
        """How the run samples tokens."""
        from mixkit.models.generation import Sampler

        decoder = self.make_objective(self.decode_as) if self.decode_as else None
        return Sampler(self.temperature, self.top_p, self.top_k, decoder)

    def make_backtracking(self) -> Any:
        """How the model learns to use <backspace>; None for the objectives without it."""
        from mixkit.models.on_policy import Backtracking

        definition, _ = parse_objective(self.objective)
        settings = {c.name: getattr(self, c.name) for c in definition.coefficients if not c.in_loss}
        return Backtracking(**settings) if settings else None


class SweepConfig(Settings):
    """Settings of notebook 5: which objectives and coefficients to run. Everything else is as in the base study."""

    study: str = Field("sweep", description="results go to runs/<study>/")
    base_study: str = Field("quick", description="study file with all other settings: quick, gpt2, ... or a .yaml file")
    objectives: list[ObjectiveName] = Field(
        ["mle", "mixce", "tailr"], min_length=1, description=f"any of {', '.join(OBJECTIVES)}"
    )
    other_objectives: list[AnyObjective] = Field([], description="calls such as power(0.3), and formulas in q")
    eta: list[UnitInterval] = Field([0.1, 0.5, 0.9], description="values of MixCE's eta, each in [0, 1]")
    gamma: list[UnitInterval] = Field([0.001, 0.1], description="values of TaiLr's gamma, each in [0, 1]")
    alpha: float = _coefficient("alpha")
    discount: float = _coefficient("discount")
    divergence: Divergence = _coefficient("divergence")
    noise_rate: float = _coefficient("noise_rate", 0.03)
    corpus: str = Field("", description="name or file of a corpus; empty: as in base_study")
    model: str = Field("", description="name of a model; empty: as in base_study")
    train_texts: int = Field(0, ge=0, description="training texts; 0: as in base_study")
    epochs: float = Field(0.0, ge=0, description="passes over the training texts; 0: as in base_study")
    max_steps: int = Field(0, ge=0, description="optimizer steps, whatever the epochs; 0: as in base_study")
    prompts: int = Field(0, ge=0, description="number of prompts; 0: as in base_study")
    seeds: int = Field(1, ge=1, le=100, description="repeat the sweep with seeds 0, 1, ...")
    run_now: bool = Field(False, description="run the sweep before the panel appears, for papermill")


def or_shipped(study: str) -> str:
    """The name of the study, or EXAMPLE where that is shipped and runs/ does not have the study."""
    own, shipped = ((root / name / "study.yaml").is_file() for root, name in ((RUNS, study), (SHIPPED, EXAMPLE)))
    return EXAMPLE if shipped and not own else study


class TradeoffConfig(Settings):
    """Settings of notebook 6. Before `quick` is run, it opens on the shipped EXAMPLE."""

    study: Annotated[str, AfterValidator(lambda name: or_shipped(name) if name == "quick" else name)] = Field(
        "quick", description="folder under runs/ with the results of a study"
    )
    quality: str = Field("mauve", description="metric on the vertical axis")
    diversity: str = Field("distinct_2", description="metric on the horizontal axis")


class WeightsConfig(Settings):
    """Settings of notebook 1."""

    eta: float = _coefficient("eta", 0.1)
    gamma: float = _coefficient("gamma", 0.001)
    w_min: float = _coefficient("w_min")
    mix: float = Field(0.5, ge=0, le=1, description="weight of the forward KL in the mix of two KLs, in [0, 1]")


class KnownTruthConfig(Settings):
    """Settings of notebook 2."""

    vocab: int = Field(20, ge=2, description="tokens of the random chain, end of sequence included")
    zeros: float = Field(0.5, ge=0, le=1, description="share of forbidden transitions, in [0, 1]")
    seeds: int = Field(5, ge=1, le=5, description="number of the published study's five seeds")
    epochs: int = Field(50, ge=1, description="largest number of passes over the training texts")
    eta: float = _coefficient("eta", 0.99, "the eta shown first: nearest of 0, 0.01, 0.1, 0.5, 0.9, 0.99 and 1")
    study: str = Field("quick", description="folder under runs/ of a study on tales")


class BacktrackingConfig(Settings):
    """Settings of notebook 4."""

    actions: str = Field("the cat sat < ran away", description="action sequence: words, and < for <backspace>")
    alpha: float = _coefficient("alpha", 0.1, "SequenceMatch in the small world: above 0")
    discount: float = _coefficient("discount", 0.9, "discount of the small world, in (0, 1)")
    base: int = Field(6, ge=2, le=10, description="base of the numbers")
    digits: int = Field(2, ge=1, le=4, description="digits of each number, with leading zeros")
    train_questions: int = Field(900, ge=1, description="training questions")
    test_questions: int = Field(150, ge=2, description="test questions; as many again choose the checkpoint")
    steps: int = Field(450, ge=1, description="optimizer steps of each objective")
    noise_rate: float = _coefficient("noise_rate", 0.1, "wrong tokens inserted per position, in [0, 0.5]")
    seed: int = Field(0, ge=0, le=SEED_LIMIT, description="seed of questions, training and sampling")
