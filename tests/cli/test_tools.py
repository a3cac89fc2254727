"""The other commands: data, settings, verify and sweep; plug-ins."""

import json
import sys

import pandas as pd
import pytest

import crfl
from crfl.config.reference import settings_page
from tests.cli.commands import SMALL


def test_data_shows_who_holds_what(call, config, tmp_path):
    picture = tmp_path / "clients.png"
    result = call("data", config, "--json", "--plot", picture)
    rows = json.loads(result.stdout)["rows"]
    data = crfl.load_data(crfl.Experiment())
    assert [row["total"] for row in rows] == list(data.sizes)
    assert [row["3"] for row in rows] == data.label_counts()["3"].tolist()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_errors_speak_of_options(call):
    numbers = "--p-a nan --p-b 0.06 --weight 0.05 --scale 10 --steps 30 --learning-rate 0.001 --poison-ratio 0.05"
    result = call("radius", *numbers.split(), *"--clip-norm 3 --noise 0.01".split())
    assert result.exit_code == 1
    assert "--p-a: got nan" in result.output


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
