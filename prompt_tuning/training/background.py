"""A function call on a background thread."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """Starts a call on a daemon thread, which does not keep the process alive."""

    def __init__(self, call: Callable[[], Result]):
        self._call = call
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # raised again by `result`
            self._error = error

    def result(self) -> Result:
        """Waits for the call and returns its result, or raises its exception."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result
