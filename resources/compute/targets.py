"""``env.toml``: the compute targets on which stages can run, by name.

The keys are those of NeMo-Run's executor profiles, as the Nemotron recipes use them. A ``[wandb]`` table, if there
is one, names the project and entity that training reports to; the key stays in ``WANDB_API_KEY``.
"""

from __future__ import annotations

import difflib
import tomllib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from resources.compute.errors import ComputeError
from resources.secret_values import is_secret_name, refuse_secrets, texts_in

WANDB = "wandb"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
LOGIN = r"""^[^-\s'"`$;&<>|(){}\\][^\s'"`$;&<>|(){}]*$"""
"""What ssh itself takes as a host or user: no option, nothing that a shell reads."""

MOUNT = r"^[^:]+(:[^:]+)?(:(ro|rw))?$"
LOCAL = "local"
ADDRESS = r"^(local|https?://.+)$"
SLURM_TIME = r"^(\d+-)?\d+(:\d+){0,2}$"
CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})
LAYOUT = {ord(char): None for char in "\n\t"}
Positive = Annotated[int, Field(ge=1)]
Variable = Annotated[str, Field(pattern=VARIABLE)]
Login = Annotated[str, Field(pattern=LOGIN)]


class ComputeTarget(BaseModel):
    """One table of ``env.toml``.

    Attributes:
        executor: ``inline`` is this process, ``subprocess`` a child of it; the others submit a job.
        account, partition, time, nodes, gpus_per_node, cpus_per_task, mem: Slurm's options of the same names;
            ``batch_partition`` replaces ``partition`` for detached jobs.
        tunnel: ``ssh`` runs Slurm's commands on ``host`` as ``user``, with this machine's ssh settings and keys, or
            those of ``ssh_config``.
        remote_job_dir: where job folders lie on that machine; by default beside the artifacts.
        container_image: what the job runs in (Docker; Slurm with the Pyxis plugin). Without it, Docker runs Python's
            own image with this machine's Retune.
        mounts: ``source:target`` or ``source:target:ro``, beside the folders that every job needs. For Docker the
            source may be relative to the working folder.
        runtime, ipc_mode, shm_size: Docker's options of the same names.
        array: Slurm tasks that embed a corpus together, as a job array.
        address: of the Ray cluster's dashboard, such as ``http://head:8265``; ``local`` starts a Ray for each job.
        num_workers, gpus_per_worker: Ray's workers that embed a corpus together, ``cpus_per_task`` each; by default
            one a GPU, or one a CPU where there are none.
        python: the interpreter that has Retune there.
        env_vars: variables for the job. ``secrets`` names those that are taken from this environment.
        setup: shell lines before the job's command, such as ``module load``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    executor: Literal["inline", "subprocess", "docker", "slurm", "ray"]
    account: str | None = None
    partition: str | None = None
    batch_partition: str | None = None
    time: Annotated[str, Field(pattern=SLURM_TIME)] | None = None
    nodes: Positive = 1
    gpus_per_node: Positive | None = None
    cpus_per_task: Positive | None = None
    mem: Annotated[str, Field(pattern=r"^\d+[KMGT]?$")] | None = None
    tunnel: Literal["local", "ssh"] = "local"
    host: Login | None = None
    user: Login | None = None
    ssh_config: Path | None = None
    remote_job_dir: Path | None = None
    container_image: str | None = None
    mounts: tuple[Annotated[str, Field(pattern=MOUNT)], ...] = ()
    runtime: str | None = None
    ipc_mode: str | None = None
    shm_size: Annotated[str, Field(pattern=r"^[0-9]+[bkmg]?$")] | None = None
    array: Positive | None = None
    address: Annotated[str, Field(pattern=ADDRESS)] | None = None
    num_workers: Positive | None = None
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    python: str | None = None
    env_vars: Mapping[Variable, str] = {}
    secrets: tuple[Variable, ...] = ()
    setup: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _plain_texts(cls, values: Any) -> Any:
        return check_texts(values)

    @field_validator("env_vars")
    @classmethod
    def _no_secrets(cls, variables: Mapping[str, str]) -> Mapping[str, str]:
        for name in variables:
            if is_secret_name(name):
                raise ValueError(
                    f"{name} looks like a secret: list its name under secrets, and set it in the environment"
                )
        return variables

    @model_validator(mode="after")
    def _has_what_its_executor_needs(self) -> ComputeTarget:
        if self.tunnel == "ssh" and not self.host:
            raise ValueError("tunnel 'ssh' needs host")
        if self.tunnel == "ssh" and self.executor != "slurm":
            raise ValueError(f"tunnel 'ssh' goes with executor 'slurm', not {self.executor!r}")
        if self.executor == "ray" and not self.address:
            raise ValueError(
                "executor 'ray' needs address: the dashboard's, such as http://head:8265, or 'local'"
            )
        return self

    @property
    def embeds_distributed(self) -> bool:
        """Whether several workers can embed a corpus together here."""
        return self.executor == "ray" or (self.executor == "slurm" and (self.array or 1) > 1)


def check_texts(values: Any) -> Any:
    """``values``, if none of their texts holds a secret or a control character: each of them ends up in a script, a
    command or a listing. The shell lines of ``setup`` may be several, and indented.

    Raises:
        ValueError: one of them does; the message names it.
    """
    for name, text in texts_in(values):
        if has_controls(text.translate(LAYOUT) if name == "setup" else text):
            raise ValueError(f"{name or 'a key'}: holds a control character, such as a line break: remove it")
    return refuse_secrets(values)


def has_controls(text: str) -> bool:
    """Whether ``text`` holds a character that ends a line or steers a terminal, or is no character at all."""
    return any(unicodedata.category(char) in CONTROLS for char in text)


def read_target(file: Path, name: str, overrides: Mapping[str, str] | None = None) -> ComputeTarget:
    """The target ``name`` of ``file``, with single keys replaced by ``overrides`` (``run.env.key=value``).

    Raises:
        ComputeError: no such file or name, an unknown key, a value of a wrong form.
    """
    targets = _read(file)
    if name == WANDB or name not in targets:
        known = ", ".join(sorted(targets.keys() - {WANDB})) or "none"
        raise ComputeError(f"{file} has no compute target {name!r}; it has: {known}")
    values = {**targets[name], **{key: _typed(value) for key, value in (overrides or {}).items()}}
    try:
        return ComputeTarget.model_validate(values)
    except ValidationError as error:
        raise ComputeError("\n".join(_explain(file, name, each) for each in error.errors())) from None


def read_wandb(file: Path) -> Mapping[str, str]:
    """The ``[wandb]`` table: ``project`` and ``entity``, each where given.

    Raises:
        ComputeError: one of them holds a secret or a control character.
    """
    given = _read(file).get(WANDB, {}) if file.exists() else {}
    try:
        return check_texts(given)
    except ValueError as error:
        raise ComputeError(f"{file} [{WANDB}] {error}") from None


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        targets = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ComputeError(
            f'there is no {file}: describe the compute target there, such as\n[my-cluster]\nexecutor = "slurm"\n'
            'partition = "batch"'
        ) from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a number of thousands of digits
        raise ComputeError(f"{file}: not readable as TOML: {error}") from error
    for name, table in targets.items():
        if not isinstance(table, dict):
            raise ComputeError(f"{file}: {name} is outside any [target]")
    return cast("dict[str, dict[str, Any]]", targets)


def _typed(text: str) -> Any:
    """A value of an override, read as TOML where it is TOML, else as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _explain(file: Path, name: str, error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, ComputeTarget.model_fields, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return f"{file} [{name}] {key}: no such key{hint}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{file} [{name}]{' ' + key if key else ''}: {message[0].lower()}{message[1:]}"
