"""The command ``bettersynth``. In: arguments. Out: results on standard output, progress on standard error.

Exit codes: 0 done, 1 an error that is printed in one line, 2 wrong arguments. ``bettersynth --help`` imports no
library.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

FILE_HELP = "name of an experiment in the folder `experiments`, or the path of a .yaml file"


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="bettersynth",
        description="Compare data recipes for vision-language models.",
        epilog="BETTERSYNTH_PROFILE selects the profile (default: miniature), BETTERSYNTH_DATA the folder of results.",
    )
    groups = top.add_subparsers(dest="group", required=True, metavar="COMMAND")
    group = groups.add_parser("experiment", help="train, compare and rank recipes (docs/experiments.md)")
    commands = group.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *, file: str = "FILE") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument(file.lower(), metavar=file, help=FILE_HELP if file == "FILE" else "name of a recipe")
        return command

    _noise(add("plan", "print the cost and the smallest detectable difference, and run nothing"))
    add("run", "build the sets, train and evaluate until every comparison has a verdict; continues where it stopped")
    more = add("add-seeds", "train and evaluate more seeds of every arm")
    more.add_argument("seeds", metavar="N", type=_positive, help="number of training seeds to add to every arm")
    _forms(add("table", "print the leaderboard of the runs that exist"), "one line per arm")
    few = add("decisions", "print how often few training seeds order two arms as others do; runs nothing")
    few.add_argument(
        "--seeds", type=_numbers, default=[1, 2, 4], metavar="N,N,…", help="numbers of seeds; default: 1,2,4"
    )
    _forms(few, "one line per benchmark and number of seeds")
    pair = add("diff", "print what differs between two arms: recipes, training sets, scores")
    pair.add_argument("arms", metavar="ARM", nargs=2, help="names of two arms; `baseline` is the baseline's")
    curve = add("curve", "compare a recipe with itself at several numbers of repeats", file="RECIPE")
    curve.add_argument(
        "--repeats",
        type=_numbers,
        default=[1, 2, 4, 8, 16],
        metavar="N,N,…",
        help="mean exposures of a row; default: 1,2,4,8,16",
    )
    curve.add_argument(
        "--fresh",
        type=_shares,
        default=[0.25],
        metavar="SHARE,…",
        help="shares of the exposures that are trained on alone, without repetition, to see what fresh rows are worth; "
        "`none` for none; default: 0.25",
    )
    curve.add_argument("--seeds", type=_positive, default=4, metavar="N", help="training seeds per arm; default: 4")
    rungs = add("ladder", "print how far the results of several profiles order the arms alike; runs nothing")
    rungs.add_argument(
        "--profiles",
        type=_names,
        metavar="PROFILE,PROFILE,…",
        help="names or paths of profiles; default: `ladder` of the experiment's file",
    )
    _forms(rungs, "one line per two profiles and benchmark")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parsed = parser().parse_args(arguments)
    from bettersynth_assets import experiment_commands
    from toolkit.process import ChildFailedError

    try:
        return experiment_commands.run(parsed)
    except (ValueError, OSError, ChildFailedError) as error:
        from bettersynth_assets.errors import UserError
        from toolkit.file_errors import EnvironmentFault

        if not isinstance(error, UserError | EnvironmentFault | ChildFailedError):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def _forms(command: argparse.ArgumentParser, line: str) -> None:
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", help="as JSON")
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help=f"as CSV, {line}")
    command.set_defaults(form="md")


def _noise(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--noise",
        nargs="+",
        type=_named_number,
        default=[],
        metavar="BENCHMARK=SD",
        help="standard deviation over training seeds, e.g. textvqa=7.1; default: that of earlier runs",
    )


def _positive(text: str) -> int:
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return value


def _numbers(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _shares(text: str) -> list[float]:
    try:
        values = [] if text == "none" else [float(part) for part in text.split(",")]
    except ValueError:
        values = [0.0]
    if not all(0 < value < 1 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r}: write numbers between 0 and 1, e.g. 0.25,0.5, or none")
    return values


def _named_number(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not name or not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: write BENCHMARK=SD with a positive number, e.g. textvqa=7.1")
    return name, number


if __name__ == "__main__":
    sys.exit(main())
