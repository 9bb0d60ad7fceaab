"""The loops that a rank runs: rank 0 as master and agent, every other rank as agent."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from disttune.config.errors import DisttuneError
from disttune.config.job import Job
from disttune.runtime.agent import Agent
from disttune.runtime.awake_clock import AwakeClock
from disttune.runtime.early_process import take_early
from disttune.runtime.hosts import this_host
from disttune.runtime.leaving import see_off_later
from disttune.runtime.listener import Listener
from disttune.runtime.lock import RENEW_S
from disttune.runtime.master import Master
from disttune.runtime.messages import Goodbye, RankLost, ToAgent, ToMaster
from disttune.runtime.rare_collections import rare_collections
from disttune.runtime.result import TuningResult
from disttune.runtime.run_directory import RunDirectory
from disttune.runtime.start_messages import Functions, Hello
from disttune.runtime.transport import Transport

LOOP_S = 0.05  # a loop looks at clocks and memory at least this often
GRACE_S = 10.0  # for trials that run when the job is asked to end
EXIT_INTERRUPTED = 75
EXIT_INTERRUPTED_TWICE = 130
ENDING_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class InterruptedTwiceError(DisttuneError):
    """Asked to end a second time: end at once; the journal is whole."""

    exit_code = EXIT_INTERRUPTED_TWICE


@dataclass
class Asked:
    """Signals to end that have arrived."""

    n: int = 0
    n_sigint: int = 0
    told: int = field(default=0)

    def note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.n += 1
        self.n_sigint += number == signal.SIGINT


@contextmanager
def listening_to_signals(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals that ask a job to end; only the main thread may, so others leave them alone."""
    try:
        before = {number: signal.signal(number, handle) for number in ENDING_SIGNALS}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was not set from Python


def run_master(
    job: Job,
    functions: Functions,
    run: RunDirectory,
    fresh: bool,
    transport: Transport,
    listener: Listener,
    farewell: Callable[[TuningResult, RunDirectory], Goodbye],
    handed: Mapping[str, Any] | None = None,
) -> TuningResult:
    """Tune on all ranks; called on rank 0.

    Args:
        job: what to do.
        functions: the user's functions when they do not come from files.
        run: its directory, closed at the end.
        fresh: start anew where a journal is found.
        transport: to all ranks.
        listener: is told what happens.
        farewell: writes the result and makes the message every other rank ends with.
        handed: the functions themselves, for trials within this process.
    Returns:
        The result; every other rank has been told it.
    Raises:
        DisttuneError: for the user; every other rank has been told to end.
    """
    asked = Asked()
    agent = _agent(transport, handed)
    master: Master | None = None
    goodbye = Goodbye(1, message="rank 0 ended with a fault")
    try:
        with listening_to_signals(asked.note), run, ExitStack() as stack:
            if job.runtime.isolation == "process":
                stack.enter_context(rare_collections())
                agent.start()
            contents = run.open(fresh)
            master = Master(job, functions, run, contents, transport, listener)
            try:
                transport.send(0, Hello(this_host()))
                _loop(master, agent, run, transport, asked)
                result = master.result()
            finally:
                master.close()
            goodbye = farewell(result, run)
        return result
    except DisttuneError as error:
        goodbye = Goodbye(error.exit_code, message=str(error), error=type(error).__name__)
        raise
    finally:
        for rank in range(transport.size):
            beside = master.seen_off_by(rank) if master is not None else ()
            if rank:
                transport.send(rank, replace(goodbye, beside=beside))
            else:
                see_off_later(beside)
        agent.close()


def _loop(master: Master, agent: Agent, run: RunDirectory, transport: Transport, asked: Asked) -> None:
    renewed_s = transport.now_s()
    while not master.done:
        descriptors = [*agent.descriptors(), *master.journal_descriptors]
        for envelope in transport.receive(LOOP_S, descriptors):
            if isinstance(envelope.message, ToMaster):
                master.receive(envelope.source, envelope.message)
            else:
                agent.receive(envelope.message)
        agent.poll()
        master.poll()
        if asked.n_sigint > 1:
            raise InterruptedTwiceError(
                "interrupted twice: ended at once; run the same command again to go on"
            )
        if asked.n > asked.told:
            asked.told = asked.n
            master.interrupt(GRACE_S)
        if transport.now_s() - renewed_s > RENEW_S:
            renewed_s = transport.now_s()
            run.renew()


def run_agent(transport: Transport, handed: Mapping[str, Any] | None = None) -> Goodbye:
    """Serve the master; called on every rank but 0. Signals to end are rank 0's business.

    Returns:
        How the job ended.
    """
    agent = _agent(transport, handed)
    with listening_to_signals(lambda number, frame: None):  # noqa: ARG005
        agent.start()
        transport.send(0, Hello(this_host()))
        try:
            while agent.goodbye is None:
                is_master_gone = False
                for envelope in transport.receive(LOOP_S, agent.descriptors()):
                    if isinstance(envelope.message, ToAgent):
                        agent.receive(envelope.message)
                    elif isinstance(envelope.message, RankLost) and envelope.source == 0:
                        is_master_gone = agent.goodbye is None
                agent.poll()
                if is_master_gone or agent.forsaken:
                    agent.close()
                    os._exit(EXIT_INTERRUPTED)  # MPI cannot be left in order without rank 0
            see_off_later(agent.goodbye.beside)
            return agent.goodbye
        finally:
            agent.close()


def _agent(transport: Transport, handed: Mapping[str, Any] | None) -> Agent:
    def tell(message: ToMaster) -> None:
        transport.send(0, message)

    def send_to(rank: int, message: ToAgent) -> None:
        transport.send(rank, message)

    return Agent(transport.rank, take_early(), tell, send_to, AwakeClock(transport.now_s), handed)
