from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from myna.errors import ConfigError, DataError, ModelError
from myna.models.tokenizer import TextTokenizer
from myna.text import normalize

TEXTS = {
    "vi": ["Xin chào, tôi là người Việt Nam.", "Đường phố Hà Nội rất đẹp", "má mà mả mã mạ ma"],
    "tr": ["Işık ılık süt içti", "İstanbul'da ığdır çiçeği", "gün aydın gün"],
    "hi": ["नमस्ते दुनिया", "मैं हिन्दी बोलता हूँ", "क्षत्रिय ज्ञान"],
    "th": ["สวัสดีครับ น้ำ", "ภาษาไทยไม่มีช่องว่าง", "ทำงานที่นี่"],
}


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_round_trip_is_exact(language: str, kind: str, tmp_path: Path) -> None:
    texts = [normalize(text, language) for text in TEXTS[language]]
    tokenizer = TextTokenizer.train(texts, kind, vocab_size=80)
    tokenizer.save(tmp_path)
    loaded = TextTokenizer.load(tmp_path)
    assert loaded.pieces == tokenizer.pieces
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert loaded.encode(text) == ids
        assert 0 not in ids
        assert 1 not in ids


def test_characters_are_code_points_in_order() -> None:
    tokenizer = TextTokenizer.train(["ba ab", "é́"])
    assert tokenizer.pieces == ("", "⁇", "a", "b", "é", "\u0301", "▁")
    assert tokenizer.encode("ab a") == [2, 3, 6, 2]
    assert tokenizer.vocab_size == 7


def test_bpe_merges_within_words_only() -> None:
    tokenizer = TextTokenizer.train(["low lower lowest"] * 5, "bpe", vocab_size=40)
    assert tokenizer.tokens(tokenizer.encode("low lower")) == ["▁low", "▁lower"]
    assert all("▁" not in piece[1:] for piece in tokenizer.pieces)
    assert TextTokenizer.train(["low lower lowest"] * 5, "bpe", vocab_size=12).vocab_size == 12


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_words_start_at_boundaries(kind: str) -> None:
    tokenizer = TextTokenizer.train(["ab cd ab", "cd"], kind, vocab_size=9)
    pieces = tokenizer.tokens(tokenizer.encode("ab cd ab"))
    starts = [index for index, piece in enumerate(pieces) if index == 0 or piece.startswith("▁")]
    assert len(starts) == 3


def test_order_of_texts_does_not_matter() -> None:
    texts = [normalize(text, "vi") for text in TEXTS["vi"]]
    forward, backward = (TextTokenizer.train(order, "bpe", 70) for order in (texts, texts[::-1]))
    assert forward.pieces == backward.pieces
    assert forward.encode(texts[0]) == backward.encode(texts[0])


@pytest.mark.slow
def test_other_processes_learn_the_same(tmp_path: Path) -> None:
    program = (
        "import sys; from myna.models.tokenizer import TextTokenizer as T;"
        "T.train(['ab cd ba dc abcd', 'bd ac db ca'], 'bpe', 20).save(sys.argv[1])"
    )
    written = []
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run([sys.executable, "-c", program, tmp_path / seed], check=True, env=environment)
        written.append((tmp_path / seed / "tokenizer.json").read_bytes())
    assert written[0] == written[1]


def test_unknown_characters_are_one_token_each() -> None:
    tokenizer = TextTokenizer.train(["ab"])
    assert tokenizer.encode("axyb") == [2, 1, 1, 3]
    assert tokenizer.decode([0, 2, 1, 0, 3]) == "a⁇b"
    assert tokenizer.covers(["ba", "a b"])
    assert not tokenizer.covers(["ba", "abc"])


def test_nothing_to_learn_from() -> None:
    with pytest.raises(DataError, match="received none"):
        TextTokenizer.train(["", " "])


def test_too_small_a_vocabulary() -> None:
    with pytest.raises(ConfigError, match=r"expected at least 13, since the training texts hold 11 .*received 8"):
        TextTokenizer.train(["abcdefghij"], "bpe", 8)


@pytest.mark.parametrize(
    "content", ["", "{}", '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}']
)
def test_broken_files(content: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is none"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="expected a tokenizer"):
        TextTokenizer.load(tmp_path)
