"""What the rows of a sweep say in sentences: paired differences, the Pareto set."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from progguide_jax.experiments import document
from progguide_jax.experiments.sweep import pairing
from progguide_jax.metrics import pareto as pareto_lib


def orderings(rows: Sequence[Mapping], score: str) -> list[str]:
    """A line for every paired difference, the scales in their order.

    "at ω = 0.2: gn − static = −0.31 ± 0.05 (6.2 σ)".
    """
    cells = pairing.placed(rows)
    places = list(dict.fromkeys(place for _, place in cells))
    several = len({place.num_steps for place in places}) > 1
    lines = []
    for place in places:
        words = pairing.words(place)
        where = f"at ω = {words.scale}"
        where += f", {words.num_steps} steps" if several else ""
        where += f", ω = 0 on {words.interval}" if place.interval is not None else ""
        for (schedule, there), row in cells.items():
            pairing.estimate(row, score)
            if there != place or score not in row["differences"]:
                continue
            value, error = pairing.estimate(row, score, "differences")
            what = f"{where}: {schedule}" if place.variant is None else row["cell"]
            number = document.plus_minus(value, error)
            text = f"{what} − {pairing.against(rows)} = {number}"
            sure = math.isfinite(value) and error > 0
            lines.append(f"{text} ({abs(value) / error:.1f} σ)" if sure else text)
    return lines


def pareto(
    rows: Sequence[Mapping], lower: str, higher: str, draws: int = 1000, seed: int = 0
) -> dict[str, float]:
    """{cell: probability} of the cells that no other beats in both scores.

    lower, higher: the score to be low and the score to be high. The probability that
    the cell stays in the set when all scores move by their errors (normal; `draws`
    times): cells with a paired difference move with their baseline and apart from it by
    the paired error; the two scores of a cell move independently. nan if an error is
    unknown. Cells with a score that is not finite are left out.
    """
    pairing.placed(rows)
    names = lower, higher
    points = np.array([[pairing.estimate(r, n)[0] for n in names] for r in rows])
    finite = np.isfinite(points).all(1)
    rows = [row for row, is_finite in zip(rows, finite, strict=True) if is_finite]
    points = points[finite]
    if not rows:
        raise ValueError(f"no cell has finite {lower} and {higher}")
    better = ("lower", "higher")
    kept = pareto_lib.front(points, better)
    bits = np.random.Generator(np.random.Philox(seed))
    moves = np.stack([_moves(rows, n, draws, bits) for n in names], axis=-1)
    stays = np.full(len(rows), np.nan)
    if np.isfinite(moves).all():
        stays = np.mean([pareto_lib.front(points + m, better) for m in moves], axis=0)
    return {
        row["cell"]: float(share)
        for row, share, mine in zip(rows, stays, kept, strict=True)
        if mine
    }


def _moves(rows, name: str, draws: int, bits) -> np.ndarray:
    """[draws,N]: errors drawn, those of paired cells around their baseline's."""
    normal = bits.standard_normal((draws, len(rows)))
    moves = np.empty_like(normal)
    for i, row in enumerate(rows):
        moves[:, i] = normal[:, i] * pairing.estimate(row, name)[1]
    for i, row in enumerate(rows):
        first = [k for k, other in enumerate(rows) if pairing.is_baseline(other, row)]
        if first and name in row["differences"]:
            error = pairing.estimate(row, name, "differences")[1]
            moves[:, i] = moves[:, first[0]] + normal[:, i] * error
    return moves
