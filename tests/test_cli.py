"""The command line, as a user calls it."""

import json
import re
import shutil
import subprocess
import sys
from typing import get_args

import pandas as pd
import pytest
from click.testing import CliRunner

import crfl
from crfl.cli import main
from crfl.config.reference import settings_page
from crfl.runs import manifest
from tests.interrupted import interrupting

SMALL = ["--set", "server.rounds=4", "--set", "attack.round=2", "--set", "smoothing.samples=100"]


@pytest.fixture
def call(monkeypatch):
    def call(*args):
        return CliRunner().invoke(main, [str(a) for a in args])

    return call


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(crfl.Experiment().to_yaml())
    return path


def test_run_trains_certifies_and_plots(call, config, tmp_path):
    out = tmp_path / "out"
    result = call("run", config, *SMALL, "--out", out)
    assert result.exit_code == 0, result.output
    run = crfl.load_run(out)
    assert run.experiment.server.rounds == 4
    for name in ("published-certified-accuracy", "published-certified-rate", "training"):
        assert (out / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "plots" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    shown = float(re.search(r"accuracy: (\d\.\d+)", result.output)[1])
    assert shown == pytest.approx(run.history["accuracy"].iloc[-1], abs=1e-4)
    data = crfl.load_data(run.experiment)
    frame = pd.read_csv(out / "certificates" / "published-clean.csv")
    certificate = crfl.certify(run, data.test, kind="published")
    assert frame["radius"].tolist() == pytest.approx(certificate.radius.tolist(), rel=1e-12)
    assert f"{certificate.critical_radius:.4f}" in result.output
    assert str(out) in result.output


def test_run_again_changes_nothing(call, config, tmp_path):
    out = tmp_path / "out"
    first = call("run", config, *SMALL, "--out", out)
    params = (out / "params.safetensors").read_bytes()
    again = call("run", config, *SMALL, "--out", out)
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert (out / "params.safetensors").read_bytes() == params


def test_what_does_not_hold_is_noted(call, config, tmp_path):
    result = call("run", config, *SMALL, "--set", "attack.round=[1, 2]", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "note: published: kind 'published' knows one attack round" in result.output
    assert not (tmp_path / "out" / "certificates" / "published-clean.csv").exists()
    assert (tmp_path / "out" / "certificates" / "margin-clean.csv").exists()
    alone = call("certify", tmp_path / "out", "--kind", "published")
    assert alone.exit_code == 1
    assert "knows one attack round" in alone.output


def test_a_run_without_attackers(call, config, tmp_path):
    result = call("run", config, *SMALL, "--set", "attack.round=null", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "attack success" not in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "server.nois=1"], "server.nois: unknown setting; did you mean noise? Expected rounds"),
        (["--set", "server.noise=-1", "--set", "attack.round=999"], "2 settings are wrong"),
        (["--set", "server.noise"], "expected KEY=VALUE"),
        (["--set", "attack.trigger=[[9, 9]]"], "attack.trigger: got pixel [9, 9]"),
        (["--device", "gpu"], "--device: got 'gpu', expected cpu"),
        (["--device", "meta"], "--device: got 'meta', expected cpu"),
        (["--set", "seed=[[["], "not valid YAML"),
        (["--set", "seed=2020-13-45"], "seed: got '2020-13-45', expected a whole number"),
        (["--set", "seed=" + "9" * 5000], "more than 100 digits"),
        (["--set", "." * 50_000 + "=1"], "unknown setting"),
        (["--set", "attack.clients=[&a [1], *a]"], "repeats another value"),
        (["--set", "data.root=~nobody-of-this-name/x"], "data.root: got '~nobody-of-this-name/x', expected a path"),
        (["--set", "server.rounds=1000000000000", "--set", "attack.every=1"], "server.rounds: got 1000000000000"),
        (["--set", "server.aggregation=meen"], "--plugin FILE"),
    ],
)
def test_wrong_settings_are_named(call, config, tmp_path, args, message):
    result = call("run", config, *args, "--out", tmp_path / "out")
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    assert len(result.output) < 2000
    assert not (tmp_path / "out").exists()


def test_another_runs_folder_is_refused(call, config, tmp_path):
    out = tmp_path / "out"
    call("run", config, *SMALL, "--out", out)
    result = call("run", config, *SMALL, "--set", "seed=1", "--out", out)
    assert result.exit_code == 1
    assert "differs in seed" in result.output


def test_interruption_says_how_to_go_on(call, config, tmp_path):
    with interrupting(1):
        result = call("run", config, *SMALL, "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert "same command goes on" in result.output


def test_help_shows_examples(call):
    assert "crfl run digits" in call("run", "--help").output


@pytest.fixture
def finished(call, config, tmp_path):
    out = tmp_path / "run"
    assert call("run", config, *SMALL, "--out", out).exit_code == 0
    return out


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
    assert "attack.scale: certifying cannot change it" in result.output


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


def test_radius_is_corollary_1(call):
    numbers = "--weight 0.05 --scale 10 --steps 30 --learning-rate 0.001 --poison-ratio 0.05 --clip-norm 3 --noise 0.01"
    bound = "--p-a 0.94123029998808 --p-b 0.05876970001191999"
    result = call("radius", *bound.split(), *numbers.split(), "--json")
    assert json.loads(result.stdout)["rows"][0]["radius"] == pytest.approx(1.9858334424610353, rel=1e-9)
    result = call("radius", *bound.split(), *numbers.split(), "--attackers", "2")
    assert "0.9929" in result.output


def test_data_shows_who_holds_what(call, config, tmp_path):
    picture = tmp_path / "clients.png"
    result = call("data", config, "--json", "--plot", picture)
    rows = json.loads(result.stdout)["rows"]
    data = crfl.load_data(crfl.Experiment())
    assert [row["total"] for row in rows] == list(data.sizes)
    assert [row["3"] for row in rows] == data.label_counts()["3"].tolist()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_other_smoothing_settings_are_told_in_the_folder(call, config, finished):
    result = call("run", config, *SMALL, "--set", "smoothing.noise=0.03", "--out", finished)
    assert result.exit_code == 0, result.output
    assert crfl.load_run(finished).experiment.smoothing.noise == 0.03
    about = json.loads((finished / "certificates" / "published-clean.json").read_text())
    assert about["smoothing"]["noise"] == 0.03


def test_attack_success_is_told_from_the_attack_on(call, config, tmp_path):
    result = call("run", config, *SMALL, "--set", "attack.round=4", "--out", tmp_path / "out", "--json")
    history = crfl.load_run(tmp_path / "out").history
    assert (
        json.loads(result.stdout)["highest_attack_success_rate_over_the_rounds"]
        == history["attack_success_rate"].iloc[-1]
    )


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


def test_files_that_fail_are_named(call, config, tmp_path):
    (tmp_path / "file").write_text("")
    result = call("run", config, *SMALL, "--out", tmp_path / "file" / "out")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert str(tmp_path / "file") in result.output
    result = call("data", config, "--plot", tmp_path / "nowhere" / "x.png")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "nowhere" in result.output


def test_interruption_while_certifying(call, config, tmp_path, monkeypatch):
    """Here by the trigger, which certifying plants on the test set."""
    plugin = tmp_path / "interrupting.py"
    plugin.write_text(
        "import os\n"
        "from crfl.attack.triggers import TRIGGERS\n"
        "def plant(x):\n"
        "    if 'INTERRUPT' in os.environ:\n"
        "        raise KeyboardInterrupt\n"
        "    return x\n"
        "TRIGGERS['interrupting'] = lambda attack, data, generator: plant\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    out = tmp_path / "out"
    trained = call("run", config, *SMALL, "--set", "attack.trigger=interrupting", "--plugin", plugin, "--out", out)
    assert trained.exit_code == 0, trained.output
    monkeypatch.setenv("INTERRUPT", "1")
    result = call("certify", out, "--plugin", plugin)
    assert result.exit_code == 130
    assert "same command goes on" in result.output


def test_nothing_but_text_goes_into_pipes(config, tmp_path):
    command = [sys.executable, "-m", "crfl.cli", "run", config, *SMALL, "--out", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, check=True)
    assert b"\r" not in result.stdout + result.stderr
    assert not result.stderr
    shutil.rmtree(tmp_path / "out")
    subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *map(str, command)], stdout=subprocess.DEVNULL, check=True)
    assert (tmp_path / "out" / "params.safetensors").exists()


def test_settings_that_ship_with_crfl_are_found_by_name(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("run", "digits", *SMALL, "--out", "out")
    assert result.exit_code == 0, result.output
    assert crfl.load_run("out").experiment.data.name == "digits"
    for command in ("run", "data"):
        wrong = call(command, "mnits")
        assert wrong.exit_code == 2
        assert "got 'mnits', expected a YAML file, or one of: digits, emnist" in wrong.output


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
        (["--bounds", "exact"], "--bounds is for --kind published, smoothing, distance"),
        (["--kind", "published", "--attack-round", "any"], "--attack-round any is for --kind margin and smoothing"),
    ],
)
def test_options_of_another_kind_are_refused_by_their_names(call, finished, args, message):
    result = call("certify", finished, *args)
    assert result.exit_code == 2
    assert message in result.output


def test_errors_speak_of_options(call):
    numbers = "--p-a nan --p-b 0.06 --weight 0.05 --scale 10 --steps 30 --learning-rate 0.001 --poison-ratio 0.05"
    result = call("radius", *numbers.split(), *"--clip-norm 3 --noise 0.01".split())
    assert result.exit_code == 1
    assert "--p-a: got nan" in result.output


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


PLUGIN = """
from crfl.attack.malicious import MALICIOUS
MALICIOUS["{name}"] = lambda update, model, generator: -2 * update
"""


def test_plugins_are_imported_before_anything_else(call, config, tmp_path, monkeypatch):
    from crfl.attack.malicious import MALICIOUS

    monkeypatch.setattr(sys, "path", [*sys.path])
    plugin = tmp_path / "own_updates_of_a_test.py"
    plugin.write_text(PLUGIN.format(name="backwards twice"))
    args = ["run", config, *SMALL, "--set", "attack.update=backwards twice", "--out", tmp_path / "out"]
    assert "attack.update: got 'backwards twice'" in call(*args).output
    try:
        result = call(*args, "--plugin", plugin)
        assert result.exit_code == 0, result.output
        for command in ("certify", "plot", "report", "verify"):
            MALICIOUS.pop("backwards twice", None)  # as in another process
            sys.modules.pop("own_updates_of_a_test", None)
            assert "attack.update: got 'backwards twice'" in call(command, tmp_path / "out").output
            result = call(command, tmp_path / "out", "--plugin", plugin)
            assert result.exit_code == 0, result.output
        assert crfl.load_run(tmp_path / "out").record.attack_rounds[0].attackers[0].update == "backwards twice"
    finally:
        MALICIOUS.pop("backwards twice", None)
        sys.modules.pop("own_updates_of_a_test", None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken_plugin_of_a_test.py", "x = 1\ny = nothing", "line 2: NameError: name 'nothing' is not defined"),
        ("wrong_plugin_of_a_test.py", "x = 1\ny = x +", "line 2: SyntaxError"),
        ("random.py", "", "random.py has the name of another module"),
        ("no plugin.py", "", "expected a Python file such as my_attacks.py"),
    ],
)
def test_plugins_that_fail_are_named_with_the_line(call, config, tmp_path, monkeypatch, name, content, message):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / name).write_text(content)
    result = call("run", config, "--plugin", tmp_path / name)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.split())


def test_settings_are_listed_with_default_and_meaning(call):
    result = call("settings", "server.clip")
    assert result.exit_code == 0
    assert "server.clip.cap = .inf\n" in result.output
    assert "server.noise" not in result.output
    everything = json.loads(call("settings", "--json").output)
    assert {"key": "seed", "kind": "a whole number from 0 to 10^18", "default": "0"}.items() <= everything[0].items()
    assert call("settings", "--markdown").output == settings_page()
    wrong = call("settings", "clip")
    assert wrong.exit_code == 2
    assert "expected seed, data" in wrong.output


def test_data_fits_the_terminal(call, config, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    wide = call("data", config)
    assert "most frequent labels" not in wide.output
    monkeypatch.setenv("COLUMNS", "40")
    result = call("data", config, "--set", "data.clients=50")
    assert max(map(len, result.output.splitlines()[:-2])) <= 60
    assert "most frequent labels" in result.output
    assert "10 more clients are left out" in result.output


def test_kinds_and_bounds_are_those_of_certify():
    from crfl.certification.bounds.votes import Method
    from crfl.certification.certify import CERTIFIERS
    from crfl.certification.kinds.ensemble import Prices
    from crfl.cli import options

    assert sorted([*options.KINDS, "ensemble"]) == sorted(CERTIFIERS)
    assert get_args(Prices) == options.PRICES
    assert sorted(options.BOUNDS) == sorted(get_args(Method))


def test_what_is_no_guarantee_is_said_in_the_table_and_not_as_a_warning(call, config, tmp_path, recwarn):
    result = call("run", config, *SMALL, "--out", tmp_path / "out")
    assert "published (not a guarantee here)" in result.output
    assert "--kind margin or smoothing gives one" in result.output
    assert not [w for w in recwarn if issubclass(w.category, crfl.errors.CertificateWarning)]


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


GROUPS = ["--set", "data.clients=60", "--set", "local.batch_size=20", "--set", "ensemble.groups=6"]
"""Six groups of ten clients."""
DEFENCE = ["--set", "server.update_clip=1", "--set", "server.decay=0.1", "--set", "local.precision=float64"]


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
    assert "--checkpoint is for one model" in checkpoint.output
    assert call("run", config, *SMALL, *GROUPS, "--out", out).exit_code == 0
    for args, message in (
        (["--kind", "margin"], "kind 'margin': got EnsembleRun"),
        (["--attack-round", "any"], "--attack-round any is for --kind margin"),
        (["--prices", "clients"], "of every group"),
    ):
        result = call("certify", out, *args)
        assert result.exit_code in (1, 2)
        assert message in result.output
    assert "--prices is for --kind ensemble" in call("certify", finished, "--prices", "clients").output
    assert "kind 'ensemble': got TrainingRun" in call("certify", finished, "--kind", "ensemble").output
    assert "expected null, or train_ensemble" in call("sweep", config, *GROUPS, "--seeds", 2).output


def test_clients_are_certified_where_updates_are_clipped(call, config, tmp_path):
    result = call("run", config, *SMALL, *DEFENCE, "--set", "attack.round=null", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "certificates" / "clients-clean.csv").exists()


def test_verify_says_whether_a_run_is_whole(call, finished):
    assert call("verify", finished).output == f"{finished}: every file is what was written\n"
    with (finished / "history.csv").open("a") as sink:
        sink.write("x")
    result = call("verify", finished)
    assert result.exit_code == 1
    assert "history.csv: is damaged" in result.output
    assert call("verify", finished / "nothing").exit_code == 1


def test_sweep_trains_every_combination(call, config, tmp_path):
    out = tmp_path / "sweep"
    grid = ["--set", "attack.scale=1,5", "--set", "server.noise=0.01,0.03", "--seeds", "2"]
    result = call("sweep", config, *SMALL, *grid, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [(row["attack.scale"], row["server.noise"]) for row in rows] == [(1, 0.01), (1, 0.03), (5, 0.01), (5, 0.03)]
    changes = {"server.rounds": 4, "attack.round": 2, "smoothing.samples": 100, "attack.scale": 5, "server.noise": 0.03}
    heights = []
    for seed in (0, 1):
        exp = crfl.Experiment().override({**changes, "seed": seed})
        data = crfl.load_data(exp)
        heights.append(crfl.certify(crfl.train(exp, data), data).certified_accuracy(data.test.y, 0.05))
    assert rows[-1]["r=0.05"] == pytest.approx(sum(heights) / 2)
    assert len(pd.read_csv(out / "sweep.csv")) == 2 * 2 * 2 * 8
    assert (out / "plots" / "sweep.png").exists()
    again = call("sweep", config, *SMALL, *grid, "--out", out, "--json")
    assert again.stdout == result.stdout


def test_a_sweep_over_seeds_alone_and_over_nothing(call, config, tmp_path):
    result = call("sweep", config, *SMALL, "--seeds", "2", "--kind", "published", "--out", tmp_path / "s", "--json")
    shown = json.loads(result.stdout)
    assert [row["seed"] for row in shown["rows"]] == [0, 1]
    assert any(note.startswith("published (not a guarantee here)") for note in shown["notes"])
    nothing = call("sweep", config, *SMALL)
    assert nothing.exit_code == 2
    assert "got nothing to sweep" in nothing.output
    wrong = call("sweep", config, "--set", "attack.scale=1,-5", "--out", tmp_path / "wrong")
    assert "attack.scale: got -5" in wrong.output
    assert not (tmp_path / "wrong").exists()
