"""A command: its help and options, and the guard that ends it.

One sentence for what the user can mend, a log for a bug, 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pipeline.cli.parent import stop_with_dvc

# What the user can cause: a wrong parameter or file, a service that does not answer, a package that is not installed.
USER_ERRORS = (ValueError, RuntimeError, OSError, ImportError, FloatingPointError, MemoryError)
# Kinds of RuntimeError that only code can cause.
NOT_USER_ERRORS = (NotImplementedError, RecursionError)  # only matched: a class to catch, no stub
# Packages that talk to a service, and whose exceptions have bases of their own.
SERVICES = {"aiohttp", "azure", "botocore", "fsspec", "google", "http", "mlflow", "pyarrow", "ray", "sqlalchemy"}
OURS = ("pipeline", "retinanet")
PACKAGES = tuple(str(Path(__file__).resolve().parents[2] / name) + os.sep for name in OURS)
TRACEBACK = "Traceback (most recent call last)"

INTERRUPTED = 128 + 2  # a shell's status for SIGINT
NO_READER = 128 + 13  # and for SIGPIPE


def add_no_options(parser: argparse.ArgumentParser) -> None:
    """The options of a command that takes everything from params.yaml and conf/."""


@dataclass(frozen=True)
class Command:
    """A command, as `python -m pipeline.<name>` and as a subcommand of `retinanet`.

    Args:
        name: begins its messages.
        description: of its help: what it does, reads and writes.
        work: does it, with the parsed options; heavy packages are imported only in here.
        add_options: declares them.
        in_project: whether it needs params.yaml.
    """

    name: str
    description: str
    work: Callable[[argparse.Namespace], object]
    add_options: Callable[[argparse.ArgumentParser], object] = add_no_options
    in_project: bool = True

    def describe(self, parser: argparse.ArgumentParser) -> None:
        """Give a parser the description and the options."""
        parser.description, parser.formatter_class = self.description, argparse.RawDescriptionHelpFormatter
        self.add_options(parser)

    def do(self, options: argparse.Namespace) -> None:
        """Do the work.

        Raises:
            ValueError: where the folder holds no experiment.
        """
        if self.in_project:
            demand_project()
        self.work(options)

    def main(self, arguments: list[str] | None = None) -> None:
        """Parse the arguments, of the process by default, and do the work."""
        parser = argparse.ArgumentParser(f"python -m pipeline.{self.name}")
        self.describe(parser)
        self.do(parser.parse_args(arguments))

    def run(self) -> None:
        """Be the whole process."""
        run_command(self.name, self.main)


def demand_project() -> None:
    """Refuse to work outside an experiment.

    Raises:
        ValueError: naming the folder that holds no params.yaml.
    """
    from pipeline.params.paths import project_root

    if not (project_root() / "params.yaml").exists():
        raise ValueError(
            f"params.yaml does not exist in {Path.cwd()}; run from the folder of an experiment, which holds "
            "params.yaml, dvc.yaml and conf/"
        )


def run_command(name: str, main: Callable[[], object]) -> None:
    """Run a command and end its process; as a stage of DVC it stops with DVC.

    Exit status: 0; 1 after an error, with one sentence on stderr; 130 after Ctrl-C; 141 where nobody reads stdout any
    more (`| head`); 2 for wrong options, by argparse.
    """
    stop_with_dvc(name)
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        # One more Ctrl-C ends what would still hold the process, without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        end(f"{name}: interrupted", INTERRUPTED)
    except Exception as error:  # noqa: BLE001  # the outermost frame: nobody else reports it
        if isinstance(error, BrokenPipeError) and has_no_reader():
            raise SystemExit(NO_READER) from None
        end(f"{name}: {explain(name, error)}", 1)


def end(sentence: str, status: int) -> NoReturn:
    """Say why, and end."""
    print(sentence, file=sys.stderr, flush=True)
    raise SystemExit(status) from None


def has_no_reader() -> bool:
    """Whether stdout is a pipe that nobody reads; what is left to print is dropped then, or Python complains of it."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    if not any(state & (select.POLLERR | select.POLLHUP) for _, state in watch.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def explain(name: str, error: Exception) -> str:
    """One sentence; what our own code does not raise itself also gets a log with the traceback."""
    if is_sentence(error):
        return str(error)
    log = write_log(name, error)
    if is_users(origin_of(error)):
        return f"{summarise(error)}; the traceback is in {log}"
    return f"this is a bug in the pipeline: {summarise(error)}; please report it with the traceback, which is in {log}"


def is_sentence(error: Exception) -> bool:
    """Whether the text of an error is a sentence of ours for the user."""
    return is_users(error) and is_raised_by_us(error) and TRACEBACK not in str(error)


def say(error: Exception) -> str:
    """One sentence, without a log."""
    return str(error) if is_sentence(error) else summarise(error)


def is_users(error: BaseException) -> bool:
    """Whether the user can have caused it."""
    if any(kind.__module__.partition(".")[0] in SERVICES for kind in type(error).__mro__):
        return True
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] in OURS:
        return False
    return isinstance(error, USER_ERRORS) and not isinstance(error, NOT_USER_ERRORS)


def is_raised_by_us(error: Exception) -> bool:
    """Whether a `raise` of these packages has written the sentence, and not a function that they call."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(PACKAGES) and (frames[-1].line or "").startswith("raise")


def origin_of(error: Exception) -> BaseException:
    """The error of another process whose traceback the text quotes, else the error itself."""
    return (error.__cause__ or error) if TRACEBACK in str(error) else error


def summarise(error: Exception) -> str:
    """The kind of an error and its text, of a quoted traceback only the last line."""
    text = str(error).strip()
    if TRACEBACK in text:
        return text.splitlines()[-1].strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def write_log(name: str, error: Exception) -> str:
    """Write the traceback to runs/logs of the project, or where that cannot be, among the temporary files.

    Returns:
        The path of the file.
    """
    text = f"{' '.join(sys.argv)}\n\n{''.join(traceback.format_exception(error))}"
    file = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (log_folder(), Path(tempfile.gettempdir())):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text, encoding="utf-8")
            return str(folder / file)
    return "no file, because none could be written"


def log_folder() -> Path:
    """runs/logs of the project; the folder of temporary files for a command that runs elsewhere."""
    from pipeline.params.paths import outer_root, project_root

    root = outer_root(project_root())
    return root / "runs" / "logs" if (root / "params.yaml").exists() else Path(tempfile.gettempdir())
