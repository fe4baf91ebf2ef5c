"""What OpenSSH's client says when a connection fails, in words that help.

The client's texts are those of its source (sshconnect.c, packet.c, clientloop.c, mux.c), never translated.
"""

import re

from runtimes.devices.ssh_address import SshAddress
from toolkit.errors import printable

_BY_HAND = "Log in by hand to see more: {login}"
_CUT = "Look at its power and network, then run the same command again"
# The first that is found counts: a changed key also makes the verification fail.
_FAULTS: tuple[tuple[str, str, str], ...] = (
    (
        r"Could not resolve hostname",
        "there is no host {host}",
        "Check the name, or give the address instead; hosts of ~/.ssh/config count too",
    ),
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|DIFFERS from the key|REVOKED HOST KEY",
        "its host key is not the one that is known: another machine may be answering in its place",
        "If you know why (it was installed anew), forget the old key with `ssh-keygen -R {known_as}`, log in "
        "once by hand (`{login}`) and compare the fingerprint",
    ),
    (
        r"Host key verification failed|host key is known for",
        "its host key is not known on this machine",
        "Log in once by hand (`{login}`), compare the fingerprint with the device's "
        "(`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there) and say yes",
    ),
    (r"Connection refused", "refuses the connection: no ssh server listens at {known_as}", _BY_HAND),
    (
        r"timed out|Timeout, server",
        "does not answer in time",
        "Is it on, on this network, and not asleep? " + _BY_HAND,
    ),
    (r"No route to host|Network is unreachable", "cannot be reached from this network", _BY_HAND),
    (
        r"Permission denied|Too many authentication failures|No supported authentication methods",
        "accepts none of your keys",
        "Have it know your key (`ssh-copy-id`), or load the key with `ssh-add`; passwords are not asked for",
    ),
    (
        r"Bad owner or permissions|Bad configuration option|[Cc]an't open user config|terminating, \d+ bad",
        "ssh refuses its configuration: {last}",
        "Mend that file",
    ),
    (r"no matching [\w ]+ found", "shares no method with this machine's ssh: {last}", _BY_HAND),
    (
        r"[Cc]onnection (?:\w+ )*(?:closed|reset|lost)|closed by remote host|Broken pipe|mux_client"
        r"|Connection to .* closed|[Cc]onnection.*(?:aborted|corrupted)",
        "the connection was cut",
        _CUT,
    ),
)


def explain(status: int, said: str, address: SshAddress) -> tuple[str, str | None]:
    """What it means that ssh ended with `status` and `said` before the script on the device ended."""
    lines = [line.strip() for line in printable(said).splitlines() if line.strip()]
    words = {
        "host": address.host,
        "login": address.login,
        "known_as": address.known_as,
        "last": lines[-1][:200] if lines else "",
    }
    for pattern, what, mend in _FAULTS:
        if re.search(pattern, said):
            return what.format(**words), mend.format(**words)
    if status == -1:
        return "does not answer in time", _BY_HAND.format(**words)
    if status == 255 or status < 0:
        return "the connection was cut" + (f" ({words['last']})" if lines else ""), _CUT
    if status == 0 or not lines:
        return "its login shell runs no commands", "The account needs a POSIX shell; " + _BY_HAND.format(
            **words
        )
    return f"its login shell ended with status {status}: {words['last']}", _BY_HAND.format(**words)
