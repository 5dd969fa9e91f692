"""The notation of data/tales.grammar (rules with feature tables; the file explains it), read into weighted rules.
What the rules mean as a distribution over texts is not decided here but in mixkit.texts.story_grammar."""

import itertools
import math
import re
from collections.abc import Iterable, Sequence

from mixkit._common import InputError, unknown

Table = dict[str, dict[str, str]]  # key of the row (its first cell) -> column -> words


def read_rules(text: str) -> tuple[dict[str, list[tuple[float, tuple[str, ...]]]], str]:
    """(rules, start): `Grammar(*read_rules(text))` is the grammar that `text` describes; its first rule is the start.

    InputError, with the number of the line, for a line that the notation does not know and for a missing column.
    """
    tables, templates = _blocks(text)
    names = "|".join(map(re.escape, tables)) or "(?!)"
    # hero.name and hero.pronoun.them anywhere; hero alone within <>
    reference = re.compile(rf"(?<![\w.])((?:{names})(?:\.\w+)+|(?<= )(?:{names})(?= [^<>]*>|>))")
    rules = {}
    for head, lines in templates.items():
        head, parameters = reference.split(head), reference.findall(head)
        for number, line in lines:
            weight, body = _weight(number, line)
            pieces = reference.split(body)
            paths = [piece.split(".") for piece in pieces[1::2]]
            free = [table for table in dict.fromkeys(path[0] for path in paths) if table not in parameters]
            for given, _ in _row_choices(parameters, tables):
                head[1::2] = given.values()
                alternatives = rules.setdefault("".join(head), [])
                for chosen, share in _row_choices(free, tables):
                    pieces[1::2] = [_cell(number, path, given | chosen, tables) for path in paths]
                    symbols = re.findall(r"\^?<[^<>]*>|\S+", "".join(pieces))
                    alternatives.append((weight * share, tuple(map(_capital, symbols))))
    _add_capitals(rules)
    if not rules:
        raise InputError("the grammar has no rules")
    return rules, next(iter(rules))


def _blocks(text: str) -> tuple[dict[str, Table], dict[str, list[tuple[int, str]]]]:
    """The tables, and for each rule's head its numbered lines, word lists turned into one weighted line a word."""
    tables, templates, block = {}, {}, None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#")[0].rstrip()
        if not line:
            continue
        if line[0].isspace() and block is not None:
            block.append((number, line.strip()))
        elif table := re.fullmatch(r"table (\w+):(.*)", line):
            block = tables[table[1]] = [(number, table[2])]
        elif rule := re.fullmatch(r"(<[^<>]+>) =(.*)", line):
            words = [word.strip() for word in rule[2].split("|") if word.strip()]
            block = templates.setdefault(rule[1], [])
            block += [(number, f"{1 / rank!r} {word}") for rank, word in enumerate(words, 1)]
        else:
            raise InputError(f"line {number}: {line.strip()!r} is neither a table, a rule nor an indented alternative")
    return {name: _table(lines) for name, lines in tables.items()}, templates


def _table(lines: list[tuple[int, str]]) -> Table:
    columns, *rows = ([cell.strip() for cell in line.split("|")] for _, line in lines)
    for (number, _), row in zip(lines[1:], rows, strict=True):
        if len(row) != len(columns):
            raise InputError(f"line {number}: {len(row)} cells where the table has {len(columns)} columns")
    return {row[0]: dict(zip(columns, row, strict=True)) for row in rows}


def _weight(number: int, line: str) -> tuple[float, str]:
    weight, _, body = line.partition(" ")
    try:
        return float(weight), body
    except ValueError:
        raise InputError(f"line {number}: {weight!r} is no weight; an alternative is a weight, then words") from None


def _row_choices(names: Sequence[str], tables: dict[str, Table]) -> Iterable[tuple[dict[str, str], float]]:
    """Every choice of one row from each named table, with its probability: the row of rank r weighs 1/r."""
    scale = math.prod(sum(1 / rank for rank in range(1, len(tables[name]) + 1)) for name in names)
    for ranked in itertools.product(*(enumerate(tables[name], 1) for name in names)):
        rows = {name: row for name, (_, row) in zip(names, ranked, strict=True)}
        yield rows, 1 / scale / math.prod(rank for rank, _ in ranked)


def _cell(number: int, path: list[str], rows: dict[str, str], tables: dict[str, Table]) -> str:
    """`hero.pronoun.them`: from the row chosen for hero to its pronoun, a row of the table pronoun, to its them."""
    table, value = path[0], rows[path[0]]
    for column in path[1:]:
        row = tables.get(table, {}).get(value, {})
        if column not in row:
            raise unknown(f"column on line {number}:", column, row)
        table, value = column, row[column]
    return value


def _capital(symbol: str) -> str:
    """^word with its capital; ^<name> and everything else as it is."""
    return symbol[1].upper() + symbol[2:] if symbol[0] == "^" and symbol[1:2] not in ("", "<") else symbol


def _add_capitals(rules: dict[str, list[tuple[float, tuple[str, ...]]]]) -> None:
    """For every ^<name> in use: the rule <name> with a capital on the first letter of its expansions."""
    pending = [symbol for alternatives in list(rules.values()) for _, e in alternatives for symbol in e]
    while pending:
        symbol = pending.pop()
        if symbol.startswith("^<") and symbol not in rules and symbol[1:] in rules:
            rules[symbol] = [(weight, (_capital(f"^{e[0]}"), *e[1:])) for weight, e in rules[symbol[1:]] if e]
            pending += [expansion[0] for _, expansion in rules[symbol]]
