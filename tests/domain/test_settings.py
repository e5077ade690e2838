"""What is wrong by itself is refused before anything is read."""

import pytest

from padless.domain.settings import Continuation, is_of_train, judge
from padless.errors import ConfigError


def judged(**more):
    return judge(Continuation(**{"input": "nothing.csv", "source": "nothing", **more}))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"input": ""}, "input is empty"),
        ({"general_text_key": "body"}, "general_text_key=body has no effect without general"),
        ({"max_seq_len": 0}, r"max_seq_len=0 is less than 8 tokens\n.*leave it out"),
        ({"block_tokens": 0}, r"block_tokens=0 is less than 8 tokens\n.*leave it out"),
        ({"max_seq_len": 1024, "block_tokens": 512}, r"max_seq_len=1024 is over block_tokens=512.*\n.*max_seq_len=512"),
        ({"val_fraction": 0.0}, r"val_fraction=0 is not between 0 and 1"),
        ({"val_fraction": float("nan")}, r"val_fraction=nan is not between 0 and 1"),
        ({"name": "a/b"}, r"name='a/b' cannot name a folder"),
        ({"name": ".."}, r"name='\.\.' cannot name a folder"),
        ({"passes": 0.0}, "passes=0 is not above 0"),
        ({"passes": float("nan")}, "passes=nan is not above 0"),
        ({"replay": 1.0}, r"replay=1 is not in \[0, 1\)"),
        ({"keep": "weight"}, r"keep=weight is not something .*\n.*use keep=weights or keep=weights,optimizer"),
        ({"keep": "weights,optimizer,clock"}, "keep=weights,optimizer,clock is not something"),
        ({"ranks": 0}, "ranks=0 is less than 1"),
        ({"recipe": "domain_log"}, "there is no recipe called 'domain_log'"),
        (
            {"recipe": "modernbert_base"},
            r"recipe=modernbert_base trains on main, long, anneal;.*\n.*recipe=domain_cont",
        ),
        ({"recipe": "domain_stable_then_anneal"}, r"domain_stable_then_anneal trains on domain, general, core"),
        ({"settings": ["hardware.microbatch_blocks=0"]}, r"hardware\.microbatch_blocks=0 is less than 1"),
        ({"settings": ["hardware=8xh100"]}, r"ranks=1, but the hardware has 8 .*\n.*give ranks=8"),
        ({"settings": ["hardware=9xh100"]}, "there is no hardware called '9xh100'"),
    ],
)
def test_a_wrong_setting_is_refused_though_neither_documents_nor_source_exist(more, message):
    with pytest.raises(ConfigError, match=message):
        judged(**more)


@pytest.mark.parametrize("recipe", ["domain_continued", "domain_short"])
def test_a_recipe_for_a_domain_is_returned_as_it_is(recipe):
    config = judged(recipe=recipe, settings=["hardware=cpu", "phases.adapt.lr.peak=1e-3"])
    assert config.hardware.device == "cpu"
    assert config.phases["adapt"].lr.peak == 3e-4, "settings of phases are for the run"


def test_words_for_the_trainer_are_told_by_their_keys():
    words = ["hardware=cpu", "phases.adapt.tokens=1M", "~phases.adapt.streams.general", "+a=1", "input=a.csv", "name=x"]
    assert [is_of_train(word) for word in words] == [True, True, True, True, False, False]
