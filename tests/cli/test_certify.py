"""crfl certify and crfl plot: certificates of a run that is there."""

import json
from typing import get_args

import pytest

import crfl
from crfl.runs import manifest
from tests.cli.commands import DEFENCE, SMALL
from tests.interrupted import interrupting


def test_certify_needs_no_training(call, finished):
    with interrupting(0):
        result = call("certify", finished, "--kind", "margin", "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    run = crfl.load_run(finished)
    data = crfl.load_data(run.experiment)
    certificate = crfl.certify(run, data.test, kind="margin")
    assert [row["r=0.1"] for row in shown["rows"][:2]] == [
        certificate.certified_accuracy(data.test.y, 0.1),
        certificate.certified_rate(0.1),
    ]
    assert shown["accuracy"] == pytest.approx(run.history["accuracy"].iloc[-1])
    assert (finished / "certificates" / "margin-clean.csv").exists()
    assert (finished / "plots" / "margin-certified-accuracy.png").exists()


def test_certify_with_other_smoothing(call, finished):
    args = [
        "--kind",
        "published",
        "--bounds",
        "exact",
        "--set",
        "smoothing.noise=0.02",
        "--set",
        "smoothing.test_samples=9",
    ]
    result = call("certify", finished, *args)
    assert result.exit_code == 0, result.output
    assert (finished / "certificates" / "published-exact-noise-0.02-test_samples-9-clean.csv").exists()
    assert (finished / "plots" / "published-exact-noise-0.02-test_samples-9-certified-rate.png").exists()


def test_certify_cannot_change_the_training(call, finished):
    result = call("certify", finished, "--set", "attack.scale=1")
    assert result.exit_code == 1
    assert "attack.scale: got a setting of the training" in result.output


def test_certify_wants_the_data_of_the_training(call, finished):
    known = json.loads((finished / "training.json").read_text())
    manifest.load(finished).restore({"training.json": json.dumps({**known, "data": "other"})})
    result = call("certify", finished)
    assert result.exit_code == 1
    assert "not that of the training" in result.output


def test_no_run_no_certificate(call, tmp_path):
    for command in ("certify", "plot"):
        result = call(command, tmp_path / "nothing")
        assert result.exit_code == 1
        assert "no finished run here" in result.output


def test_plot_draws_from_the_files(call, finished):
    before = {p.name for p in (finished / "plots").iterdir()}
    for path in (finished / "plots").iterdir():
        path.unlink()
    assert call("plot", finished).exit_code == 0
    assert {p.name for p in (finished / "plots").iterdir()} == before


def test_certificates_that_are_damaged_or_stray(call, finished):
    place = finished / "certificates"
    (place / "stray-clean.csv").write_text("")
    assert call("plot", finished).exit_code == 0
    assert not list((finished / "plots").glob("stray*"))
    versions = finished / "versions.json"
    whole = versions.read_text()
    versions.write_text(whole.replace("3.", "4.", 1))
    assert "versions.json: is damaged" in call("report", finished).output
    versions.write_text(whole)
    saved = place / "margin-clean.csv"
    saved.write_text(saved.read_text().replace("False", "True", 1))
    for command in ("plot", "report"):
        result = call(command, finished)
        assert result.exit_code == 1
        assert "margin-clean.csv: is damaged" in result.output


def test_no_certificate_at_all(call, config, tmp_path):
    out = tmp_path / "out"
    changes = ["--set", "server.aggregation=rfa", "--set", "attack.round=[1, 3]"]
    result = call("run", config, *SMALL, *changes, "--out", out)
    assert result.exit_code == 0, result.output
    assert "Empty DataFrame" not in result.output
    assert result.output.count("note: ") == 2
    assert call("report", out).exit_code == 0
    assert "No certificate was saved with this run" in (out / "report.html").read_text()


def test_infinity_is_a_word_in_json_and_explained(call, config, tmp_path):
    nobody = call("run", config, *SMALL, "--set", "attack.clients=0", "--out", tmp_path / "nobody", "--json")
    shown = json.loads(nobody.stdout, parse_constant=pytest.fail)
    assert {row["critical r"] for row in shown["rows"]} == {"inf"}
    assert any("inf: some predictions stand whatever the poisoned samples hold" in note for note in shown["notes"])


def test_certify_against_an_attack_in_any_round(call, finished):
    result = call("certify", finished, "--attack-round", "any", "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)["rows"][0]
    run = crfl.load_run(finished)
    data = crfl.load_data(run.experiment)
    certificate = crfl.certify(run, data.test, kind="margin", attack_round="any")
    assert shown["critical r"] == pytest.approx(certificate.critical_radius)
    assert (finished / "certificates" / "margin-any-round-clean.csv").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--bounds", "exact"], "expected kind published, smoothing or distance"),
        (
            ["--kind", "published", "--attack-round", "any"],
            "got any with kind published, expected kind margin or smoothing",
        ),
    ],
)
def test_options_of_another_kind_are_refused_by_their_names(call, finished, args, message):
    result = call("certify", finished, *args)
    assert result.exit_code == 2
    assert message in result.output


def test_kinds_and_bounds_are_those_of_certify():
    from crfl.certification.bounds.votes import Method
    from crfl.certification.certify import CERTIFIERS
    from crfl.certification.kinds.ensemble import Prices
    from crfl.cli import options

    assert sorted([*options.KINDS, "ensemble"]) == sorted(CERTIFIERS)
    assert get_args(Prices) == options.PRICES
    assert sorted(options.BOUNDS) == sorted(get_args(Method))


def test_certificates_count_clients(call, config, tmp_path):
    out = tmp_path / "out"
    defence = ["--set", "server.update_clip=1", "--set", "server.decay=0.1"]
    assert call("run", config, *SMALL, *defence, "--out", out).exit_code == 0
    result = call("certify", out, "--kind", "clients", "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)["rows"][0]
    run = crfl.load_run(out)
    data = crfl.load_data(run.experiment)
    certificate = crfl.certify(run, data.test, kind="clients")
    assert shown["critical m"] == certificate.critical
    assert shown["m=0"] == certificate.certified_accuracy(data.test.y, 0)
    assert (out / "plots" / "clients-certified-accuracy.png").exists()


def test_clients_are_certified_where_updates_are_clipped(call, config, tmp_path):
    result = call("run", config, *SMALL, *DEFENCE, "--set", "attack.round=null", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "certificates" / "clients-clean.csv").exists()
