"""The `headway` command. Each subcommand imports what it needs when it runs, so `--help` waits for nothing.

`engine serve`, `operator run` and `gateway serve` hand their arguments to the three programs; the others are clients.
"""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from pathlib import Path

from headway_cli.errors import CliError

_PROGRAMS = {
    # command -> module with main(argv), what must be installed for it, what brings it
    ("engine", "serve"): ("headway_engine.__main__", "engine"),
    ("operator", "run"): ("headway_operator.__main__", "operator"),
    ("gateway", "serve"): ("headway_gateway.__main__", "gateway"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; ends the process with 0, 1 (the command failed) or 2 (the command line is wrong)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):
        # An answer may hold what the terminal cannot show.
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            sys.exit(run(arguments))
        finally:
            # Short output fails here if it fails, where there is a sentence for it; without standard output it is None.
            if sys.stdout is not None:
                sys.stdout.flush()
    except CliError as error:
        print(f"headway: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (`| head`) has what it wanted.
        _drop_output()
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _drop_output()
        print(f"headway: cannot write {error.filename or 'the output'}: {error.strerror}", file=sys.stderr)
        sys.exit(1)


def _drop_output() -> None:
    """What is buffered cannot be written, and Python would try once more at its end and report that."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    program = _PROGRAMS.get((arguments[0], arguments[1])) if len(arguments) > 1 else None
    if program is not None:
        # Handed over before parsing: the program's own parser knows its flags, `--help` included.
        return _hand_over(*program, arguments[2:])
    if arguments[:2] == ["bench", "engine"]:
        from headway_cli.bench import engine

        return engine.command(arguments[2:])
    options = build_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="headway", description="Autoscaled, live-tuned fleets of LLM servers.")
    parser.add_argument("--version", action="version", version=f"headway {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    engine = commands.add_parser("engine", help="the inference engine").add_subparsers(required=True, metavar="COMMAND")
    engine.add_parser("serve", help="serve one model over gRPC", add_help=False)
    operator = commands.add_parser("operator", help="the operator").add_subparsers(required=True, metavar="COMMAND")
    operator.add_parser("run", help="run the operator", add_help=False)

    gateway = commands.add_parser("gateway", help="OpenAI's API").add_subparsers(required=True, metavar="COMMAND")
    gateway.add_parser("serve", help="serve OpenAI's API in front of engines", add_help=False)

    _add_generate(commands.add_parser("generate", help="stream an answer from a fleet or an address"))
    _add_top(commands.add_parser("top", help="a live table of fleets and engines"))
    _add_explain(commands.add_parser("explain", help="why a fleet is as it is: conditions, measurements, decisions"))
    _add_diagnose(commands.add_parser("diagnose", help="what keeps a fleet from its objective, and the cure"))
    bench = commands.add_parser("bench", help="measure").add_subparsers(required=True, metavar="COMMAND")
    _add_bench_online(bench.add_parser("online", help="open-loop load on any engine address or fleet"))
    bench.add_parser("engine", help="the engine alone, without a network", add_help=False)
    _add_bench_calibrate(bench.add_parser("calibrate", help="fit a step model to our own engine"))
    _add_bench_fleet(bench.add_parser("fleet", help="apply to first token, limit change, repair, on a live cluster"))
    _add_bench_compare(bench.add_parser("compare", help="our newest figures beside the peer's and our goals"))
    schedule = commands.add_parser("schedule", help="windows of spec.schedules")
    previews = schedule.add_subparsers(required=True, metavar="COMMAND")
    _add_schedule_preview(previews.add_parser("preview", help="the windows of the next days"))
    _add_plan(commands.add_parser("plan", help="GPU type, tensor parallelism, replicas and cost for a load"))
    _add_simulate(commands.add_parser("simulate", help="traces through a simulated fleet, under any policy"))
    return parser


def add_target(parser: argparse.ArgumentParser, several: bool) -> None:
    """Where the engine is: an address, a fleet, or (neither given) the only fleet of the cluster."""
    target = parser.add_argument_group("target (default: the only fleet in the current cluster)")
    if several:
        target.add_argument("--address", action="append", metavar="HOST:PORT", help="an engine; may be repeated")
    else:
        target.add_argument("--address", metavar="HOST:PORT", help="an engine")
    target.add_argument("--fleet", metavar="NAME", help="an LLMDeployment")
    target.add_argument("--namespace", "-n", metavar="NS", help="its namespace (default: wherever the fleet is)")
    target.add_argument("--context", metavar="NAME", help="the kubeconfig's context (default: the current one)")


def _hand_over(module_name: str, extra: str, arguments: list[str]) -> int:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        raise CliError(f"{missing} is not installed; pip install 'headway[{extra}]' brings it") from None
    if module_name == "headway_operator.__main__":
        if arguments:
            raise CliError(f"operator run takes no arguments, its settings are environment variables; got {arguments}")
        return int(module.main())
    module.main(arguments)
    return 0


def _version() -> str:
    """Headway's; a checkout runs without being installed too."""
    try:
        return version("headway")
    except PackageNotFoundError:
        return "(not installed)"


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", help="the prompt; - reads it from standard input")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="longest answer (default: 128)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (default: 0)")
    parser.add_argument("--top-p", type=float, metavar="P", help="share of probability kept, 0 to 1 (default: 1)")
    parser.add_argument("--seed", type=int, metavar="N", help="makes a sampled answer repeatable")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends the answer; may be repeated")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json-schema", metavar="FILE", help="the answer is JSON of the schema in this file")
    form.add_argument("--regex", metavar="EXPRESSION", help="the whole answer matches it")
    form.add_argument("--choice", action="append", metavar="TEXT", help="the answer is one of these; repeat it")
    parser.add_argument(
        "--class",
        dest="workload_class",
        choices=("realtime", "interactive", "batch"),
        help="workload class of the request (default: the fleet's own)",
    )
    parser.add_argument("--raw", action="store_true", help="continue the prompt as it is, without the chat template")
    parser.add_argument(
        "--system",
        default="You are a helpful assistant.",
        metavar="TEXT",
        help="the system message of the chat template; empty for none (default: %(default)r)",
    )
    parser.add_argument("--timeout", type=float, default=300.0, metavar="S", help="deadline, s (default: 300)")
    parser.add_argument("--stats", action="store_true", help="print token counts and times to standard error")
    add_target(parser, several=False)

    def command(options: argparse.Namespace) -> int:
        from headway_cli import generate

        return generate.command(options)

    parser.set_defaults(command=command)


def _add_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fleet", metavar="NAME", help="only this LLMDeployment")
    parser.add_argument("--namespace", "-n", metavar="NS", help="only this namespace")
    parser.add_argument("--context", metavar="NAME", help="the kubeconfig's context (default: the current one)")
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="S", help="seconds between pictures (default: 1)"
    )
    parser.add_argument("--iterations", type=int, metavar="N", help="end after N pictures (default: when interrupted)")

    def command(options: argparse.Namespace) -> int:
        from headway_cli import top

        return top.command(options)

    parser.set_defaults(command=command)


def _add_where(parser: argparse.ArgumentParser) -> None:
    """Where a named fleet is."""
    parser.add_argument("--namespace", "-n", metavar="NS", help="its namespace (default: wherever it is)")
    parser.add_argument("--context", metavar="NAME", help="the kubeconfig's context (default: the current one)")


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="an LLMDeployment (default: the only one)")
    _add_where(parser)

    def command(options: argparse.Namespace) -> int:
        from headway_cli import explain

        return explain.command(options)

    parser.set_defaults(command=command)


def _add_diagnose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="an LLMDeployment (default: the only one)")
    parser.add_argument(
        "--seconds", type=int, default=10, metavar="N", help="ask the engines for so long (default: 10)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, not text")
    _add_where(parser)

    def command(options: argparse.Namespace) -> int:
        from headway_cli import diagnose

        return diagnose.command(options)

    parser.set_defaults(command=command)


def _add_bench_online(parser: argparse.ArgumentParser) -> None:
    from headway_cli.bench import arguments

    arguments.add(parser)
    add_target(parser, several=True)

    def command(options: argparse.Namespace) -> int:
        from headway_cli.bench import online

        return online.command(options)

    parser.set_defaults(command=command)


def _add_bench_calibrate(parser: argparse.ArgumentParser) -> None:
    from headway_cli.bench import calibrate

    calibrate.add(parser)
    parser.set_defaults(command=calibrate.command)


def _add_bench_fleet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest", required=True, metavar="FILE", help="an LLMDeployment with engine.limits.maxNumSeqs"
    )
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="of each measurement (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON lines, not a table")
    parser.add_argument("--save", metavar="FOLDER", help="also write the JSON lines to a file in FOLDER")
    parser.add_argument("--context", metavar="NAME", help="the kubeconfig's context (default: the current one)")

    def command(options: argparse.Namespace) -> int:
        from headway_cli.bench import fleet

        return fleet.command(options)

    parser.set_defaults(command=command)


def _add_bench_compare(parser: argparse.ArgumentParser) -> None:
    from headway_cli.bench import peers

    parser.add_argument("--device", default="NVIDIA H200", metavar="NAME", help="kind of GPU (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON line a cell, not a table")
    parser.add_argument(
        "--results", type=Path, default=Path("benchmarks/results"), metavar="FOLDER", help="(default: %(default)s)"
    )
    parser.add_argument("--peers", type=Path, default=peers.FILE, metavar="FILE", help="(default: %(default)s)")

    def command(options: argparse.Namespace) -> int:
        from headway_cli.bench import compare

        return compare.command(options)

    parser.set_defaults(command=command)


def _add_schedule_preview(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("name", nargs="?", metavar="NAME", help="an LLMDeployment (default: the only one)")
    which.add_argument("--file", "-f", type=Path, metavar="FILE", help="a manifest instead of the cluster")
    parser.add_argument("--days", type=int, default=7, metavar="N", help="days from now (default: 7)")
    parser.add_argument("--json", action="store_true", help="print one JSON line a window, not a table")
    _add_where(parser)

    def command(options: argparse.Namespace) -> int:
        from headway_cli import schedule

        return schedule.command(options)

    parser.set_defaults(command=command)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    from headway_cli.plan import command as plan

    plan.add(parser)
    parser.set_defaults(command=plan.command)


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    from headway_cli.simulate import arguments

    arguments.add(parser)

    def command(options: argparse.Namespace) -> int:
        from headway_cli.simulate import command as simulate

        return simulate.command(options)

    parser.set_defaults(command=command)


if __name__ == "__main__":
    main()
