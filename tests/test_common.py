"""What a model, a file or an error says is shown as the text that it is: in controls, errors, the report."""

from html.parser import HTMLParser

from IPython.core.interactiveshell import InteractiveShell

from mixkit._common import visible
from mixkit.models.generation import Continuation, Prompt
from mixkit.notebook import widgets as controls
from mixkit.notebook.tables import MACROS

EVIL = "<script>alert(1)</script>\x1b[31mred</textarea>\r\x00\x9b&\u202eabc\ud800 tab\tline\n\u00a0é"


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), ""

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def parsed(markup):
    reader = Elements()
    reader.feed(str(markup))
    reader.close()
    return reader


def test_controls_become_pictures_and_everything_else_stays():
    assert visible("\x1b[31m") == "␛[31m" and visible("\x00\x7f\r\x9b") == "␀␡␍\ufffd"
    assert visible("tab\tline\n é\u00a0漢😀") == "tab\tline\n é\u00a0漢😀"
    assert visible("\u202eabc\u2066") == "⟨U+202E⟩abc⟨U+2066⟩" and visible("\ud800") == "\ufffd"
    assert visible(None) == "None"


def test_no_panel_holds_an_element_that_a_text_asked_for():
    prompts, given = [Prompt([1], EVIL, EVIL)], [Continuation(EVIL, 1, [(EVIL, True), (EVIL, False)])]
    shown = [
        controls.show_samples(prompts, [[EVIL]]).children[1].value,
        controls.show_continuations([EVIL], given).value,
        MACROS.error(EVIL),
    ]
    for markup in shown:
        found = parsed(markup)
        assert found.tags <= {"style", "div", "p", "b", "span", "s"}
        assert visible(EVIL).strip() in found.text and "\x1b" not in markup
    controls.fill(output := controls.widgets.Output(), EVIL)
    assert output.outputs[0]["text"] == visible(EVIL) + "\n"


def test_a_notebook_shows_an_input_error_on_one_line(capsys):
    shell = InteractiveShell()
    shell.run_cell("from mixkit._common import InputError\nraise InputError('eta is 2\x1b[31m')")
    assert capsys.readouterr().out == "InputError: eta is 2␛[31m\n"
