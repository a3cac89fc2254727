"""The command line, as a user calls it."""

import json
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from click.testing import CliRunner

import crfl
from crfl.cli import main
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
    certificate = crfl.certify(run, data.test)
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
    alone = call("certify", tmp_path / "out")
    assert alone.exit_code == 1
    assert "knows one attack round" in alone.output


def test_a_run_without_attackers(call, config, tmp_path):
    result = call("run", config, *SMALL, "--set", "attack.round=null", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "attack success" not in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "server.nois=1"], "server.nois: unknown setting; did you mean noise?"),
        (["--set", "server.noise=-1", "--set", "attack.round=999"], "2 problems"),
        (["--set", "server.noise"], "key=value"),
        (["--set", "attack.trigger=[[9, 9]]"], "attack.trigger: got pixel [9, 9]"),
        (["--device", "gpu"], "device: got 'gpu', expected cpu"),
    ],
)
def test_wrong_settings_are_named(call, config, tmp_path, args, message):
    result = call("run", config, *args, "--out", tmp_path / "out")
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output


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
    assert "crfl run configs/digits.yaml" in call("run", "--help").output


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
    result = call("certify", finished, "--bounds", "exact", "--set", "smoothing.noise=0.02")
    assert result.exit_code == 0, result.output
    assert (finished / "certificates" / "published-exact-clean.csv").exists()


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
    assert json.loads(result.stdout)["attack_success_rate_at_most"] == history["attack_success_rate"].iloc[-1]


def test_no_certificate_at_all(call, config, tmp_path):
    out = tmp_path / "out"
    changes = ["--set", "server.aggregation=rfa", "--set", "attack.round=[1, 3]"]
    result = call("run", config, *SMALL, *changes, "--out", out)
    assert result.exit_code == 0, result.output
    assert "Empty DataFrame" not in result.output
    assert result.output.count("note: ") == 2
    assert call("report", out).exit_code == 0
    assert "Refused" in (out / "report.html").read_text()


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


def test_interruption_while_certifying(call, finished, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("crfl.certification.certify.certify", interrupt)
    result = call("certify", finished)
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
