"""A phone: the agent runs there in its environment, and ExecuTorch in the demo app."""

from pathlib import Path

from exporters.bundle import read_manifest
from runtimes.devices import OnSample, Sample
from runtimes.devices.adb import ROOT, AdbShell
from runtimes.devices.app import App
from runtimes.devices.remote import RemoteDevice
from runtimes.devices.store import who
from runtimes.devices.stream import step_of
from runtimes.facts import Facts
from runtimes.plan import Plan
from toolkit.progress import SILENT, Progress

_IN_APP = "executorch"
_IS_PREPARED = f'[ -f "$1/environments/{_IN_APP}/python" ]'


class AndroidDevice(RemoteDevice):
    """The phone behind `shell`.

    A bundle for ExecuTorch goes into the demo app, unless the phone has an environment for it.
    """

    def __init__(self, shell: AdbShell, root: str | None = ROOT, *, timeout: float | None = None) -> None:
        super().__init__(shell, root, timeout=timeout)

    def facts(self) -> Facts:
        found = super().facts()
        self.name = self.shell.name  # "adb:" has a serial as soon as it is connected
        return found

    def place(self, bundle: Path, progress: Progress = SILENT) -> str:
        """Push what is missing of `bundle`, and have it in the app too if that is where it runs."""
        manifest = read_manifest(bundle)
        if manifest.runtime.name != _IN_APP or self._is_prepared():
            return super().place(bundle, progress)
        app = App.find(self.shell)  # before anything is sent in vain
        folder = super().place(bundle, progress)
        with self.store.held(), progress.step(f"copy {manifest.name} into the app on {self.name}"):
            return app.take(folder, bundle, manifest)

    def run(self, plan: Plan, on_sample: OnSample | None = None) -> list[Sample]:
        """Run `plan` where its bundle was placed; the run ends with this call, however that ends."""
        app = App.of(self.shell, plan.bundle)
        if app is None:
            return super().run(plan, on_sample)
        if plan.golden:
            raise self.shell.fault(
                "golden prompts",
                "ExecuTorch runs in the demo app there, which cannot repeat golden prompts",
                "Check a bundle for ONNX Runtime GenAI, or `edgeplm verify` here",
            )
        ended = self._follow(plan, on_sample, *app.bench(self.root, who(), app.write_plan(plan)))
        if not ended.complete and (fault := app.fault(step_of(ended.samples), ended.status, ended.stderr)):
            raise fault
        self._check(ended, _IN_APP)
        return ended.samples

    def _is_prepared(self) -> bool:
        return self.shell.run(_IS_PREPARED, self.root, step="look").status == 0
