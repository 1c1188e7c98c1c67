"""A call that goes on beside others."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """Starts a call on a thread of its own, which does not keep the process from ending."""

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
        """Waits for the call; returns what it returned, raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result
