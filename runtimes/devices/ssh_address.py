"""`ssh://[user@]host[:port]`, read strictly: what is in it becomes arguments of a program."""

import ipaddress
import re
from dataclasses import dataclass

from toolkit.errors import DeviceError

SCHEME = "ssh://"
_FORM = re.compile(r"(?:(?P<user>[^@]*)@)?(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?", re.DOTALL)
# Names as DNS, /etc/hosts and ssh's own configuration have them; none can be read as an option or a command.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_NAMES = "may have letters, digits, '_', '.' and '-' only, and begins with none of the last two"
_SCOPE = re.compile(r"[A-Za-z0-9_.-]+\Z")


@dataclass(frozen=True)
class SshAddress:
    """Who and where; None leaves the choice to ssh's configuration. `host` has no brackets."""

    host: str
    user: str | None = None
    port: int | None = None

    @property
    def options(self) -> list[str]:
        """The arguments that have ssh go there, the host last."""
        user = ["-l", self.user] if self.user else []
        port = ["-p", str(self.port)] if self.port else []
        return [*user, *port, "--", self.host]

    @property
    def login(self) -> str:
        """What a person types to log in there."""
        user = f"{self.user}@" if self.user else ""
        return f"ssh {f'-p {self.port} ' if self.port else ''}{user}{self.host}"

    @property
    def known_as(self) -> str:
        """Its name in known_hosts."""
        return f"[{self.host}]:{self.port}" if self.port not in (None, 22) else self.host


def parse_ssh_address(text: str) -> SshAddress:
    """The address that `text` names. Raises DeviceError with what is wrong in it."""
    if not text.startswith(SCHEME):
        raise _fault(text, f"does not begin with {SCHEME}")
    form = _FORM.fullmatch(text.removeprefix(SCHEME))
    if form is None:
        raise _fault(text, "cannot be read as one user, one host and one port")
    user, host, port = form["user"], form["host"], form["port"]
    if user is not None and ":" in user:
        raise _fault(text, "a password has no place in it: log in with a key")
    if user is not None and not _USER.match(user):
        raise _fault(
            text, f"the user {user!r} may have letters, digits, '_', '.' and '-' only, '-' not first"
        )
    if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise _fault(text, f"the port {port!r} is no number from 1 to 65535")
    return SshAddress(_host(text, host), user, int(port) if port else None)


def _host(text: str, host: str) -> str:
    if host.startswith("["):
        address, _, scope = host[1:-1].partition("%")
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            raise _fault(text, f"{host} is no IPv6 address in brackets") from None
        if "%" in host and not _SCOPE.match(scope):
            raise _fault(text, f"{scope!r} is no network interface")
        return host[1:-1]
    if not host:
        raise _fault(text, "has no host")
    if not _HOST.match(host):
        raise _fault(
            text, f"the host {host!r} may have letters, digits, '_', '.' and '-' only, '-' not first"
        )
    return host


def _fault(text: str, what: str) -> DeviceError:
    return DeviceError(
        what,
        where=f"device {text!r}",
        mend="Write ssh://[user@]host[:port], such as ssh://pi@raspberrypi; an IPv6 address goes in brackets",
    )
