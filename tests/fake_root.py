"""Small folders that stand for `/` of a device: its /proc and /sys, and programs that really run."""


def put(root, **files):
    """Write `files`, path below `root` to text; folders are made."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def program(root, name, script):
    """A real POSIX sh program at `name` below `root`."""
    put(root, **{name: f"#!/bin/sh\n{script}\n"})
    (root / name).chmod(0o755)


THERMALSERVICE = """\
IsStatusOverride: false
ThermalStatusListeners:
	callbacks: 4
Thermal Status: {status}
Cached temperatures:
	Temperature{{mValue=99.0, mType=0, mName=OLD, mStatus=0}}
HAL Ready: true
Current temperatures from HAL:
	Temperature{{mValue=41.6, mType=0, mName=CPU0, mStatus=0}}
	Temperature{{mValue=30.5, mType=3, mName=SKIN, mStatus=0}}
	Temperature{{mValue=0.0, mType=2, mName=SUBBAT, mStatus=0}}
	Temperature{{mValue=55.0, mType=5, mName=PA, mStatus=0}}
Current cooling devices from HAL:
	CoolingDevice{{mValue=0, mType=2, mName=fan}}
"""
BATTERY = """\
Current Battery Service state:
  AC powered: false
  USB powered: {usb}
  Wireless powered: false
  Max charging current: 500000
  status: {status}
  health: 2
  present: true
  level: 44
  scale: 50
  voltage: 4123
  temperature: 291
  technology: Li-ion
"""


def phone(root, *, status=0, usb="true", battery_status=2):
    """A phone on which /sys tells nothing to a shell, and `dumpsys` does."""
    put(
        root,
        thermal=THERMALSERVICE.format(status=status),
        battery=BATTERY.format(usb=usb, status=battery_status),
    )
    here = root.resolve()
    program(
        root, "system/bin/dumpsys", f"case $1 in thermalservice) cat {here}/thermal;; *) cat {here}/$1;; esac"
    )
