"""Tables of results as text, CSV and HTML; cards of samples."""

import csv
import io

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from mixkit.notebook import tables
from mixkit.studies.records import results_frame
from tests.notebook.builders import DONE, EVIL, FRAME, SAMPLES, metric, record, samples_of

TABLE = """\
run                   perplexity    mauve             diversity         distinct_2
--------------------  ------------  ----------------  ----------------  ----------------
MLE                   9 [8.5, 9.5]  0.5 [0.48, 0.52]  0.8 [0.78, 0.82]  0.8 [0.78, 0.82]
MLE, temperature 0.5  9 [8.5, 9.5]  –                 0.4 [0.38, 0.42]  0.4 [0.38, 0.42]
human texts           –             0.9 [0.88, 0.92]  0.8 [0.78, 0.82]  0.7 [0.68, 0.72]"""


def test_the_plain_table_has_aligned_columns():
    runs = [DONE[1], DONE[4].model_copy(update={"metrics": {**DONE[4].metrics, "mauve": DONE[4].metrics["coherence"]}})]
    assert tables.results_table(results_frame(runs)) == TABLE
    known = record("a", 0.5, 0.5, metrics={"valid_prefix_rate": metric(0.25)})
    assert tables.results_table(results_frame([known])).splitlines()[0].endswith("  valid_prefix_rate")


def test_a_table_is_text_in_a_shell_and_html_in_a_notebook():
    table = tables.results_table(FRAME)
    formats = InteractiveShell.instance().display_formatter.format(table)[0]
    assert formats["text/plain"] == str(table) == repr(table) and table.startswith("run ")
    assert formats["text/html"].count("<tr>") == 9 and "MixCE η=0.1" in formats["text/html"]
    story = tables.prose(f"Once {EVIL}")
    assert story == f"Once {EVIL}" and "<script" not in story._repr_html_() and ">Once" in story._repr_html_()


def test_a_metric_of_ones_own_is_in_text_html_and_csv():
    frame = results_frame([record("a", 0.5, 0.5, metrics={"word_length": metric(4.25)}), DONE[1]])
    assert tables.columns(frame)[-1] == "word_length"
    assert "4.25" in tables.results_table(frame).splitlines()[2]
    assert '<th scope="col">word length</th>' in tables.results_html(frame)
    assert "word_length,word_length_low" in tables.results_csv(frame)


def test_the_csv_has_every_number_of_every_run():
    rows = list(csv.DictReader(io.StringIO(tables.results_csv(FRAME))))
    assert [row["run"] for row in rows] == [*(run.name for run in DONE), "human"]
    assert [row["role"] for row in rows][::4] == ["base", "decoding"]
    assert rows[2]["mauve"] == "0.8" and float(rows[2]["mauve_low"]) == pytest.approx(0.78)
    assert rows[2]["coherence"] == "" and rows[-1]["diversity"] == "0.8" and rows[-1]["perplexity"] == ""


def test_the_html_table_has_the_human_texts_in_its_foot():
    table = tables.results_html(FRAME, sortable=True)
    assert table.count("<tr>") == 9 and 'data-value="0.8"' in table and "coherence" not in table
    assert table.index("<tfoot>") < table.index("human texts") and table.count("<button") == 6
    assert "<button" not in tables.results_html(FRAME)


def test_an_absent_number_tells_its_reason_as_text():
    encoder = record("a", 0.5, 0.5, metrics={"coherence": metric(0.5)})
    table = tables.results_html(results_frame([DONE[1], encoder]))
    assert 'title="no encoder &lt;/script&gt;' in table and "<script" not in table and "\x1b" not in table


def test_the_comparisons_are_bold_where_they_are_significant():
    columns = ["run", "metric", "difference", "low", "high", "effect_size", "p", "holm_p", "pairs"]
    rows = [
        ("a", "rep_2", 0.5, None, None, None, 0.2, 0.2, 9),
        ("a", "length", -2.0, -3.0, -1.0, 1.0, 0.01, 0.01, 9),
        ("b", "length", 1.0, 0.0, 2.0, 1.0, 0.07, 0.07, 9),
        ("c", "length", 1.0, 0.0, 2.0, 1.0, 0.07, 0.07, 9),  # its folder was deleted meanwhile
    ]
    table = tables.compared_html(pd.DataFrame(rows, columns=columns), {"a": EVIL, "b": "B"})
    assert table.count("<tr>") == 3 and table.count("n significant") == 1 and "[-3, -1]" in table
    assert "<script" not in table and "\x1b" not in table


def test_a_frame_becomes_a_table_of_text():
    table = tables.frame_html(pd.DataFrame([{"run": EVIL, "verdict": None}]))
    assert "<script" not in table and "\x1b" not in table and "alert(1)" in table and "–" in table


def test_a_trained_run_stands_beside_its_controls():
    twin = record("twin", 0.65, 0.75, role="decoding", decode_as="mixce", eta=0.1)
    table = tables.controls_table(results_frame([*DONE, twin]), ["mauve", "distinct_2"])
    assert [line.split()[:2] for line in table.splitlines()] == [
        ["run", "texts"],
        ["MixCE", "η=0.1"],
        ["MixCE", "η=0.1"],
        ["MixCE", "η=0.1"],
    ]
    assert "MLE decoded as it 0.75 [0.73, 0.77] 0.65 [0.63, 0.67]" in " ".join(table.split())
    assert "MLE at T=0.90" in table and "<td>trained</td>" in table.html


def test_cards_have_their_own_prompts_and_deleted_text():
    segments = [("It <was> ", True), ("dark", False), ("light", True)]
    samples = {**SAMPLES, "tailr": samples_of("tailr", prompt="There was", segments=segments)}
    sets = tables.first_sets(DONE, samples)
    assert [run.name for run, _ in sets] == [run.name for run in DONE[1:]]
    cards = tables.prompt_cards(sets, 3)
    assert [card.prompt for card in cards[:4]] == ["Once 3", "Once 3", "Once 3", "There was"]
    shown = tables.MACROS.cards(cards, hide_decoding=True)
    assert "There was</span>It &lt;was&gt; <s>dark</s>light</div>" in shown
    assert shown.count(' data-role="decoding" hidden') == 3 and shown.count(" hidden") == 3
    assert "hidden" not in tables.MACROS.cards(cards)


def test_only_the_first_set_of_trained_runs_is_shown():
    later = [sample.model_copy(update={"set": 1}) for sample in SAMPLES["mle"]]
    assert tables.first_sets(DONE, {"base": SAMPLES["base"], "mle": later}) == []
