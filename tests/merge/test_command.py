"""The command line of ``padless merge``, what it writes, and that it writes over nothing."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from padless.checkpoint import list_checkpoints, open_checkpoint
from padless.cli import main
from padless.errors import CheckpointError, ConfigError, DataError, ModelError
from padless.export.importer import LoadedSource
from padless.merge.command import MergeRequest, Row, merge, parse, print_rows
from padless.merge.evaluate import Score, evaluation_config
from padless.merge.sources import read_source
from padless.merge.write import Parent, write_merge
from padless.train.handover import load_source, state_from_source


def merged(*paths, out, say=lambda line: None, **more):
    return merge(MergeRequest(out, tuple(map(str, paths)), evaluate=False, **more), say)


def test_a_merge_is_a_checkpoint_without_moments_that_names_its_parents(save, tmp_path):
    a, b = save(1, clock=2_000, run="a"), save(2, clock=2_000, run="b")
    path, rows = merged(a, b, out=tmp_path / "merged.pt", weights=(3.0, 1.0))
    saved, config = open_checkpoint(path)
    name = "model.layers.1.mlp.Wi.weight"
    exact = 0.75 * open_checkpoint(a)[0].model[name].double() + 0.25 * open_checkpoint(b)[0].model[name].double()
    assert torch.equal(saved.model[name], exact.float())
    assert saved.optimizer is None
    assert (saved.clock_tokens, saved.step, config.run.name) == (2_000, 20, "merged")
    parents = saved.meta["merged_from"]
    assert [(each["path"], each["share"]) for each in parents] == [(str(a), 0.75), (str(b), 0.25)]
    assert [row.share for row in rows] == [0.75, 0.25, 1.0]
    sidecar = json.loads((tmp_path / "merged.json").read_text())
    assert (sidecar["kept"], sidecar["lr"]) == ("a merge", None)


def test_a_folder_is_laid_out_as_a_runs_and_can_be_merged_again(save, tmp_path):
    path, _ = merged(save(1, run="a"), save(2, run="b"), out=tmp_path / "merged")
    (row,) = list_checkpoints(tmp_path / "merged", read_files=True)
    assert row.path == path
    assert row.is_whole
    assert (tmp_path / "merged" / "tokenizer" / "tokenizer.json").is_file()
    (line,) = [json.loads(text) for text in (tmp_path / "merged" / "lineage.jsonl").read_text().splitlines()]
    assert (line["event"], len(line["parents"])) == ("merge", 2)
    again, _ = merged(tmp_path / "merged", save(3, run="c"), out=tmp_path / "again.pt")
    assert open_checkpoint(again)[0].meta["merged_from"][0]["path"] == str(path)


def test_of_unequal_clocks_the_highest_is_taken_and_said(save, tmp_path):
    said = []
    path, _ = merged(save(1, clock=1_000), save(2, clock=3_000), out=tmp_path / "m.pt", say=said.append)
    assert open_checkpoint(path)[0].clock_tokens == 3_000
    assert said == ["note: clocks from 1_000 to 3_000 tokens; the merge takes the highest"]


def test_without_evaluation_the_best_are_those_of_the_runs_own_validation(save, tmp_path):
    losses = {1_000: 3.0, 2_000: 4.0, 3_000: 3.5}
    for clock, loss in losses.items():
        save(clock, clock=clock, eval_loss=loss)
    request = MergeRequest(tmp_path / "m.pt", best=1, run=str(tmp_path / "run"), evaluate=False)
    with pytest.raises(CheckpointError, match=r"anneal-1_000tok\.pt was not validated where it was saved"):
        merge(request, print)
    lines = [{"tokens": clock, "eval_loss": loss} for clock, loss in losses.items()]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path, _ = merge(request, print)
    assert [each["clock_tokens"] for each in open_checkpoint(path)[0].meta["merged_from"]] == [1_000, 3_000]


def test_a_merge_begins_a_new_run_with_its_weights_and_nothing_else(save, tmp_path, config):
    path, _ = merged(save(1, run="a"), save(2, run="b"), out=tmp_path / "m.pt")
    loaded, moments = load_source(str(path))
    assert isinstance(loaded, LoadedSource)
    assert moments is None
    state, _ = state_from_source(str(path), ("weights",), config.model)
    assert state.clock_tokens == 0
    with pytest.raises(CheckpointError, match="holds weights only"):
        state_from_source(str(path), ("weights", "optimizer"), config.model)


def test_nothing_is_written_over(save, tmp_path):
    a, b = save(1, run="a"), save(2, run="b")
    merged(a, b, out=tmp_path / "m.pt")
    for out, taken in (("m.pt", "m.pt"), ("a", "a")):
        with pytest.raises(ConfigError, match=rf"out=.*{out}: .*{taken} is there already"):
            merged(a, b, out=tmp_path / out)
    (tmp_path / "n.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"n\.json is there already"):
        merged(a, b, out=tmp_path / "n.pt")


def test_a_merge_into_a_folder_needs_its_tokenizer(save, tmp_path):
    a, b = save(1, run="a"), save(2, run="b")
    (tmp_path / "a" / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"a/tokenizer has no tokenizer\.json"):
        merged(a, b, out=tmp_path / "merged")


def test_a_place_that_cannot_be_written_is_said_before_a_checkpoint_is_read(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "merged", tmp_path / "file" / "deep" / "m.pt", Path("/proc/none/m.pt")):
        with pytest.raises(CheckpointError, match=rf"out={out} cannot be written"):
            merged("no.pt", "none.pt", out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_place_that_can_no_longer_be_written_is_said_when_writing(save, tmp_path):
    a, b = (read_source(save(seed, run=f"{seed}"))[0] for seed in (1, 2))
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"out=.*merged cannot be written"):
        write_merge(tmp_path / "file" / "merged", {}, [Parent(a, 0.5), Parent(b, 0.5)], None)


def test_a_misfit_is_said_before_any_data_is_looked_for(save, tmp_path, config):
    """No data of this run is prepared: with evaluation, only the order of the checks tells them apart."""
    own = replace(config, data=replace(config.data, prepare_bundled=False))
    wider = replace(own, model=replace(own.model, intermediate_size=96))
    a, b, c = save(1, run="a", config=own), save(2, run="b", config=wider), save(3, run="c", config=own)
    said = []
    with pytest.raises(ModelError, match=r"model\.intermediate_size differs"):
        merge(MergeRequest(tmp_path / "m.pt", (str(a), str(b))), said.append)
    assert said == []
    with pytest.raises(DataError):
        merge(MergeRequest(tmp_path / "m.pt", (str(a), str(c))), said.append)


WRONG = [
    (["a.pt", "b.pt"], "out has no value"),
    (["a.pt", "out="], "out has no value"),
    (["a.pt", "b.pt", "out=m8.txt"], "out=m8.txt ends in .txt, and a merge is a .pt file or a folder"),
    (["a.pt", "wheights=1,2", "out=m"], "unknown setting wheights=1,2, did you mean weights=1,2"),
    (["a.pt", "weights=1;2", "out=m"], "weights=1;2 is not a list of numbers"),
    (["run=a", "out=m"], "run=a has no effect without best="),
    (["best=3", "out=m"], "run= has no value"),
    (["best=3", "run=a", "a.pt", "out=m"], "a.pt and best=3 both say what is averaged"),
    (["best=3", "run=a", "weights=1,2", "out=m"], "weights=1,2 and best=3 both say"),
    (["best=0", "run=a", "out=m"], "best=0 is not a number of checkpoints"),
    (["a.pt", "evaluate=no", "out=m"], "evaluate=no is neither true nor false"),
    (["a.pt", "evaluate=false", "eval.max_blocks=3", "out=m"], "eval.max_blocks=3 has no effect with evaluate=false"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_each_wrong_word_is_refused(words, message):
    with pytest.raises(ConfigError) as caught:
        parse(words)
    assert message in caught.value.cause


def test_words_are_understood():
    request = parse(["a.pt", "b", "weights=1,3", "out=m.pt", "eval.max_blocks=4", "data.streams.code.local=/x"])
    assert (request.names, request.weights, str(request.out)) == (("a.pt", "b"), (1.0, 3.0), "m.pt")
    assert request.overrides == {"eval.max_blocks": "4", "data.streams.code.local": "/x"}
    assert request.evaluate


def test_a_folder_may_have_a_number_or_a_dot_in_its_name():
    for text, name in (("m-0.5", "m-0.5"), ("m.v2/", "m.v2"), ("m", "m"), ("m.pt", "m.pt")):
        assert parse(["a.pt", "b.pt", f"out={text}"]).out.name == name


def test_other_data_and_fewer_blocks_replace_those_of_the_run(config):
    assert evaluation_config(config, {}).hardware.device == "auto"
    changed = evaluation_config(config, {"data.streams.code.local": "/elsewhere", "eval.max_blocks": "4"})
    assert (changed.data.streams["code"].local, changed.eval.max_blocks) == ("/elsewhere", 4)
    with pytest.raises(ConfigError, match=r"unknown setting eval\.max_block=4, did you mean eval\.max_blocks"):
        evaluation_config(config, {"eval.max_block": "4"})
    with pytest.raises(ConfigError, match=r"eval\.max_blocks=0 is less than 1"):
        evaluation_config(config, {"eval.max_blocks": "0"})
    with pytest.raises(ConfigError, match=r"eval\.streams is empty: there is nothing to evaluate on"):
        evaluation_config(config, {"eval.streams": "[]"})


def test_only_the_streams_of_validation_have_to_be_there(config):
    own = replace(config, data=replace(config.data, prepare_bundled=False))
    changed = evaluation_config(own, {"eval.streams": "[code]"})
    assert list(changed.data.streams) == ["code"]
    assert changed.phases == {}


def test_the_table_has_a_line_for_each_and_marks_the_best_in_80_columns():
    scores = [Score(4.2, 0.24, {"code": 4.0, "science": 4.5}), Score(4.1, 0.26, {"code": 4.3, "science": 4.4})]
    rows = [Row("runs/lab/a/a-1_501_184tok.pt", 1_501_184, 1.0, scores[0]), Row("the merge", 1_501_184, 1.0, scores[1])]
    out = io.StringIO()
    print_rows(rows, Console(file=out, width=80), "merge: validation")
    _, heading, first, last = out.getvalue().splitlines()
    assert heading.split() == ["checkpoint", "tokens", "share", "loss", "accuracy", "code", "science"]
    assert first.split() == ["a-1_501_184tok", "1.501M", "1", "4.2000", "24.00%", "4.0000*", "4.5000"]
    assert last.split() == ["the", "merge", "1.501M", "1", "4.1000*", "26.00%*", "4.3000", "4.4000*"]


def test_json_is_one_object_on_standard_output(save, tmp_path, capsys):
    a, b = save(1, run="a"), save(2, run="b")
    assert main(["merge", str(a), str(b), f"out={tmp_path / 'm.pt'}", "evaluate=false", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["out"], len(found["rows"])) == (True, str(tmp_path / "m.pt"), 3)
    assert main(["merge", str(a), f"out={tmp_path / 'n.pt'}", "--json"]) == 2
    assert "a merge needs two or more" in json.loads(capsys.readouterr().out)["cause"]
