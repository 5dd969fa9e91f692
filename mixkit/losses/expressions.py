"""A small, safe language for weight functions of q, such as "0.1 + 0.9 * q ** 0.5"."""

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from mixkit._common import Float, InputError
from mixkit.losses.token_weighted import TokenWeighted

MAX_LENGTH = 200  # characters; it also bounds how deeply an expression can be nested
SMALLEST_PROB = 1e-30  # the weight of less probable tokens is that of this probability
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_OF_TWO_OR_MORE = {"min": torch.minimum, "max": torch.maximum}
_OF_ONE = {"exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt}
_Weight = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Expression(TokenWeighted):
    """w(q) given as text, for example Expression("0.1 + 0.9 * q") is MixCE(0.1).

    The language: numbers, q (the probability of the token), + - * / ** and parentheses, min, max, exp, log, sqrt, and
    comparisons (1 where true, 0 where false). The text is parsed, never executed as Python.
    Raises InputError with the position of the first character that is wrong, and for a weight that is negative, nan or
    infinite anywhere on (0, 1].
    """

    text: str
    _function: _Weight = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "_function", _parse(self.text))
        grid = torch.cat([torch.logspace(-30, -3, 2000, dtype=torch.float64), torch.linspace(1e-3, 1, 8000).double()])
        weights = self.weight(grid).float()  # infinite above 3.4e38
        for name, wrong in (("nan", weights.isnan()), ("infinite", weights.isinf()), ("negative", weights < 0)):
            if wrong.any():
                q = grid[wrong][-1].item()
                raise InputError(f"objective {self.text!r} is {name} at q = {q:.3g}; a weight is finite and at least 0")

    def weight(self, prob: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        return self._function(prob.double().clamp(min=SMALLEST_PROB)).to(prob.dtype)


def _parse(text: str) -> _Weight:
    if len(text) > MAX_LENGTH:
        raise InputError(f"the objective's expression has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        column = error.offset - 1 if error.offset else len(text)  # no offset: the text ends too early
        raise _error(text, column, error.msg) from None
    except (ValueError, MemoryError, RecursionError):
        raise InputError(f"objective {text!r} cannot be parsed; write a formula in q, such as 0.1 + 0.9 * q") from None
    return _compile(tree.body, text.strip())


def _compile(node: ast.expr, text: str) -> _Weight:
    """The node as a function of q."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool) and math.isfinite(number):
            return lambda q: torch.full_like(q, number)
        case ast.Name(id="q"):
            return lambda q: q
        case ast.UnaryOp(op, operand) if type(op) in _OPERATORS:
            apply, inner = _OPERATORS[type(op)], _compile(operand, text)
            return lambda q: apply(inner(q))
        case ast.BinOp(left, op, right) | ast.Compare(left, [op], [right]) if type(op) in _OPERATORS:
            apply, first, second = _OPERATORS[type(op)], _compile(left, text), _compile(right, text)
            return lambda q: apply(first(q), second(q)).to(q.dtype)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _OF_TWO_OR_MORE:
            if len(args) < 2:
                raise _error(text, node.col_offset, f"{name} takes two arguments or more, not {len(args)}")
            parts = [_compile(argument, text) for argument in args]
            return lambda q: reduce(_OF_TWO_OR_MORE[name], [part(q) for part in parts])
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _OF_ONE:
            if len(args) != 1:
                raise _error(text, node.col_offset, f"{name} takes one argument, not {len(args)}")
            inner = _compile(args[0], text)
            return lambda q: _OF_ONE[name](inner(q))
        case _:
            raise _error(text, node.col_offset, f"{ast.unparse(node)[:30]!r} is not allowed")


def _error(text: str, column: int, reason: str) -> InputError:
    return InputError(
        f"objective {text!r}, character {column + 1}: {reason}; "
        f"allowed: numbers, q, + - * / **, comparisons, {', '.join([*_OF_TWO_OR_MORE, *_OF_ONE])}"
    )
