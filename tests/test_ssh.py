"""The connection over ssh: addresses, host keys, and what goes wrong, against a real sshd on loopback."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sshd import Sshd, free_port, needs_sshd

from runtimes.devices import parse_device
from runtimes.devices.ssh import CONFIG_VARIABLE, SshShell
from runtimes.devices.ssh_address import SshAddress, parse_ssh_address
from runtimes.devices.ssh_faults import explain
from toolkit.errors import DeviceError

HOSTILE = [
    "a;id",
    "$(id)",
    "`id`",
    "a b",
    "a\nb",
    "-oProxyCommand=id",
    "a'b",
    'a"b',
    "a|b",
    "a&b",
    "a>b",
    "a\\b",
    "é",
]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://pi@raspberrypi", SshAddress("raspberrypi", "pi")),
        ("ssh://board", SshAddress("board")),
        ("ssh://my_board.local:2222", SshAddress("my_board.local", None, 2222)),
        ("ssh://pi@[fe80::1%eth0]:22", SshAddress("fe80::1%eth0", "pi", 22)),
        ("ssh://[::1]", SshAddress("::1")),
        ("ssh://pi@10.0.0.7", SshAddress("10.0.0.7", "pi")),
    ],
)
def test_addresses(text, address):
    assert parse_ssh_address(text) == address
    assert address.options[-2:] == ["--", address.host]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *[(f"ssh://{name}", "the host ") for name in HOSTILE],
        *[(f"ssh://{name}@board", "the user ") for name in HOSTILE],
        ("ssh://", "has no host"),
        ("ssh://pi@", "has no host"),
        ("ssh://board:", "the port '' is no number from 1 to 65535"),
        ("ssh://board:0", "the port '0' is no number"),
        ("ssh://board:65536", "the port '65536' is no number"),
        ("ssh://board:2²", "the port '2²' is no number"),
        ("ssh://board:22;id", "the port '22;id' is no number"),
        ("ssh://board/folder", "the host 'board/folder' may have"),
        ("ssh://a@b@c", "the host 'b@c' may have"),
        ("ssh://fe80::1", "the port ':1' is no number"),
        ("ssh://[fe80::1", "cannot be read"),
        ("ssh://[nonsense]", "[nonsense] is no IPv6 address in brackets"),
        ("ssh://[fe80::1%eth0;id]", "'eth0;id' is no network interface"),
        ("ssh://[::1]x", "cannot be read"),
        ("ssh://pi:secret@board", "a password has no place in it: log in with a key"),
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_started(text, said, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(DeviceError) as caught:
        parse_device(text)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"device {text!r}: ")
    assert "Write ssh://[user@]host[:port], such as ssh://pi@raspberrypi" in str(caught.value)


@pytest.fixture
def shell(sshd: Sshd) -> Iterator[SshShell]:
    shell = SshShell(sshd.name, config=sshd.config)
    yield shell
    shell.close()


def refusal(shell: SshShell) -> str:
    with pytest.raises(DeviceError) as caught:
        shell.run("echo reached", step="look")
    return str(caught.value).replace("\n", " ")


@needs_sshd
def test_one_connection_carries_every_command(sshd, shell):
    hostile = "; touch hacked; $(touch hacked) 'it' \"is\" -rf\nnew line \\"
    output = shell.run(
        'printf "%s|" "$@"; cat; echo said >&2; exit 7', hostile, "", step="look", stdin=b"in\0put"
    )
    assert output.stdout == f"{hostile}||".encode() + b"in\0put"
    assert (output.status, output.stderr) == (7, "said")
    shell.run(":", step="look")
    assert (sshd.folder / "log").read_text().count("Accepted publickey") == 1


@needs_sshd
def test_an_unknown_host_key_is_refused_whatever_the_configuration_says(sshd, shell):
    sshd.known_hosts.write_text("")
    sshd.write_config(" StrictHostKeyChecking no\n NoHostAuthenticationForLocalhost yes\n")
    said = refusal(shell)
    assert said.startswith(
        f"device {sshd.name}, step connect: its host key is not known on this machine. Log in"
    )
    assert f"`ssh -p {sshd.port} board`" in said
    assert sshd.known_hosts.read_text() == ""


@needs_sshd
def test_a_changed_host_key_is_refused(sshd, shell):
    sshd.stop()
    sshd.make_key("host")
    sshd.start()
    sshd.write_config(" StrictHostKeyChecking no\n")
    said = refusal(shell)
    assert "step connect: its host key is not the one that is known: another machine may be" in said
    assert f"`ssh-keygen -R [board]:{sshd.port}`" in said


@needs_sshd
def test_a_key_that_the_device_does_not_know(sshd, shell):
    (sshd.folder / "authorized").write_text("")
    assert "step connect: accepts none of your keys. Have it know your key (`ssh-copy-id`)" in refusal(shell)


@needs_sshd
def test_a_port_where_nobody_listens(sshd, shell):
    sshd.stop()
    assert f"step connect: refuses the connection: no ssh server listens at [board]:{sshd.port}" in refusal(
        shell
    )


@needs_sshd
def test_a_host_that_nobody_knows(sshd):
    said = refusal(SshShell("ssh://nowhere.invalid", config=sshd.config))
    assert said.startswith(
        "device ssh://nowhere.invalid, step connect: there is no host nowhere.invalid. Check"
    )


@needs_sshd
def test_a_host_that_does_not_answer(sshd, monkeypatch):
    """It takes the connection, as a hung device does, and then says nothing."""
    monkeypatch.setattr("runtimes.devices.ssh._OPTIONS", {"BatchMode": "yes", "ConnectTimeout": "1"})
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        said = refusal(SshShell(f"ssh://127.0.0.1:{silent.getsockname()[1]}", config=sshd.config))
    assert "step connect: does not answer in time. Is it on, on this network, and not asleep?" in said


@needs_sshd
def test_a_configuration_that_ssh_refuses(sshd, shell):
    sshd.write_config(" NoSuchOption yes\n")
    assert "step connect: ssh refuses its configuration: " in refusal(shell)


@needs_sshd
def test_an_account_that_runs_no_commands(sshd, shell):
    with open(sshd.folder / "sshd.conf", "a") as config:
        config.write("ForceCommand echo This account is currently not available.; exit 1\n")
    sshd.stop()
    sshd.start()
    assert "step connect: its login shell runs no commands. The account needs a POSIX shell" in refusal(shell)


def test_without_an_ssh_program(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refusal(SshShell("ssh://board"))
    assert said == (
        "device ssh://board, step connect: cannot start `ssh` (No such file or directory). "
        "Install OpenSSH's client (Debian: apt install openssh-client)"
    )


@needs_sshd
@pytest.mark.parametrize("login", ["dash", "bash", "mksh", "zsh", "fish", "busybox sh"])
def test_every_usual_login_shell_will_do(sshd, shell, login):
    program = shutil.which(login.split()[0])
    if program is None:
        pytest.skip(f"no {login} here")
    words = " ".join([program, *login.split()[1:]])
    with open(sshd.folder / "sshd.conf", "a") as config:
        config.write(f'ForceCommand echo Welcome; exec {words} -c "$SSH_ORIGINAL_COMMAND"\n')
    sshd.stop()
    sshd.start()
    hostile = "; $(id) `id` 'it' \"is\" $HOME ! * ~ -rf\nnew line"
    output = shell.run('printf "%s|" "$@"; exit 3', hostile, "", step="look")
    assert (output.stdout, output.status) == (f"{hostile}||".encode(), 3)


@needs_sshd
def test_the_configuration_may_be_named_by_a_variable(sshd, monkeypatch):
    monkeypatch.setenv(CONFIG_VARIABLE, str(sshd.config))
    device = parse_device(sshd.name)
    assert device.root == f"{sshd.home}/.edgeplm"
    device.close()


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("ssh: connect to host b port 22: No route to host", "cannot be reached from this network"),
        ("ssh: connect to host b port 22: Connection timed out", "does not answer in time"),
        (
            "Unable to negotiate with b port 22: no matching host key type found. Their offer: x",
            "shares no method",
        ),
        ("kex_exchange_identification: Connection closed by remote host", "the connection was cut"),
        ("client_loop: send disconnect: Broken pipe", "the connection was cut"),
        ("Timeout, server board not responding.", "does not answer in time"),
        ("@ WARNING: REVOKED HOST KEY DETECTED! @", "its host key is not the one that is known"),
        ("", "the connection was cut"),
    ],
)
def test_what_ssh_says_is_explained(said, what):
    found, mend = explain(255, said, SshAddress("b"))
    assert found.startswith(what)
    assert mend


def test_what_a_device_says_cannot_drive_the_terminal():
    what, _ = explain(2, "\x1b[2Jodd", SshAddress("b"))
    assert "\x1b" not in what
    assert os.linesep not in what


def test_its_files_are_in_a_private_folder(tmp_path, monkeypatch):
    from runtimes.devices import ssh

    monkeypatch.setattr(ssh.tempfile, "tempdir", str(tmp_path / ("x" * 80)))
    folder = ssh._private_folder()
    assert folder.parent == Path("/tmp")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
