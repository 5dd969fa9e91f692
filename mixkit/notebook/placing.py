"""Where each label goes beside its point so that it covers the least of what is drawn. Geometry alone, in pixels."""

from collections.abc import Sequence

import numpy as np

SIDES = ("top right", "top left", "bottom right", "bottom left")
SIDES += ("top center", "bottom center", "middle right", "middle left")
MARKER, LINE, LETTER, HEIGHT = 9, 1, 6.5, 13  # half a marker, half a line; a letter's width and height at size 11
ROUNDS = 4


def text_positions(
    points: Sequence[Sequence[float]],
    texts: Sequence[str],
    bars: Sequence[Sequence[float]] = (),
    size: tuple[float, float] = (1000, 430),
) -> list[str]:
    """plotly's textposition of each point's text: the side where it overlaps least with markers, bars and other texts.

    points: (n, 2), x and y; bars: (m, 4), x0, y0, x1, y1 of lines, in the same units, as the arms of intervals; size:
    of the plot in pixels. Each text in turn goes to its best side until none moves: no proof of the least sum, but
    the same input gives the same answer. A point without text gets a side too.
    """
    if len(points) == 0:
        return []
    at, lines = np.asarray(points, float).reshape(-1, 2), np.asarray(bars, float).reshape(-1, 2, 2)
    corners = np.concatenate([at, lines.reshape(-1, 2)])
    low, span = corners.min(0), np.ptp(corners, axis=0)
    scale = np.array(size) / np.where(span > 0, span, 1)
    at, lines = (at - low) * scale, (lines - low) * scale
    fixed = np.concatenate([_boxes(at, at, MARKER), _boxes(lines.min(1), lines.max(1), LINE)])
    plot = np.array([[-40, -20, size[0] + 40, size[1] + 20]])
    offered = [_offered(point, LETTER * len(text)) for point, text in zip(at, texts, strict=True)]
    covered = [_overlap(boxes, fixed) + _area(boxes) - _overlap(boxes, plot) for boxes in offered]
    sides = [0] * len(at)
    for _ in range(ROUNDS):
        before = list(sides)
        for i, boxes in enumerate(offered):
            others = [offered[j][side] for j, side in enumerate(sides) if j != i and texts[j]]
            sides[i] = int((covered[i] + _overlap(boxes, np.reshape(others, (-1, 4)))).round(6).argmin())
        if sides == before:
            break
    return [SIDES[side] for side in sides]


def _offered(point: np.ndarray, width: float) -> np.ndarray:
    """The text's box on each side: (sides, 4) of x0, y0, x1, y1, y upwards."""
    across = {"left": -MARKER - width, "center": -width / 2, "right": MARKER}
    up = {"top": MARKER, "middle": -HEIGHT / 2, "bottom": -MARKER - HEIGHT}
    corners = [(across[side.split()[1]], up[side.split()[0]]) for side in SIDES]
    return np.array([[x, y, x + width, y + HEIGHT] for x, y in corners]) + np.tile(point, 2)


def _boxes(low: np.ndarray, high: np.ndarray, margin: float) -> np.ndarray:
    return np.concatenate([low - margin, high + margin], -1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that each box shares with the others, summed over them."""
    low, high = np.maximum(boxes[:, None, :2], others[:, :2]), np.minimum(boxes[:, None, 2:], others[:, 2:])
    return (high - low).clip(min=0).prod(-1).sum(-1)
