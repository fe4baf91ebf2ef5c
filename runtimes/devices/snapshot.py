"""Facts of a device that may have no Python: a script dumps the kernel's files, this machine reads them.

The files are laid out in a temporary folder as they lie on the device, so that `runtimes.facts` and
`runtimes.sensors` read both alike.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtimes.devices.shell import Shell
from runtimes.devices.store import free_bytes
from runtimes.facts import Facts, said
from runtimes.survey import survey_snapshot

# Every file comes as \036 path \n content; a file's first bytes only, since a device may show anything.
_DUMP = r"""
show() {
  for file; do
    if [ -f "$file" ] && [ -r "$file" ]; then printf '\036%s\n' "$file"; head -c 65536 "$file" 2>/dev/null; fi
  done
}
said() { name=$1; shift; printf '\036/edgeplm/%s\n' "$name"; "$@" 2>/dev/null; }
show /proc/cpuinfo /proc/meminfo /proc/device-tree/model /proc/device-tree/compatible /etc/os-release
show /sys/class/dmi/id/product_name /sys/devices/soc0/family /sys/devices/soc0/machine
cpus=/sys/devices/system/cpu
show $cpus/cpu[0-9]*/cpufreq/scaling_governor $cpus/cpu[0-9]*/cpufreq/*_freq $cpus/cpu[0-9]*/topology/*_id
show /sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp
show /sys/class/hwmon/hwmon*/name /sys/class/hwmon/hwmon*/temp*_input /sys/class/hwmon/hwmon*/temp*_label
show /etc/edgeplm-emulated
said machine uname -m
said kernel uname -sr
said bits getconf LONG_BIT
command -v getprop >/dev/null && said properties getprop
command -v pm >/dev/null && said app pm path org.edgeplm.demo
command -v dumpsys >/dev/null && for service in thermalservice battery; do
  said "dumpsys-$service" dumpsys $service
done
cd "$1" 2>/dev/null || cd "${1%/*}" 2>/dev/null || cd /
said disk df -P -k .
[ -e "$1/emulated" ] && said emulated echo yes
for launcher in "$1"/environments/*/python; do
  name=${launcher%/python}; [ -f "$launcher" ] && said "environments/${name##*/}" echo prepared
done
exit 0
"""
_PLAIN = re.compile(r"/[A-Za-z0-9_,.:@+/-]+\Z")


@contextmanager
def snapshot(shell: Shell, root: str) -> Iterator[Path]:
    """A folder that stands for the device's `/`; `root` is EdgePLM's folder there."""
    output = shell.run(_DUMP, root, step="look")
    with tempfile.TemporaryDirectory(prefix="edgeplm-") as name:
        folder = Path(name)
        for part in output.stdout.split(b"\x1e")[1:]:
            title, _, content = part.partition(b"\n")
            path = title.decode("utf-8", "replace")
            if not _PLAIN.match(path) or ".." in path:
                continue  # no file that was asked for
            target = folder / path.lstrip("/")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            except OSError:  # such as a file where another one needs a folder
                continue
        yield folder


def device_facts(shell: Shell, root: str) -> Facts:
    """The facts of the device behind `shell`, where `root` is EdgePLM's folder."""
    with snapshot(shell, root) as folder:
        return survey_snapshot(folder, free_bytes(said(folder, "disk") or ""))
