"""Appendix: certified on the backdoored test set, trigger on every sample and labels kept."""

from dataclasses import replace

import numpy as np

from crfl.attack.triggers import backdoored
from crfl.cli import reproduce
from crfl.reproduction import DATA_TITLES, Claim, Figure, Lab, numbers, sweep_panel


def figures(lab: Lab) -> list[Figure]:
    found = []
    for name in lab.datasets("mnist"):
        exp = lab.base(name)
        scales = [exp.attack.scale]
        clean = lab.sweep(exp, "attack.scale", scales, kind="published")
        triggered = lab.sweep(exp, "attack.scale", scales, kind="published", test=backdoored)
        panels = [
            sweep_panel(s, lambda _, label=label: label) for label, s in (("clean", clean), ("backdoored", triggered))
        ]
        radii = np.linspace(0, clean.critical[0], 9)
        gap = float(np.abs(clean.certified_accuracy(radii) - triggered.certified_accuracy(radii)).max())
        # The trigger has a norm of 0.1: hardly an image changes its class.
        claims = (Claim("the curves hardly differ", "gap < 0.02", numbers([gap]), gap < 0.02),)
        panel = replace(panels[0], curves={**panels[0].curves, **panels[1].curves})
        about = {"base": exp.to_dict(), "seeds": list(lab.seeds)}
        title = f"Appendix: backdoored test set, {DATA_TITLES[name]}"
        caption = "The paper's certificate on the test set as it is, and with the trigger on every sample."
        found.append(Figure(f"appendix-backdoored-{name}", title, (panel,), claims, about, caption))
    return found


if __name__ == "__main__":
    reproduce([__file__])
