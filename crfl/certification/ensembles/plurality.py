"""The vote of disjoint groups: how many votes may change before the prediction does. Exact.

FLCert-D (Cao, Zhang, Jia, Gong 2022), after DPA (Levine and Feizi 2021). Proof: docs/theory-ensembles.md, theorem 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crfl.certification._checks import IntArray, positive_int, vote_counts
from crfl.errors import CertificateError


def count_votes(votes: npt.ArrayLike, num_classes: int) -> IntArray:
    """How many of G groups vote for each class.

    Args:
        votes: (m, G) the class, 0 to C - 1, that each group predicts for each sample.
        num_classes: C

    Returns:
        (m, C) int64 whose rows sum to G.

    Raises:
        CertificateError: `votes` has another shape, or holds something else than classes.

    Example:
        >>> count_votes([[0, 2, 2], [1, 1, 1]], num_classes=3)
        array([[1, 0, 2],
               [0, 3, 0]])
    """
    found, classes = checked_votes(votes, num_classes), positive_int("num_classes", num_classes)
    counts = np.empty((len(found), classes), dtype=np.int64)
    for label in range(classes):
        counts[:, label] = np.count_nonzero(found == label, axis=1)
    return counts


def plurality(counts: npt.ArrayLike) -> IntArray:
    """The class with the most votes; of classes that tie, the smallest.

    Args:
        counts: (m, C) votes for each class.

    Returns:
        (m,) int64

    Raises:
        CertificateError: `counts` are not votes.

    Example:
        >>> plurality([[3, 3, 1], [0, 2, 5]])
        array([0, 2])
    """
    return vote_counts("counts", counts).argmax(axis=1)


def max_changed_votes(counts: npt.ArrayLike) -> IntArray:
    """m*: the largest number of votes that may change in any way without changing the prediction. Exact.

        m* = min_{b != A} floor((v_A - v_b - [b < A]) / 2)

    with A the prediction (`plurality`) and v_c the votes for class c. If groups share no client, m malicious clients
    change at most m votes, whatever they do: m* is certified, of any model, training and behaviour. m* + 1 changed
    votes can change the prediction.

    Args:
        counts: (m, C) votes for each class, the same number in every row.

    Returns:
        (m,) int64, 0 or more.

    Raises:
        CertificateError: `counts` are not votes.

    Example:
        >>> max_changed_votes([[8, 2, 0], [2, 8, 0], [5, 5, 0]])
        array([3, 2, 0])
    """
    needed = needed_gains(vote_counts("counts", counts))
    return (needed.min(axis=1) - 1) // 2


def needed_gains(counts: IntArray) -> IntArray:
    """D_b = v_A - v_b + [b > A]: what b must gain on A to win.

    A vote that moves from A to b is a gain of 2, one that moves from A elsewhere or from elsewhere to b a gain of 1.

    Args:
        counts: (m, C) votes for each class.

    Returns:
        (m, C) int64. In A's own column 2^62, out of all reach.

    Example:
        >>> needed_gains(np.array([[4, 5, 1]]))[:, [0, 2]]
        array([[1, 5]])
    """
    predicted = counts.argmax(axis=1)[:, None]
    needed = np.take_along_axis(counts, predicted, axis=1) - counts + (np.arange(counts.shape[1]) > predicted)
    np.put_along_axis(needed, predicted, 2**62, axis=1)
    return needed


def checked_votes(votes: npt.ArrayLike, num_classes: int) -> npt.NDArray[np.integer]:
    """The votes of groups as an integer array.

    Args:
        votes: (m, G), the class that each group predicts for each sample.
        num_classes: C

    Returns:
        (m, G).

    Raises:
        CertificateError: `votes` has another shape, or holds something else than classes.

    Example:
        >>> checked_votes([[0, 3]], num_classes=3)
        Traceback (most recent call last):
        crfl.errors.CertificateError: votes: got 3, expected classes 0 to 2
    """
    found = np.asarray(votes)
    if found.ndim != 2 or found.shape[1] < 1 or not np.issubdtype(found.dtype, np.integer):
        raise CertificateError(
            f"votes: got shape {found.shape} of {found.dtype}, expected whole numbers of shape (samples, groups)"
        )
    if found.size and not 0 <= found.min() <= found.max() < num_classes:
        wrong = found[(found < 0) | (found >= num_classes)].flat[0]
        raise CertificateError(f"votes: got {wrong}, expected classes 0 to {num_classes - 1}")
    return found
