"""The trial process: `python -m disttune.runtime.trial_process DESCRIPTOR PARENT_PID`, started by an agent.

It cannot outlive its agent: the kernel kills it when the agent's main thread ends, and a thread ends it
when the pipe closes (the agent may have died before the kernel was asked).
"""

import ctypes
import faulthandler
import gc
import os
import select
import signal
import socket
import sys
import threading

PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends; end now if it already has."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def end_with_pipe(descriptor: int) -> None:
    """Watch, in a thread, for the other end of the pipe to close."""

    def watch() -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLRDHUP)
        poll.poll()
        os._exit(1)

    threading.Thread(target=watch, name="disttune-watch-pipe", daemon=True).start()


def set_up_libraries() -> None:
    """Load what every job needs while nobody waits: modules, onnx's schemas, onnxruntime's kernels."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    import disttune.quantize.variants  # noqa: F401
    from disttune.quantize.engine import engine_names
    from disttune.quantize.thresholds.registry import threshold_names

    engine_names(), threshold_names()  # they import what registers itself
    onnx.defs.has("Identity")  # the first question makes all schemas
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "first", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main(arguments: list[str]) -> None:
    descriptor, parent_pid = int(arguments[0]), int(arguments[1])
    die_with_parent(parent_pid)
    end_with_pipe(descriptor)
    faulthandler.enable(all_threads=False)  # a segfault names the user's line
    gc.disable()  # nothing that is imported becomes garbage
    # what takes long to import comes after the guards
    from disttune.runtime.pipe import Pipe, PipeClosedError
    from disttune.runtime.trial_worker import TrialWorker

    set_up_libraries()
    gc.freeze()
    gc.enable()
    pipe = Pipe(socket.socket(fileno=descriptor))
    worker = TrialWorker()
    try:
        while True:
            answer = worker.handle(pipe.receive_wait())
            sys.stdout.flush()
            if answer is not None:
                pipe.send(answer)
    except PipeClosedError:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
