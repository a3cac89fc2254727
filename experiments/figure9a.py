"""Figure 9a: the distance of the backdoored and the benign global model, round by round."""

from crfl.cli import reproduce
from crfl.reproduction import DATA_TITLES, Claim, Figure, Lab, Panel, numbers

ATTACK_ROUNDS = {"mnist": [20, 40, 60], "digits": [3, 6, 9]}


def figures(lab: Lab) -> list[Figure]:
    found = []
    for name in lab.datasets("mnist"):
        exp = lab.base(name)
        settings = [exp.override({"attack.round": t}) for t in ATTACK_ROUNDS[name]]
        curves, claims = {}, []
        # One pass over the data: every attacked run beside its benign counterpart.
        for t, one in zip(ATTACK_ROUNDS[name], settings, strict=True):
            attacked, _ = lab.cache.pair(one)
            distance = attacked.history["distance"].to_numpy()
            rounds = attacked.history["round"].to_numpy(dtype=float)
            curves[f"attack in round {t}"] = (rounds, distance[None])
            before, peak, last = distance[: t - 1].max(), distance[t - 1], distance[-1]
            claims += [
                Claim(f"equal before round {t} but for rounding", "0", numbers([before]), before < 1e-6),
                Claim(f"apart in round {t}, closer at the end", "falling", numbers([peak, last]), 0 < last < peak),
            ]
        panel = Panel("one attacker", "round", "l2 distance of the global models", curves)
        about = {"base": exp.to_dict(), "swept": "attack.round", "values": ATTACK_ROUNDS[name]}
        title = f"Figure 9a: backdoored and benign model, {DATA_TITLES[name]}"
        caption = "How far apart the two global models are after each round, for attacks in different rounds."
        found.append(Figure(f"figure9a-{name}", title, (panel,), tuple(claims), about, caption))
    return found


if __name__ == "__main__":
    reproduce([__file__])
