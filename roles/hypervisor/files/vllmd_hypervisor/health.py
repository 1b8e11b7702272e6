"""VLLMD_HYPERVISOR_HEALTH: where a guest's health is asked, and what follows from its answers.

Nothing here waits or talks: `decide` is a function of what the probes saw and of the time. watch.py does the rest.

Two kinds of trouble are told apart. No answer at all (a time-out, no route) means that the guest or its VMM is frozen:
nobody inside can mend that. A refusal (connection refused or closed, an answer other than 200) means that the guest
lives and that its own service manager may be starting the engine again, which takes as long as a start does.
"""

from dataclasses import dataclass, replace

from vllmd_hypervisor.errors import ValueProblem
from vllmd_hypervisor.network import PORT_LIMIT, is_ipv4
from vllmd_hypervisor.quantity import parse_pairs, parse_whole_number

SERVED, REFUSED, SILENT = "served", "refused", "silent"
HEALTHY, WAIT, TRIGGER = "healthy", "wait", "trigger"

_LIMITS = {"interval": (10, 3600), "silence": (120, 86_400), "start": (900, 604_800)}  # default, greatest; seconds
_SCHEME = "http://"
_HTTP_PORT = 80
_PATH_LIMIT = 1024
_SHORTEST_PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class Health:
    """What to ask, how often, and how long no answer and no good answer are borne (seconds)."""

    address: str
    port: int
    path: str
    interval: int
    silence: int
    start: int

    @property
    def url(self) -> str:
        """The URL, as people write it."""
        return f"{_SCHEME}{self.address}:{self.port}{self.path}"

    @property
    def probe_seconds(self) -> float:
        """How long one probe waits for its answer: a busy guest may take its time, a silent one gets four probes."""
        return max(_SHORTEST_PROBE_SECONDS, self.silence / 4)

    @property
    def longest_pause(self) -> float:
        """The longest time between two reports to systemd: its watchdog must be slower than this."""
        return self.interval + self.probe_seconds


@dataclass(frozen=True)
class Probe:
    """What one probe met: SERVED, REFUSED or SILENT, and in words what went wrong."""

    outcome: str
    error: str = ""


@dataclass(frozen=True)
class History:
    """What the probes saw so far. Times are seconds of one monotonic clock.

    `began`: the guest began to run. `answered`: the last time anything answered. `served`: the last good answer, None
    before the first. `changed`: since when it has been as it is. `failures`: probes without a good answer since then.
    """

    began: float
    answered: float
    changed: float
    served: float | None = None
    failures: int = 0
    error: str = ""

    @classmethod
    def beginning(cls, now: float) -> "History":
        """Return the history of a guest that begins to run now."""
        return cls(began=now, answered=now, changed=now)

    def after(self, probe: Probe, now: float) -> "History":
        """Return the history with one more probe, which ended now."""
        if probe.outcome == SERVED:
            first = self.served is None or self.failures > 0
            changed = now if first else self.changed
            return replace(self, answered=now, served=now, changed=changed, failures=0, error="")
        return replace(
            self,
            answered=now if probe.outcome == REFUSED else self.answered,
            changed=now if self.served is not None and self.failures == 0 else self.changed,
            failures=self.failures + 1,
            error=probe.error,
        )


@dataclass(frozen=True)
class Decision:
    """HEALTHY, WAIT or TRIGGER; the reason of a TRIGGER as the rest of a sentence that begins with the runtime."""

    action: str
    reason: str = ""


def decide(health: Health, history: History, now: float) -> Decision:
    """Return what follows from the history at the time `now`."""
    if history.served is None:
        if now - history.began < health.start:
            return Decision(WAIT)
        return Decision(
            TRIGGER, f"did not serve within {now - history.began:.0f} s of its start ({_what(health, history)})"
        )
    if history.failures == 0:
        return Decision(HEALTHY)
    if now - history.answered >= health.silence:
        return Decision(
            TRIGGER, f"has not answered at all for {now - history.answered:.0f} s ({_what(health, history)})"
        )
    if now - history.served >= health.start:
        return Decision(TRIGGER, f"has not been healthy for {now - history.served:.0f} s ({_what(health, history)})")
    return Decision(WAIT)


def _what(health: Health, history: History) -> str:
    return f"{health.url}: {history.error or 'not asked yet'}"


def parse_health(text: str) -> Health | None:
    """Read `url=http://127.0.0.1:8000/health,interval=10,silence=120,start=900`; None when there is nothing to ask."""
    if not text:
        return None
    settings: dict[str, str] = {}
    for key, value in parse_pairs(text):
        if key != "url" and key not in _LIMITS:
            raise ValueProblem(f"unknown health key {key!r}; known are url, {', '.join(_LIMITS)}")
        if key in settings:
            raise ValueProblem(f"{key} is given twice")
        settings[key] = value
    if "url" not in settings:
        raise ValueProblem("has no url=http://ADDRESS:PORT/PATH")
    address, port, path = _parse_url(settings["url"])
    seconds = {key: _parse_seconds(key, settings.get(key, str(default))) for key, (default, _most) in _LIMITS.items()}
    for shorter, longer in (("interval", "silence"), ("silence", "start")):
        if seconds[shorter] > seconds[longer]:
            raise ValueProblem(f"{shorter}={seconds[shorter]} is longer than {longer}={seconds[longer]}")
    return Health(address, port, path, **seconds)


def _parse_seconds(key: str, text: str) -> int:
    try:
        return parse_whole_number(text, 1, _LIMITS[key][1])
    except ValueProblem as problem:
        raise ValueProblem(f"{key} {problem} (seconds)") from None


def _parse_url(text: str) -> tuple[str, int, str]:
    """Return (address, port, path). An address, no name: the probe may talk to nobody else, a name server included."""
    wrong = f"url {text!r} is not http://ADDRESS:PORT/PATH with an IPv4 address, like http://127.0.0.1:8000/health"
    if not text.startswith(_SCHEME):
        raise ValueProblem(wrong)
    place, slash, rest = text.removeprefix(_SCHEME).partition("/")
    address, colon, port = place.partition(":")
    path = slash + rest
    if not is_ipv4(address) or not path or len(path) > _PATH_LIMIT or not all("!" <= char <= "~" for char in path):
        raise ValueProblem(wrong)
    if not colon:
        return address, _HTTP_PORT, path
    try:
        return address, parse_whole_number(port, 1, PORT_LIMIT), path
    except ValueProblem as problem:
        raise ValueProblem(f"url {text!r}: the port {problem}") from None
