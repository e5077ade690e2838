"""``padless recipes`` as a user types it."""

import json
import subprocess
import sys

import pytest

from padless.cli import main
from padless.recipes.read import read_recipe, recipe_names
from padless.recipes.table import recipe_differences, value_text


def run(capsys, *arguments):
    code = main(["recipes", *arguments])
    return code, capsys.readouterr().out


def run_json(capsys, *arguments):
    code, out = run(capsys, *arguments, "--json")
    assert code == 0
    assert out.count("\n") == 1
    return json.loads(out)


def test_list_has_a_line_for_every_recipe(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    code, out = run(capsys, "list")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines() if line[:1] != " "} >= {"recipe", *recipe_names()}
    row = next(line for line in out.splitlines() if line.startswith("modernbert_base "))
    assert row.split()[1:5] == ["149.7M", "2.019T", "pretrain", "1.719T"]
    assert "needs start.source" in out


def test_the_list_is_readable_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(capsys, "list")[1].splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["recipe", "parameters", "tokens", "what", "it", "is"]
    column = lines[0].index("what it is")
    said = " ".join(" ".join(line[column:] for line in lines[1:]).split())
    for name in recipe_names():
        recipe = read_recipe(name)
        assert recipe.description in said
        assert all(f"(needs {key}" in said for key in recipe.needs[:1])
    assert "(needs start.source)" in said
    assert sum(line[column - 1] != " " for line in lines if len(line) > column) == 0


@pytest.mark.parametrize("name", ["modernbert_base", "modernbert_large_no_rollback", "mmbert_style"])
def test_no_file_and_line_is_broken_in_80_columns(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(capsys, "show", name)[1].splitlines()
    assert not any("written in" in line.split("source")[0] for line in lines)
    words = {word for line in lines for word in line.split()}
    written = {
        f"{entry['file']}:{entry['line']}" for entry in run_json(capsys, "show", name)["settings"] if entry.get("file")
    }
    assert len(written) > 30
    assert written <= words


def test_list_as_json_has_parameters_tokens_and_phases(capsys):
    listed = {entry["name"]: entry for entry in run_json(capsys)["recipes"]}  # nothing is list
    assert sorted(listed) == recipe_names()
    base = listed["modernbert_base"]
    assert base["parameters"] == 149_655_232
    assert base["tokens"] == 2_019 * 10**9
    assert [phase["name"] for phase in base["phases"]] == ["pretrain", "context", "anneal"]
    assert base["hardware"] == ["hardware=8xh100"]
    assert len(listed["mmbert_style"]["branches"]) == 3


def test_show_gives_every_value_with_its_source(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    code, out = run(capsys, "show", "modernbert_base")
    assert code == 0
    assert "P = arXiv 2412.13663v2" in out
    assert "modernbert_base: the plan" in out
    row = next(line for line in out.splitlines() if line.startswith("batch.warmup.tokens"))
    assert row.split()[1] == "50B"
    assert "P A.1: 768 to 4608 over 50B" in row
    assert "recipe/modernbert_base.yaml:" in row


def test_show_as_json_has_the_plan_and_the_settings(capsys):
    shown = run_json(capsys, "show", "ettin_1b")
    settings = {entry["key"]: entry for entry in shown["settings"]}
    assert settings["phases.context.tokens"]["value"] == 83_333_000_000
    assert settings["phases.context.tokens"]["comment"] == "E: a third of 250B"
    assert settings["phases.context.tokens"]["file"] == "recipe/ettin_1b.yaml"
    assert [row["phase"] for row in shown["plan"]] == ["pretrain", "context", "anneal"]


def test_show_says_what_is_still_to_be_given(capsys):
    assert "still to be given: start.source" in run(capsys, "show", "domain_continued")[1]


def test_diff_is_field_by_field(capsys):
    found = {entry["key"]: (entry["a"], entry["b"]) for entry in
             run_json(capsys, "diff", "modernbert_base", "modernbert_large")["settings"]}  # fmt: skip
    assert found["model.hidden_size"] == (768, 1024)
    assert found["phases.pretrain.lr.peak"] == (8e-4, 5e-4)
    assert found["phases.pretrain_rollback.weight_decay"] == (None, 1e-6)
    assert found["init.kind"] == ("random", "tiled")
    assert "phases.pretrain.max_seq_len" not in found
    assert not any(key.startswith(("run.name", "hardware", "loggers")) for key in found)


def test_diff_as_a_table_names_both_recipes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    lines = run(capsys, "diff", "ettin_17m", "ettin_32m")[1].splitlines()
    assert lines[0].split() == ["setting", "ettin_17m", "ettin_32m"]
    assert "phases.pretrain.batch.warmup.tokens" in [line.split()[0] for line in lines]


def test_diff_of_equal_recipes_says_so(capsys):
    assert "differ in nothing but their names" in run(capsys, "diff", "modernbert_base_10b", "single_24gb")[1]
    same = read_recipe("single_24gb")
    assert recipe_differences(same, same) == []


@pytest.mark.parametrize(
    ("arguments", "cause", "remedy"),
    [
        (["lst"], "padless recipes has no 'lst'", "did you mean list?"),
        (["show"], "padless recipes show takes 1 name(s), 0 given", "padless recipes show NAME"),
        (["list", "demo"], "padless recipes list takes 0 name(s), 1 given", "padless recipes list"),
        (["diff", "demo"], "padless recipes diff takes 2 name(s), 1 given", "padless recipes diff A B"),
        (
            ["show", "modernbert_bse"],
            "there is no recipe called 'modernbert_bse'",
            "did you mean modernbert_base?",
        ),
        (["diff", "demo", "ettin_2b"], "there is no recipe called 'ettin_2b'", "did you mean ettin_1b?"),
        (["show", "shared/ettin"], "there is no recipe called 'shared/ettin'", "did you mean ettin_1"),
        (["show", "../model/base"], "there is no recipe called '../model/base'", "padless recipes list names them all"),
        (["show", "shared/../demo"], "there is no recipe called 'shared/../demo'", "did you mean demo?"),
    ],
)
def test_a_mistake_is_refused_with_the_nearest(capsys, arguments, cause, remedy):
    assert main(["recipes", *arguments, "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert cause in answer["cause"]
    assert remedy in answer["remedy"]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("phases.a.tokens", 1_719_000_000_000, "1.719T"),
        ("phases.a.save_every_tokens", 9_450_000, "9.45M"),
        ("model.local_window_tokens", 128, "128"),
        ("phases.a.lr.peak", 8e-4, "0.0008"),
        ("phases.a.rope.global_theta", 160_000.0, "160_000"),
        ("phases.a.batch.warmup", None, "none"),
        ("phases.a.allow_short_documents", False, "false"),
        ("eval.streams", ["main"], '["main"]'),
    ],
)
def test_values_are_written_as_in_a_recipe(key, value, text):
    assert value_text(key, value) == text


def test_recipes_need_no_torch(tmp_path):
    script = (
        "import sys; from padless.cli import main; code = main(sys.argv[1:]);"
        "print([name for name in ('torch', 'numpy', 'composer', 'streaming') if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "recipes", "show", "smoke"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
