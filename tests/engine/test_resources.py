"""How many actors, blocks and files a job has, from what the nodes have."""

import pytest

from pipeline.engine.resources import IO_CPUS, choose_resources
from pipeline.engine.runtime.nodes import check_cpu_actors
from pipeline.settings import JobSettings, SettingError, StyleSettings, replace


def test_a_load_task_reserves_what_the_largest_image_takes():
    job = JobSettings(manifest="m", output="o")

    def reserved(nodes, **given):
        return choose(replace(job, **given), 256, nodes, rows=1000).load_memory / 1e9

    assert 1.9 < reserved([machine(8)]) < 2.1
    assert reserved([machine(8)], max_pixels=10**9) > 13
    assert 0.9 < reserved([machine(8)], max_pixels=10**6, max_bytes=2**29) < 1.0
    # Whatever is asked for, a node that is there has it; some have no CPU, and load nothing.
    assert reserved([machine(8), machine(2, gigabytes=1), machine(0, gigabytes=0.5)]) == 1
    assert reserved([{"CPU": 8}]) == 0


def machine(cpus, gpus=0, gigabytes=1000):
    return {"CPU": cpus, "GPU": gpus, "memory": gigabytes * 1e9}


def choose(job, size, nodes, rows, shapes=((None, 1),), **style):
    return choose_resources(job, StyleSettings(image_size=size, **style), shapes, nodes, rows)


@pytest.mark.parametrize("cpus", [[2], [3], [4], [8], [64], [2] * 16, [4] * 16, [2, 64]])
def test_cpu_actors_leave_room_for_what_runs_beside_them(cpus):
    job = JobSettings(manifest="m", output="o")
    chosen = choose(job, 256, [machine(count) for count in cpus], rows=1000)
    # A resumed job also needs the checkpoint filter's whole CPU and one to list the plan's files.
    assert chosen.actors * chosen.cpus_per_actor + 2 <= sum(cpus)
    assert chosen.cpus_per_actor <= max(cpus) / 2  # it fits on a node, and not alone
    assert chosen.threads <= max(cpus)
    assert chosen.cpus_per_actor != IO_CPUS  # else Ray Data would fuse loading into the actor
    assert chosen.gpus_per_actor == 0


def test_each_cpu_has_an_actor_of_one_thread_if_memory_and_rows_allow():
    job = JobSettings(manifest="m", output="o")

    def actors_and_threads(cpus, gigabytes, size, rows, shapes=((None, 1),), **style):
        chosen = choose(job, size, [machine(cpus, 0, gigabytes)] * 2, rows, shapes, **style)
        return chosen.actors, chosen.threads

    assert actors_and_threads(8, 100, 512, 1000) == (16, 1)
    assert actors_and_threads(8, 10, 512, 1000) == (8, 2)  # of some 2.1 GB each
    assert actors_and_threads(8, 10, 512, 1000, image_edge="short") == (6, 3)  # of 2.8 GB
    assert actors_and_threads(8, 10, 2048, 1000) == (1, 8)  # not even one: Ray may know too little
    assert actors_and_threads(8, 100, 512, 4) == (4, 4)
    large = ((None, 1), (2048, 1))  # some rows have an image_size of their own
    assert actors_and_threads(8, 24, 512, 1000, large) == (4, 4)


def test_gpu_actors_take_what_there_is_and_what_is_asked():
    job = JobSettings(manifest="m", output="o")
    chosen = choose(job, 256, [machine(8, 1)] * 4, rows=1000)
    assert (chosen.actors, chosen.gpus_per_actor, chosen.batch_size) == (4, 1.0, 32)
    assert chosen.cpus_per_actor == 0  # loading and storing never wait for the actors' CPUs
    half = JobSettings(manifest="m", output="o", gpus_per_actor=0.5, batch_size=3)
    chosen = choose(half, 256, [machine(16, 4)], rows=1000)
    assert (chosen.actors, chosen.batch_size) == (8, 3)
    # An actor's share is of one GPU.
    for share, nodes, actors in ((0.4, [2], 4), (0.6, [1] * 50, 50), (0.1, [1, 2], 30)):
        part = JobSettings(manifest="m", output="o", gpus_per_actor=share)
        assert choose(part, 256, [machine(8, gpus) for gpus in nodes], 10**5).actors == actors
    # A cluster that still has no GPU node: the actors ask for GPUs all the same.
    asked = JobSettings(manifest="m", output="o", gpus_per_actor=1.0, actors=8)
    chosen = choose(asked, 256, [machine(4)], rows=1000)
    assert (chosen.actors, chosen.gpus_per_actor) == (8, 1.0)


def test_a_gpu_optimises_more_small_pictures_together_and_as_many_when_a_job_is_resumed():
    job = JobSettings(manifest="m", output="o")

    def slots(size, rows=10**6, shapes=((None, 1),), **style):
        return choose(job, size, [machine(8, 1)], rows, shapes, **style).batch_size

    assert [slots(size) for size in (64, 224, 256, 384, 512, 2048)] == [64, 41, 32, 14, 8, 8]
    compact = {"weights": "compact"}
    assert [slots(size, **compact) for size in (224, 256, 512, 2048)] == [64, 64, 16, 8]
    assert slots(256, shapes=((None, 1), (512, 1))) == 8, "as the largest needs it"
    assert slots(256, rows=10) == 32, "rounding depends on it"
    # Blocks follow, and what Ray does for each is shared by more rows.
    chosen = choose(job, 256, [machine(8, 1)], 10**6, **compact)
    assert (chosen.rows_per_block, chosen.rows_per_file) == (256, 256)


def test_a_cluster_is_not_filled_with_actors_that_reserve_nothing(capsys):
    """On a head of two CPUs any number of actors would fit by a share of what is up."""
    head = [machine(2)]

    def check(rows=1000, nodes=head, **given):
        job = JobSettings(manifest="m", output="o", **given)
        check_cpu_actors(job, choose(job, 256, nodes, rows), nodes)
        return capsys.readouterr().err

    refused = "cpus_per_actor: the cluster has 2 CPUs now and no GPU, so what each of 100 actors"
    for given in ({}, {"gpus_per_actor": 0.0}):
        with pytest.raises(SettingError, match=refused):
            check(actors=100, **given)
    with pytest.raises(SettingError, match="has 0 CPUs now and no GPU, so what each of 1 actors"):
        check(nodes=[machine(0)])
    # What is asked for, or fits on what is up, is done: with a word, if GPUs may have been meant.
    assert check() == ""
    assert check(actors=100, cpus_per_actor=3.0) == ""
    assert check(actors=100, gpus_per_actor=1.0) == ""
    assert check(actors=4, nodes=[machine(8, 4)]) == ""
    assert check(actors=2, gpus_per_actor=0.0) == ""
    for rows, actors in ((1000, 2), (1, 100)):
        assert "note: the cluster has no GPU now" in check(rows, actors=actors)


def per_block_and_file(job, size, rows, **loaded):
    chosen = choose(job, size, [machine(4)], rows, **loaded)
    return chosen.rows_per_block, chosen.rows_per_file


def rows_per_block(job, size, rows, **loaded):
    return per_block_and_file(job, size, rows, **loaded)[0]


def test_a_long_job_has_a_bounded_number_of_files():
    job = JobSettings(manifest="m", output="o")
    assert per_block_and_file(job, 256, 100) == (4, 4)
    assert per_block_and_file(job, 256, 1_000_000) == (200, 200)
    one_is_large = [(None, 1), (8192, 1)]
    assert per_block_and_file(job, 256, 1_000_000, shapes=one_is_large) == (1, 200)
    # What is given is meant.
    given = JobSettings(manifest="m", output="o", rows_per_block=3)
    assert per_block_and_file(given, 256, 1_000_000) == (3, 3)


def test_blocks_of_large_images_are_small():
    job = JobSettings(manifest="m", output="o", batch_size=4)
    assert [rows_per_block(job, size, 1000) for size in (256, 2048)] == [16, 10]
    # The style images count as they are loaded, and the largest row of the plan.
    larger = {"style_scale": 4.0}, {"shapes": [(None, 5)]}, {"shapes": [(None, 1), (2048, 1)]}
    assert [rows_per_block(job, 1024, 1000, **how) for how in larger] == [5, 14, 10]
    # With image_size on the short edge a picture has more than its square.
    assert rows_per_block(job, 2048, 1000, image_edge="short") == 5
    # An actor has three blocks at hand, and four slots.
    assert rows_per_block(job, 8192, 1000) == 2
