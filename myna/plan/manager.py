"""`create_optimal_config` and `ASRConfigManager`: a plan in one call, for anyone's dataset, model and Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from myna.errors import PlanError
from myna.plan.choices.choose import choose
from myna.plan.memory.predict import memory_model
from myna.plan.profiles.dataset import DatasetProfile
from myna.plan.profiles.hardware import HardwareProfile
from myna.plan.profiles.model import ModelProfile

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from myna.plan.choices.ways import AskMemory
    from myna.plan.optimal_config import OptimalConfig
    from myna.plan.training_plan import TrainingPlan


def create_optimal_config(
    dataset: Any,
    model: PreTrainedModel | None,
    model_name: str = "wav2vec2-xls-r-1b",
    num_epochs: float = 20,
    target_batch_size: int = 32,
    learning_rate: float = 3e-4,
    safety_margin: float = 0.85,
) -> tuple[OptimalConfig, ASRConfigManager]:
    """The training configuration of a model on a dataset, for this machine.

    Args:
        dataset: a `datasets.Dataset`, or a `DatasetProfile`.
        model: any `PreTrainedModel`, loaded or on meta, perhaps with adapters; None builds `model_name` on meta.
        model_name: a known size, a folder or a hub name; with a model only a name for people.
        num_epochs: passes over the dataset.
        target_batch_size: clips of an optimizer step.
        learning_rate: peak of the schedule.
        safety_margin: share of the memory that may be used.

    Returns:
        The configuration, and the manager that can plan others.

    Raises:
        PlanError: nothing fits; it says what would.
    """
    manager = ASRConfigManager(safety_margin)
    manager.profile_dataset(dataset)
    manager.profile_model(model, model_name)
    config = manager.generate_config(
        num_epochs=num_epochs, target_batch_size=target_batch_size, learning_rate=learning_rate
    )
    return config, manager


class ASRConfigManager:
    """Profiles of the machine, a dataset and a model, and the configurations planned from them.

    Args:
        safety_margin: share of the memory that may be used.
        hardware: to plan for a machine that is not here.
        ask: gives the memory model of a request.

    Attributes:
        hardware: the machine.
        dataset: the latest dataset's profile, or None.
        model: the latest model's profile, or None.
        plan: the latest plan with all its reasons, or None.
    """

    def __init__(
        self, safety_margin: float = 0.85, *, hardware: HardwareProfile | None = None, ask: AskMemory = memory_model
    ) -> None:
        self.hardware = hardware or HardwareProfile.detect(safety_margin)
        self.dataset: DatasetProfile | None = None
        self.model: ModelProfile | None = None
        self.plan: TrainingPlan | None = None
        self._ask = ask

    def profile_dataset(self, dataset: Any) -> DatasetProfile:
        """Measure a Hugging Face dataset; a profile is taken as it is."""
        is_profile = isinstance(dataset, DatasetProfile)
        self.dataset = dataset if is_profile else DatasetProfile.from_huggingface(dataset)
        return self.dataset

    def profile_model(self, model: PreTrainedModel | None, model_name: str = "") -> ModelProfile:
        """Look at a model, or at the configuration that a name stands for."""
        self.model = ModelProfile.from_folder(model_name) if model is None else ModelProfile.of(model, model_name)
        return self.model

    def generate_config(
        self, *, num_epochs: float = 20, target_batch_size: int = 32, learning_rate: float = 3e-4, **overrides: Any
    ) -> OptimalConfig:
        """Plan a run of the profiled model on the profiled dataset.

        The front end runs clip by clip only with `front_end_by_clip=True`, since a Trainer of one's own does so only
        after `myna.models.front_end.run_front_end_by_clip(model)`.

        Args:
            num_epochs: passes over the dataset.
            target_batch_size: clips of an optimizer step.
            learning_rate: peak of the schedule.
            overrides: values that are given; everything else is chosen around them.

        Raises:
            PlanError: nothing was profiled yet, the overrides do not go together, or nothing fits.
        """
        if self.dataset is None or self.model is None:
            missing = [name for name in ("dataset", "model") if getattr(self, name) is None]
            raise PlanError(
                [f"expected a profile of the {name}; there is none" for name in missing],
                "Call profile_dataset and profile_model first.",
            )
        self.plan = choose(
            self.hardware,
            self.dataset,
            self.model,
            target_batch_size=target_batch_size,
            num_epochs=num_epochs,
            learning_rate=learning_rate,
            overrides={"front_end_by_clip": False} | overrides,
            ask=self._ask,
        )
        return self.plan.config

    def save_config(self, config: OptimalConfig, path: str | Path) -> Path:
        """Write the values of a configuration as JSON; `OptimalConfig.load` reads them back."""
        return config.save(path)
