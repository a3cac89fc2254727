"""crfl radius, data: numbers and pictures without a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crfl.cli import options

if TYPE_CHECKING:
    import pandas as pd

SHARE, AMOUNT, COUNT = click.FloatRange(0, 1), click.FloatRange(0), click.IntRange(0)
MOST_ATTACKERS, MOST_ROUNDS = 10**6, 10**6
MEANINGS = {
    "radius": "r: no trigger of a smaller l2 norm changes the prediction, if Corollary 1 holds",
    "KL budget": "-log(1 - (sqrt(p_A) - sqrt(p_B))^2): what the attack may cost in KL divergence",
    "Lipschitz (Lemma 1)": "L_Z: of the gradient of softmax regression in the sample, sqrt(2 + 2 rho + rho^2)",
    "strength": "p_i gamma tau eta q/n: how strongly one attacker moves the model per unit of its trigger",
    "log contraction": "sum of log(2 Phi(rho / sigma) - 1) over the later rounds: what they forget",
}
SHOWN_CLIENTS = 40


@click.command()
@click.option("--p-a", type=SHARE, required=True, help="p_A: lower bound of the top class's probability.")
@click.option("--p-b", type=SHARE, required=True, help="p_B: upper bound of every other class's probability.")
@click.option("--attackers", type=click.IntRange(0, MOST_ATTACKERS), default=1, show_default=True, help="R, all alike.")
@click.option("--weight", type=SHARE, required=True, help="p_i: aggregation weight of an attacker.")
@click.option("--scale", type=AMOUNT, required=True, help="gamma: factor on its update.")
@click.option("--steps", type=COUNT, required=True, help="tau: local steps a round.")
@click.option("--learning-rate", type=AMOUNT, required=True, help="eta")
@click.option("--poison-ratio", type=SHARE, required=True, help="q/n: poisoned share of a batch.")
@click.option("--clip-norm", type=AMOUNT, required=True, help="rho of the attack round.")
@click.option("--noise", type=AMOUNT, required=True, help="sigma of the attack round.")
@click.option(
    "--later-rounds",
    type=click.IntRange(0, MOST_ROUNDS),
    default=0,
    show_default=True,
    help="T - t_adv: rounds after the attack.",
)
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

    r = sqrt(KL sigma^2 / (2 R L_Z^2 (sum of strength^2) exp(log contraction))), the sum over the R attackers. The
    output says what each of these is; docs/theory.md says where Lemma 1 does not hold.
    """
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
    if as_json:
        from crfl.cli.output import show_json

        show_json({"rows": [row]})
        return
    for name, value in row.items():
        click.echo(f"{name:<20} {value:<12.6g} {MEANINGS[name]}")


@click.command()
@options.config
@options.changes
@options.plugin
@click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this file, too.")
@options.as_json
def data(config: Path, changes: dict[str, Any], picture: Path | None, as_json: bool) -> None:
    """How many samples of which label every client holds.

    CONFIG is a YAML file, or the name of settings that ship with crfl.

    \b
    crfl data digits --set data.partition=dirichlet --plot clients.png
    """
    from crfl.cli.output import show
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
    frame, notes = (frame, ()) if as_json else _fitted(frame, counts)
    show(frame, as_json, notes, samples=sum(found.sizes), test_samples=len(found.test), features=found.num_features)


def _fitted(frame: pd.DataFrame, counts: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table in the width of the terminal and of at most so many clients, and what was left out of it."""
    from crfl.cli.output import width

    notes: tuple[str, ...] = ()
    columns = width()
    if columns is not None and len(frame.to_string(index=False).split("\n", 1)[0]) > columns:
        order = counts.to_numpy().argsort(axis=1, kind="stable")[:, ::-1]
        most = [
            ", ".join(f"{counts.columns[c]} ({row[c]})" for c in best[:2] if row[c] > 0)
            for row, best in zip(counts.to_numpy(), order, strict=True)
        ]
        held = (counts > 0).sum(axis=1).to_numpy()
        frame = frame[["client", "total"]].assign(labels=held, **{"most frequent labels": most})
        notes += ("--json has the counts of all labels, --plot draws them",)
    if len(frame) > SHOWN_CLIENTS:
        notes += (f"{len(frame) - SHOWN_CLIENTS} more clients are left out; --json has them all",)
        frame = frame.head(SHOWN_CLIENTS)
    return frame, notes
