"""crfl run: trains, certifies and plots; goes on where it stopped; says what is wrong."""

import json
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

import crfl
from tests.cli.commands import SMALL
from tests.interrupted import interrupting


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
    assert "note: published: kind 'published': got attacks in rounds" in result.output
    assert not (tmp_path / "out" / "certificates" / "published-clean.csv").exists()
    assert (tmp_path / "out" / "certificates" / "margin-clean.csv").exists()
    alone = call("certify", tmp_path / "out", "--kind", "published")
    assert alone.exit_code == 1
    assert "expected one attack round" in alone.output


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


def test_what_is_no_guarantee_is_said_in_the_table_and_not_as_a_warning(call, config, tmp_path, recwarn):
    result = call("run", config, *SMALL, "--out", tmp_path / "out")
    assert "published (not a guarantee here)" in result.output
    assert "--kind margin or smoothing gives one" in result.output
    assert not [w for w in recwarn if issubclass(w.category, crfl.errors.CertificateWarning)]
