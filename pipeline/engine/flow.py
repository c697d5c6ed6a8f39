"""The Ray Data graph: plan -> load -> style actors -> store -> records."""

import functools
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray
import ray.data

from pipeline.data.output import records
from pipeline.data.storage import filesystems, uris
from pipeline.engine.board import Board
from pipeline.engine.resources import BLOCKS_IN_ACTOR, IO_CPUS, WRITE_CPUS, Resources
from pipeline.engine.runtime import private_ray
from pipeline.engine.runtime.data_context import ray_data_settings
from pipeline.engine.stages.context import Context
from pipeline.engine.stages.loading import load
from pipeline.engine.stages.storing import store
from pipeline.engine.starting import StyleActor
from pipeline.settings import JobSettings


def run(
    plan: str,
    job: JobSettings,
    resources: Resources,
    context: Context,
    weights: Any,
    board: Board,
) -> None:
    """Do every pair of the plan that the checkpoint does not know. Return when all are recorded.

    Args:
        plan: URI of the plan's directory.
        job: settings of the job.
        resources: how the job uses the machines.
        context: what the stages know.
        weights: reference to the normalised state dict in Ray's object store.
        board: learns what the stages do.

    Raises:
        ray.exceptions.RayError: a stage failed; no pair is to blame.
    """
    with ray_data_settings(job.verbose) as settings:
        _run(settings, plan, job, resources, context, weights, board)


def _run(
    settings: ray.data.DataContext,
    plan: str,
    job: JobSettings,
    resources: Resources,
    context: Context,
    weights: Any,
    board: Board,
) -> None:
    options = context.storage_options
    fs, plan_path = filesystems.arrow_filesystem(plan, options)
    _, records_path = filesystems.arrow_filesystem(
        uris.join(context.output, records.RECORDS), options
    )
    _, checkpoint_path = filesystems.arrow_filesystem(
        uris.join(context.output, records.CHECKPOINT), options
    )
    private_ray.set_up(settings, private_ray.checkpoint_config(checkpoint_path, fs))
    dataset = ray.data.read_parquet(
        plan_path,
        filesystem=fs,
        num_cpus=IO_CPUS,
        override_num_blocks=1,  # one task reads it all: divided, a small plan makes small batches
    )
    # Small blocks: each is a unit of work for an actor.
    dataset = dataset.repartition(target_num_rows_per_block=resources.rows_per_block)
    dataset = dataset.map_batches(
        _stage(load, context=context, board=board),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=IO_CPUS,
        memory=resources.load_memory or None,
    )
    dataset = dataset.map_batches(
        StyleActor,
        batch_size=resources.rows_per_block,  # whole blocks; with GPUs Ray Data wants a number
        batch_format="pyarrow",
        # All actors at once. Ray Data's budget would hold back a pool that grows by itself: it
        # gives resources to stages that need none of them. Work begins with the first actor. At the
        # end idle actors give up their places, so that an actor whose node is gone for good can
        # start again there and finish its blocks.
        compute=ray.data.ActorPoolStrategy(
            size=resources.actors, max_concurrent_calls_per_actor=BLOCKS_IN_ACTOR
        ),
        num_gpus=resources.gpus_per_actor or None,
        num_cpus=resources.cpus_per_actor,
        fn_constructor_kwargs={
            "board": board,
            "weights": [weights],
            "more": lambda: {
                "context": context,
                "batch_size": resources.batch_size,
                "style_cache": job.style_cache,
                "threads": resources.threads,
                "low_memory": job.memory == "low",
            },
        },
    )
    dataset = dataset.map_batches(
        _stage(store, context=context, board=board),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=IO_CPUS,
    )
    several = resources.rows_per_file > resources.rows_per_block
    if several:  # these tasks begin after their blocks have waited, so they check the lease again
        dataset = dataset.map_batches(
            _stage(_fenced, fence=context.fence),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=WRITE_CPUS,
        )
    dataset.write_parquet(
        records_path,
        filesystem=fs,
        min_rows_per_file=resources.rows_per_file if several else None,
        ray_remote_args={"num_cpus": WRITE_CPUS if several else IO_CPUS},
    )


def _stage(work: Callable[..., pa.Table], **arguments: Any) -> Callable[[pa.Table], pa.Table]:
    """Return a stage's function of a block.

    Ray's own metadata show arguments and partial functions as texts, but no function's inside. A
    context holds credentials.
    """

    @functools.wraps(work)
    def stage(table: pa.Table) -> pa.Table:
        return work(table, **arguments)

    return stage


def _fenced(table: pa.Table, fence: Callable[[], None]) -> pa.Table:
    fence()
    return table
