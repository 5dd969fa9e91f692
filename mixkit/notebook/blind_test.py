"""A blind test of continuations: the human evaluation of Pillutla et al. 2021 and Zhang et al. 2023 as a panel."""

import os
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ipywidgets as widgets
import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError

from mixkit._common import InputError
from mixkit.metrics.statistics import Estimate, bradley_terry, wilson_interval
from mixkit.notebook.labels import number
from mixkit.notebook.tables import MACROS, SampleCard, Samples, first_sets, frame_html
from mixkit.studies.records import HUMAN
from mixkit.studies.store import RunRecord, RunStore, check_folder_name

QUESTIONS = {"Which did a person write?": "person", "Which is better?": "better"}
MIN_SECONDS = 0.3  # the second half of a double click would answer a pair that nobody has read


class Pair(NamedTuple):
    """Two continuations of a prompt, the left one first. sources: names of runs, or "human"."""

    prompt: str
    sources: tuple[str, str]
    texts: tuple[str, str]


class Answer(BaseModel):
    """One line of runs/<study>/blind_test/<rater>.jsonl. Sources as in Pair; time: seconds since the epoch."""

    question: Literal["person", "better"]
    prompt: str
    left: str
    right: str
    chosen: str
    time: float


def label(run: RunRecord) -> str:
    """The run's label without its seed: runs that differ in their seeds are one source."""
    return run.config.model_copy(update={"seed": 0}).label(run.role)


def draw_pairs(done: Sequence[RunRecord], samples: Samples, seed: str) -> list[Pair]:
    """One pair per prompt that all runs share. Order, sources and sides follow from the seed.

    A prompt is in one pair only: who reads its human text a second time knows it. All pairs of sources are equally
    frequent, up to one. Pairs of equal texts are left out.
    """
    texts: dict[str, dict[str, str]] = {}  # by run, then by prompt
    names: dict[str, list[str]] = {HUMAN: [HUMAN]}  # of runs, by label
    for run, first in first_sets(done, samples):
        names.setdefault(label(run), []).append(run.name)
        texts[run.name] = {sample.prompt: sample.generated for sample in first}
        texts[HUMAN] = {sample.prompt: sample.human for sample in first}
    prompts = sorted(set.intersection(*map(set, texts.values()))) if texts else []
    rng, couples, pairs = random.Random(seed), list(combinations(names, 2)), []
    rng.shuffle(prompts)
    for i, prompt in enumerate(prompts):
        if i % len(couples) == 0:
            rng.shuffle(couples)
        left, right = (rng.choice(names[source]) for source in rng.sample(couples[i % len(couples)], 2))
        pair = Pair(prompt, (left, right), (texts[left][prompt], texts[right][prompt]))
        if pair.texts[0].strip() != pair.texts[1].strip():
            pairs.append(pair)
    return pairs


def read_answers(folder: Path, question: str) -> dict[str, list[Answer]]:
    """The answers to one question, by rater, the first to each prompt. A line that a crash has cut is left out."""
    by_rater: dict[str, dict[str, Answer]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            with suppress(ValidationError):
                answer = Answer.model_validate_json(line)
                if answer.question == question:
                    by_rater.setdefault(path.stem, {}).setdefault(answer.prompt, answer)
    return {rater: list(answers.values()) for rater, answers in by_rater.items()}


def append_answer(path: Path, answer: Answer) -> None:
    """Add a line to a file, after a line that a crash has cut too, and wait until the disk has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = path.is_file() and not path.read_bytes().endswith(b"\n")
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n" * cut + answer.model_dump_json() + "\n")
        file.flush()
        os.fsync(file.fileno())


def ranking(answers: Sequence[Answer], labels: Mapping[str, str]) -> pd.DataFrame:
    """One row per source, the strongest first; wins and strengths are Estimates. labels: of runs, see `label`."""
    outcomes = []
    for answer in answers:
        loser = answer.right if answer.chosen == answer.left else answer.left
        outcomes.append((labels.get(answer.chosen, answer.chosen), labels.get(loser, loser)))
    sources = sorted({source for outcome in outcomes for source in outcome})
    counts = Counter(outcomes)
    wins = np.array([[counts[winner, loser] for loser in sources] for winner in sources])

    def share(source: str, others: Sequence[str]) -> Estimate:
        won = sum(counts[source, other] for other in others)
        lost = sum(counts[other, source] for other in others)
        return wilson_interval(won, won + lost) if won + lost else Estimate.absent("there is no such pair")

    rows = []
    for source, strength in zip(sources, bradley_terry(wins), strict=True):
        pairs = sum(source in outcome for outcome in outcomes)
        rows.append((source, pairs, share(source, sources), share(source, [HUMAN]), strength))
    rows.sort(key=lambda row: -row[-1].value)
    return pd.DataFrame(rows, columns=["source", "pairs", "wins", "wins against human", "strength s"])


class BlindTest(widgets.VBox):
    """The panel: a question, two texts, and two buttons. A key 1 or 2 answers too while the box *keys* has the focus.

    done: the runs to judge. Answers are kept in runs/<study>/blind_test/<rater>.jsonl; a panel goes on where they end.
    """

    def __init__(self, study: str, done: Sequence[RunRecord], samples: Samples, store: RunStore | None = None):
        self.folder = (store or RunStore()).root / study / "blind_test"
        self.labels = {record.name: label(record) for record in done}
        self.draw = partial(draw_pairs, done, samples)
        self.rater = widgets.Text("rater-1", description="your name", continuous_update=False)
        self.question: Any = widgets.Dropdown(options=list(QUESTIONS.items()), description="question")
        self.key_box = widgets.Text(description="keys", placeholder="click here, then press 1 or 2")
        self.buttons = [widgets.Button(description=name, button_style="primary") for name in ("1", "2")]
        self.show = widgets.Button(description="Show the result")
        self.view, self.result = widgets.HTML(), widgets.HTML()
        for side, button in enumerate(self.buttons):
            button.on_click(lambda button, side=side: self.answer(side))
        self.show.on_click(lambda button: self.show_result())
        self.key_box.observe(lambda change: self.press(change["new"]), "value")
        for choice in (self.rater, self.question):
            choice.observe(lambda change: self.refresh(), "value")
        self.refresh()
        rows = [widgets.HBox([self.rater, self.question]), self.view, widgets.HBox([*self.buttons, self.key_box])]
        super().__init__([*rows, self.show, self.result])

    def refresh(self) -> None:
        """Show the first pair that the rater has not answered yet. Hide the result."""
        self.pair, self.shown, self.result.value = None, time.monotonic(), ""
        try:
            check_folder_name("your name", self.rater.value)
            pairs = self.draw(self.rater.value)
            answers = read_answers(self.folder, self.question.value).get(self.rater.value, [])
            known = {answer.prompt for answer in answers}
            self.pair = next((pair for pair in pairs if pair.prompt not in known), None)
            content = MACROS.paragraph(f"{len(answers)} of {len(pairs)} answered.")
            if self.pair:
                prompt, texts = self.pair.prompt, self.pair.texts
                content += MACROS.cards([SampleCard(str(i), prompt, [(text, True)]) for i, text in enumerate(texts, 1)])
            self.view.value = MACROS.styled(content)
        except (InputError, OSError) as error:
            self.view.value = MACROS.error(error)
        for button in self.buttons:
            button.disabled = self.pair is None

    def press(self, typed: str) -> None:
        if typed:
            self.key_box.value = ""
        if typed in ("1", "2"):
            self.answer(int(typed) - 1)

    def answer(self, side: int) -> None:
        """Keep the choice of the left (0) or right (1) text, and show the next pair."""
        if self.pair is None or time.monotonic() - self.shown < MIN_SECONDS:
            return
        left, right = self.pair.sources
        facts = {"left": left, "right": right, "chosen": self.pair.sources[side], "time": time.time()}
        answer = Answer(question=self.question.value, prompt=self.pair.prompt, **facts)
        try:
            append_answer(self.folder / f"{self.rater.value}.jsonl", answer)
            self.refresh()
        except OSError as error:
            self.view.value = MACROS.error(error)

    def show_result(self) -> None:
        """Show the ranking by all raters' answers to this question."""
        by_rater = read_answers(self.folder, self.question.value)
        given = list(chain(*by_rater.values()))
        content = MACROS.blind_result(len(given), len(by_rater))
        if given:
            frame = ranking(given, self.labels)
            content = frame_html(frame.map(lambda cell: number(cell) if isinstance(cell, Estimate) else cell)) + content
        self.result.value = MACROS.styled(content)
