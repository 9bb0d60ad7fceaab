"""The agent before its first trial: it opens the replica or asks for it, writes the files, loads the job."""

import gc
import os

from disttune.runtime.messages import OpenFile
from disttune.runtime.replica import Replica, create_memory_file, write_replica
from disttune.runtime.start_messages import FileBytes, HaveFile, Loaded, NeedFile, Ready, SendFile
from tests.runtime.fake_host import Rank, setup


def descriptors() -> set[str]:
    """Open ones of this process."""
    with os.scandir("/proc/self/fd") as entries:
        return {e.name for e in entries}


def test_a_rank_that_can_open_the_replica_loads_the_job_and_is_ready_once():
    rank = Rank()
    descriptor = create_memory_file()
    nonce = write_replica(descriptor, {"a": b"x"})

    rank.gets(setup(rank, OpenFile(os.getpid(), descriptor), nonce))
    assert rank.new_calls() == ["start", "load"]
    rank.hears(Loaded())
    rank.hears(Loaded())  # of a process that was started again

    assert rank.news() == [Ready()]
    rank.agent.close()


def test_a_rank_that_cannot_open_it_asks_for_the_bytes_and_tells_others_where_they_are():
    rank = Rank()
    source = create_memory_file()
    write_replica(source, {"a": b"x"})

    rank.gets(setup(rank, OpenFile(2**22 + 1, 5), b"n" * 16))
    assert rank.news() == [NeedFile("replica")]
    rank.gets(FileBytes("replica", bytes(Replica(source).raw().raw())))

    (have,) = rank.news()
    assert isinstance(have, HaveFile)
    assert Replica(have.file.descriptor).array("a").tobytes() == b"x"
    assert rank.new_calls() == ["start", "load"]
    rank.agent.close()


def test_a_replica_is_sent_on_to_another_rank():
    rank = Rank().ready()
    rank.gets(SendFile("replica", 7))

    ((to, message),) = rank.sent
    assert to == 7
    assert isinstance(message, FileBytes)


def test_user_files_are_written_to_scratch_and_removed_at_the_end():
    rank = Rank()
    descriptor = create_memory_file()
    nonce = write_replica(descriptor, {"a": b"x"})
    source = OpenFile(os.getpid(), descriptor)

    rank.gets(setup(rank, source, nonce, files={"code/eval.py": b"x = 1"}))

    load = rank.host.calls[-1]
    assert (load.folder / "code" / "eval.py").read_bytes() == b"x = 1"
    rank.agent.close()
    assert not load.folder.exists()


def test_closing_leaves_no_descriptor_open():
    gc.collect()  # what other tests have left closes its descriptors now
    source = create_memory_file()
    nonce = write_replica(source, {"a": b"x"})
    before = descriptors()
    rank = Rank()
    rank.gets(setup(rank, OpenFile(os.getpid(), source), nonce))
    assert descriptors() > before

    rank.agent.close()

    assert descriptors() == before
    assert rank.host.calls[-1] == "close"
