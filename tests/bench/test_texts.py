"""Bundled text in any amount."""

from padless.bench.texts import bundled_documents, repeated_texts, texts_of, trained_tokenizer
from padless.data.tokenise import tokenizer_facts


def test_bundled_documents_come_again_until_there_is_enough_text(tmp_path):
    documents = [document.text for document in bundled_documents()]
    texts = texts_of(repeated_texts(tmp_path, 6))
    assert sum(len(text.encode()) for text in texts) >= 6e6
    assert sum(len(text.encode()) for text in texts[:-1]) < 6e6
    assert texts == (documents * 2)[: len(texts)]


def test_only_as_much_text_is_read_as_wanted(tmp_path):
    texts = texts_of(repeated_texts(tmp_path, 1), most_bytes=10_000)
    assert sum(len(text.encode()) for text in texts[:-1]) < 10_000 <= sum(len(text.encode()) for text in texts)


def test_a_tokenizer_is_trained_once(tmp_path):
    path = trained_tokenizer(tmp_path, 512)
    before = path.stat().st_mtime_ns
    assert trained_tokenizer(tmp_path, 512).stat().st_mtime_ns == before
    assert tokenizer_facts(path).vocab_size == 512
