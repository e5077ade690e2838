"""The source of a value is the line that sets it last, and the comment behind it."""

from padless.config.compose import YAML_FOLDER, compose
from padless.config.load import to_plain
from padless.recipes.sources import Source, files_of, header_of, line_comments, sources_in, sources_of
from padless.recipes.table import flat


def test_comments_are_told_from_text_with_a_hash():
    text = 'a: "x # not" # a comment\n# alone\nb: y#z\nc: {d: 1, e: [2, 3]} # both  \nf:\n  - 1 # of a list\n'
    assert line_comments(text) == {0: "a comment", 3: "both", 5: "of a list"}


def test_every_key_has_its_line_and_the_comment_of_it():
    text = "# top\ndefaults: [x]\na: 1 # one\nb: # all of b\n  c: {d: 2, e: 3} # two\n  f: 4\n"
    assert sources_in(text, "x.yaml") == {
        "a": Source("x.yaml", 3, "one"),
        "b": Source("x.yaml", 4, "all of b"),
        "b.c": Source("x.yaml", 5, "two"),
        "b.c.d": Source("x.yaml", 5, "two"),
        "b.c.e": Source("x.yaml", 5, "two"),
        "b.f": Source("x.yaml", 6, ""),
    }


def test_an_empty_file_sets_nothing():
    assert sources_in("# only a comment\n", "x.yaml") == {}


def test_a_later_file_is_the_source():
    sources = sources_of(["recipe=ettin_17m"])
    assert sources["phases.context.lr.floor"].file == "recipe/shared/ettin.yaml"
    assert sources["phases.context.lr.peak"].file == "recipe/ettin_17m.yaml"
    assert sources["phases.context.lr.shape"].file == "phase/anneal.yaml"
    assert sources["phases.context.rope.global_theta"].file == "recipe/shared/ettin.yaml"
    assert sources["phases.context.rope.local_theta"].file == "recipe/ettin_17m.yaml"
    assert sources["model.num_layers"] == Source("model/17m.yaml", 3, "E")
    assert sources["run.name"].file == "recipe/ettin_17m.yaml"
    assert sources["run.seed"].comment == "E"


def test_each_source_shows_the_value_that_is_used():
    overrides = ["recipe=modernbert_large"]
    plain, sources = to_plain(compose(overrides)), sources_of(overrides)
    for key, value in flat(plain["phases"], "phases"):
        place = sources[key]
        line = (YAML_FOLDER / place.file).read_text().splitlines()[place.line - 1]
        assert f"{key.rpartition('.')[2]}:" in line, (key, value, line)


def test_files_come_in_the_order_in_which_they_win():
    files = [file for file, _ in files_of(["recipe=single_24gb"])]
    names = [
        "pretrain.yaml",
        "recipe/modernbert_base.yaml",
        "recipe/modernbert_base_10b.yaml",
        "recipe/single_24gb.yaml",
    ]
    assert [file for file in files if file in names] == names
    assert ("hardware/1x24gb.yaml", "hardware") in files_of(["recipe=single_24gb"])


def test_a_header_is_the_comment_that_opens_the_file(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("# @package _global_\n# one\n#   two\ndefaults: []\n# not this\n")
    assert header_of(file) == ["one", "  two"]
