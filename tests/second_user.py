"""Work of a second user, who has another id and the group of the first."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from storage.errors import RetuneError

SECOND_USER, GROUP = 65534, 65533


def as_second_user(work: Callable[..., Any], *arguments: Any, first: Callable[[], Any] | None = None) -> str:
    """What an error for people said that ``work`` raised in a process of the second user; nothing if it raised none.

    ``first`` is done in that process while it belongs to the first user. It imports what ``work`` needs: the second may
    not be able to read the interpreter's own files.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([work.__module__])
    here, there = processes.Pipe()
    child = processes.Process(target=_do, args=(there, work, arguments, first))
    child.start()
    child.join()
    assert child.exitcode == 0
    return here.recv()


def _do(
    answer: Connection,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
    first: Callable[[], Any] | None,
) -> None:
    if first is not None:
        first()
    os.setgroups([])
    os.setresgid(GROUP, GROUP, GROUP)
    os.setresuid(SECOND_USER, SECOND_USER, SECOND_USER)
    try:
        work(*arguments)
    except RetuneError as error:
        answer.send(str(error))
    except Exception:  # noqa: BLE001 (told to the test)
        answer.send(traceback.format_exc())
    else:
        answer.send("")


def let_everybody_reach(folder: Path) -> None:
    """Let every user enter a test's folder."""
    for each in (folder, *folder.parents):
        if each == Path(gettempdir()):
            break
        each.chmod(0o755)


def hand_over(root: Path, mode: int) -> None:
    """Give the group's right to write, as umask 002 does (``mode`` 0o775), or not, as 022 (0o755)."""
    for path in (root, *root.rglob("*")):
        os.chown(path, -1, GROUP)
        if path.is_dir():
            path.chmod(mode)
