"""Ensembles from the command line."""

import json

import crfl
from tests.cli.commands import DEFENCE, SMALL
from tests.interrupted import interrupting

GROUPS = ["--set", "data.clients=60", "--set", "local.batch_size=20", "--set", "ensemble.groups=6"]
"""Six groups of ten clients."""


def test_an_ensemble_from_the_command_line(call, config, tmp_path):
    """Trained, interrupted and resumed, certified by kinds that fit, drawn, reported and verified."""
    out, args = tmp_path / "out", [config, *SMALL, *GROUPS, *DEFENCE]
    with interrupting(2):
        assert call("run", *args, "--out", out).exit_code == 130
    assert "2 rounds are kept" in call("verify", out).output
    result = call("run", *args, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    ensemble = crfl.load_run(out)
    data = crfl.load_data(ensemble.experiment)
    whole = crfl.train_ensemble(ensemble.experiment, data)
    assert ensemble.params.tolist() == whole.params.tolist()
    certificate, shown = crfl.certify(ensemble, data), json.loads(result.stdout)
    assert shown["accuracy"] == ensemble.score(data.test)
    assert shown["rows"][0]["m=2"] == certificate.certified_accuracy(data.test.y, 2)
    assert [row["test set"] for row in shown["rows"]] == ["clean", "clean", "backdoored", "backdoored"]
    backdoored, target = crfl.backdoored(ensemble.experiment, data), ensemble.experiment.attack.target
    hit = (ensemble.predict(backdoored) == target)[data.test.y.numpy() != target]
    assert shown["attack_success_rate"] == hit.mean()

    priced = call("certify", out, "--prices", "clients", "--json")
    assert priced.exit_code == 0, priced.output
    assert json.loads(priced.stdout)["rows"][0]["m=2"] >= shown["rows"][0]["m=2"]
    assert (out / "certificates" / "ensemble-clients-clean.csv").exists()
    drawn = {p.name for p in (out / "plots").glob("*.png")}
    assert drawn == {f"ensemble{p}-certified-{c}.png" for p in ("", "-clients") for c in ("accuracy", "rate")}
    assert len(call("plot", out).output.splitlines()) == 4
    assert call("report", out).exit_code == 0
    page = (out / "report.html").read_text()
    assert "6 disjoint groups of 10 of 60 clients" in page
    assert "malicious_clients of the 60 clients hold and send anything" in page
    assert call("verify", out).exit_code == 0
    again = call("run", *args, "--out", out, "--json")
    assert (again.exit_code, again.stdout) == (0, result.stdout)


def test_an_ensemble_whose_votes_are_priced_in_samples(call, config, tmp_path):
    out, calm = tmp_path / "out", ["--set", "attack.round=null", "--set", "local.learning_rate=0.01"]
    assert call("run", config, *SMALL, *GROUPS, *calm, "--out", out).exit_code == 0
    result = call("certify", out, "--prices", "poison", "--json")
    assert result.exit_code == 0, result.output
    ensemble = crfl.load_run(out)
    data = crfl.load_data(ensemble.experiment)
    certificate = crfl.certify(ensemble, data, prices="poison")
    assert json.loads(result.stdout)["rows"][0]["q=1"] == certificate.certified_accuracy(data.test.y, 1)
    assert (out / "plots" / "ensemble-poison-certified-accuracy.png").exists()
    assert call("report", out).exit_code == 0
    assert "poisoned_samples training samples hold anything" in (out / "report.html").read_text()


def test_what_an_ensemble_cannot_is_said(call, config, finished, tmp_path):
    out = tmp_path / "out"
    checkpoint = call("run", config, *SMALL, *GROUPS, "--checkpoint", 2, "--out", out)
    assert (checkpoint.exit_code, out.exists()) == (2, False)
    assert "an ensemble keeps no checkpoints" in checkpoint.output
    assert call("run", config, *SMALL, *GROUPS, "--out", out).exit_code == 0
    for args, message in (
        (["--kind", "margin"], "kind 'margin': got EnsembleRun"),
        (["--attack-round", "any"], "--attack-round: got any with kind ensemble, expected kind margin or smoothing"),
        (["--prices", "clients"], "of every group"),
    ):
        result = call("certify", out, *args)
        assert result.exit_code in (1, 2)
        assert message in result.output
    assert (
        "--prices: got clients with kind margin, expected kind ensemble"
        in call("certify", finished, "--prices", "clients").output
    )
    assert "kind 'ensemble': got TrainingRun" in call("certify", finished, "--kind", "ensemble").output
    assert "expected null, or train_ensemble" in call("sweep", config, *GROUPS, "--seeds", 2).output
