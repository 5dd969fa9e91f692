"""A small, safe language for weight functions of q, such as "0.1 + 0.9 * q ** 0.5"."""

import ast
import math
import operator
from dataclasses import dataclass
from functools import cached_property, reduce

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


@dataclass(frozen=True)
class Expression(TokenWeighted):
    """w(q) given as text, for example Expression("0.1 + 0.9 * q") is MixCE(0.1).

    The language: numbers, q (the probability of the token), + - * / ** and parentheses, min, max, exp, log, sqrt, and
    comparisons (1 where true, 0 where false). The text is parsed, never executed as Python.
    Raises InputError with the position of the first character that is wrong, and for a weight that is negative, nan or
    infinite anywhere on (0, 1].
    """

    text: str

    def __post_init__(self):
        grid = torch.cat([torch.logspace(-30, -3, 2000, dtype=torch.float64), torch.linspace(1e-3, 1, 8000).double()])
        weights = self.weight(grid).float()  # infinite above 3.4e38
        for name, wrong in (("nan", weights.isnan()), ("infinite", weights.isinf()), ("negative", weights < 0)):
            if wrong.any():
                q = grid[wrong][-1].item()
                raise InputError(f"objective {self.text!r} is {name} at q = {q:.3g}; a weight is finite and at least 0")

    def weight(self, prob: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        return self._value(self._tree, prob.double().clamp(min=SMALLEST_PROB)).to(prob.dtype)

    @cached_property
    def _tree(self) -> ast.expr:
        if len(self.text) > MAX_LENGTH:
            found = f"the objective's expression has {len(self.text)} characters"
            raise InputError(f"{found}; at most {MAX_LENGTH} are allowed")
        try:
            return ast.parse(self.text.strip(), mode="eval").body
        except SyntaxError as error:
            column = error.offset - 1 if error.offset else len(self.text)  # no offset: the text ends too early
            raise self._error(column, error.msg) from None
        except (ValueError, MemoryError, RecursionError):
            how = "write a formula in q, such as 0.1 + 0.9 * q"
            raise InputError(f"objective {self.text!r} cannot be parsed; {how}") from None

    def _value(self, node: ast.expr, q: Tensor) -> Tensor:
        match node:
            case ast.Constant(value=int() | float() as x) if not isinstance(x, bool) and math.isfinite(x):
                return torch.full_like(q, float(x))
            case ast.Name(id="q"):
                return q
            case ast.UnaryOp(op, operand) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](self._value(operand, q))
            case ast.BinOp(left, op, right) | ast.Compare(left, [op], [right]) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](self._value(left, q), self._value(right, q)).to(q.dtype)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _OF_TWO_OR_MORE:
                if len(args) < 2:
                    raise self._error(node.col_offset, f"{name} takes two arguments or more, not {len(args)}")
                return reduce(_OF_TWO_OR_MORE[name], [self._value(argument, q) for argument in args])
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _OF_ONE:
                if len(args) != 1:
                    raise self._error(node.col_offset, f"{name} takes one argument, not {len(args)}")
                return _OF_ONE[name](self._value(args[0], q))
            case _:
                raise self._error(node.col_offset, f"{ast.unparse(node)[:30]!r} is not allowed")

    def _error(self, column: int, reason: str) -> InputError:
        return InputError(
            f"objective {self.text.strip()!r}, character {column + 1}: {reason}; "
            f"allowed: numbers, q, + - * / **, comparisons, {', '.join([*_OF_TWO_OR_MORE, *_OF_ONE])}"
        )
