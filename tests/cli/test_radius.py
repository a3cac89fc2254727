"""crfl radius is a calculator of Corollary 1."""

import json

import pytest


def test_radius_is_corollary_1(call):
    numbers = "--weight 0.05 --scale 10 --steps 30 --learning-rate 0.001 --poison-ratio 0.05 --clip-norm 3 --noise 0.01"
    bound = "--p-a 0.94123029998808 --p-b 0.05876970001191999"
    result = call("radius", *bound.split(), *numbers.split(), "--json")
    assert json.loads(result.stdout)["rows"][0]["radius"] == pytest.approx(1.9858334424610353, rel=1e-9)
    result = call("radius", *bound.split(), *numbers.split(), "--attackers", "2")
    assert "0.9929" in result.output


@pytest.mark.parametrize(
    "wrong",
    [
        ("--attackers", "-2"),
        ("--steps", "-3"),
        ("--later-rounds", "-3"),
        ("--poison-ratio", "1.5"),
        ("--weight", "2"),
        ("--p-a", "1.1"),
        ("--noise", "-1"),
    ],
)
def test_radius_of_impossible_numbers(call, wrong):
    line = "--p-a 0.94 --p-b 0.06 --weight 0.05 --scale 10 --steps 30 --learning-rate 0.001 --poison-ratio 0.05 "
    args = (line + "--clip-norm 3 --noise 0.01").split()
    assert "0.00075" in call("radius", *args).output
    result = call("radius", *args, *wrong)
    assert result.exit_code == 2
    assert "is not in the range" in result.output


def test_radius_explains_its_symbols(call):
    numbers = "--p-a 0.94 --p-b 0.06 --weight 0.05 --scale 10 --steps 30 --learning-rate 0.001 --poison-ratio 0.05"
    lines = call("radius", *numbers.split(), *"--clip-norm 3 --noise 0.01".split()).output.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "radius",
        "KL budget",
        "Lipschitz (Lemma 1)",
        "strength",
        "log contraction",
    ]
    assert "p_i gamma tau eta q/n" in lines[3]
