"""A recording as a session: what a network answered, given back in order. For tests and for post-mortems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sightline.errors import ProtocolError
from sightline.runtime.session import Arrays, Session


class RecordingSession:
    """Passes every call on to another session and keeps the answers of each graph."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.answers: list[tuple[str, Arrays]] = []

    def inputs(self, graph: str) -> tuple[str, ...]:
        return self.session.inputs(graph)

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        answer = self.session.run(graph, arrays)
        self.answers.append((graph, answer))
        return answer


class ReplaySession:
    """Answers from a recording, in its order; `loop` starts again at the first `track` answer when it ends."""

    def __init__(self, answers: Sequence[tuple[str, Arrays]], loop: bool = False) -> None:
        self.answers = answers
        self.loop = loop
        self._next = 0

    def inputs(self, graph: str) -> tuple[str, ...]:
        return ("template",) if graph == "encode" else ("search",)

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        if self._next >= len(self.answers) and self.loop:
            self._next = next((i for i, (name, _) in enumerate(self.answers) if name == "track"), self._next)
        if self._next >= len(self.answers):
            raise ProtocolError(f"replay: got call {self._next}; expected at most {len(self.answers)}. Record more.")
        name, answer = self.answers[self._next]
        if name != graph:
            raise ProtocolError(f"replay: got graph {graph!r} at call {self._next}; expected {name!r}. Keep the order.")
        self._next += 1
        return dict(answer)
