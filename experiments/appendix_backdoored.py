"""Appendix: certified on the backdoored test set, trigger on every sample and labels kept."""

import numpy as np

from crfl.attack.triggers import backdoored
from crfl.cli import reproduce
from crfl.reproduction import Claim, Figure, Lab, Panel, numbers, sweep_panel


def figures(lab: Lab) -> list[Figure]:
    found = []
    for name in lab.datasets("mnist"):
        exp = lab.base(name)
        scales = [exp.attack.scale]
        clean = lab.sweep(exp, "attack.scale", scales)
        triggered = lab.sweep(exp, "attack.scale", scales, test=backdoored)
        curves = {}
        for colour, (label, s) in enumerate((("clean", clean), ("backdoored", triggered))):
            (curve,) = sweep_panel(s, "", lambda _: "").curves.values()
            curves[label] = (curve[0], curve[1], f"-C{colour}")
        radii = np.linspace(0, clean.critical[0], 9)
        gap = float(np.abs(clean.certified_accuracy(radii) - triggered.certified_accuracy(radii)).max())
        # The trigger has a norm of 0.1: hardly an image changes its class.
        claims = (Claim("the curves hardly differ", "gap < 0.02", numbers([gap]), gap < 0.02),)
        panel = Panel("published", "radius $r$", "certified accuracy", curves)
        about = {"base": exp.to_dict(), "seeds": list(lab.seeds)}
        found.append(Figure(f"appendix-backdoored-{name}", f"Backdoored test set: {name}", (panel,), claims, about))
    return found


if __name__ == "__main__":
    reproduce([__file__])
