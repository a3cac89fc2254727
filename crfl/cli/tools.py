"""crfl radius, data: numbers and pictures without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from crfl.cli import options

SHARE, AMOUNT, COUNT = click.FloatRange(0, 1), click.FloatRange(0), click.IntRange(0)


@click.command()
@click.option("--p-a", type=SHARE, required=True, help="Lower bound of the top class's probability.")
@click.option("--p-b", type=SHARE, required=True, help="Upper bound of every other class's probability.")
@click.option("--attackers", type=COUNT, default=1, show_default=True, help="R, all of them alike.")
@click.option("--weight", type=SHARE, required=True, help="p_i: aggregation weight of an attacker.")
@click.option("--scale", type=AMOUNT, required=True, help="gamma: factor on its update.")
@click.option("--steps", type=COUNT, required=True, help="tau: local steps a round.")
@click.option("--learning-rate", type=AMOUNT, required=True, help="eta")
@click.option("--poison-ratio", type=SHARE, required=True, help="q/n: poisoned share of a batch.")
@click.option("--clip-norm", type=AMOUNT, required=True, help="rho of the attack round.")
@click.option("--noise", type=AMOUNT, required=True, help="sigma of the attack round.")
@click.option("--later-rounds", type=COUNT, default=0, show_default=True, help="T - t_adv: rounds after the attack.")
@click.option("--later-ratio", type=AMOUNT, default=float("inf"), help="rho/sigma of those rounds  [default: large]")
@options.as_json
def radius(
    p_a: float,
    p_b: float,
    attackers: int,
    weight: float,
    scale: float,
    steps: int,
    learning_rate: float,
    poison_ratio: float,
    clip_norm: float,
    noise: float,
    later_rounds: int,
    later_ratio: float,
    as_json: bool,
) -> None:
    """Corollary 1's radius from numbers given by hand.

    \b
    crfl radius --p-a 0.94 --p-b 0.06 --weight 0.05 --scale 10 --steps 30 \\
        --learning-rate 0.001 --poison-ratio 0.05 --clip-norm 3 --noise 0.01
    """
    import pandas as pd

    from crfl.certification import corollary1_radius, kl_budget, lemma1_lipschitz, log_contraction

    strength = weight * scale * steps * learning_rate * poison_ratio
    contraction = float(log_contraction([later_ratio] * later_rounds, [1.0] * later_rounds))
    found = corollary1_radius(
        p_a,
        p_b,
        strengths=[strength] * attackers,
        lipschitz=lemma1_lipschitz(clip_norm),
        noise=noise,
        log_contraction=contraction,
    )
    row = {
        "radius": float(found),
        "KL budget": float(kl_budget(p_a, p_b)),
        "Lipschitz (Lemma 1)": float(lemma1_lipschitz(clip_norm)),
        "strength": strength,
        "log contraction": contraction,
    }
    options.show(pd.DataFrame([row]), as_json, digits=".6g")


@click.command()
@options.config
@options.changes
@click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this file, too.")
@options.as_json
def data(config: Path, changes: dict[str, Any], picture: Path | None, as_json: bool) -> None:
    """How many samples of which label every client holds.

    \b
    crfl data configs/digits.yaml --set data.partition=dirichlet --plot clients.png
    """
    from crfl.config import Experiment
    from crfl.data.load import load_data

    found = load_data(Experiment.from_yaml(config).override(changes))
    counts = found.label_counts()
    if picture is not None:
        import matplotlib

        matplotlib.use("Agg")
        from crfl import plots

        figure = plots.label_counts(counts).get_figure(root=True)
        assert figure is not None
        figure.savefig(picture, dpi=200, bbox_inches="tight")
    frame = counts.assign(total=counts.sum(axis=1)).rename_axis("client").reset_index()
    options.show(frame, as_json, samples=sum(found.sizes), test_samples=len(found.test), features=found.num_features)
