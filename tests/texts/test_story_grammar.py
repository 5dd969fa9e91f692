"""The story grammar against enumeration, nltk, closed forms and its own samples; damage must be noticed."""

import itertools
import math
import random
import re
import subprocess
import sys
from collections import Counter

import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkit._common import InputError
from mixkit.texts.grammar_rules import read_rules
from mixkit.texts.story_grammar import RULES_FILE, Grammar

OUTSIDE = -math.inf
FIRST = (  # of seed 0
    "Behind the bakery there lived a brave dragon named Ember. Ember never forgot the donkey. What Ember "
    "wanted most was a lucky button. On the first day of spring, Ember put on its best clothes and "
    "hurried to the frozen lake, although rumour had it that a certain hungry goose invited every "
    "dentist. At sunset, the dragon waved goodbye to the frozen lake and ran all the way back. And so "
    "Ember came home with the lucky button and wrote a book about itself."
)
LOG_PROB = -67.63733183233316

# Quotes, commas, recursion of depth two, and expansions that are the beginning of another.
RULES = {
    "<text>": [(3, ("The", "<noun>", "<verb>", ".")), (1, ('"', "<call>", "!", '"', "said", "the", "<noun>", "."))],
    "<noun>": [(5, ("owl",)), (2, ("owl", "with", "a", "hat")), (1, ("well-dressed", "king's", "cat"))],
    "<verb>": [(1, ("sings",)), (0.5, ("sleeps", ",", "<verb-2>")), (0.5, ("sings",))],
    "<verb-2>": [(2, ("sleeps",)), (1, ("snores",))],
    "<call>": [(1, ("Oh",)), (1, ("Oh", ",", "no"))],
}


def derivations(rules, symbols):
    """Every derivation as (probability, words): the definition."""
    if not symbols:
        yield 1.0, ()
        return
    first, *rest = symbols
    if first not in rules:
        for p, words in derivations(rules, rest):
            yield p, (first, *words)
        return
    total = sum(weight for weight, _ in rules[first])
    for weight, expansion in rules[first]:
        for p, words in derivations(rules, [*expansion, *rest]):
            yield p * weight / total, words


def join(words):
    """Words as text, letter by letter: blanks, and where they are left out."""
    text, quoted = "", False
    for word in words:
        glued = word in {",", ".", "!", "?", ";", ":"} or (word == '"' and quoted) or text.endswith(' "') or text == '"'
        text += word if glued or not text else f" {word}"
        quoted ^= word == '"'
    return text


def enumerate_texts(rules, start):
    """text -> its probability."""
    texts = Counter()
    for p, words in derivations(rules, [start]):
        texts[join(words)] += p
    return texts


@pytest.fixture(scope="module")
def toy():
    return Grammar(RULES, "<text>")


@pytest.fixture(scope="module")
def tales():
    return Grammar()


@pytest.fixture(scope="module")
def samples(tales):
    return tales.sample(1500, seed=1)


# Probabilities


def test_probabilities_equal_enumeration(toy):
    texts = enumerate_texts(RULES, "<text>")
    assert {text: math.exp(toy.log_prob(text)) for text in texts} == pytest.approx(dict(texts), abs=1e-12)
    assert toy.entropy() == pytest.approx(-sum(p * math.log(p) for p in texts.values()), abs=1e-12)


def test_probabilities_equal_nltk(toy):
    rules = []
    for name, choices in toy.rules.items():
        for p, expansion in choices:
            symbols = (nltk.Nonterminal(s) if s in toy.rules else s for s in expansion)
            rules.append(nltk.ProbabilisticProduction(nltk.Nonterminal(name), symbols, prob=p))
    parser = nltk.InsideChartParser(nltk.PCFG(nltk.Nonterminal("<text>"), rules))
    generator, valid = random.Random(0), 0
    for _ in range(60):
        words = list(generator.choice([words for _, words in derivations(RULES, ["<text>"])]))
        if generator.random() < 0.5:
            words[generator.randrange(len(words))] = generator.choice(words)
        parses = list(parser.parse(words))
        assert math.exp(toy.log_prob(join(words))) == pytest.approx(sum(tree.prob() for tree in parses), abs=1e-12)
        valid += len(parses)
    assert 20 < valid < 60


def test_random_grammars_equal_enumeration():
    """Every grammar that is accepted has the probabilities of the definition, and no other short text has any."""
    generator, accepted = random.Random(0), 0
    for _ in range(2000):
        rules = {}
        for name, symbols in (("S", "ABxy"), ("A", "Bxyz"), ("B", "xyz")):
            expansions = {tuple(generator.choices(symbols, k=generator.randint(1, 3))) for _ in range(3)}
            rules[name] = [(generator.randint(1, 3), expansion) for expansion in sorted(expansions)]
        try:
            grammar = Grammar(rules, "S")
        except InputError as error:
            assert "not LL(1)" in str(error)
            continue
        accepted += 1
        texts = enumerate_texts(rules, "S")
        assert {text: math.exp(grammar.log_prob(text)) for text in texts} == pytest.approx(dict(texts))
        short = (" ".join(words) for n in range(1, 5) for words in itertools.product("xyz", repeat=n))
        assert all(math.isfinite(grammar.log_prob(text)) == (text in texts) for text in short)
    assert accepted > 100


def test_long_texts_do_not_underflow():
    grammar = Grammar({"S": [(1, ("a", "S")), (99, ("b",))]}, "S")
    assert grammar.log_prob("a " * 3000 + "b") == pytest.approx(3000 * math.log(0.01) + math.log(0.99), rel=1e-12)
    # a geometric number of choices, 1 / 0.99 of them, each of entropy h(0.01)
    once = -(0.01 * math.log(0.01) + 0.99 * math.log(0.99))
    assert grammar.entropy() == pytest.approx(once / 0.99, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.data())
def test_any_derivation_has_the_product_of_its_choices(tales, random, data):
    """Any story, also a rare one; its beginnings and its damaged copies are outside."""
    words, pending, log_prob = [], [tales.start], 0.0
    while pending:
        symbol = pending.pop()
        if symbol in tales.rules:
            probability, expansion = random.choice(tales.rules[symbol])
            log_prob += math.log(probability)
            pending += reversed(expansion)
        else:
            words.append(symbol)
    text = join(words)
    assert tales.log_prob(text) == pytest.approx(log_prob, rel=1e-9)
    assert tales.longest_prefix(text) == text
    at = data.draw(st.integers(0, len(text) - 1))
    blank = text.find(" ", at)
    for damaged in (text[:at], text[:blank] + " " + text[blank:], text[:at] + "#" + text[at:], f"{text} {text}"):
        assert tales.log_prob(damaged) == OUTSIDE
        assert text.startswith(tales.longest_prefix(damaged)) or damaged.startswith(text)


TOY_TEXTS = [list(words) for _, words in derivations(RULES, ["<text>"])]
TOY_WORDS = sorted({word for words in TOY_TEXTS for word in words})


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TOY_TEXTS), st.slices(3), st.lists(st.sampled_from(TOY_WORDS), max_size=3))
def test_any_words_have_their_enumerated_probability(toy, words, place, new):
    changed = words.copy()
    changed[place.start : place.stop] = new
    for text in (join(words), join(changed)):
        expected = enumerate_texts(RULES, "<text>").get(text, 0)
        assert math.exp(toy.log_prob(text)) == pytest.approx(expected, rel=1e-12)


@given(st.text(max_size=60))
def test_any_characters_are_read(tales, text):
    assert tales.log_prob(text) == OUTSIDE
    assert text.startswith(tales.longest_prefix(text))


def test_sample_frequencies_meet_probabilities(toy):
    n = 20_000
    for text, count in Counter(toy.sample(n, seed=3)).items():
        p = math.exp(toy.log_prob(text))
        assert abs(count - n * p) < 5 * math.sqrt(n * p * (1 - p)) + 5


@pytest.mark.slow
def test_samples_are_the_same_in_another_process(tales):
    results = "g.sample(2, 7), g.corrupt(g.sample(3, 0), 1, 5), g.entropy()"
    code = f"from mixkit.texts.story_grammar import Grammar; g = Grammar(); print({results})"
    command = {"capture_output": True, "text": True, "check": True, "cwd": RULES_FILE.parents[2]}
    there = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "12345"}, **command).stdout
    assert there == f"{tales.sample(2, 7)} {tales.corrupt(tales.sample(3, 0), 1, 5)} {tales.entropy()}\n"
    assert tales.sample(2, 7) != tales.sample(2, 8)
    assert tales.sample(0, 7) == []


def test_the_published_figures_of_the_tales(tales):
    """data/tales.md and every record of a run rely on them."""
    assert tales.entropy() == pytest.approx(58.135404469691764, rel=1e-12)
    assert (len(tales.rules), sum(map(len, tales.rules.values()))) == (2501, 15689)
    first = tales.sample(1, seed=0)[0]
    assert first == FIRST
    assert tales.log_prob(first) == pytest.approx(LOG_PROB, rel=1e-12)


def test_stories_have_their_length_and_spelling(samples):
    words = [len(text.split()) for text in samples]
    assert 65 < sum(words) / len(words) < 80
    assert sum(50 <= n <= 110 for n in words) > 0.85 * len(words)
    assert len({word for text in samples for word in re.findall(r"[\w'-]+", text.lower())}) > 400
    assert len(set(samples)) == len(samples)
    for text in samples:
        # a question inside quotes goes on: "..." asked Pip
        assert 4 <= len(re.findall(r"[.](?= |$)", text)) <= 9
        assert re.fullmatch(r"[A-Z].*\.", text) and text.count('"') % 2 == 0
        assert not re.search(r"\b([Aa] [aeiou]|[Aa]n (?!hon)[^aeiou])|  | [,.;:!?]|[.?] [a-z]", text)


def test_the_mean_nll_of_stories_is_the_entropy(tales, samples):
    nll = [-tales.log_prob(text) for text in samples]
    mean = sum(nll) / len(nll)
    error = math.sqrt(sum((value - mean) ** 2 for value in nll)) / len(nll)
    assert error < 1
    assert abs(mean - tales.entropy()) < 4 * error


# Texts outside the language


TALE = (
    "Once upon a time, there lived two clever mice named Nip and Tuck. They were afraid of thunder. "
    "More than anything, Nip and Tuck wanted a silver spoon. One morning, the mice walked all the way to the old mill. "
    "There they met two crows. "
    '"The wise owl who fears some geese with cold feet sings under the bridge," said the crows. '
    "At sunset, they waved goodbye to the old mill and walked home. "
    "From that day on, Nip and Tuck kept the silver spoon under their bed."
)

DAMAGE = {
    "swapped words": ("lived two", "two lived"),
    "number of the subject": ("They were", "They was"),
    "number of the verb, across a clause": ("feet sings", "feet sing"),
    "number of the verb in the clause": ("who fears", "who fear"),
    "tense": ("sings under", "sang under"),
    "pronoun of the hero": ("There they met", "There he met"),
    "pronoun of the hero, far away": ("under their bed", "under his bed"),
    "name changed": ("From that day on, Nip and Tuck", "From that day on, Salt and Pepper"),
    "half of the name": ("From that day on, Nip and Tuck", "From that day on, Nip"),
    "kind changed": ("the mice walked", "the goats walked"),
    "friend changed": ("said the crows", "said the moths"),
    "wish changed": ("kept the silver spoon", "kept the red umbrella"),
    "place changed": ("goodbye to the old mill", "goodbye to the harbour"),
    "article": ("a silver spoon", "an silver spoon"),
    "lost capital": ("Once upon", "once upon"),
    "new capital": ("the mice", "The mice"),
    "all small": (TALE, TALE.lower()),
    "no full stop": ("their bed.", "their bed"),
    "lost comma": ("anything,", "anything"),
    "lost quote": ('bridge,"', "bridge,"),
    "other quotes": ('"The wise', "“The wise"),
    "two blanks": ("the mice", "the  mice"),
    "new line": ("thunder. ", "thunder.\n"),
    "blank before": ("Once upon", " Once upon"),
    "blank after": ("their bed.", "their bed. "),
    "blank at a comma": ("anything,", "anything ,"),
    "sentence lost": ("More than anything, Nip and Tuck wanted a silver spoon. ", ""),
    "truncated": (" From that day on, Nip and Tuck kept the silver spoon under their bed.", ""),
    "words after the end": ("their bed.", "their bed. They were afraid of thunder."),
    "unknown word": ("wise owl", "wise physicist"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_outside(tales, damage):
    old, new = DAMAGE[damage]
    assert math.isfinite(tales.log_prob(TALE))
    assert TALE.count(old) == 1
    assert tales.log_prob(TALE.replace(old, new)) == OUTSIDE


@pytest.mark.parametrize("text", ["", " ", ".", '"', "Once", "\x00", "Pip " * 500])
def test_no_story_at_all(tales, text):
    assert tales.log_prob(text) == OUTSIDE


def test_every_beginning_of_a_story_is_outside(tales, samples):
    for text in samples[:30]:
        assert all(tales.log_prob(text[:end]) == OUTSIDE for end in range(0, len(text), 7))


def ends_of_words(text):
    return [match.end() for match in re.finditer(r"[A-Za-zé]+([-'][A-Za-zé]+)*|[^A-Za-zé ]", text)]


def test_longest_prefix_is_that_of_enumeration(toy):
    texts = sorted(enumerate_texts(RULES, "<text>"))
    prefixes = {"", *(text[:end] for text in texts for end in ends_of_words(text))}
    generator = random.Random(0)
    characters = [*sorted({c for text in texts for c in text}), "  ", "é"]
    assert [toy.longest_prefix(text) for text in texts] == texts
    for _ in range(3000):
        text = generator.choice(texts)
        at, kind = generator.randrange(len(text)), generator.randrange(3)
        new = "" if kind == 0 else generator.choice(characters)
        text = text[:at] + new + text[at + (kind != 1) :]
        valid = [text[:end] for end in [0, *ends_of_words(text)] if text[:end] in prefixes]
        assert toy.longest_prefix(text) == max(valid, key=len), text


@pytest.mark.parametrize("rate", [0, 0.03, 0.5, 1])
def test_corrupt_damages_the_given_share(tales, samples, rate):
    texts = samples[:200]
    damaged = tales.corrupt(texts, rate, seed=4)
    changed = [new for old, new in zip(texts, damaged, strict=True) if new != old]
    assert len(changed) == round(rate * 200)
    assert all(tales.log_prob(text) == OUTSIDE for text in changed)
    assert tales.corrupt(texts, rate, seed=4) == damaged


def kind_of_damage(old, new):
    sentences = [re.split(r"(?<=[.!?]) ", text) for text in (old, new)]
    words = [text.split(" ") for text in (old, new)]
    differ = [i for i, (a, b) in enumerate(zip(*words, strict=True)) if a != b]
    if len(differ) == 2 and differ[1] - differ[0] == 1 and sorted(words[0]) == sorted(words[1]):
        return "swapped"
    return "replaced" if len(differ) == 1 else "shuffled" if sorted(sentences[0]) == sorted(sentences[1]) else "other"


def test_the_three_kinds_of_damage_are_equally_frequent(tales, samples):
    damaged = tales.corrupt(samples[:600], 1, seed=2)
    kinds = Counter(map(kind_of_damage, samples, damaged))
    assert kinds.keys() == {"swapped", "replaced", "shuffled"}
    assert all(abs(count - 200) < 5 * math.sqrt(600 * 2 / 9) for count in kinds.values())


def test_corrupt_where_most_changes_are_harmless():
    words = [(1, (word,)) for word in "pqrstuvwxyz"]
    grammar = Grammar({"S": [(1, ("W", "W", "W", "W", "end"))], "W": words}, "S")
    damaged = grammar.corrupt(grammar.sample(200, seed=0), 1, seed=0)
    assert {grammar.log_prob(text) for text in damaged} == {OUTSIDE}


def test_corrupt_refuses(tales, samples):
    for rate in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="rate is"):
            tales.corrupt(samples[:2], rate, seed=0)
    with pytest.raises(InputError, match="no damage takes this text out of the language: 'a a'"):
        Grammar({"S": [(2, ("a",)), (1, ("a", "S"))]}, "S").corrupt(["a a"], 1, seed=0)


# Malformed grammars


@pytest.mark.parametrize(
    ("rules", "start", "message"),
    [
        ({"S": [(1, ("a",))]}, "T", "unknown start 'T'"),
        ({"S": [(1, ("<nuon>",))], "<noun>": [(1, ("a",))]}, "S", "'<nuon>' in 'S' is no nonterminal .*mean '<noun>'"),
        ({"S": [(0, ("a",))]}, "S", "'S' has .0, .*finite weight > 0"),
        ({"S": [(-1, ("a",)), (2, ("b",))]}, "S", "'S' has .-1, "),
        ({"S": [(math.nan, ("a",))]}, "S", "'S' has .nan, "),
        ({"S": [(math.inf, ("a",))]}, "S", "'S' has .inf, "),
        ({"S": []}, "S", "'S' has no expansions"),
        ({"S": [(1, ())]}, "S", "'S' has .1, .*tuple of symbols"),
        ({"S": [(1, "a b")]}, "S", "'S' has .1, 'a b'"),
        ({"S": [(1, ("a b",))]}, "S", "'a b' in 'S' is no nonterminal, word or"),
        ({"S": [(1, ("",))]}, "S", "'' in 'S' is no nonterminal, word or"),
        ({"S": [(1, ("a", "S"))]}, "S", "the expected length of the texts diverges"),
        ({"S": [(2, ("(", "S", "S", ")")), (1, ("a",))]}, "S", "the expected length of the texts diverges"),
        ({"S": [(1, ("S", "b")), (1, ("a",))]}, "S", "left-recursive: S -> S"),
        ({"S": [(1, ("T",)), (1, ("a",))], "T": [(1, ("S",))]}, "S", "left-recursive: S -> T -> S|T -> S -> T"),
        (
            {"S": [(1, ("T",))], "T": [(1, ("U",))], "U": [(1, ("S",))]},
            "S",
            "S -> T -> U -> S|T -> U -> S -> T|U -> S -> T",
        ),
        ({"S": [(1, ("T", "b")), (1, ("a",))], "T": [(1, ("a",)), (1, ("c",))]}, "S", "'a' does not .* of 'S'"),
        ({"S": [(1, ("T", "a"))], "T": [(1, ("c",)), (1, ("c", "a"))]}, "S", "'a' does not decide .* of 'T'"),
        (
            {"T": [(1, ("c", "U"))], "U": [(1, ("d",)), (1, ("d", "a"))], "S": [(1, ("T", "a"))]},
            "S",
            "'a' does not decide .* of 'U'",
        ),
        ({"S": [(1, ("T",)), (1, ("b",)), (1, ("c", "d"))], "T": [(1, ("c",))]}, "S", "'c' does not decide .* of 'S'"),
    ],
)
def test_malformed_grammars(rules, start, message):
    with pytest.raises(InputError, match=message) as caught:
        Grammar(rules, start)
    assert "\n" not in str(caught.value)


# The notation


TINY = """
# a comment
table pronoun: they | number
    he | one
    they | many
table hero: name | pronoun   # with a comment
    Pip | he
    Nip and Tuck | they
<story> =
    1 hero.name <was hero.pronoun.number> here . ^<rest hero>
    3 ^hero.pronoun.they <was hero.pronoun.number> there .
<was one> = was
<was many> = were
<rest hero> =
    2 hero.pronoun.they slept .
    1 <who>
<who> = nobody spoke . | all spoke .
"""


def test_notation_expands_tables():
    """Rows weigh 1, 1/2: hero and its choice 1/4 or 3/4 of 2/3 or 1/3; word lists weigh 1, 1/2."""
    grammar = Grammar(*read_rules(TINY))
    expected = {
        "Pip was here. He slept.": 1 / 4 * 2 / 3 * 2 / 3,
        "Pip was here. Nobody spoke.": 1 / 4 * 2 / 3 * 1 / 3 * 2 / 3,
        "Pip was here. All spoke.": 1 / 4 * 2 / 3 * 1 / 3 * 1 / 3,
        "Nip and Tuck were here. They slept.": 1 / 4 * 1 / 3 * 2 / 3,
        "Nip and Tuck were here. Nobody spoke.": 1 / 4 * 1 / 3 * 1 / 3 * 2 / 3,
        "Nip and Tuck were here. All spoke.": 1 / 4 * 1 / 3 * 1 / 3 * 1 / 3,
        "He was there.": 3 / 4 * 2 / 3,
        "They were there.": 3 / 4 * 1 / 3,
    }
    assert {text: math.exp(grammar.log_prob(text)) for text in expected} == pytest.approx(expected)
    assert sum(expected.values()) == pytest.approx(1)


def test_the_start_is_the_story_by_default():
    assert Grammar({"<noun>": [(1, ("b",))], "<story>": [(1, ("a", "<noun>"))]}).sample(1, seed=0) == ["a b"]


def test_tables_do_not_change_the_weight_of_an_alternative():
    """Half of the texts have no row of a table, a third one row of two, a sixth rows of both tables."""
    tables = "table t: name\n a\n b\ntable u: name\n x\n y\n z\n"
    grammar = Grammar(*read_rules(f"{tables}<s> =\n .3 ^ ^nothing\n 2e-1 t.name\n 0.1 t.name and u.name\n"))
    expected = {"^ Nothing": 1 / 2, "a": 1 / 3 * 2 / 3, "b": 1 / 3 * 1 / 3}
    for i, j in itertools.product(range(2), range(3)):  # ranks weigh 1, 1/2, 1/3
        expected["ab"[i] + " and " + "xyz"[j]] = 1 / 6 * (1 / (i + 1) / (3 / 2)) * (1 / (j + 1) / (11 / 6))
    assert {text: math.exp(grammar.log_prob(text)) for text in expected} == pytest.approx(expected)
    assert sum(expected.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<who> =", "<who>:", "line 17: '<who>: nobody .* is neither a table, a rule nor"),
        ("    2 hero.pronoun", "    two hero.pronoun", "line 15: 'two' is no weight"),
        ("    Pip | he", "    Pip", "line 7: 1 cells where the table has 2 columns"),
        ("hero.pronoun.they slept", "hero.pronoun.thay slept", "unknown column on line 15: .*mean 'hero.pronoun.they'"),
        ("hero.pronoun.they slept", "heor.pronoun.they slept", "'heor.pronoun.they' in '<rest Pip>' is no"),
        ("1 <who>", "1 <woh>", "'<woh>' in '<rest Pip>' is no nonterminal .did you mean '<who>'"),
        (TINY, "# nothing", "the grammar has no rules"),
    ],
)
def test_notation_errors_name_the_line(old, new, message):
    assert TINY.count(old) == 1
    with pytest.raises(InputError, match=message):
        Grammar(*read_rules(TINY.replace(old, new)))
