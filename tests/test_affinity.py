import json
import os
import subprocess
import sys
import threading

import pytest
from fake_root import put

from runtimes.affinity import (
    ThreadWatch,
    allowed_cores,
    choose_cores,
    clusters,
    fast_cores,
    pin,
    threads,
)
from toolkit.errors import DeviceError

CPU = "sys/devices/system/cpu"
linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux binds processes to cores")


def cores(root, capacities=(), mhz=()):
    for core, capacity in enumerate(capacities):
        put(root, **{f"{CPU}/cpu{core}/cpu_capacity": str(capacity)})
    for core, clock in enumerate(mhz):
        put(root, **{f"{CPU}/cpu{core}/cpufreq/cpuinfo_max_freq": str(clock * 1000)})


@pytest.mark.parametrize(
    ("layout", "fast"),
    [
        ({"capacities": (325, 325, 325, 780, 780, 1024)}, [3, 4, 5]),
        ({"capacities": (1024,) * 4}, [0, 1, 2, 3]),
        ({"mhz": (1800, 1800, 1800, 1800, 2420, 2420, 2420, 2840)}, [4, 5, 6, 7]),
        ({"mhz": (5200, 5300, 5200, 5400)}, [0, 1, 2, 3]),
        ({"mhz": (2400, 2400, 1800, 1800)}, [0, 1]),
    ],
)
def test_the_fast_cores_are_all_but_the_slowest_cluster(tmp_path, layout, fast):
    cores(tmp_path, **layout)
    assert fast_cores(tmp_path) == fast


def test_cores_that_are_offline_are_not_counted(tmp_path):
    cores(tmp_path, mhz=(1800, 1800, 2400, 2400))
    put(tmp_path, **{f"{CPU}/online": "0-1\n"})
    assert clusters(tmp_path) == [[0, 1]]
    assert clusters(tmp_path / "nowhere") == []


def test_cores_that_may_not_be_used_are_refused(tmp_path):
    with pytest.raises(DeviceError, match=r"cores: this process may not use 997, 998. It may use: \d"):
        choose_cores((allowed_cores()[0], 998, 997))
    cores(tmp_path, mhz=(1800,) * 990 + (2400, 2400))
    with pytest.raises(DeviceError, match="may not use any of the fast ones"):
        choose_cores("fast", tmp_path)
    assert choose_cores((allowed_cores()[0],) * 2) == allowed_cores()[:1]


@linux
def test_every_thread_is_bound_and_the_watch_sees_who_works():
    """In a process of its own: the binding stays with the process."""
    code = """
import json, threading, time
import numpy  # starts threads of its own
from runtimes.affinity import ThreadWatch, allowed_cores, pin

ready, over = threading.Event(), threading.Event()

def spin():
    while not over.is_set():
        sum(range(1000))

idle = threading.Thread(target=over.wait)
idle.start()
core = allowed_cores()[-1]
pin([core])
worker = threading.Thread(target=spin)
watch = ThreadWatch()
worker.start()
end = time.monotonic() + 20
while watch.look() and time.monotonic() < end:
    time.sleep(0.1)
    if watch.report()["busy"][0] >= 0.3:
        break
report = watch.report()
over.set()
print(json.dumps({"core": core, "allowed": allowed_cores(), **report}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["allowed"] == [found["core"]]
    assert found["ran_on"] == [found["core"]]
    assert found["threads"] >= 3
    assert found["working"] == 1
    assert found["busy"][0] >= 0.3


@linux
def test_a_thread_that_binds_itself_elsewhere_is_seen():
    if len(allowed_cores()) < 2:
        pytest.skip("one core")
    second = allowed_cores()[1]
    ready, over = threading.Event(), threading.Event()

    def stray():
        os.sched_setaffinity(0, {second})
        ready.set()
        over.wait(20)

    thread = threading.Thread(target=stray)
    thread.start()
    try:
        assert ready.wait(20)
        assert [state.allowed for state in threads().values()].count((second,)) == 1
        assert second in ThreadWatch().report()["allowed"]
    finally:
        over.set()
        thread.join()


def test_a_system_that_does_not_tell_gives_none(tmp_path):
    assert threads(tmp_path) == {}
    assert ThreadWatch(tmp_path).report() is None


@linux
def test_the_kernels_refusal_is_an_error():
    with pytest.raises(DeviceError, match=r"cores: the system refused \[4000\]"):
        pin([4000])
