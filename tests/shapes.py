"""Check the array shapes in annotations when MIXKIT_CHECK_SHAPES is set."""

import os
from collections.abc import Callable
from typing import Any, get_args

import pytest


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The type checker for jaxtyping's import hook. It leaves all other annotations to the library's own errors."""
    from beartype import beartype

    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if _is_array(hint)}
    return beartype(function)


def _is_array(hint: Any) -> bool:
    from jaxtyping import AbstractArray

    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_is_array(part) for part in get_args(hint))


def raises_shape_error(match: str, error: type[Exception] = ValueError):
    """pytest.raises for an error about shapes. If shapes are checked, jaxtyping's error comes first."""
    if os.environ.get("MIXKIT_CHECK_SHAPES"):
        return pytest.raises(TypeError, match="Type-check error")
    return pytest.raises(error, match=match)
