"""A real Docker engine for the tests, private to them, and a base image made of the running interpreter.

The engine has its own socket, data and bridge, so that it disturbs no other engine of the machine. Without a
package registry a base image must come from somewhere: here it is this interpreter, its standard library, pip
and the shared libraries that they need.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import docker
from docker.errors import DockerException

from tests.apt import install_packages

BRIDGE = "retune-test0"
SUBNET = "172.29.77.1/24"
BASE = "retune-test/python-base:latest"
LEFT_OUT = {
    "test",
    "tests",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "idlelib",
    "tkinter",
    "ensurepip",
}


@contextmanager
def running_engine(folder: Path) -> Generator[str]:
    """Start an engine with its data under ``folder``; gives its address (for ``DOCKER_HOST``)."""
    install_packages({"dockerd": "docker.io", "ip": "iproute2"})
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
    subprocess.run(["ip", "addr", "add", SUBNET, "dev", BRIDGE], check=True)
    subprocess.run(["ip", "link", "set", BRIDGE, "up"], check=True)
    address = f"unix://{folder}/docker.sock"
    folders = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "pid"}
    command = ["dockerd", "--host", address, "--bridge", BRIDGE, "--iptables=false", "--ip6tables=false"]
    command += [part for option, name in folders.items() for part in (option, str(folder / name))]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _await_engine(address, process, folder / "log")
        yield address
    finally:
        process.terminate()
        process.wait(60)
        _unmount(folder)
        subprocess.run(["ip", "link", "del", BRIDGE], check=False)


def make_base_image(address: str) -> None:
    """Import `BASE` into the engine: ``python`` and ``pip`` of this interpreter's version, and a shell."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for source, target in _base_files():
            archive.add(source.resolve(), target, recursive=False, filter=_for_everyone)
        _add_link(archive, "usr/local/bin/python", "python3")
    client = docker.DockerClient(base_url=address, timeout=120)
    repository, _, tag = BASE.partition(":")
    changes = ["ENV PATH=/usr/local/bin:/bin", "ENV PYTHONHOME=/usr/local"]
    client.api.import_image_from_data(stream.getvalue(), repository=repository, tag=tag, changes=changes)
    client.close()


def _unmount(folder: Path) -> None:
    """What the engine leaves mounted would keep its folder from being deleted."""
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in mounted:
        if mount.startswith(str(folder)):
            subprocess.run(["umount", "--lazy", mount], check=False)


def _await_engine(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client = docker.DockerClient(base_url=address, version="auto")
            client.ping()
            client.close()
            return
        except DockerException:
            time.sleep(0.2)
    raise AssertionError("the Docker engine did not start:\n" + log.read_text()[-2000:])


def _base_files() -> Iterator[tuple[Path, str]]:
    """(file here, path in the image)."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = Path(sys.executable).resolve()
    programs = [python, Path("/bin/sh").resolve()]
    yield python, "usr/local/bin/python3"
    yield programs[1], "bin/sh"
    yield Path("/etc/passwd"), "etc/passwd"  # the recipe's `-u root` is looked up there
    modules = list(_modules(stdlib))
    for path in modules:
        yield path, f"usr/local/lib/{version}/{path.relative_to(stdlib)}"
    pip = Path(str(find_spec("pip").origin)).parent  # type: ignore[union-attr]
    for path in pip.rglob("*.*"):
        if path.is_file() and path.suffix != ".pyc":
            yield path, f"usr/local/lib/{version}/{path.relative_to(pip.parent)}"
    extensions = [path for path in modules if path.suffix == ".so"]
    onnxruntime = Path(str(find_spec("onnxruntime").origin)).parent  # type: ignore[union-attr]
    for library in shared_libraries([*programs, *extensions, *onnxruntime.rglob("*pybind*.so")]):
        yield library, str(library).lstrip("/")


def _modules(stdlib: Path) -> Iterator[Path]:
    for folder, inside, names in os.walk(stdlib):
        inside[:] = (name for name in inside if name not in LEFT_OUT and "config-" not in name)
        yield from (Path(folder, name) for name in names if not name.endswith(".a"))


def shared_libraries(programs: list[Path]) -> list[Path]:
    """The shared libraries that the programs load, by the paths under which the loader finds them."""
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    found = {Path(path) for path in re.findall(r"(/[^\s:()]+\.so[^\s:()]*) \(0x", said)}
    return sorted(path for path in found if path.exists())


def _for_everyone(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mode |= 0o755 if entry.mode & 0o100 else 0o644
    entry.uid = entry.gid = 0
    return entry


def _add_link(archive: tarfile.TarFile, name: str, target: str) -> None:
    link = tarfile.TarInfo(name)
    link.type, link.linkname = tarfile.SYMTYPE, target
    archive.addfile(link)
