"""A study's cases explained by the workers of a Ray cluster: shards of the table out, shards of rows in the store."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch

from camscope.errors import CamscopeError, require
from camscope.files import StoreError, read_parquet
from camscope.store import Known, Row, Store
from camscope.study.cohort import Cohort
from camscope.study.explainer import Explainer
from camscope.study.header import Identities
from camscope.study.rows import schema
from camscope.study.study import Study

_TRIES = 3
"""How often a shard is given to a worker before its cases are given out one by one."""

_CPUS = 4  # of a worker without a GPU: one network, and threads that read and write


class ClusterError(CamscopeError):
    """A Ray cluster that cannot be reached, or whose workers cannot begin."""


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
        >>> for row in run(study, "s3://bucket/results", cluster=Cluster("auto", workers=8)):  # doctest: +SKIP
        ...     ...
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None


@dataclass(frozen=True)
class _Share:
    """What of a cluster each worker has."""

    workers: int
    cpus: int
    gpus: float


def explained_on(
    cluster: Cluster, study: Study, store: Store, *, size: int, watch: Callable[[str], None], **given: Any
) -> Iterator[Row]:
    """Explain all cases of a study on a cluster.

    A worker writes the shards that it explains; what comes back is which shard that was. Shards that are lost with
    their worker are given to another one, and after some tries their cases one by one, so that one picture that
    kills every worker costs its own rows alone.

    Args:
        cluster: which.
        study: the study.
        store: its folder, which all workers can write to.
        size: cases in a shard.
        watch: called with what is being done.
        given: device, batch_size, engine and seed of `Explainer`.

    Yields:
        Every row; shards as they are done.

    Raises:
        ClusterError: it cannot be reached, or a worker cannot load the models.
        StoreError: a worker cannot write.
    """
    columns = schema(study.file)
    Identities(study, store)  # writes the salt of names before several workers look for it
    with _connected(cluster) as ray:
        share = _share(ray, cluster)
        where = "GPU workers" if share.gpus else "workers"
        worker = {"study": _shipped(study), "plan": study.plan, "out": _out(store), "size": size, "given": given}
        worker["cpus"] = share.cpus
        left = dict(enumerate(study.cohort.table.iter_slices(size)))
        for again in range(_TRIES):
            if not left:
                break
            watch(f"on {share.workers} {where}" + (f", again {len(left)} shards" if again else ""))
            for number in _written(ray, list(left.values()), share=share, worker=worker):
                del left[number]
                yield from read_parquet(store.shard(study.plan, number)).iter_rows(named=True)
        for number, table in left.items():
            watch("on a worker of its own, case by case")
            rows = list(_one_by_one(ray, study.cohort.part(table), study, share=share, worker=worker))
            store.write(study.plan, number, rows=rows, columns=columns)
            yield from rows


def _written(ray: Any, tables: Sequence[pl.DataFrame], *, share: _Share, worker: dict[str, Any]) -> Iterator[int]:
    """Give out shards; yields the numbers of those that were written, as they are done."""
    data = importlib.import_module("ray.data")
    context = data.DataContext.get_current()
    before = context.max_errored_blocks, context.enable_progress_bars
    context.max_errored_blocks, context.enable_progress_bars = -1, False
    try:
        done = data.from_arrow([table.to_arrow() for table in tables]).map_batches(
            Worker,
            batch_size=None,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(size=min(share.workers, len(tables)), max_tasks_in_flight_per_actor=2),
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            fn_constructor_kwargs=worker,
            # A worker that dies comes back where there is room; what it was at is not waited for, but given out again.
            max_restarts=-1,
            max_task_retries=0,
        )
        for row in done.iter_rows():
            if row["fault"]:
                raise StoreError(row["fault"])
            yield int(row["shard"])
    except (StoreError, GeneratorExit):
        raise
    except Exception as fault:  # what a worker raises arrives inside one of many kinds
        raise ClusterError(f"the cluster cannot explain the study: {_innermost(fault)}") from None
    finally:
        context.max_errored_blocks, context.enable_progress_bars = before


def _one_by_one(ray: Any, cohort: Cohort, study: Study, *, share: _Share, worker: dict[str, Any]) -> Iterator[Row]:
    """The rows of cases that workers died on; a case that does so again gets rows that say so."""
    remote = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=0)(Worker)
    explainer, actor = None, None
    for row in range(len(cohort)):
        actor = actor or remote.remote(**worker)
        table = cohort.table.slice(row, 1)
        try:
            yield from ray.get(actor.rows.remote(table))
        except Exception as fault:  # whatever ends a worker
            actor = None
            explainer = explainer or Explainer(study, Store(worker["out"]), device="cpu")
            error = ClusterError(f"the worker died while it explained this picture: {_innermost(fault)}")
            yield from explainer.failed(next(cohort.cases([row])), error)


class Worker:
    """What one actor of the cluster does: explains shards of the table with models that it keeps.

    Args:
        study: without the rows of its table.
        plan: that its table and settings stand for.
        out: folder or address of the results.
        size: cases in a shard.
        given: device, batch_size, engine and seed of `Explainer`.
        cpus: that it may use.
    """

    def __init__(self, *, study: Study, plan: str, out: str, size: int, given: dict[str, Any], cpus: int) -> None:
        torch.set_num_threads(cpus)
        self.study, self.plan, self.store, self.size = study, plan, Store(out), size
        self.explainer = Explainer(study, self.store, **given)
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
            rows = list(self.explainer.rows(cases, known=Known([path], before=self.former)))
            self.store.write(self.plan, number, rows=rows, columns=schema(self.study.file))
        except StoreError as error:
            fault = str(error)
        return pl.DataFrame({"shard": [number], "fault": [fault]}).to_arrow()

    def rows(self, table: pl.DataFrame) -> list[Row]:
        """The rows of some cases."""
        return list(self.explainer.rows(self.study.cohort.part(table).cases(), known=self.former))


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    """Ray, connected; left as it was found."""
    ray = require("ray", "a study on a cluster", "ray")
    require("ray.data", "a study on a cluster", "ray")
    for name in ("ray", "ray.data"):  # what is lost is given out again, and said by the display
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as fault:  # ConnectionError, RuntimeError, ValueError: each means the same here
        named = f"at {cluster.address}" if cluster.address else "on this machine"
        raise ClusterError(
            f"no Ray cluster can be used {named}: {_innermost(fault)}; start one with `ray start --head`, or leave "
            "--address out"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _share(ray: Any, cluster: Cluster) -> _Share:
    """What each worker gets of the nodes that there are."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    gpus = sum(node.get("GPU", 0) for node in nodes)
    each = cluster.gpus_per_worker if cluster.gpus_per_worker is not None else float(gpus > 0)
    if not cpus or each > gpus:
        raise ClusterError(
            f"the cluster has {sum(cpus)} CPUs and {gpus:g} GPUs, and a worker needs a CPU and {each:g} GPUs"
        )
    possible = int(gpus / each) if each else max(1, sum(cpus) // _CPUS)
    workers = cluster.workers or possible
    return _Share(workers, max(1, min(sum(cpus) // workers, *cpus)), each)


def _shipped(study: Study) -> Study:
    """The study without the rows of its table and its models, as workers of other folders read it."""
    cohort = study.cohort.part(study.cohort.table.clear())
    return replace(study, path=study.path.absolute(), cohort=cohort)


def _out(store: Store) -> str:
    return str(store.folder) if store.remote else str(store.folder.absolute())


def _innermost(fault: BaseException) -> str:
    """The first sentence of what was raised in the worker itself."""
    cause = getattr(fault, "cause", None) or fault.__cause__
    if cause is not None and cause is not fault:
        return _innermost(cause)
    words = str(fault).strip().splitlines() or [type(fault).__name__]
    return words[0]
