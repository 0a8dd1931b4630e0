"""The process that tries forms; `form_trial.py` starts it and is the other end of its pipe.

    python -m headway_engine.runtime.form_process FD

It ends with its pipe. In the midst of a form it does not see that end; then its CPU time does, a little later than the other
side would have ended it. So none is left behind, however the engine went.
"""

import resource
import signal
import sys
from multiprocessing.connection import Connection

from headway_engine.core.constraint import ConstraintError, ConstraintSpec
from headway_engine.model.tokenizer import ModelTokenizer
from headway_engine.runtime.form_trial import MOST_BYTES, MOST_S
from headway_engine.runtime.grammar import GrammarCompiler

_OVERTIME_S = 5  # the other side's clock runs on while this process waits for a CPU, not the other way round


def main(fd: int) -> None:
    """Try the forms that come over `fd`, until it is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a terminal's and a pod's are the front's business
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    with Connection(fd) as pipe:
        serialized, eos_token_ids, vocab_size = pipe.recv()
        compiler = GrammarCompiler(ModelTokenizer.of(serialized, eos_token_ids, ""), vocab_size)
        pipe.send(_problem(compiler, None))
        while True:
            try:
                spec: ConstraintSpec = pipe.recv()
            except EOFError:
                return
            used = resource.getrusage(resource.RUSAGE_SELF)
            ends_s = int(used.ru_utime + used.ru_stime + MOST_S) + _OVERTIME_S
            resource.setrlimit(resource.RLIMIT_CPU, (ends_s, resource.RLIM_INFINITY))
            pipe.send(_problem(compiler, spec))


def _problem(compiler: GrammarCompiler, spec: ConstraintSpec | None) -> ConstraintError | None:
    """Why the form cannot be compiled, or, without one, why none can; None: it can."""
    try:
        if spec is None:
            compiler.load_vocabulary()
        else:
            compiler.compile_here(spec)
    except ConstraintError as error:
        return error
    return None


if __name__ == "__main__":
    main(int(sys.argv[1]))
