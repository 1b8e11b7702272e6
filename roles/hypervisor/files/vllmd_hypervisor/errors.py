"""What can go wrong, as exceptions that carry sentences for people, and the exit codes they end in."""

PROGRAM = "vllmd-hypervisor"

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_BAD_CONFIGURATION = 2
EXIT_NOT_RUNNING = 3
EXIT_UNKNOWN = 4


class ConfigError(Exception):
    """The configuration cannot work; `problems` holds one sentence (one line) per fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = [one_line(problem) for problem in problems]


class LaunchError(Exception):
    """Something failed on the host after the configuration was found good; the message is one sentence."""


class ValueProblem(ValueError):
    """One value is wrong; the message is the part of a sentence that follows `VARIABLE="value": `."""


def one_line(text: str) -> str:
    """Make any text one printable line: control characters become spaces, undecodable bytes become `?`."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.encode("utf-8", "replace").decode("utf-8").split())


def reason(error: OSError) -> str:
    """Return what the kernel said, without Python's decoration: `No such file or directory`."""
    return error.strerror or str(error)
