"""What every executor keeps: order, errors, a worker that dies, and the bits of the sum."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NoReturn

import pytest

from edge.errors import ConfigurationError, LabelError, StatisticsOverflowError
from edge.statistics import EXACT_LIMIT
from tests.simulators.fleet_device import sound, statement, statistics_of
from trainer.errors import ExecutorError
from trainer.server.blobs import BlobStore
from trainer.server.executor import EXECUTORS, ONE_BLAS_THREAD, Executor, LocalExecutor, open_executor
from trainer.server.statements import Statement, cut, sum_in_shards

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray; install soundkeep[cluster]")
KINDS = ("one process", "local", pytest.param("ray", marks=needs_ray))
WITH_WORKERS = KINDS[1:]


@pytest.fixture(scope="module")
def opened() -> Iterator[dict[str, Any]]:
    """Executors are opened once: processes and Ray take seconds to start."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield {"stack": stack}


@pytest.fixture
def executor(request: pytest.FixtureRequest, opened: dict[str, Any]) -> Executor:
    kind = request.param
    if kind not in opened:
        name, n = ("local", 1) if kind == "one process" else (kind, 2)
        opened[kind] = opened["stack"].enter_context(open_executor(name, n))
    found: Executor = opened[kind]
    return found


every = pytest.mark.parametrize("executor", KINDS, indirect=True)
with_workers = pytest.mark.parametrize("executor", WITH_WORKERS, indirect=True)


# ---- what the workers do ---------------------------------------------------------------------------------------------


def squared(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    if number == 2:
        raise LabelError("label 2 is refused; choose another")
    return number


def environment(_: int) -> list[str | None]:
    return [os.environ.get(name) for name in ONE_BLAS_THREAD]


def die_first(where: tuple[str, int, int]) -> int:
    """Die as often as asked, by a file that counts; then answer."""
    path, number, times = where
    died = Path(path)
    n = len(died.read_bytes()) if died.exists() else 0
    if n < times:
        with died.open("ab") as file:
            file.write(b"x")
        die(number)
    return number


def die(number: int) -> NoReturn:
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(1)


# ---- laws ------------------------------------------------------------------------------------------------------------


@every
def test_no_shard_no_answer(executor: Executor) -> None:
    assert executor.map_shards(squared, []) == []


@every
def test_answers_come_in_the_order_of_the_shards(executor: Executor) -> None:
    assert executor.map_shards(squared, list(range(20))) == [n * n for n in range(20)]


@every
def test_what_the_function_raises_is_raised(executor: Executor) -> None:
    with pytest.raises(LabelError, match=r"^label 2 is refused; choose another$"):
        executor.map_shards(refuse, [1, 2, 3])
    assert executor.map_shards(refuse, [1, 3]) == [1, 3], "it works on"


@with_workers
def test_workers_have_one_blas_thread(executor: Executor) -> None:
    assert executor.map_shards(environment, [0, 1]) == [["1", "1", "1"]] * 2


@with_workers
@pytest.mark.parametrize("number", [4, 5], ids=["exit", "kill"])
def test_a_shard_whose_worker_died_is_done_again(
    executor: Executor, tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    died = str(tmp_path / "died")
    shards = [(died, n, 2 if n == number else 0) for n in range(8)]
    assert executor.map_shards(die_first, shards) == list(range(8))
    assert len(Path(died).read_bytes()) == 2
    assert capfd.readouterr().out == "", "answers of commands go there"


@with_workers
def test_a_shard_that_always_kills_its_worker_ends_in_one_sentence(executor: Executor) -> None:
    with pytest.raises(ExecutorError, match=r"a worker died 3 times .* use fewer processes or smaller shards") as info:
        executor.map_shards(die, [1])
    assert "\n" not in str(info.value)
    assert executor.map_shards(squared, [3]) == [9], "it works on"


def test_without_another_try_a_death_loses_the_work(tmp_path: Path) -> None:
    """The pool alone, which LocalExecutor wraps."""
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        pytest.raises(BrokenProcessPool),
    ):
        list(pool.map(die_first, [(str(tmp_path / "died"), 1, 1)]))


# ---- sums ------------------------------------------------------------------------------------------------------------


def stated(blobs: BlobStore, number: int, *, twin: bool = False) -> Statement:
    """One of several devices; a twin says the same bytes as the device before it."""
    seed = number - twin
    records = [sound(("bell", "dog", "kettle")[(seed + i) % 3], 10 * seed + i) for i in range(3)]
    data = statement(1, records)
    labels = {record.label: record.n_windows for record in records}
    names = {"dog": "animal"} if number % 2 else {}
    sha = statistics_of(records).sha256
    return Statement(f"{number:032x}", f"device {number}", blobs.put(data), sha, 3, 9, labels, names)


@every
@pytest.mark.parametrize("n_shards", [1, 2, 5, None])
def test_sums_have_the_same_bits_in_any_number_of_shards(
    executor: Executor, tmp_path: Path, n_shards: int | None
) -> None:
    blobs = BlobStore(str(tmp_path))
    statements = [stated(blobs, n) for n in range(7)]
    records = [(sound(("bell", "dog", "kettle")[(n + i) % 3], 10 * n + i), n) for n in range(7) for i in range(3)]
    plain = statistics_of([r for r, n in records if not n % 2])
    renamed = statistics_of([type(r)(r.space_sha256, {"dog": "animal"}.get(r.label, r.label), r.embeddings)
                             for r, n in records if n % 2])  # fmt: skip
    space = statistics_of([]).space
    total = sum_in_shards(executor, blobs.url, space, statements, n_shards).statistics()
    assert total == plain + renamed and total.sha256 == (plain + renamed).sha256


@every
def test_two_devices_that_say_the_same_bytes_count_twice(executor: Executor, tmp_path: Path) -> None:
    """Devices that imported one memory: their statements are one blob, and may have other names in the fleet."""
    blobs = BlobStore(str(tmp_path))
    first, second = stated(blobs, 2), stated(blobs, 3, twin=True)
    assert first.blob_sha256 == second.blob_sha256 and first.names != second.names
    space = statistics_of([]).space
    total = sum_in_shards(executor, blobs.url, space, [first, second]).statistics()
    assert total.n_samples == 18 and "animal" in total.labels and "dog" in total.labels


@every
def test_what_a_sum_refuses_is_refused_from_the_workers(executor: Executor, tmp_path: Path) -> None:
    """2^53 is passed only when the sums of the shards meet."""
    from edge.statistics_file import PackedStatistics
    from edge.sync.state_message import encode_state

    blobs = BlobStore(str(tmp_path))
    whole = PackedStatistics.of(statistics_of([sound("bell", 1, n_windows=1)]))
    n = EXACT_LIMIT // int(whole.gram.max()) - 1
    many = PackedStatistics(whole.space, whole.labels, whole.counts * n, whole.sums * n, whole.gram * n).unpacked()
    one = Statement("1" * 32, "a", blobs.put(encode_state(1, [], many)), many.sha256, 1, n, {"bell": n}, {})
    with pytest.raises(StatisticsOverflowError, match="above 2\\^53"):
        sum_in_shards(executor, blobs.url, whole.space, [one, one], 2)


@pytest.mark.parametrize(("n", "n_shards"), [(0, 3), (1, 3), (7, 2), (7, 5), (5, 5)])
def test_shards_hold_everything_once_and_none_is_empty(n: int, n_shards: int) -> None:
    parts = cut(list(range(n)), n_shards)
    assert sorted(thing for part in parts for thing in part) == list(range(n))
    assert all(parts) and len(parts) == min(n, n_shards)
    assert max(map(len, parts), default=0) - min(map(len, parts), default=0) <= 1


# ---- opening ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_opened_says_why() -> None:
    assert EXECUTORS == ("local", "ray")
    with pytest.raises(ConfigurationError, match="executor is 'dask'; wanted one of local, ray"), open_executor("dask"):
        pass
    with pytest.raises(ConfigurationError, match="choose the executor ray"), open_executor("local", 1, "head:6379"):
        pass
    with pytest.raises(ConfigurationError, match="n_processes is 0"):
        LocalExecutor(0)


def test_without_ray_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    before = dict(os.environ)
    words = r"Ray is not installed; install soundkeep\[cluster\]"
    with pytest.raises(ConfigurationError, match=words), open_executor("ray"):
        pass
    assert dict(os.environ) == before


def test_environment_of_this_process_stays_as_it_was() -> None:
    before = dict(os.environ)
    with LocalExecutor(2) as executor:
        assert executor.map_shards(squared, [1]) == [1]
    assert dict(os.environ) == before


@needs_ray
def test_ray_listens_on_loopback_alone_and_wants_a_token(opened: dict[str, Any]) -> None:
    import psutil
    import ray

    if "ray" not in opened:
        opened["ray"] = opened["stack"].enter_context(open_executor("ray", 2))
    assert ray.util.get_node_ip_address() == "127.0.0.1"
    own = [p for p in psutil.process_iter(["cmdline"]) if "ray" in " ".join(p.info["cmdline"] or [])]
    heard = {c.laddr.ip for p in own for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert heard and heard <= {"127.0.0.1", "::ffff:127.0.0.1"}
    address = ray.get_runtime_context().gcs_address
    code = f"import ray; ray.init(address={address!r}, logging_level=50); print('in')"
    assert _stranger(code, {}) == ""
    assert _stranger(code, {"RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"]}) == "in"


def _stranger(code: str, environment: dict[str, str]) -> str:
    """Another process of this machine that tries to join, with the address but not always with the token."""
    import subprocess

    rest = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**rest, **environment}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    return done.stdout.strip()
