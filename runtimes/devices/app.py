"""The demo app on a phone, which measures ExecuTorch bundles there: docs/android.md, android-demo.

A bundle is verified on the device first (`push`) and copied from there into the app's own folder: through
`run-as` where the app is a debug build, else on shared storage. The app reads the agent's plan and writes the
agent's samples.
"""

import json
import posixpath
import re
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from exporters.bundle import MANIFEST, Manifest
from runtimes.devices.shell import Output, Shell
from runtimes.devices.store import LOCK, one_line
from runtimes.plan import Plan
from toolkit.errors import DeviceError
from toolkit.files import sha256_of

PACKAGE = "org.edgeplm.demo"
_SHARED = f"/sdcard/Android/data/{PACKAGE}/files"
_PRIVATE = f"/data/data/{PACKAGE}/files"
_AS_APP = f'as() {{ run-as {PACKAGE} "$@"; }}\n'
_AS_SHELL = 'as() { "$@"; }\n'

# $1 the folder on shared storage: says which way leads into the app, which makes that folder when it starts.
_FIND = f"""
[ -n "$(pm path {PACKAGE} 2>/dev/null)" ] || exit 3
run-as {PACKAGE} true </dev/null >/dev/null 2>&1 && {{ echo private; exit 0; }}
[ -d "$1/bundles" ] || am start -W -n {PACKAGE}/.ui.MainActivity >/dev/null
waited=0
until [ -d "$1/bundles" ]; do sleep 1; waited=$((waited + 1)); [ $waited -lt 20 ] || exit 4; done
: >"$1/bundles/.edgeplm" && rm -f "$1/bundles/.edgeplm" && ls "$1/bundles" >/dev/null || exit 4
echo shared
"""
_NOT_INSTALLED, _CLOSED = 3, 4

# $1 folder, then names: prints each file's sha256, or - where there is none.
_HASHES = """
as sh -c '
folder=$1; shift
for name; do
  sum=-; [ ! -f "$folder/$name" ] || sum=$(sha256sum <"$folder/$name"); echo "${sum%% *}"
done' sh "$@"
"""
# $1 the bundle on the device, $2 the new folder, then names. Piped, since SELinux keeps an app from files of
# adb's shell. Apps are in none of the shell's groups: what it writes must be for everybody to read.
_COPY = """
from=$1 to=$2; shift 2
as rm -rf "$to" && as mkdir -p "$to" || exit 1
for name; do
  case $name in */*) as mkdir -p "$to/${name%/*}" || exit 1;; esac
  cat "$from/$name" | as sh -c 'cat >"$1"' sh "$to/$name" || exit 1
done
as chmod -R a+rX "$to" 2>/dev/null
exit 0
"""
# $1 the new folder, $2 its name: only what is whole gets it.
_TAKE = 'as rm -rf "$2" && as mv "$1" "$2"'
_PLAN = """
as mkdir -p "$1/plans" && as sh -c 'cat >"$1"' sh "$1/plans/$2.json" || exit 1
as chmod a+r "$1/plans/$2.json" 2>/dev/null
exit 0
"""
# $1 the app's folder, $2 the result: prints it as it grows, until it has its name. The system may end the app
# at any time; when it is gone there is one more look, for the result may have got its name just before. One
# that has written was there, though it was gone before anybody looked for it.
_FOLLOW = f"""
seen=0 there= gone=0 silent=0
while :; do
  sleep 1
  file=$1/results/$2 ended=yes
  [ -f "$file" ] || {{ file=$file.part ended=; }}
  size=$(wc -c 2>/dev/null <"$file") || size=0
  size=$((size)) silent=$((silent + 1))
  if [ $size -gt $seen ]; then
    {{ tail -c +$((seen + 1)) | head -c $((size - seen)); }} <"$file" && {{
      seen=$size silent=0 there=yes
      [ -z "$ended" ] || exit 0
    }}
  fi
  if pidof {PACKAGE}:bench >/dev/null; then there=yes gone=0
  elif [ -n "$there" ]; then gone=$((gone + 1)); fi
  [ $gone -lt 2 ] || exit 70
  [ $seen -gt 0 ] || [ $silent -lt 60 ] || exit 71
done 2>/dev/null
"""
# $1 root, $2 who, $3 the app's folder, $4 the run's name, $5 whether it is private, $6 how to follow. When
# standard input ends, nobody wants the samples any more: the app is ended, though this shell is hung up on.
# What waits for that is a program of its own: a part of this shell would keep the connection open.
# A run takes away what dead ones left, at its end its own alone: the next one's plan may be there already.
_BENCH = (
    LOCK
    + f"""
trap '' HUP
as sh -c '
for left in "$1"/plans/host-* "$1"/results/host-*; do case $left in */"$2".*) ;; *) rm -f "$left";; esac; done
' sh "$3" "$4"
input keyevent KEYCODE_WAKEUP; wm dismiss-keyguard
dumpsys trust 2>/dev/null | grep -q '(current).*deviceLocked=1' && exit 66
said=$(am start -S -W -n {PACKAGE}/.phone.BenchActivity \\
  --es plan "$4.json" --es result "$4.jsonl" --ez private "$5" 2>&1)
case $said in *"Status: ok"*) ;; *) echo "$said" >&2; exit 65;; esac
sh -c 'cat; am force-stop {PACKAGE}' <&3 >/dev/null 2>&1 9>&- &
lifeline=$!
as sh -c "$6" sh "$3" "$4.jsonl" </dev/null
status=$?
kill $lifeline
as sh -c 'rm -f "$1/plans/$2".* "$1/results/$2".*' sh "$3" "$4"
exit $status
}} 3<&0 9>>"$1/lock"
"""
)
_FAULTS = {
    65: ("the app cannot be started", "Build and install it anew: `make android-app`, docs/android.md"),
    66: ("the phone is locked", "Unlock it, and let its screen stay on"),
    70: ("the app ended before its run did", "Most likely the phone ran out of memory: try a smaller bundle"),
    71: ("the app writes no samples", "Look at its screen, which says why"),
}


@dataclass(frozen=True)
class App:
    """The installed app behind `shell`; `private`: its own folder, through run-as, else the shared one."""

    shell: Shell
    private: bool

    @classmethod
    def find(cls, shell: Shell) -> "App":
        """The app on the phone; DeviceError if it is not installed or adb cannot reach its files."""
        found = shell.run(_FIND, _SHARED, step="find the app")
        if found.status == _NOT_INSTALLED:
            raise shell.fault(
                "find the app",
                f"ExecuTorch runs in the demo app, and {PACKAGE} is not installed",
                "Install it: `make android-app`, then as docs/android.md says",
            )
        if found.status != 0:
            raise shell.fault(
                "find the app",
                f"adb reaches neither {_SHARED} nor the app's own folder ({one_line(found.stderr)})",
                "Install a debug build of the app: `make android-app`",
            )
        return cls(shell, found.text.strip() == "private")

    @classmethod
    def of(cls, shell: Shell, folder: str) -> "App | None":
        """The app that has the bundle's `folder`, as `take` returned it; None if none has."""
        homes = {f"{_PRIVATE}/bundles": True, f"{_SHARED}/bundles": False}
        private = homes.get(posixpath.dirname(folder))
        return None if private is None else cls(shell, private)

    @property
    def home(self) -> str:
        """The app's folder on the device."""
        return _PRIVATE if self.private else _SHARED

    def take(self, folder: str, bundle: Path, manifest: Manifest) -> str:
        """Have the bundle at `folder` on the device in the app too, each hash checked there; returns it.

        `bundle` is the same one on this machine. Raises DeviceError.
        """
        hashes = {file.path: file.sha256 for file in manifest.files}
        hashes[MANIFEST] = sha256_of(bundle / MANIFEST)
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", manifest.name).strip("-")[:40] or "bundle"
        name = f"{plain}-{hashes[MANIFEST][:16]}"
        target, fresh = f"{self.home}/bundles/{name}", f"{self.home}/bundles/.{name}.incoming"
        if self._hashes(target, list(hashes)) == list(hashes.values()):
            return target
        self._check(self._run(_COPY, folder, fresh, *hashes, step="copy"), "copy", "cannot copy the bundle")
        if self._hashes(fresh, list(hashes)) != list(hashes.values()):
            raise self.shell.fault("copy", "a file in the app differs from what was sent", "Try again")
        self._check(self._run(_TAKE, fresh, target, step="copy"), "copy", "cannot place the bundle")
        return target

    def write_plan(self, plan: Plan) -> str:
        """Give `plan`, whose bundle is a folder of the app, to the app; returns the run's name."""
        name = f"host-{uuid4().hex}"
        document = replace(plan, bundle=posixpath.basename(plan.bundle)).as_dict()
        output = self._run(_PLAN, self.home, name, step="plan", stdin=json.dumps(document).encode())
        self._check(output, "plan", "cannot write the plan")
        return name

    def bench(self, root: str, who: str, run: str) -> tuple[str, ...]:
        """The script that has the app carry out the plan of `run`, and its arguments; `root` has the lock."""
        private = "true" if self.private else "false"
        return self._as + _BENCH, root, who, self.home, run, private, _FOLLOW

    def fault(self, step: str, status: int | None, stderr: str) -> DeviceError | None:
        """What it means that the script of `bench` ended with `status`; None if all went well."""
        if status is None or status not in _FAULTS:
            return None
        what, mend = _FAULTS[status]
        said = f" ({one_line(stderr)})" if status == 65 else ""
        return self.shell.fault(step, what + said, mend)

    @property
    def _as(self) -> str:
        return _AS_APP if self.private else _AS_SHELL

    def _run(self, script: str, *arguments: str, step: str, stdin: bytes | None = None) -> Output:
        return self.shell.run(self._as + script, *arguments, step=step, stdin=stdin, timeout=None)

    def _hashes(self, folder: str, names: list[str]) -> list[str]:
        return self._run(_HASHES, folder, *names, step="verify").text.split()

    def _check(self, output: Output, step: str, what: str) -> None:
        if output.status != 0:
            raise self.shell.fault(
                step, f"{what} into the app ({one_line(output.stderr) or f'status {output.status}'})"
            )
