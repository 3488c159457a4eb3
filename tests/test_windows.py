"""What Windows lacks is asked for where it is used. Only the screens of the voice app, which draw on Unix terminals, want it at once."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"lora": ROOT / "src", "lora_cli": ROOT / "packages" / "lora-cli" / "src"}

UNIX_ONLY = {"lora_cli.screen.driver", "lora_cli.screen.app", "lora_cli.recorder.screen"}
"""The driver of a Unix terminal, and what draws by it, in the app and in the recorder; lines and JSON do without."""

LIKE_WINDOWS = """
import builtins, importlib, os, signal, sys

ABSENT = {"resource", "fcntl", "termios", "tty", "pty", "pwd", "grp", "syslog", "readline", "posix"}
LACKING = {
    signal: ("SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGWINCH", "SIGTSTP", "SIGCONT", "SIGCHLD", "SIGPIPE",
             "pthread_sigmask", "setitimer", "alarm"),
    os: ("fork", "memfd_create", "getuid", "geteuid", "setsid", "killpg", "getpgid", "sched_getaffinity", "sysconf", "statvfs", "mkfifo",
         "wait4", "posix_fadvise", "O_DIRECTORY", "O_NONBLOCK", "O_NOFOLLOW", "uname"),
}
import_as_ever = builtins.__import__


class WithoutUnix:
    def __init__(self, module, lacking):
        self.module, self.lacking = module, lacking

    def __getattr__(self, name):
        if name in self.lacking:
            raise AttributeError(f"module {self.module.__name__!r} has no attribute {name!r}")
        return getattr(self.module, name)


WINDOWS = {module.__name__: WithoutUnix(module, lacking) for module, lacking in LACKING.items()}


def import_of_windows(name, variables=None, *arguments, **named):
    # Only what the product itself asks for: what it is built on has a version for Windows.
    if variables is None or variables.get("__name__", "").split(".")[0] not in ("lora", "lora_cli"):
        return import_as_ever(name, variables, *arguments, **named)
    if name in ABSENT or name == "textual.drivers.linux_driver":
        raise ModuleNotFoundError(f"No module named {name!r}")
    return WINDOWS.get(name) or import_as_ever(name, variables, *arguments, **named)


builtins.__import__ = import_of_windows
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except (ImportError, AttributeError) as error:
        print(f"{name}: {error}")
"""


def modules() -> list[str]:
    """Names of all modules of both packages."""
    return sorted(
        ".".join(file.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for package, source in PACKAGES.items()
        for file in (source / package).rglob("*.py")
    )


def failures(code: str, names: list[str]) -> dict[str, str]:
    """What cannot be imported, and why."""
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def test_all_but_the_screen_imports_without_what_only_unix_has() -> None:
    found = failures(LIKE_WINDOWS, modules())
    assert found.keys() == UNIX_ONLY, found


@pytest.mark.parametrize("line", ["import resource", "from signal import SIGHUP", "import signal; signal.SIGHUP", "import os; os.fork"])
def test_a_module_that_asks_for_it_at_once_would_be_found(tmp_path: Path, line: str) -> None:
    """The same on a package of the same name with such a line."""
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "__init__.py").write_text("")
    (tmp_path / "lora" / "asking.py").write_text(f"{line}\n")
    (tmp_path / "lora" / "waiting.py").write_text(f"def use() -> None:\n    {line}\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + LIKE_WINDOWS
    assert failures(code, ["lora.waiting", "lora.asking"]).keys() == {"lora.asking"}
