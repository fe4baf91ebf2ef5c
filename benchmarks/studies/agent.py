"""The agent of `runtimes.agent` for every artifact of a study: `python -m benchmarks.studies.agent`."""

from benchmarks.studies.peers import open_subject
from runtimes.agent import main

if __name__ == "__main__":
    raise SystemExit(main(open_subject))
