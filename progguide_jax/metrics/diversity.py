"""The paper's diversity: how much the images of one condition differ.

The paper takes the standard deviation of the embeddings of several generations of one
prompt (section 5.2, A.3) and leaves open which. Here: per dimension of embeddings that
are not normalised, ddof 1, then the mean over dimensions and conditions. The paper's
.95 to 1.27 (DINOv2) fit this, and exclude embeddings of unit length, whose total
standard deviation cannot pass sqrt(10/9) with 10 images. With 10 images, ddof 0 would
make it sqrt(9/10) as large.

The standard deviation of n draws is low on average, by about 1 / (4n): compare results
of the same number of images a condition.
"""

import numpy as np

from progguide_jax.metrics import checks, estimate


def diversity(
    x: np.ndarray, labels: np.ndarray, over: str = "images"
) -> estimate.Estimate:
    """The diversity of embeddings [N,D] with their conditions, int labels [N].

    over: what the error is that of drawing. "images": the conditions are fixed, as ten
    classes are; by the jackknife, from three images a condition or more. "conditions":
    each is one draw, as a prompt is, and brings the images' part along; it needs two
    conditions or more, of two images. ValueError names a condition with fewer.
    """
    if over == "images":
        return estimate.from_terms(*value_and_influence(x, labels))
    _, values = per_condition(x, labels)
    if over == "conditions":
        if len(values) < 2:
            raise ValueError("an error over conditions needs 2 or more, got 1")
        return estimate.from_terms(values.mean(), values)
    raise ValueError(f'over = "{over}": expected "images" or "conditions"')


def per_condition(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(classes [C] ascending, the diversity of each float64 [C])."""
    x, labels, classes = _check(x, labels, 2, "its diversity")
    values = [x[labels == c].std(0, ddof=1, dtype=np.float64).mean() for c in classes]
    return classes, np.array(values)


def value_and_influence(x: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The diversity, and terms float64 [N], the influence of each image on it for given
    conditions, of which `estimate.from_terms` makes the jackknife's error.

    With t_i the diversity of a condition's n images without image i, and their mean t,
    the error of the mean over C conditions is (Tukey 1958)

        error^2 = sum over conditions of (n - 1) / n sum_i (t_i - t)^2 / C^2,

    and the term of image i is sqrt(N (N - 1) (n - 1) / n) (t - t_i) / C. On average the
    error is not too small (Efron and Stein 1981): for normal images it is right with
    40 images a condition, 1.1 times the spread with 10, 1.3 times with 3. The influence
    function would make it a sixth too small with 10, and 0 with 2. ValueError names a
    condition with fewer than three images.
    """
    x, labels, classes = _check(x, labels, 3, "the error of its diversity")
    count = len(x)
    terms = np.zeros(count)
    for c in classes:
        mine = labels == c
        n = mine.sum()
        without = _leave_one_out(x[mine].astype(np.float64))
        scale = np.sqrt(count * (count - 1) * (n - 1) / n) / len(classes)
        terms[mine] = scale * (without.mean() - without)
    return float(per_condition(x, labels)[1].mean()), terms


def _leave_one_out(rows):
    """The diversity [n] of rows [n,D] without each of them in turn."""
    n = len(rows)
    square = (rows - rows.mean(0)[None, :]) ** 2
    # a row at deviation d takes n / (n - 1) d^2 from the sum of squares
    rest = square.sum(0)[None, :] - n / (n - 1) * square
    return np.sqrt(np.maximum(rest, 0) / (n - 2)).mean(1)


def _check(x, labels, minimum, what):
    x = checks.check(x, 2)
    labels = checks.check_labels(labels, len(x))
    classes, counts = np.unique(labels, return_counts=True)
    fewest = counts.min()
    if fewest < minimum:
        raise ValueError(
            f"class {classes[counts.argmin()]} has {fewest} "
            f"image{'s' if fewest > 1 else ''}: {what} needs {minimum}"
        )
    return x, labels, classes
