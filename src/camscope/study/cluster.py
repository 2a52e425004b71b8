"""Explain the cases of a study with the workers of a Ray cluster, shard by shard."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch

from camscope.cohort.cohort import Cohort
from camscope.cohort.store import Known, Row, Store
from camscope.errors import ClusterError, OutputError, StoreError, require
from camscope.files import read_parquet
from camscope.study.dicom_identity import Identities
from camscope.study.rows import schema
from camscope.study.step import StudyStep
from camscope.study.study import Study

_TRIES = 3
"""Number of times that a shard is given to a worker before its cases are given out one by one."""

_PATIENCE = 10  # seconds to wait for an answer of the cluster
_CPUS = 4  # per worker without a GPU: for the network, and for threads that read and write


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and the number of its workers that explain a study.

    Each worker loads every model once and keeps it. All nodes need access to the study file, the weights and the images
    under the same paths or addresses, and have camscope installed.

    Attributes:
        address: "auto", "HOST:PORT" or "ray://HOST:10001". None uses the cluster that runs on this machine, or else
            starts one on this machine for the duration of the study.
        workers: number of workers; None for one per GPU, or one per four CPUs in a cluster without GPUs.
        gpus_per_worker: GPUs per worker, may be a fraction; None for 1 in a cluster with GPUs, otherwise 0.

    Examples:
        >>> import camscope as cs
        >>> cluster = cs.Cluster("auto", workers=8)
        >>> for row in cs.run(study, "s3://bucket/results", cluster=cluster):  # doctest: +SKIP
        ...     print(row["line"], row["status"])
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None


@dataclass(frozen=True)
class Workers:
    """The workers of a connected cluster.

    Attributes:
        ray: the package.
        number: number of workers.
        cpus: CPUs per worker.
        gpus: GPUs per worker, may be a fraction.
    """

    ray: Any
    number: int
    cpus: int
    gpus: float

    @property
    def device(self) -> str:
        """Return the default device of the workers."""
        return "cuda" if self.gpus else "cpu"


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[Workers]:
    """Connect to the workers of a cluster.

    Ray is disconnected at the end, unless it was connected before. Its log messages are silenced.

    Raises:
        ClusterError: the cluster cannot be reached, or has too few CPUs or GPUs for a worker.
        MissingExtraError: Ray is not installed.
    """
    ray = require("ray", "a study on a cluster", "ray")
    require("ray.data", "a study on a cluster", "ray")
    for name in ("ray", "ray.data"):  # lost shards are given out again, which the display shows
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield _workers(ray, cluster)
        return
    with _own_handler():
        try:
            _knock(cluster.address)
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as fault:  # ConnectionError, RuntimeError or ValueError: all mean that there is no cluster
            place = f"at {cluster.address}" if cluster.address else "on this machine"
            raise ClusterError(
                f"no Ray cluster can be used {place}: {_words(fault)}; start one with `ray start --head`, or leave "
                "--address out"
            ) from None
        try:
            yield _workers(ray, cluster)
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _own_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces and leaves behind."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _knock(address: str | None) -> None:
    """Check that a server listens at HOST:PORT, because Ray itself would try for minutes.

    Raises:
        OSError: no server listens there.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def _workers(ray: Any, cluster: Cluster) -> Workers:
    """Return the workers with the CPUs and GPUs of each, for the nodes of the cluster."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    gpus = sum(node.get("GPU", 0) for node in nodes)
    each = cluster.gpus_per_worker if cluster.gpus_per_worker is not None else float(gpus > 0)
    if not cpus or each > gpus:
        raise ClusterError(
            f"the cluster has {sum(cpus)} CPUs and {gpus:g} GPUs, and a worker needs a CPU and {each:g} GPUs"
        )
    possible = int(gpus / each) if each else max(1, sum(cpus) // _CPUS)
    number = cluster.workers or possible
    return Workers(ray, number, max(1, min(sum(cpus) // number, *cpus)), each)


def explained_by(
    workers: Workers, study: Study, store: Store, *, size: int, watch: Callable[[str], None], **given: Any
) -> Iterator[Row]:
    """Explain all cases of a study on a cluster.

    Workers write the shards that they explain, and return the shard numbers. If a worker dies, its shard is given to
    another worker. After several tries, the cases of the shard are explained one by one, so that an image that crashes
    every worker fails alone.

    Args:
        workers: workers of the cluster.
        study: the study.
        store: folder of the study, to which all workers can write.
        size: number of cases per shard.
        watch: called with the current step.
        given: device, batch_size, engine, precision and seed of `StudyStep`.

    Yields:
        Every row, shard by shard, in the order in which shards are done.

    Raises:
        ClusterError: a worker cannot load the models.
        StoreError: a worker cannot write.
    """
    Identities(study, store)  # write the salt before workers need it
    arguments = {"study": _shipped(study), "plan": study.plan, "out": _out(store), "size": size, "given": given}
    arguments["cpus"] = workers.cpus
    shards = dict(enumerate(study.cohort.table.iter_slices(size)))
    for again in range(_TRIES):
        if not shards:
            return
        watch(f"on {workers.number} workers" + (f", {len(shards)} shards again" if again else ""))
        for number in _written(workers, list(shards.values()), made=arguments):
            del shards[number]
            yield from read_parquet(store.shard(study.plan, number)).iter_rows(named=True)
    for number, table in shards.items():
        watch("case by case, after workers were lost")
        rows = list(_one_by_one(workers, study.cohort.part(table), study, made=arguments))
        store.write(study.plan, number, rows=rows, columns=schema(study.file))
        yield from rows


def _written(workers: Workers, tables: Sequence[pl.DataFrame], *, made: dict[str, Any]) -> Iterator[int]:
    """Give out shards; yield the number of each shard that was written."""
    data = workers.ray.data
    context = data.DataContext.get_current()
    before = context.max_errored_blocks, context.enable_progress_bars
    context.max_errored_blocks, context.enable_progress_bars = -1, False
    try:
        with warnings.catch_warnings():
            # Ray 2.60: release 2.64 removes these arguments without a replacement, so the extra pins the version.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            results = data.from_arrow([table.to_arrow() for table in tables]).map_batches(
                Worker,
                batch_size=None,
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(size=min(workers.number, len(tables)), max_tasks_in_flight_per_actor=2),
                num_cpus=workers.cpus,
                num_gpus=workers.gpus,
                fn_constructor_kwargs=made,
                # A dead worker is restarted; its shard is given out again.
                max_restarts=-1,
                max_task_retries=0,
            )
        for row in results.iter_rows():
            if row["fault"]:
                raise StoreError(row["fault"])
            yield int(row["shard"])
    except (StoreError, GeneratorExit):
        raise
    except Exception as fault:  # errors of a worker arrive inside different exceptions of Ray
        raise ClusterError(f"the cluster cannot explain the study: {_words(fault)}") from None
    finally:
        context.max_errored_blocks, context.enable_progress_bars = before


def _one_by_one(workers: Workers, cohort: Cohort, study: Study, *, made: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of cases during which workers died; if a worker dies again, the rows of the case fail."""
    ray = workers.ray
    remote = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_restarts=0)(Worker)
    step, actor = None, None
    for row in range(len(cohort)):
        actor = actor or remote.remote(**made)
        table = cohort.table.slice(row, 1)
        try:
            yield from ray.get(actor.rows.remote(table))
        except Exception as fault:  # any reason why a worker died
            actor = None
            step = step or StudyStep(study, Store(made["out"]), device="cpu")
            error = ClusterError(f"no worker could explain this image: {_words(fault)}")
            yield from step.failed(next(cohort.cases([row])), error)


class Worker:
    """An actor of the cluster: explains shards of the table with models that it keeps loaded.

    Args:
        study: the study, without the rows of its table.
        plan: fingerprint of table and settings.
        out: folder or address of the results.
        size: number of cases per shard.
        given: device, batch_size, engine, precision and seed of `StudyStep`.
        cpus: number of CPUs that it may use.
    """

    def __init__(self, *, study: Study, plan: str, out: str, size: int, given: dict[str, Any], cpus: int) -> None:
        torch.set_num_threads(cpus)
        self.study, self.plan, self.store, self.size = study, plan, Store(out), size
        self.step = StudyStep(study, self.store, **given)
        self.former = self.store.known([])

    def __call__(self, block: Any) -> Any:
        """Explain the cases of a block (one shard), and write their rows.

        Returns:
            An Arrow table of one row: "shard", and "fault": why the study cannot go on, or "".
        """
        table = pl.DataFrame(pl.from_arrow(block))
        cases = list(self.study.cohort.part(table).cases())
        number, fault = cases[0].number // self.size, ""
        path = self.store.shard(self.plan, number)
        try:
            rows = list(self.step.rows(cases, known=Known([path], before=self.former)))
            self.store.write(self.plan, number, rows=rows, columns=schema(self.study.file))
        except (OutputError, StoreError) as error:
            fault = str(error)
        return pl.DataFrame({"shard": [number], "fault": [fault]}).to_arrow()

    def rows(self, table: pl.DataFrame) -> list[Row]:
        """Return the rows of some cases."""
        return list(self.step.rows(self.study.cohort.part(table).cases(), known=self.former))


def _shipped(study: Study) -> Study:
    """Return the study without the rows of its table and without models, for workers."""
    cohort = study.cohort.part(study.cohort.table.clear())
    return replace(study, path=study.path.absolute(), cohort=cohort)


def _out(store: Store) -> str:
    return str(store.folder) if store.remote else str(store.folder.absolute())


def _words(fault: BaseException) -> str:
    """Return the worker's error message: the last line of a traceback, or else the first line."""
    cause = getattr(fault, "cause", None)
    lines = str(cause if isinstance(cause, BaseException) else fault).strip().splitlines()
    if not lines:
        return type(fault).__name__
    return lines[-1] if any(line.startswith("  File ") for line in lines) else lines[0]
