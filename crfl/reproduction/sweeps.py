"""Sweeps drawn as figures, and what Corollary 1 expects of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from crfl import plots
from crfl.certification.bounds.votes import hoeffding
from crfl.certification.lipschitz import lemma1_lipschitz
from crfl.certification.published import corollary1_radius
from crfl.config import Experiment
from crfl.reproduction.figures import Claim, Figure, Panel
from crfl.reproduction.lab import DATA_TITLES, Lab
from crfl.sweeps import Sweep, dataset

if TYPE_CHECKING:
    from crfl.certification.certificate import Certificate


def sweep_figures(
    lab: Lab,
    name: str,
    title: str,
    exp: Experiment,
    key: str,
    values: Sequence[Any],
    label: Callable[[Any], str],
    claims: Callable[[Sweep], Sequence[Claim]],
    *,
    rate: bool = False,
    sound: bool = True,
    levels: Callable[[Sweep], Mapping[str, float]] | None = None,
    **options: Any,
) -> list[Figure]:
    """Certified accuracy over the radius, a curve a value; with `sound` also a figure of the `margin` certificate.

    Args:
        lab: Where runs are trained.
        name: Of the figure's files.
        title: Of the figure.
        exp: The settings that stay.
        key: The setting to sweep.
        values: Its values.
        label: What a value is called.
        claims: What the paper says, tested on the sweep.
        rate: Whether to add a panel of the certified rate.
        sound: Whether to add the figure of the `margin` certificate.
        levels: Gives accuracies to mark at the right edge, by label.
        options: Those of `crfl.sweeps.sweep`.

    Returns:
        The figures.

    Example:
        >>> import tempfile
        >>> from crfl.sweeps import Cache
        >>> exp = Experiment().override({"server.rounds": 3, "attack.round": 2, "smoothing.samples": 50})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lab, scales = Lab(Cache(folder), folder), [2.0, 50.0]
        ...     found = sweep_figures(lab, "scale", "Scale", exp, "attack.scale", scales, str, lambda sweep: ())
        >>> [figure.name for figure in found]
        ['scale-digits', 'scale-digits-sound']
    """
    published = lab.sweep(exp, key, values, kind="published", **options)
    panel = sweep_panel(published, label)
    marked = "" if levels is None else " Short lines at the right edge: accuracy without smoothing."
    panels: tuple[Panel, ...] = (panel if levels is None else replace(panel, levels=levels(published)),)
    if rate:
        panels += (sweep_panel(published, label, rate=True),)
    settings = {"base": exp.to_dict(), "swept": key, "values": list(values), "seeds": list(lab.seeds)}
    stem, data = f"{name}-{exp.data.name}", DATA_TITLES[exp.data.name]
    what = f"{title.split(': ')[-1]} ({key})"
    seeds = f", mean and extremes over {len(lab.seeds)} seeds" if len(lab.seeds) > 1 else ""
    caption = f"The paper's certificate on {data} for several values of {what}{seeds}.{marked}"
    figures = [Figure(stem, f"{title}, {data}", panels, tuple(claims(published)), settings, caption)]
    if sound:
        margin = sweep_panel(lab.sweep(exp, key, values, kind="margin"), label)
        caption = f"The same runs under the certificate of the margins, which is sound{seeds}."
        figures.append(Figure(f"{stem}-sound", f"{title}, {data}: sound certificate", (margin,), (), settings, caption))
    return figures


def sweep_panel(found: Sweep, label: Callable[[Any], str], rate: bool = False) -> Panel:
    """Certified accuracy, or rate, over the radius: a curve for each value of a sweep. `Lab` has an example.

    Args:
        found: The sweep.
        label: What a value is called.
        rate: Whether it is the rate.

    Returns:
        The panel.
    """
    radii = np.linspace(0.0, _largest(found), 500)
    heights = (found.certified_rate if rate else found.certified_accuracy)(radii)
    curves = {label(v): (radii, heights[i]) for i, v in enumerate(found.values)}
    certificates = [c for group in found.certificates for c in group]
    endless = any(np.isinf(c.strength).any() for c in certificates)
    ylabel = "certified rate" if rate else "certified accuracy"
    return Panel(_kind(certificates), plots.strength_label(certificates), ylabel, curves, endless=endless)


def _kind(certificates: Sequence[Certificate]) -> str:
    """What the certificates are called in pictures, and whether they are no guarantee for one of these runs."""
    broken = [c for c in certificates if not c.guarantee.holds]
    if broken:
        return broken[0].label
    return certificates[0].kind


def _largest(found: Sweep) -> float:
    finite = [
        r for group in found.certificates for c in group for r in [c.strength[np.isfinite(c.strength)].max(initial=0)]
    ]
    return 1.05 * float(max(finite)) or 1.0


def expected_critical(exp: Experiment, clip_norm: float | None = None) -> float:
    """Corollary 1 for unanimous votes from the settings alone: equal shards, whole batches, R equal attackers.

    Args:
        exp: The settings, with one attack round.
        clip_norm: Stands in for that of the attack round in Lemma 1.

    Returns:
        A radius, in units of the features.

    Example:
        >>> exp = Experiment()
        >>> expected_critical(exp.override({"attack.scale": 10.0})) < expected_critical(exp.override({"attack.scale": 5.0}))
        True
    """
    data, local, attack = dataset(exp), exp.local, exp.attack
    assert isinstance(attack.round, int)
    assert isinstance(attack.scale, float)
    shares = [
        1
        / len(data.shards)
        * attack.scale
        * local.epochs
        * (data.sizes[i] // local.batch_size)
        * local.learning_rates(len(data.shards))[i]
        * attack.poisoned_per_batch
        / local.batch_size
        for i in range(attack.count)
    ]
    unanimous = np.zeros((1, data.num_classes), dtype=np.int64)
    unanimous[0, 0] = exp.smoothing.samples
    bound = hoeffding(unanimous, exp.smoothing.alpha)
    lipschitz = lemma1_lipschitz(clip_norm or exp.server.clip.norm(attack.round))
    return float(
        corollary1_radius(bound.p_a, bound.p_b, strengths=shares, lipschitz=lipschitz, noise=exp.server.noise)[0]
    )
