"""The widgets that ask for a sweep, and parameters.SWEEP as they stand. Core widgets of ipywidgets 7.7 and 8 only;
what follows from them is not decided here."""

from collections.abc import Mapping
from math import ceil, floor, log10

import ipywidgets as widgets

from mixkit.notebook.charts import LABELS
from mixkit.studies.config import DIVERGENCES, SWEEP, check
from mixkit.studies.sweep import STUDIES

CORPORA = ("tales", "tales-noisy", "pydoc", "wikitext", "openwebtext", "writingprompts")
MODELS = ("tiny", "smollm2-135m", "gpt2", "gpt2-medium", "gpt2-large")
ROWS = {  # what stands in a row, and the objectives that it belongs to
    ("study", "base_study"): (),
    ("corpus", "model"): (),
    ("eta", "eta_points"): ("mixce",),
    ("gamma", "gamma_points"): ("tailr",),
    ("alpha", "discount", "divergence"): ("sequencematch",),
    ("noise_rate",): ("sequencematch", "mle-backspace"),
    ("train_texts", "epochs", "max_steps"): (),
    ("prompts", "seeds", "unset"): (),
}


def build(asked: Mapping[str, object]) -> dict[str, widgets.Widget]:
    """The widgets by parameter, at the values of `asked`; the ends of a range are one slider, `eta` and `gamma`; a box
    an objective is `with <name>`."""
    chosen = asked["objectives"].replace(",", " ").split()
    boxes = {
        f"with {name}": widgets.Checkbox(
            name in chosen, description=text, indent=False, layout={"width": "max-content"}
        )
        for name, text in LABELS.items()
    }
    known = sorted(path.stem for path in STUDIES.glob("*.yaml"))
    wide, medium, short = (
        {"layout": {"width": f"{width}px"}, "style": {"description_width": "90px"}} for width in (420, 310, 190)
    )
    slider = {"continuous_update": False, **wide}  # each value is planned anew, which reads every finished run

    def words(name: str, text: str, options: tuple[str, ...] = ()) -> widgets.Combobox:
        hint = "as in the base study" if not SWEEP[name].default else ""
        facts = {"options": options, "placeholder": hint, "continuous_update": False, "ensure_option": False}
        return widgets.Combobox(value=asked[name], description=text, **facts, **medium)

    def number(name: str, text: str) -> widgets.BoundedIntText | widgets.BoundedFloatText:
        kind = widgets.BoundedIntText if isinstance(asked[name], int) else widgets.BoundedFloatText
        most = min(SWEEP[name].high, 10**9)
        return kind(asked[name], min=SWEEP[name].low, max=most, description=text, **short)

    alphas = {"min": min(-6, floor(log10(asked["alpha"]))), "max": max(2, ceil(log10(asked["alpha"])))}
    ends = [log10(asked["gamma_low"]), log10(asked["gamma_high"])]
    return {
        "study": words("study", "kept as"),
        "base_study": words("base_study", "base study", tuple(known)),
        "corpus": words("corpus", "corpus", CORPORA),
        "model": words("model", "model", MODELS),
        **boxes,
        "eta": widgets.FloatRangeSlider(
            value=[asked["eta_low"], asked["eta_high"]], min=0, max=1, step=0.01, description="MixCE η", **slider
        ),
        "eta_points": number("eta_points", "points"),
        "gamma": widgets.FloatRangeSlider(
            value=ends, min=-9, max=0, step=0.25, description="TaiLr γ, 10^", readout_format=".2f", **slider
        ),
        "gamma_points": number("gamma_points", "points"),
        "alpha": widgets.FloatLogSlider(
            asked["alpha"], **alphas, step=0.25, description="SeqMatch α", readout_format=".2g", **slider
        ),
        "discount": widgets.BoundedFloatText(
            asked["discount"], min=1e-6, max=1 - 1e-6, step=0.001, description="discount", **short
        ),
        "divergence": widgets.Dropdown(
            options=tuple(DIVERGENCES), value=asked["divergence"], description="divergence", **medium
        ),
        "noise_rate": widgets.FloatSlider(
            asked["noise_rate"], min=0, max=0.5, step=0.01, description="noise rate", **slider
        ),
        "train_texts": number("train_texts", "train texts"),
        "epochs": number("epochs", "epochs"),
        "max_steps": number("max_steps", "max steps"),
        "prompts": number("prompts", "prompts"),
        "seeds": number("seeds", "seeds"),
        "unset": widgets.HTML("<span style='color:#777;margin-left:14px'>empty or 0: as in the base study</span>"),
    }


def layout(inputs: Mapping[str, widgets.Widget]) -> widgets.VBox:
    """The widgets in rows; a row of an objective is there only while the objective is chosen."""
    chosen = {name: inputs[f"with {name}"] for name in LABELS}
    boxes = widgets.HBox(list(chosen.values()), layout={"flex_flow": "row wrap", "margin": "4px 0 4px 14px"})
    rows = {names: widgets.HBox([inputs[n] for n in names], layout={"flex_flow": "row wrap"}) for names in ROWS}

    def show(change=None) -> None:
        for names, row in rows.items():
            row.layout.display = None if not ROWS[names] or any(chosen[o].value for o in ROWS[names]) else "none"

    for box in chosen.values():
        box.observe(show, "value")
    show()
    first, *others = rows.values()
    return widgets.VBox([first, boxes, *others])


def settings(inputs: Mapping[str, widgets.Widget]) -> dict[str, object]:
    """parameters.SWEEP as the widgets stand, checked; InputError where one is wrong."""
    values = {name: widget.value for name, widget in inputs.items() if name in SWEEP}
    values["objectives"] = " ".join(name for name in LABELS if inputs[f"with {name}"].value)
    values["eta_low"], values["eta_high"] = inputs["eta"].value
    values["gamma_low"], values["gamma_high"] = (float(f"{10**end:.3g}") for end in inputs["gamma"].value)
    return check(values, SWEEP)
