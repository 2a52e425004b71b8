"""A study's cases explained by the workers of a Ray cluster: shards of the table out, shards of rows in the store."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch

from camscope.cohort.cohort import Cohort
from camscope.cohort.store import Known, Row, Store
from camscope.errors import ClusterError, StoreError, require
from camscope.files import read_parquet
from camscope.study.dicom_identity import Identities
from camscope.study.rows import schema
from camscope.study.step import StudyStep
from camscope.study.study import Study

_TRIES = 3
"""How often a shard is given to a worker before its cases are given out one by one."""

_PATIENCE = 10  # seconds, for a cluster to answer
_CPUS = 4  # of a worker without a GPU: one network, and threads that read and write


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster explains a study, and with how many workers.

    Each worker loads every model once and keeps it. All nodes must see the study file, the weights and the pictures
    under the same paths or addresses, and have camscope installed.

    Attributes:
        address: "auto", "HOST:PORT" or "ray://HOST:10001"; None: the cluster of this machine, or where there is none,
            one of this machine alone, for as long as the study runs.
        workers: None: one for each GPU, or where there are none, for every four CPUs.
        gpus_per_worker: parts of a GPU are possible; None: 1 where the cluster has GPUs, otherwise 0.

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
    """The workers of a cluster that is connected.

    Attributes:
        ray: the package.
        number: how many.
        cpus: that each has.
        gpus: that each has, or what part of one.
    """

    ray: Any
    number: int
    cpus: int
    gpus: float

    @property
    def device(self) -> str:
        """Return what they compute on where nobody says."""
        return "cuda" if self.gpus else "cpu"


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[Workers]:
    """Connect to the workers of a cluster; Ray is left connected, or not, as it was found. Its loggers are silenced.

    Raises:
        ClusterError: it cannot be reached, or has not what a worker needs.
        MissingExtraError: Ray is not installed.
    """
    ray = require("ray", "a study on a cluster", "ray")
    require("ray.data", "a study on a cluster", "ray")
    for name in ("ray", "ray.data"):  # what is lost is given out again, and said by the display
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield _workers(ray, cluster)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _knock(cluster.address)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as fault:  # ConnectionError, RuntimeError, ValueError: each means the same here
        place = f"at {cluster.address}" if cluster.address else "on this machine"
        raise ClusterError(
            f"no Ray cluster can be used {place}: {_words(fault)}; start one with `ray start --head`, or leave "
            "--address out"
        ) from None
    try:
        yield _workers(ray, cluster)
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """See whether anybody listens at HOST:PORT: Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def _workers(ray: Any, cluster: Cluster) -> Workers:
    """As many as asked for, with what each gets of the nodes that there are."""
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

    A worker writes the shards that it explains; what comes back is which shard that was. Shards that are lost with
    their worker are given to another one, and after some tries their cases one by one, so that one picture that
    kills every worker costs its own rows alone.

    Args:
        workers: of the cluster.
        study: the study.
        store: its folder, which all workers can write to.
        size: cases in a shard.
        watch: called with what is being done.
        given: device, batch_size, engine and seed of `StudyStep`.

    Yields:
        Every row; shards as they are done.

    Raises:
        ClusterError: a worker cannot load the models.
        StoreError: a worker cannot write.
    """
    Identities(study, store)  # writes the salt of names before several workers look for it
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
    """Give out shards; yields the numbers of those that were written, as they are done."""
    data = workers.ray.data
    context = data.DataContext.get_current()
    before = context.max_errored_blocks, context.enable_progress_bars
    context.max_errored_blocks, context.enable_progress_bars = -1, False
    try:
        with warnings.catch_warnings():
            # Ray 2.60: 2.64 will drop the arguments for restarts, and no others are named; hence the pin in the extra.
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
            results = data.from_arrow([table.to_arrow() for table in tables]).map_batches(
                Worker,
                batch_size=None,
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(size=min(workers.number, len(tables)), max_tasks_in_flight_per_actor=2),
                num_cpus=workers.cpus,
                num_gpus=workers.gpus,
                fn_constructor_kwargs=made,
                # A worker that dies comes back where there is room; what it was at is given out again, not waited for.
                max_restarts=-1,
                max_task_retries=0,
            )
        for row in results.iter_rows():
            if row["fault"]:
                raise StoreError(row["fault"])
            yield int(row["shard"])
    except (StoreError, GeneratorExit):
        raise
    except Exception as fault:  # what a worker raises arrives inside one of many kinds
        raise ClusterError(f"the cluster cannot explain the study: {_words(fault)}") from None
    finally:
        context.max_errored_blocks, context.enable_progress_bars = before


def _one_by_one(workers: Workers, cohort: Cohort, study: Study, *, made: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of cases that workers died on; a case that does so again gets rows that say so."""
    ray = workers.ray
    remote = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_restarts=0)(Worker)
    step, actor = None, None
    for row in range(len(cohort)):
        actor = actor or remote.remote(**made)
        table = cohort.table.slice(row, 1)
        try:
            yield from ray.get(actor.rows.remote(table))
        except Exception as fault:  # whatever ends a worker
            actor = None
            step = step or StudyStep(study, Store(made["out"]), device="cpu")
            error = ClusterError(f"no worker could explain this picture: {_words(fault)}")
            yield from step.failed(next(cohort.cases([row])), error)


class Worker:
    """What one actor of the cluster does: explains shards of the table with models that it keeps.

    Args:
        study: without the rows of its table.
        plan: that its table and settings stand for.
        out: folder or address of the results.
        size: cases in a shard.
        given: device, batch_size, engine and seed of `StudyStep`.
        cpus: that it may use.
    """

    def __init__(self, *, study: Study, plan: str, out: str, size: int, given: dict[str, Any], cpus: int) -> None:
        torch.set_num_threads(cpus)
        self.study, self.plan, self.store, self.size = study, plan, Store(out), size
        self.step = StudyStep(study, self.store, **given)
        self.former = self.store.known([])

    def __call__(self, block: Any) -> Any:
        """Explain the cases of a block, which is one shard, and write their rows.

        Returns:
            An Arrow table of one row: "shard" and "fault", which is "" unless the store cannot be written.
        """
        table = pl.DataFrame(pl.from_arrow(block))
        cases = list(self.study.cohort.part(table).cases())
        number, fault = cases[0].number // self.size, ""
        path = self.store.shard(self.plan, number)
        try:
            rows = list(self.step.rows(cases, known=Known([path], before=self.former)))
            self.store.write(self.plan, number, rows=rows, columns=schema(self.study.file))
        except StoreError as error:
            fault = str(error)
        return pl.DataFrame({"shard": [number], "fault": [fault]}).to_arrow()

    def rows(self, table: pl.DataFrame) -> list[Row]:
        """Return the rows of some cases."""
        return list(self.step.rows(self.study.cohort.part(table).cases(), known=self.former))


def _shipped(study: Study) -> Study:
    """Return the study without the rows of its table and its models, as workers of other folders read it."""
    cohort = study.cohort.part(study.cohort.table.clear())
    return replace(study, path=study.path.absolute(), cohort=cohort)


def _out(store: Store) -> str:
    return str(store.folder) if store.remote else str(store.folder.absolute())


def _words(fault: BaseException) -> str:
    """Return what was raised in the worker: the end of a traceback that comes as text, or else the first line."""
    cause = getattr(fault, "cause", None)
    lines = str(cause if isinstance(cause, BaseException) else fault).strip().splitlines()
    if not lines:
        return type(fault).__name__
    return lines[-1] if any(line.startswith("  File ") for line in lines) else lines[0]
