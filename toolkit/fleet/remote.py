"""Other people's file systems, with errors of one kind."""

from typing import Any, ClassVar

from toolkit.errors import EdgePLMError


class StoreError(EdgePLMError):
    """A file system that cannot be reached, or refuses what is asked of it."""


class Remote:
    """An fsspec file system whose errors are StoreError, but for a missing file and one that is there."""

    _PASSED: ClassVar[dict[str, type[Exception]]] = {
        "cat_file": FileNotFoundError,
        "pipe_file": FileExistsError,
    }

    def __init__(self, fs: Any, url: str) -> None:
        self._fs, self._url = fs, url

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._fs, name)

        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return method(*arguments, **options)
            except self._PASSED.get(name, ()):
                raise
            except Exception as error:  # every package raises its own kinds: botocore's, aiohttp's, azure's
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise StoreError(
                    f"cannot be used ({reason.rstrip('.')})",
                    where=self._url,
                    mend="Check the address, the network and the credentials in the environment",
                ) from error

        return call
