"""Joules of a token, from the windows that the agent metered."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.stats import median


def energy(windows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, float]]:
    """Name, unit and value of every window's figure: power_idle [W]; energy_prefill, energy_decode [J/token].

    net_energy_prefill and net_energy_decode are above the idle power: what the tokens cost beyond a machine
    that is on anyway. Windows that are void (the battery was being charged) or that nobody could meter give
    no figure.
    """
    told = [window for window in windows if window["void"] is None and window["joules"] is not None]
    idle = [window["joules"] / window["seconds"] for window in told if window["phase"] == "idle"]
    for watts in idle:
        yield "power_idle", "W", watts
    for window in told:
        if window["tokens"]:
            phase, tokens = window["phase"], window["tokens"]
            yield f"energy_{phase}", "J/token", window["joules"] / tokens
            if idle:
                net = window["joules"] - median(idle) * window["seconds"]
                yield f"net_energy_{phase}", "J/token", net / tokens
