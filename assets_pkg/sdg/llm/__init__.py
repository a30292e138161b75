"""The generator that uses a chat model: extract, generate, judge; an interrupted run resumes from cached answers."""

from assets_pkg.config.sections.sdg import chat_config
from assets_pkg.sdg.llm.estimate import Estimate, estimate, estimate_folder
from assets_pkg.sdg.llm.generate import AcceptRateError, Preview, generate_with_llm, preview
from assets_pkg.sdg.llm.prompts import PromptError, load_prompts, prompts_digest

__all__ = [
    "AcceptRateError",
    "Estimate",
    "Preview",
    "PromptError",
    "chat_config",
    "estimate",
    "estimate_folder",
    "generate_with_llm",
    "load_prompts",
    "preview",
    "prompts_digest",
]
