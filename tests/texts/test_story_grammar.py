"""The grammar as a distribution: against enumeration, sampling, closed forms, and damage that must be noticed."""

import itertools
import math
import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest

from mixkit._common import InputError
from mixkit.texts.notation import read_rules
from mixkit.texts.story_grammar import STORIES, Grammar

OUTSIDE = -math.inf

# One derivation a text; quotes, commas, a word that is also the beginning of another expansion.
CLEAR = {
    "<text>": [(3, ("The", "<noun>", "<verb>", ".")), (1, ('"', "<call>", "!", '"', "said", "the", "<noun>", "."))],
    "<noun>": [(5, ("owl",)), (2, ("owl", "with", "a", "hat")), (1, ("well-dressed", "king's", "cat"))],
    "<verb>": [(1, ("sings",)), (0.5, ("sleeps", ",", "<verb-2>"))],
    "<verb-2>": [(2, ("sleeps",)), (1, ("snores",))],
    "<call>": [(1, ("Oh",)), (1, ("Oh", ",", "no"))],
}
# Several derivations for many texts: unit rules, equal expansions, shared beginnings, two ways to attach.
AMBIGUOUS = {
    "S": [(2, ("A", "B")), (1, ("C",)), (1, ("B", "A", "B")), (1, ("C",))],
    "A": [(1, ("x",)), (1, ("x", "x")), (2, ("C",))],
    "B": [(3, ("x",)), (1, ("y",)), (1, ("x", "y"))],
    "C": [(1, ("B",)), (1, ("x", "y")), (1, ("B", "y"))],
}
# S -> S S | a, with probability 1/4: left recursion, Catalan many derivations.
CATALAN = {"S": [(1, ("S", "S")), (3, ("a",))]}


def derivations(rules, symbols, choices=()):
    """Every derivation as (probability, words, choices made): the definition, with nothing shared."""
    if not symbols:
        yield 1.0, (), choices
        return
    first, *rest = symbols
    if first not in rules:
        for p, words, made in derivations(rules, rest, choices):
            yield p, (first, *words), made
        return
    total = sum(weight for weight, _ in rules[first])
    for weight, expansion in rules[first]:
        for p, words, made in derivations(rules, [*expansion, *rest], (*choices, (first, expansion))):
            yield p * weight / total, words, made


def spoken(words):
    """Words as text, letter by letter: blanks, and where they are left out."""
    text, quoted = "", False
    for word in words:
        glued = word in {",", ".", "!", "?", ";", ":"} or (word == '"' and quoted) or text.endswith(' "') or text == '"'
        text += word if glued or not text else f" {word}"
        quoted ^= word == '"'
    return text


def enumerated(rules, start):
    """text -> its probability, and text -> the expected number of uses of each (nonterminal, expansion)."""
    texts, uses = Counter(), defaultdict(Counter)
    for p, words, made in derivations(rules, [start]):
        text = spoken(words)
        texts[text] += p
        for choice in made:
            uses[text][choice] += p
    return texts, {text: {c: n / texts[text] for c, n in counts.items()} for text, counts in uses.items()}


@pytest.fixture(scope="module")
def stories():
    return Grammar()


@pytest.fixture(scope="module")
def samples(stories):
    return stories.sample(1500, seed=1)


@pytest.mark.parametrize(("rules", "start"), [(CLEAR, "<text>"), (AMBIGUOUS, "S")])
def test_probabilities_equal_enumeration_and_sum_to_one(rules, start):
    grammar, (texts, uses) = Grammar(rules, start), enumerated(rules, start)
    assert {text: math.exp(grammar.log_prob(text)) for text in texts} == pytest.approx(dict(texts), abs=1e-12)
    assert math.fsum(math.exp(grammar.log_prob(text)) for text in texts) == pytest.approx(1, abs=1e-12)
    assert grammar.entropy() == pytest.approx(-sum(p * math.log(p) for p in texts.values()), abs=1e-12)
    for text in texts:
        usage = grammar.rule_usage([text])
        counted = {
            (name, expansion): count
            for name, choices in grammar.rules.items()
            for (_, expansion), count in zip(choices, usage[name], strict=True)
            if count
        }
        assert counted == pytest.approx(uses[text], abs=1e-12)


def test_nothing_else_has_probability():
    """Over all strings of up to four words, the language is exactly the enumerated one."""
    grammar, (texts, _) = Grammar(AMBIGUOUS, "S"), enumerated(AMBIGUOUS, "S")
    for length in range(1, 5):
        for words in itertools.product("xyz", repeat=length):
            text = " ".join(words)
            assert math.isfinite(grammar.log_prob(text)) == (text in texts)


def test_left_recursion_counts_catalan_derivations():
    """S -> S S with 1/4, a with 3/4: P(a^n) = Catalan(n-1) (1/4)^(n-1) (3/4)^n; the lengths sum to one."""
    grammar, total = Grammar(CATALAN, "S"), 0.0
    for n in range(1, 40):
        catalan = math.comb(2 * (n - 1), n - 1) // n
        expected = catalan * 0.25 ** (n - 1) * 0.75**n
        assert math.exp(grammar.log_prob(" ".join("a" * n))) == pytest.approx(expected, rel=1e-9)
        total += expected
    assert total == pytest.approx(1, abs=1e-6)
    assert grammar.rule_usage(["a a a a", "a", "b"]) == {"S": pytest.approx([3.0, 5.0])}


def test_long_texts_do_not_underflow():
    grammar = Grammar({"S": [(1, ("a", "S")), (99, ("b",))]}, "S")
    assert grammar.log_prob("a " * 3000 + "b") == pytest.approx(3000 * math.log(0.01) + math.log(0.99), rel=1e-12)
    # a geometric number of choices, 1 / 0.99 of them, each of entropy h(0.01)
    once = -(0.01 * math.log(0.01) + 0.99 * math.log(0.99))
    assert grammar.entropy() == pytest.approx(once / 0.99, rel=1e-12)


@pytest.mark.parametrize(("rules", "start"), [(CLEAR, "<text>"), (AMBIGUOUS, "S"), (CATALAN, "S")])
def test_sample_frequencies_meet_probabilities(rules, start):
    grammar, n = Grammar(rules, start), 20_000
    for text, count in Counter(grammar.sample(n, seed=3)).items():
        p = math.exp(grammar.log_prob(text))
        assert abs(count - n * p) < 5 * math.sqrt(n * p * (1 - p)) + 5


def test_samples_are_the_same_in_another_process(stories):
    shown = "g.sample(2, 7), g.corrupt(g.sample(3, 0), 1, 5), g.entropy()"
    code = f"from mixkit.texts.story_grammar import Grammar; g = Grammar(); print({shown})"
    command = {"capture_output": True, "text": True, "check": True, "cwd": STORIES.parents[1]}
    there = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "12345"}, **command).stdout
    assert there == f"{stories.sample(2, 7)} {stories.corrupt(stories.sample(3, 0), 1, 5)} {stories.entropy()}\n"
    assert stories.sample(2, 7) != stories.sample(2, 8)
    assert stories.sample(0, 7) == []


def test_stories_are_stories(stories, samples):
    """The figures that the corpus promises: length, sentences, vocabulary, spelling."""
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


def test_every_story_has_a_probability_and_their_mean_is_the_entropy(stories, samples):
    surprisal = [-stories.log_prob(text) for text in samples]
    assert max(surprisal) < math.inf
    mean = sum(surprisal) / len(surprisal)
    error = math.sqrt(sum((s - mean) ** 2 for s in surprisal)) / len(surprisal)
    assert error < 1
    assert mean == pytest.approx(stories.entropy(), abs=4 * error)


def test_the_stories_are_unambiguous(stories, samples):
    """One derivation each: every choice is used a whole number of times and their product is the probability."""
    for text in samples[:50]:
        log_p = 0.0
        for name, counts in stories.rule_usage([text]).items():
            for (p, _), count in zip(stories.rules[name], counts, strict=True):
                assert abs(count - round(count)) < 1e-9
                log_p += count * math.log(p)
        assert stories.log_prob(text) == pytest.approx(log_p, abs=1e-9)


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
def test_damage_is_outside(stories, damage):
    old, new = DAMAGE[damage]
    assert math.isfinite(stories.log_prob(TALE))
    assert TALE.count(old) == 1
    assert stories.log_prob(TALE.replace(old, new)) == OUTSIDE


@pytest.mark.parametrize("text", ["", " ", ".", '"', "Once", "\x00", "Pip " * 500])
def test_no_story_at_all(stories, text):
    assert stories.log_prob(text) == OUTSIDE


def test_every_beginning_of_a_story_is_outside(stories, samples):
    for text in samples[:30]:
        assert all(stories.log_prob(text[:end]) == OUTSIDE for end in range(0, len(text), 7))


@pytest.mark.parametrize("value", [None, 3, b"Once", ["Once"]])
def test_a_text_is_a_string(stories, value):
    for function in (stories.log_prob, lambda text: stories.rule_usage([text])):
        with pytest.raises(InputError, match="a text is a str, not"):
            function(value)


def test_total_variation_of_choices(stories, samples):
    """By hand: p = (3/4, 1/4), used (1/2, 1/2); what is never reached counts 1. More texts of its own come nearer."""
    grammar = Grammar({"S": [(3, ("a", "T")), (1, ("b",))], "T": [(1, ("c",)), (1, ("d",))], "U": [(1, ("e",))]}, "S")
    assert grammar.choice_total_variation(["a c", "b", "outside"]) == pytest.approx((1 * 0.25 + 0.75 * 0.5) / 1.75)
    assert grammar.choice_total_variation(["b"]) == pytest.approx((1 * 0.75 + 0.75 * 1) / 1.75)
    assert grammar.choice_total_variation(["a c", "a d"] * 3 + ["b"] * 2) == pytest.approx(0)
    few, many, narrow = samples[:100], samples[:600], [text for text in samples if "Pip" in text][:100]
    few, many, narrow = (stories.choice_total_variation(texts) for texts in (few, many, narrow))
    assert many < few < narrow
    with pytest.raises(InputError, match="at least one text inside"):
        grammar.choice_total_variation(["outside"])


def test_expected_uses_are_those_of_samples(stories):
    grammar = Grammar(CATALAN, "S")
    assert grammar._visits == {"S": pytest.approx(2)}  # v = 1 + v/2
    texts = stories.sample(600, seed=9)
    usage = stories.rule_usage(texts)
    for name in ("<story>", "<np one then>", "<claim now>", "<svp many now>", "<event Pip>"):
        used, expected = sum(usage[name]), 600 * stories._visits[name]
        assert abs(used - expected) < 6 * math.sqrt(3 * expected)


@pytest.mark.parametrize("rate", [0, 0.03, 0.5, 1])
def test_corrupt_damages_the_share_asked_for(stories, samples, rate):
    texts = samples[:200]
    damaged, hit = stories.corrupt(texts, rate, seed=4)
    assert sum(hit) == round(rate * 200)
    for text, result, was_hit in zip(texts, damaged, hit, strict=True):
        assert (result != text) == was_hit
        assert (stories.log_prob(result) == OUTSIDE) == was_hit
    assert stories.corrupt(texts, rate, seed=4) == (damaged, hit)


def test_corrupt_damages_where_most_changes_are_harmless():
    words = [(1, (word,)) for word in "pqrstuvwxyz"]
    grammar = Grammar({"S": [(1, ("W", "W", "W", "W", "end"))], "W": words}, "S")
    damaged, _ = grammar.corrupt(grammar.sample(200, seed=0), 1, seed=0)
    assert {grammar.log_prob(text) for text in damaged} == {OUTSIDE}


def test_corrupt_refuses(stories, samples):
    for rate in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="rate is"):
            stories.corrupt(samples[:2], rate, seed=0)
    with pytest.raises(InputError, match="no damage takes this text out of the language: 'a a'"):
        Grammar(CATALAN, "S").corrupt(["a a"], 1, seed=0)
    with pytest.raises(InputError, match="n is -1"):
        stories.sample(-1, seed=0)


@pytest.mark.parametrize(
    ("rules", "start", "message"),
    [
        ({"S": [(1, ("a",))]}, "T", "unknown start 'T'"),
        ({"S": [(1, ("<nuon>",))], "<noun>": [(1, ("a",))]}, "S", "unknown nonterminal .* '<nuon>' .*mean '<noun>'"),
        ({"S": [(0, ("a",))]}, "S", "a weight of 'S' is 0"),
        ({"S": [(-1, ("a",)), (2, ("b",))]}, "S", "a weight of 'S' is -1"),
        ({"S": [(math.nan, ("a",))]}, "S", "a weight of 'S' is nan"),
        ({"S": [(math.inf, ("a",))]}, "S", "a weight of 'S' is inf"),
        ({"S": [("1", ("a",))]}, "S", "a weight of 'S' is '1'"),
        ({"S": []}, "S", "'S' has no expansions"),
        ({"S": [(1, ())]}, "S", "an expansion of 'S' is ()"),
        ({"S": [(1, "a b")]}, "S", "an expansion of 'S' is 'a b'"),
        ({"S": [(1, ("a b",))]}, "S", "'a b' in 'S' is neither one word"),
        ({"S": [(1, ("",))]}, "S", "'' in 'S' is neither one word"),
        ({"S": [(1, ("a", "S"))]}, "S", "'S' has no finite derivation"),
        ({"S": [(1, ("a",)), (1, ("T",))], "T": [(1, ("T", "T"))]}, "S", "'T' has no finite derivation"),
        ({"S": [(1, ("S", "S")), (1, ("a",))]}, "S", "the expected length of 'S' diverges"),
        ({"S": [(2, ("S", "S")), (1, ("a",))]}, "S", "the expected length of 'S' diverges"),
        ({"S": [(1, ("S", "S", "S")), (2, ("a",))]}, "S", "the expected length of 'S' diverges"),
        ({"S": [(1, ("T",)), (1, ("a",))], "T": [(1, ("S",))]}, "S", "derives itself alone: S -> T -> S|T -> S -> T"),
    ],
)
def test_malformed_grammars(rules, start, message):
    with pytest.raises(InputError, match=message) as caught:
        Grammar(rules, start)
    assert "\n" not in str(caught.value)


def test_no_exact_entropy_is_an_error():
    """Where ambiguity is left open and the texts are too many, and only there."""
    with pytest.raises(InputError, match="the rules are recursive, and 'a' may go on in two ways within 'S'"):
        Grammar(CATALAN, "S").entropy()
    wide = {"S": [(1, ("A",) * 6)], "A": [(1, (word,)) for word in "pqrstuv"] + [(1, ("p", "q"))]}
    with pytest.raises(InputError, match="more than 100000 derivations"):
        Grammar(wide, "S").entropy()


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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<who> =", "<who>:", "line 17: '<who>: nobody .* is neither a table, a rule nor"),
        ("    2 hero.pronoun", "    two hero.pronoun", "line 15: 'two' is no weight"),
        ("    Pip | he", "    Pip", "line 7: 1 cells where the table has 2 columns"),
        ("hero.pronoun.they slept", "hero.pronoun.thay slept", "unknown column on line 15: 'thay' .*mean 'they'"),
        ("hero.pronoun.they slept", "heor.pronoun.they slept", "'heor.pronoun.they' in '<rest Pip>' is neither"),
        ("1 <who>", "1 <woh>", "unknown nonterminal in .* '<woh>' .*mean '<who>'"),
        (TINY, "# nothing", "the grammar has no rules"),
    ],
)
def test_notation_errors_name_the_line(old, new, message):
    assert TINY.count(old) == 1
    with pytest.raises(InputError, match=message):
        Grammar(*read_rules(TINY.replace(old, new)))
