"""Generation of questions by a chat model at full size, against the scripted endpoint on loopback.

    PYTHONPATH=. python bench/sdg.py [throughput memory kills changes limits]

Prints a line for each figure; exits with 1 if one misses its target.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from resources.chat_model.errors import BudgetReachedError, ConsentError
from storage.formats.qa_records import read_records
from tests.chat_model.scripted_endpoint import ScriptedEndpoint
from tests.sdg_llm.material import generate, make_corpus, sdg_settings

DOCUMENTS = 500
LATENCY = 0.2
PARALLEL = 8

missed: list[str] = []


def report(name: str, value: str, *, good: bool) -> None:
    print(f"{'ok  ' if good else 'MISS'} {name:<44} {value}", flush=True)
    if not good:
        missed.append(name)


def pairs_in(folder: Path) -> int:
    return sum(len(record.deduplicated_qa_pairs) for record in read_records(folder / "qa_records.jsonl"))


def throughput(endpoint: ScriptedEndpoint, work: Path) -> None:
    """All pairs are there, at 95% or more of the rate that the endpoint's latency allows."""
    settings = sdg_settings(endpoint.base_url, max_parallel_requests_for_gen=PARALLEL)
    artifacts = make_corpus(work / "in", DOCUMENTS)
    endpoint.script(latency=LATENCY)
    started = time.monotonic()
    folder = generate(artifacts, settings, work / "out")
    wall, calls = time.monotonic() - started, endpoint.stats()["requests"]
    share = calls * LATENCY / PARALLEL / wall
    report("pairs of 500 documents", f"{pairs_in(folder)} of {7 * DOCUMENTS}", good=pairs_in(folder) == 3500)
    report(
        "share of calls x latency / concurrency",
        f"{share:.3f} ({calls} calls, {wall:.1f} s)",
        good=share >= 0.95,
    )


def memory(endpoint: ScriptedEndpoint, work: Path) -> None:
    """Peak memory of the generating process, 500 documents against 5,000 of about 2 kB each."""
    endpoint.script()
    peaks = {}
    for count in (DOCUMENTS, 10 * DOCUMENTS):
        make_corpus(work / f"in{count}", count, segments=40)
        process = _start(work / f"in{count}", endpoint, work / f"out{count}" / "out")
        output, _ = process.communicate()
        assert process.returncode == 0
        peaks[count] = int(output) / 2**20
    small, large = peaks.values()
    report(
        "peak memory, 500 and 5,000 documents", f"{small:.0f} MB, {large:.0f} MB", good=large < small * 1.15
    )


def kills(endpoint: ScriptedEndpoint, work: Path) -> None:
    """Killed ten times at random moments, then run to the end."""
    make_corpus(work / "in", DOCUMENTS)
    endpoint.script(latency=LATENCY)
    for _ in range(10):
        process, before = _start(work / "in", endpoint, work / "out"), endpoint.stats()["requests"]
        target = before + random.randint(1, 130)
        while endpoint.stats()["requests"] < target and process.poll() is None:
            time.sleep(0.02)
        time.sleep(random.random() * LATENCY)
        process.kill()
        process.wait()
    assert _start(work / "in", endpoint, work / "out").wait() == 0
    stats, undisturbed = endpoint.stats(), 3 * DOCUMENTS
    extra = stats["requests"] - undisturbed
    report("distinct prompts after ten kills", str(stats["distinct"]), good=stats["distinct"] == undisturbed)
    report("calls asked again (in flight at the kills)", str(extra), good=extra <= 10 * 8)
    report("pairs after ten kills", str(pairs_in(work / "out")), good=pairs_in(work / "out") == 3500)


def changes(endpoint: ScriptedEndpoint, work: Path) -> None:
    """Calls after a change of one document of 500, and after a change of the judge."""
    settings = sdg_settings(endpoint.base_url, max_parallel_requests_for_gen=PARALLEL)
    endpoint.script()
    generate(make_corpus(work / "in", DOCUMENTS), settings, work / "out")
    endpoint.script()
    artifacts = make_corpus(work / "in", DOCUMENTS, changed=[123])
    started = time.monotonic()
    generate(artifacts, settings, work / "out")
    took, steps = time.monotonic() - started, endpoint.stats()["by_step"]
    good = steps == {"artifacts": 1, "pairs": 1, "evaluations": 1}
    report("calls after one document changed", f"{steps} in {took:.1f} s", good=good)
    endpoint.script()
    generate(artifacts, settings.model_copy(update={"quality_judge_model": "other"}), work / "out")
    steps = endpoint.stats()["by_step"]
    report("calls after the judge changed", str(steps), good=steps == {"evaluations": DOCUMENTS})


def limits(endpoint: ScriptedEndpoint, work: Path) -> None:
    """No consent; a budget of 100 calls."""
    artifacts = make_corpus(work / "in", DOCUMENTS)
    endpoint.script(latency=LATENCY)
    try:
        generate(artifacts, sdg_settings("http://192.0.2.1/v1"), work / "out")
    except ConsentError as error:
        report("without consent", str(error)[:70], good=endpoint.stats()["requests"] == 0)
    try:
        generate(artifacts, sdg_settings(endpoint.base_url, max_calls=100), work / "out")
    except BudgetReachedError as error:
        requests = endpoint.stats()["requests"]
        report("requests with max_calls = 100", f"{requests}: {str(error)[:50]}", good=requests <= 100)


def _start(corpus: Path, endpoint: ScriptedEndpoint, output: Path) -> subprocess.Popen[bytes]:
    script = Path(__file__).parents[1] / "tests" / "sdg_llm" / "run_generation.py"
    command = [sys.executable, str(script), str(corpus), endpoint.base_url, str(output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def main() -> int:
    benches: list[Callable[[ScriptedEndpoint, Path], None]] = [throughput, memory, kills, changes, limits]
    wanted = sys.argv[1:] or [bench.__name__ for bench in benches]
    with ScriptedEndpoint() as endpoint:
        for bench in benches:
            if bench.__name__ in wanted:
                with tempfile.TemporaryDirectory() as folder:
                    bench(endpoint, Path(folder))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
