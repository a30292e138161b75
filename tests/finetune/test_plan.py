from __future__ import annotations

from collections.abc import Callable

import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune.plan import plan_training

RECIPE = load_profile("default").finetune


@pytest.mark.parametrize(
    ("examples", "batch"), [(5000, 128), (2000, 128), (1999, 64), (400, 50), (100, 16), (10, 10), (1, 1)]
)
def test_default_batch_shrinks_as_in_the_recipe(examples: int, batch: int) -> None:
    assert plan_training(examples, RECIPE).batch_size == batch


def test_a_chosen_batch_is_kept() -> None:
    assert plan_training(500, RECIPE.model_copy(update={"global_batch_size": 100})).batch_size == 100


def test_steps_warm_up_and_checkpoints() -> None:
    plan = plan_training(12_800, RECIPE.model_copy(update={"checkpoint_every_steps": 40}))
    assert (plan.steps_per_epoch, plan.steps, plan.warmup_steps, plan.checkpoint_every) == (100, 300, 30, 40)
    assert plan.warnings == ()


def test_a_short_run_has_three_checkpoints_and_says_it_is_short() -> None:
    plan = plan_training(700, RECIPE.model_copy(update={"num_epochs": 1}))
    assert plan.steps == 11
    assert plan.checkpoint_every == 3
    assert any("only 11 optimizer steps" in warning for warning in plan.warnings)
    assert any("64 is used" in warning for warning in plan.warnings)


def test_too_few_negatives_are_a_warning(settings: Callable[..., FinetuneSettings]) -> None:
    wanted = settings(train_n_passages=5)
    assert not any("negatives" in warning for warning in plan_training(5000, wanted, 4).warnings)
    assert any("asks for 4" in warning for warning in plan_training(5000, wanted, 3.5).warnings)
