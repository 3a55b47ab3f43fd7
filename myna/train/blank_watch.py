"""Notices a CTC model that answers every clip with blanks, and says what may be the cause."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from myna.models.adapters import without_adapters
from myna.models.ctc_decode import BLANK_ID
from myna.models.parts import is_within, parts_of
from myna.train.blank_causes import BlankFacts, likely_causes, texts_against_audio, updates_of_silence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from torch import Tensor, nn
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from myna.config import Config
    from myna.models.recognizer import Recognizer
    from myna.samples import Utterance

ALL_BLANK = 0.999  # of a batch's frames; recognisers that speak leave 50 to 95 % blank
ALL_EMPTY = 0.95  # of the hypotheses
KNOWS_WORDS = 0.9  # WER below which hypotheses are more than an untrained head's babble
PATIENCE = 3  # logged lines in a row without anything but blanks


class BlankWatch(TrainerCallback):  # type: ignore[misc]
    """Looks at the head's output in each step that is logged, and at each validation's hypotheses.

    Adds `blank_share` to logged lines, so it must come before the callbacks that write them. What it says, it says
    once; when the model speaks again, nothing, and it would say it anew.

    Args:
        config: of the run.
        recognizer: a CTC recogniser.
        train_split: what it is trained on.
        console: where people read it.
    """

    def __init__(
        self, config: Config, recognizer: Recognizer, train_split: Sequence[Utterance], console: Console
    ) -> None:
        self.config = config
        self.recognizer = recognizer
        self.train_split = train_split
        self.console = console
        self.normal_until = 0  # the update before which silence is normal
        self.spoke_at: int | None = None  # the last step at which it knew words
        self._share: Tensor | None = None  # of blanks in the step that is logged
        self._looks = False
        self._silent_lines = 0  # in a row
        self._norms: list[float] = []  # of gradients, as logged
        self._told: set[str] = set()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Listen to the head."""
        self.normal_until = updates_of_silence(self.config, args.get_warmup_steps(state.max_steps))
        (name,) = parts_of(without_adapters(self.recognizer.model)).head
        head: nn.Module = without_adapters(self.recognizer.model).get_submodule(name)
        self._hook = head.register_forward_hook(self._look)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Judge a run that came to its end in silence, however short it was."""
        self._hook.remove()
        if state.global_step >= state.max_steps and self._silent_lines and "collapsed" not in self._told:
            self._tell(state, is_over=True)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Only steps that are logged are looked at."""
        self._looks = (state.global_step + 1) % args.logging_steps == 0

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Add the share of blanks to the line; several lines of nothing else are told."""
        logs = given["logs"]
        if "loss" not in logs:
            return
        self._norms.append(logs.get("grad_norm", 0.0))
        if self._share is None:
            return
        share, self._share = float(self._share), None
        logs["blank_share"] = round(share, 4)
        if state.log_history:
            state.log_history[-1]["blank_share"] = logs["blank_share"]
        if share < ALL_BLANK:
            self._sounded(state.global_step, knows_words=False)
            return
        self._silent_lines += 1
        if self._silent_lines >= PATIENCE and (state.global_step >= self.normal_until or self.spoke_at is not None):
            self._tell(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Hypotheses that are nearly all empty are told, at the start in other words than later."""
        if given["metrics"]["eval_empty_share"] < ALL_EMPTY:
            self._sounded(state.global_step, knows_words=given["metrics"]["eval_wer"] < KNOWS_WORDS)
        elif state.global_step:
            self._silent_lines += 1
            self._tell(state)

    def _sounded(self, step: int, *, knows_words: bool) -> None:
        """Something was heard; at the start only words count as speech, since an untrained head babbles."""
        self._silent_lines = 0
        self._told.clear()
        if knows_words or step >= self.normal_until:
            self.spoke_at = step

    def _look(self, module: nn.Module, inputs: Any, logits: Tensor) -> None:
        if module.training and self._looks:
            self._share = (logits.detach().argmax(dim=-1) == BLANK_ID).float().mean()

    def _tell(self, state: TrainerState, *, is_over: bool = False) -> None:
        is_early = state.global_step < self.normal_until and self.spoke_at is None
        kind = "early" if is_early and not is_over else "collapsed"
        if not state.is_world_process_zero or kind in self._told:
            return
        self._told.add(kind)
        heard = f"Nothing is recognised at step {state.global_step}: the model answers with blanks."
        if kind == "early":
            self.console.print(f"{heard} That is normal until about step {self.normal_until}.", soft_wrap=True)
            return
        causes = likely_causes(self.facts())
        if is_early:
            causes.insert(0, f"too few updates: words usually come by step {self.normal_until}. Train for longer.")
        if not causes:
            causes.append("none of the usual ones. Listen to some training clips beside their transcripts.")
        self.console.print(
            "\n  - ".join([f"{heard} Likely causes, by the facts of this run:", *causes]), soft_wrap=True
        )

    def facts(self) -> BlankFacts:
        """Of the run, until now."""
        config, model = self.config, self.recognizer.model
        head = parts_of(without_adapters(model)).head
        rates = config.training.learning_rates
        trained = [name for name, value in without_adapters(model).named_parameters() if value.requires_grad]
        learns = not all(is_within(name, head) for name in trained)
        own_rate = rates.encoder if learns else rates.head
        return BlankFacts(
            pretrained=bool(config.model.pretrained),
            encoder_learns=learns,
            adapters=config.adapter.kind != "none",
            learning_rate=own_rate or config.training.learning_rate,
            fp16=config.training.fp16 is True,
            overflow_share=sum(not math.isfinite(norm) for norm in self._norms) / max(1, len(self._norms)),
            spoke_at=self.spoke_at,
            **texts_against_audio(self.train_split, self.recognizer.processor),  # type: ignore[arg-type]
        )
