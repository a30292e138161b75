"""What each size needs: the arithmetic behind ``docs/scale.md``, to be done again with your own rates.

    python bench/scale.py                                     # the tables
    python bench/scale.py --write docs/scale.md               # into the marked places of the document
    python bench/scale.py --tokens 350 --share 0.25           # longer passages, a less busy GPU
    python bench/scale.py --device "mine=312,19.5,40,1.80"    # bf16 and fp32 TFLOP/s, GB, price an hour
    python bench/scale.py --cpu-gflops 50 --cores 8           # your machine, by `retune`'s own examples per second

Only `MEASURED` was measured. Everything else is computed from it, from sizes of published models and from the data
sheets of devices; prices are parameters, not quotations.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from assets_pkg.finetune.preflight import bytes_needed
from resources.machine.memory_estimate import Batch, Numerics, training_need
from resources.models.shape import ModelShape

HOUR, DAY, YEAR = 3600.0, 86400.0, 31_557_600.0
TERA, GIGA = 1e12, 1e9
RECIPE_TOKENS = 4 * 5 * 512 * 3 // 2
"""Of a mini-batch of the recipe: four questions with five passages of 512 tokens, padded."""

PASSAGES = (10**5, 10**6, 10**7, 10**8, 10**9)


@dataclass(frozen=True)
class Measured:
    """Measured on two shared cores of an AMD EPYC (AVX-512), MiniLM, torch 2.13; see ``bench/RESULTS.md``.

    ``cpu_gflops``: one core embedding in float32 (35 passages of 200 tokens a second, 4.7 GFLOP each, tokenising not
    counted). ``tokens_tokenised``: a second, by one core (32 texts of 218 tokens in 8.5 ms).
    ``search_gflops``: one core in the exact search of mining. ``pool_bytes``: of memory for each passage that mining
    chooses from, beside its text twice. ``pq_seconds``: building IVF-PQ over 100,000 vectors of 384.
    """

    cpu_gflops: float = 163.0
    tokens_tokenised: float = 820_000.0
    search_gflops: float = 99.0
    pool_bytes: int = 400
    pq_seconds: float = 170.0


@dataclass(frozen=True)
class Model:
    """Sizes of a published model. ``table``: values of its embedding table, which cost no arithmetic."""

    name: str
    parameters: int
    table: int
    layers: int
    hidden: int
    inner: int
    heads: int
    gated: bool

    def forward_flops(self, tokens: int) -> float:
        """Of one text: two for each weight and token, and attention's two products of ``tokens`` x ``tokens``."""
        products = 4 * self.layers * tokens * self.hidden
        return tokens * (2.0 * (self.parameters - self.table) + products)

    def shape(self) -> ModelShape:
        """For estimates of memory; feed-forward layers hold what attention does not."""
        square, wide = (self.hidden, self.hidden), (self.inner, self.hidden)
        layer = (*[square] * 4, *[wide] * (3 if self.gated else 2))
        return ModelShape(
            self.parameters, self.table, layer * self.layers, self.layers, self.hidden, self.inner, self.heads,
            self.gated, 2 * self.parameters,
        )  # fmt: skip


MODELS = (
    Model("22M", 22_700_000, 11_900_000, 6, 384, 1536, 12, False),  # all-MiniLM-L6-v2
    Model("110M", 109_500_000, 23_800_000, 12, 768, 3072, 12, False),  # BERT base and its like
    Model("335M", 335_000_000, 31_800_000, 24, 1024, 4096, 16, False),  # BERT large and its like
    Model("1B", 1_236_000_000, 263_000_000, 16, 2048, 8192, 32, True),  # llama-nemotron-embed-1b-v2
    Model("8B", 7_505_000_000, 525_000_000, 32, 4096, 14336, 32, True),  # llama-embed-nemotron-8b
)


@dataclass(frozen=True)
class Device:
    """``dense``: peak TFLOP/s of dense bf16 products, ``single`` of float32 ones, from the data sheet; ``memory`` in
    GB; ``price`` in dollars an hour, an assumption. ``share`` of the peak that is reached."""

    name: str
    dense: float
    single: float
    memory: float
    price: float
    share: float = 0.4

    def seconds(self, flops: float) -> float:
        """Of bf16 work."""
        return flops / (self.dense * TERA * self.share)

    def search_seconds(self, flops: float) -> float:
        """Of the float32 products of mining."""
        return flops / (self.single * TERA * self.share)


def processor(measured: Measured, cores: int, price: float) -> Device:
    """A CPU, by what was measured of one core: no share of a peak is assumed."""
    dense, single = (rate * cores * GIGA / TERA for rate in (measured.cpu_gflops, measured.search_gflops))
    return Device(f"{cores} cores", dense, single, 64, price, share=1.0)


GPUS = (
    Device("L4", 121, 30.3, 24, 0.80),
    Device("A10", 125, 31.2, 24, 1.00),
    Device("H100", 989, 67, 80, 3.00),
    Device("H200", 989, 67, 141, 3.60),
)


@dataclass(frozen=True)
class Assumptions:
    """What a corpus and a training set look like. ``text_bytes`` of a passage; ``read_gb`` a second from disk,
    ``scan_gb`` a second from memory; ``cores`` of the machine, beside a GPU too."""

    measured: Measured = Measured()
    cores: int = 16
    tokens: int = 200
    text_bytes: int = 900
    question_tokens: int = 20
    questions: int = 100_000
    negatives: int = 4
    read_gb: float = 2.0
    scan_gb: float = 10.0


# ---- sizes -------------------------------------------------------------------------------------------------------


def vector_bytes(dimensions: int) -> dict[str, int]:
    """Bytes of one vector as float32, float16, and as codes of a product quantiser with a byte for eight numbers."""
    return {"float32": 4 * dimensions, "float16": 2 * dimensions, "PQ": dimensions // 8}


def cache_bytes(dimensions: int, page: int = 65536, key: int = 32) -> float:
    """Bytes of one vector in the SQLite cache: whole rows to a page, and the key again in an index (pages of a tree
    that grows in random order are three quarters full)."""
    row = 4 * dimensions + key + 20
    return page / ((page - 8) // row) + (key + 10) / 0.75


def disk_bytes(dimensions: int, text_bytes: int) -> dict[str, float]:
    """Bytes for each passage of what a run leaves: texts (passages, and again in the index), vectors as Parquet, the
    cache, and the index with its codes."""
    vectors = vector_bytes(dimensions)
    return {
        "texts": 2.0 * text_bytes,
        "embeddings": vectors["float32"],
        "cache": cache_bytes(dimensions),
        "index": vectors["float32"] + vectors["PQ"] + 8,
    }


def mining_memory(passages: int, given: Assumptions) -> float:
    """Bytes that mining holds: every text, and its key for finding texts that are the same."""
    return passages * (2.0 * given.text_bytes + given.measured.pool_bytes)


# ---- times -------------------------------------------------------------------------------------------------------


def embedding_seconds(passages: int, model: Model, device: Device, given: Assumptions) -> float:
    """Tokenising on all cores, and then the network: the one waits for the other."""
    tokenising = passages * given.tokens / (given.cores * given.measured.tokens_tokenised)
    return tokenising + device.seconds(passages * model.forward_flops(given.tokens))


def mining_seconds(
    passages: int, model: Model, device: Device, given: Assumptions, batch: int = 16384
) -> float:
    """Exact search of every passage for every question: the products, or reading the vectors once for each
    ``batch`` questions, whichever is slower."""
    products = device.search_seconds(2.0 * given.questions * passages * model.hidden)
    reading = math.ceil(given.questions / batch) * 4.0 * passages * model.hidden / (given.read_gb * GIGA)
    return max(products, reading)


def training_seconds(model: Model, device: Device, given: Assumptions) -> float:
    """One epoch with cached gradients: two passes forward, and one backward that costs two."""
    passages = (1 + given.negatives) * model.forward_flops(given.tokens)
    return device.seconds(4 * given.questions * (model.forward_flops(given.question_tokens) + passages))


def exact_search_seconds(passages: int, model: Model, given: Assumptions) -> float:
    """Of one query: every vector is read."""
    return 4.0 * passages * model.hidden / (given.scan_gb * GIGA)


def clusters_seconds(passages: int, model: Model, device: Device) -> float:
    """Of giving every vector to the nearest of sqrt(n) partitions: the part of building IVF-PQ that grows fastest."""
    return device.search_seconds(2.0 * passages * round(math.sqrt(passages)) * model.hidden)


# ---- tables ------------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Two figures and a unit."""
    for unit, length in (("years", YEAR), ("days", DAY), ("h", HOUR), ("min", 60.0)):
        if seconds >= 2 * length or (unit == "min" and seconds >= length):
            return f"{figures(seconds / length)} {unit}"
    return f"{figures(seconds)} s"


def size(count: float) -> str:
    """Two figures and a unit of bytes."""
    for unit, length in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= 0.995 * length:
            return f"{figures(count / length)} {unit}"
    return f"{figures(count / 1e3)} kB"


def figures(value: float) -> str:
    """Two significant figures, without an exponent."""
    if value >= 10:
        digits = 1 - math.floor(math.log10(value))
        return f"{round(value, digits):,.0f}"
    return f"{value:.2g}"


def money(value: float) -> str:
    return "<$1" if value < 1 else f"${figures(value)}"


def power(count: int) -> str:
    return f"10^{round(math.log10(count))}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_size(cell: Callable[[int, Model], str]) -> str:
    """A table of passages by models."""
    head = ["passages", *(model.name for model in MODELS)]
    return table(head, [[power(count), *(cell(count, model) for model in MODELS)] for count in PASSAGES])


def model_table(given: Assumptions) -> str:
    head = ["model", "vectors", "GFLOP a passage", "float32 weights"]
    return table(
        head,
        [
            [m.name, str(m.hidden), figures(m.forward_flops(given.tokens) / GIGA), size(4 * m.parameters)]
            for m in MODELS
        ],
    )


def rate_table(devices: Sequence[Device], given: Assumptions) -> str:
    head = ["device", "TFLOP/s reached", "$ an hour", *(f"{model.name}, passages/s" for model in MODELS)]
    rows: list[list[str]] = []
    for each in devices:
        rates = [figures(1 / embedding_seconds(1, model, each, given)) for model in MODELS]
        rows.append([each.name, figures(each.dense * each.share), f"{each.price:.2f}", *rates])
    return table(head, rows)


def embedding_table(device: Device, given: Assumptions) -> str:
    def cell(count: int, model: Model) -> str:
        seconds = embedding_seconds(count, model, device, given)
        return f"{duration(seconds)}, {money(seconds / HOUR * device.price)}"

    return by_size(cell)


def index_table(given: Assumptions) -> str:
    def cell(count: int, model: Model) -> str:
        return " / ".join(size(count * each) for each in vector_bytes(model.hidden).values())

    return by_size(cell)


def training_table(devices: Sequence[Device], given: Assumptions) -> str:
    head = ["model", *(f"{each.name}" for each in devices), "memory", "with LoRA 16", "disk"]
    rows: list[list[str]] = []
    for model in MODELS:
        times = [training_seconds(model, each, given) for each in devices]
        cells = [f"{duration(t)}, {money(t / HOUR * d.price)}" for t, d in zip(times, devices, strict=True)]
        how, batch = Numerics("cuda", bf16=True, fused=True), Batch(RECIPE_TOKENS, 512)
        full = training_need(model.shape(), batch, how, checkpointing=True).total
        low = training_need(model.shape(), batch, how, lora_rank=16, checkpointing=True).total
        disk = bytes_needed(model.parameters, model.parameters)
        rows.append([model.name, *cells, size(full), size(low), size(disk)])
    return table(head, rows)


def tables(given: Assumptions, devices: Sequence[Device]) -> dict[str, str]:
    """Every table of the document by its name. The first device is the CPU."""
    cpu, gpus = devices[0], devices[1:]
    first, largest = gpus[0], max(gpus, key=lambda each: each.dense / each.price)
    return {
        "models": model_table(given),
        "rates": rate_table(devices, given),
        "embedding-cpu": embedding_table(cpu, given),
        "embedding-small": embedding_table(first, given),
        "embedding-large": embedding_table(largest, given),
        "index": index_table(given),
        "disk": by_size(lambda n, m: size(n * sum(disk_bytes(m.hidden, given.text_bytes).values()))),
        "exact": by_size(lambda n, m: duration(exact_search_seconds(n, m, given))),
        "clusters": by_size(lambda n, m: duration(clusters_seconds(n, m, cpu))),
        "mining-cpu": by_size(lambda n, m: duration(mining_seconds(n, m, cpu, given))),
        "mining-large": by_size(lambda n, m: duration(mining_seconds(n, m, largest, given))),
        "mining-memory": table(
            ["passages", "memory"],
            [[power(n), size(mining_memory(n, given))] for n in PASSAGES],
        ),
        "training": training_table([cpu, first, largest], given),
    }


# ---- the document ------------------------------------------------------------------------------------------------

PLACE = re.compile(r"(<!-- scale:([\w-]+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def fill(text: str, made: dict[str, str]) -> str:
    """The document with its marked places filled anew."""
    return PLACE.sub(lambda found: found[1] + made[found[2]] + found[3], text)


def _device(text: str) -> Device:
    name, _, numbers = text.partition("=")
    try:
        dense, single, memory, price = map(float, numbers.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: NAME=BF16,FP32,GB,PRICE wanted") from None
    return Device(name, dense, single, memory, price)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="DOCUMENT")
    parser.add_argument("--tokens", type=int, default=Assumptions.tokens)
    parser.add_argument("--questions", type=int, default=Assumptions.questions)
    parser.add_argument("--share", type=float, default=Device.share, help="of a GPU's peak that is reached")
    parser.add_argument("--cpu-gflops", type=float, default=Measured.cpu_gflops, help="of one core")
    parser.add_argument("--cores", type=int, default=16)
    parser.add_argument("--cpu-price", type=float, default=0.80)
    parser.add_argument("--device", type=_device, action="append", help="instead of the GPUs listed")
    asked = parser.parse_args()
    measured = Measured(cpu_gflops=asked.cpu_gflops)
    gpus = [replace(each, share=asked.share) for each in asked.device or GPUS]
    given = Assumptions(measured, asked.cores, asked.tokens, questions=asked.questions)
    made = tables(given, [processor(measured, asked.cores, asked.cpu_price), *gpus])
    if asked.write:
        asked.write.write_text(fill(asked.write.read_text("utf-8"), made), "utf-8")
        return
    for name, text in made.items():
        print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    main()
