"""The reader of grammar rules in the notation of tales.grammar, which that file explains."""

import itertools
import math
import re
from collections.abc import Iterator

from mixkit._common import InputError, unknown

Table = dict[str, dict[str, str]]  # first cell of a row -> column -> cell


def read_rules(text: str) -> tuple[dict[str, list[tuple[float, tuple[str, ...]]]], str]:
    """(rules, start) of a grammar in the notation of tales.grammar. An InputError names the line."""
    tables, templates = _read_blocks(text)
    names = "|".join(map(re.escape, tables)) or "(?!)"
    # hero.name and hero.pronoun.them anywhere; hero alone within <>
    path = re.compile(rf"(?<![\w.])(?:(?:{names})(?:\.\w+)+|(?<= )(?:{names})(?= [^<>]*>|>))")
    rows = {table: [_cells(table, row, tables) for row in tables[table]] for table in tables}
    rules = {}
    for head, lines in templates.items():
        parameters = path.findall(head)
        for number, line in lines:
            weight, _, body = line.partition(" ")
            if not re.fullmatch(r"\d*\.?\d+(e-\d+)?", weight):
                raise InputError(f"line {number}: {weight!r} is no weight; an alternative is a weight, then words")
            used = dict.fromkeys(name.split(".")[0] for name in path.findall(body))
            free = [table for table in used if table not in parameters]
            for arguments, _ in _row_choices(parameters, rows):
                alternatives = rules.setdefault(_fill(head, path, arguments, number), [])
                for choice, probability in _row_choices(free, rows):
                    symbols = re.findall(r"\^?<[^<>]*>|\S+", _fill(body, path, arguments | choice, number))
                    alternatives.append((float(weight) * probability, tuple(map(_capitalise, symbols))))
    if not rules:
        raise InputError("the grammar has no rules")
    _add_capitalised_rules(rules)
    return rules, next(iter(rules))


def _read_blocks(text: str) -> tuple[dict[str, Table], dict[str, list[tuple[int, str]]]]:
    """(tables, head of a rule -> its numbered lines). A word list becomes one weighted line per word."""
    tables, templates, columns, block = {}, {}, [], None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#")[0].rstrip()
        if not line:
            continue
        if table := re.fullmatch(r"table (\w+):(.*)", line):
            columns, block = _split_bars(table[2]), tables.setdefault(table[1], {})
        elif rule := re.fullmatch(r"(<[^<>]+>) =(.*)", line):
            block = templates.setdefault(rule[1], [])
            words = filter(None, _split_bars(rule[2]))
            block += [(number, f"{1 / rank!r} {word}") for rank, word in enumerate(words, 1)]
        elif block is None or not line[0].isspace():
            raise InputError(f"line {number}: {line.strip()!r} is neither a table, a rule nor an indented alternative")
        elif isinstance(block, list):
            block.append((number, line.strip()))
        else:
            cells = _split_bars(line)
            if len(cells) != len(columns):
                raise InputError(f"line {number}: {len(cells)} cells where the table has {len(columns)} columns")
            block[cells[0]] = dict(zip(columns, cells, strict=True))
    return tables, templates


def _split_bars(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")]


def _cells(table: str, row: str, tables: dict[str, Table]) -> dict[str, str]:
    """The cells of a row by their paths: hero -> Pip, hero.kind -> fox, hero.pronoun.them -> him."""
    cells = {table: row}
    for column, value in tables[table][row].items():
        linked = column != table and value in tables.get(column, {})
        for path, words in _cells(column, value, tables).items() if linked else [(column, value)]:
            cells[f"{table}.{path}"] = words
    return cells


def _row_choices(names: list[str], rows: dict[str, list[dict[str, str]]]) -> Iterator[tuple[dict[str, str], float]]:
    """The cells of every choice of one row from each table, with its probability. The row of rank r weighs 1/r."""
    scale = math.prod(sum(1 / rank for rank in range(1, len(rows[name]) + 1)) for name in names)
    for ranked in itertools.product(*(enumerate(rows[name], 1) for name in names)):
        cells = dict(itertools.chain.from_iterable(row.items() for _, row in ranked))
        yield cells, 1 / scale / math.prod(rank for rank, _ in ranked)


def _fill(template: str, path: re.Pattern[str], cells: dict[str, str], number: int) -> str:
    for name in path.findall(template):
        if name not in cells:
            raise unknown(f"column on line {number}:", name, cells)
    return path.sub(lambda match: cells[match[0]], template)


def _capitalise(symbol: str) -> str:
    """^word with its capital; ^<name> and every other symbol unchanged."""
    return symbol[1].upper() + symbol[2:] if symbol[0] == "^" and symbol[1:2] not in ("", "<") else symbol


def _add_capitalised_rules(rules: dict[str, list[tuple[float, tuple[str, ...]]]]) -> None:
    """Add a rule for every ^<name> in use: the expansions of <name> with a capital on their first letter."""
    pending = [symbol for alternatives in rules.values() for _, expansion in alternatives for symbol in expansion]
    while pending:
        symbol = pending.pop()
        if symbol.startswith("^<") and symbol not in rules and symbol[1:] in rules:
            alternatives = rules[symbol[1:]]
            rules[symbol] = [(weight, (_capitalise(f"^{e[0]}"), *e[1:])) for weight, e in alternatives if e]
            pending += [expansion[0] for _, expansion in rules[symbol]]
