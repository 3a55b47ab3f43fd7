"""Output units of the CTC families: characters or BPE pieces, learned from training texts alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.trainers import BpeTrainer

from myna.errors import ConfigError, DataError, ModelError
from myna.files import write_atomically
from myna.models.ctc_decode import WORD_BOUNDARY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BLANK = "<blank>"  # id 0, also the padding
UNKNOWN = "<unk>"
UNKNOWN_ID = 1
UNKNOWN_SPELLING = "⁇"  # how an unknown character reads in a transcript, as in sentencepiece
TOKENIZER_FILE = "tokenizer.json"
MAX_TOKENIZER_BYTES = 100_000_000

Kind = Literal["char", "bpe"]


class TextTokenizer:
    """Normalised text to token ids and back, exactly.

    A space is written "▁". With characters it is a token of its own between words; with BPE it leads the first
    piece of each word. In both, a word starts at the first token and at every piece that starts with "▁".
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if (tokenizer.token_to_id(BLANK), tokenizer.token_to_id(UNKNOWN)) != (0, 1):
            raise ModelError(
                f"expected a tokenizer whose first tokens are {BLANK} and {UNKNOWN}",
                "Use one that Myna wrote.",
            )
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        pieces = sorted(vocabulary, key=vocabulary.__getitem__)
        self.pieces: tuple[str, ...] = ("", UNKNOWN_SPELLING, *pieces[2:])  # what each id spells

    @classmethod
    def train(cls, texts: Iterable[str], kind: Kind = "char", vocab_size: int = 256) -> TextTokenizer:
        """Learn the units from normalised training texts; the same texts give the same tokenizer in any order.

        Args:
            texts: normalised transcripts.
            kind: "char" takes every code point, "bpe" merges frequent neighbours within words.
            vocab_size: tokens in all, blank and unknown included; "bpe" only.

        Raises:
            DataError: the texts hold no characters.
            ConfigError: `vocab_size` has no room for the characters of the texts.
        """
        texts = list(texts)
        alphabet = sorted(set("".join(texts).replace(" ", WORD_BOUNDARY)) | {WORD_BOUNDARY})
        if alphabet == [WORD_BOUNDARY]:
            raise DataError(
                "expected training texts to learn a tokenizer from; received none",
                "Check the training split and its transcripts.",
            )
        smallest = len(alphabet) + 2
        if kind == "bpe" and vocab_size < smallest:
            raise ConfigError(
                [
                    f"tokenizer.vocab_size: expected at least {smallest}, since the training texts hold "
                    f"{len(alphabet)} characters; received {vocab_size}"
                ]
            )
        tokenizer = Tokenizer(BPE(unk_token=UNKNOWN, fuse_unk=False))
        tokenizer.pre_tokenizer = Metaspace(WORD_BOUNDARY, prepend_scheme="always" if kind == "bpe" else "never")
        trainer = BpeTrainer(
            vocab_size=vocab_size if kind == "bpe" else smallest,  # no room for merges: characters alone
            special_tokens=[BLANK, UNKNOWN],
            initial_alphabet=alphabet,
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def of_pieces(cls, pieces: Sequence[str]) -> TextTokenizer:
        """The characters of a vocabulary that exists already.

        Args:
            pieces: what ids 2, 3, ... spell, each once; "▁" is the space.
        """
        vocabulary = {piece: index for index, piece in enumerate([BLANK, UNKNOWN, *pieces])}
        tokenizer = Tokenizer(BPE(vocabulary, [], unk_token=UNKNOWN, fuse_unk=False))
        tokenizer.add_special_tokens([BLANK, UNKNOWN])
        tokenizer.pre_tokenizer = Metaspace(WORD_BOUNDARY, prepend_scheme="never")
        return cls(tokenizer)

    @classmethod
    def load(cls, folder: str | Path) -> TextTokenizer:
        """Read `tokenizer.json` from a folder.

        Raises:
            ModelError: it is missing or not a tokenizer of ours.
        """
        path = Path(folder) / TOKENIZER_FILE
        if not path.is_file() or path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise ModelError(
                f"expected {path} of at most {MAX_TOKENIZER_BYTES:,} bytes; there is none",
                "Pass a folder that Myna saved.",
            )
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"{path}: expected a tokenizer; received {error}") from error
        return cls(tokenizer)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` into a folder."""
        write_atomically(Path(folder) / TOKENIZER_FILE, self._tokenizer.to_str(pretty=True))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, blank and unknown included."""
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Token ids of a normalised text; characters never seen in training become `<unk>`."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; blanks spell nothing."""
        return "".join(self.tokens(ids)).replace(WORD_BOUNDARY, " ").strip()

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """What each id spells; a word starts at the first piece and wherever one starts with "▁"."""
        return [self.pieces[index] for index in ids]

    def covers(self, texts: Iterable[str]) -> bool:
        """Whether every character of the texts is known."""
        return all(char == " " or char in self.pieces for char in set().union(*texts))

    def __repr__(self) -> str:
        return f"TextTokenizer({self.vocab_size} tokens)"
