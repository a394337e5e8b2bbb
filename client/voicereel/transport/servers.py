"""Several servers that speak as one: the least busy is asked, and one that is away is passed over.

The audio of a request does not depend on the server, since voices travel with it. So all must serve
the same checkpoint: one that has another is passed over too, and the log says so.
"""

import itertools
import logging
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from typing import TypeVar

from voicereel.caller import current_caller
from voicereel.errors import InvalidRequest, Overloaded, ServerUnavailable, VoiceReelError
from voicereel.transport.address import Address
from voicereel.transport.base import Tensors
from voicereel.transport.names import may_be_several, resolved
from voicereel.transport.repeats import NoConnection, Repeats
from voicereel.transport.server import SHUN_S, Server

T = TypeVar("T")
RESOLVE_S = 15.0  # a new address of a name is found that soon
CHECK_S = 5.0  # a server that came back with another checkpoint is noticed that soon
_TELL_S = 2.0  # a server says at once which checkpoint it has; longer means that it hangs

log = logging.getLogger("voicereel.servers")


class Servers:
    """All of them; may be shared by threads.

    Attributes:
        losses: How often a server was away; what one has told before may have changed since.
    """

    def __init__(self, addresses: list[Address], return_s: float) -> None:
        """Prepare connections, which are made with the first call.

        Args:
            addresses: Of the servers; a name that has several addresses stands for all of them.
            return_s: As in `Client`.
        """
        self._addresses, self._return_s = addresses, return_s
        self._servers: dict[Address, Server] = {}
        self._retired: list[Server] = []  # no longer named, but they end their streams
        self._resolved, self.losses = -RESOLVE_S, 0
        # Of each model: calls of several may alternate, and each is to be spread.
        self._turns = defaultdict[str, Iterator[int]](itertools.count)
        self._known: set[str] = set()  # models that have answered; "" is a server's health
        self._checkpoint_id = ""
        self._choosing = threading.Lock()

    def all(self) -> list[Server]:
        """Every server, names resolved; one that is no longer named may end its streams."""
        now = time.monotonic()
        if not self._servers or (
            now - self._resolved > RESOLVE_S and any(map(may_be_several, self._addresses))
        ):
            self._resolved = now  # other threads take what there is meanwhile
            known = self._servers
            found = dict.fromkeys(itertools.chain(*(resolved(a, known) for a in self._addresses)))
            self._servers = {a: known.get(a) or Server(a) for a in found}
            self._retired += [known[a] for a in known.keys() - found.keys()]
        for server in [server for server in self._retired if not server.in_flight]:
            self._retired.remove(server)
            server.transport.close()
        return list(self._servers.values())

    def by_load(self, turn: int = 0) -> list[Server]:
        """Those with the fewest calls in flight first, in turn; those that are away last."""
        now = time.monotonic()
        away = [server for server in self.all() if server.shunned_until > now]
        there = [server for server in self._servers.values() if server not in away]
        first = turn % len(there) if there else 0
        there = there[first:] + there[:first]
        return sorted(there, key=lambda s: s.in_flight) + sorted(away, key=lambda s: s.in_flight)

    def infer(self, model: str, inputs: Tensors, timeout_s: float) -> Tensors:
        """Call a model that gives one response, within so many seconds."""

        def ask(server: Server, _: ExitStack, left_s: float, request_id: str) -> Tensors:
            return server.transport.infer(model, inputs, left_s, request_id)

        return self._repeated(model, timeout_s, ask)

    def stream(self, model: str, inputs: Tensors, timeout_s: float) -> Generator[Tensors]:
        """Call a decoupled model and yield its responses; closing the iterator cancels."""
        if self._addresses[0].protocol == "http":
            raise InvalidRequest(
                'streaming needs gRPC: Client("HOST:8001", protocol="grpc"). '
                "Over HTTP there is synthesize()."
            )
        return self._stream(model, inputs, timeout_s)

    def _stream(self, model: str, inputs: Tensors, timeout_s: float) -> Generator[Tensors]:
        def begun(server: Server, held: ExitStack, left_s: float, request_id: str):
            seen = held.enter_context(current_caller().attempt(server.url))
            responses = server.transport.stream(model, inputs, left_s, request_id)
            held.enter_context(closing(responses))
            first = next(responses, None)
            seen.event("first chunk")
            return server, held.pop_all(), responses, first

        # Until the first response the call may be sent again.
        server, held, responses, first = self._repeated(model, timeout_s, begun)
        with held:
            try:
                if first is not None:
                    yield first
                    yield from responses
            except NoConnection as problem:
                self._lost(server, problem)
                Repeats(server.address, 0, 0).or_raise(problem, audio_came=True)

    def is_ready(self, model: str | None, timeout_s: float) -> bool:
        """Whether a model of some server, or a server as a whole (None), is ready."""
        return any(self.health((model,), timeout_s).values())

    def health(self, models: tuple[str | None, ...], timeout_s: float) -> dict[str, bool]:
        """Which models are ready, at the server that has most of them.

        Raises:
            ServerUnavailable: If no server answers.
        """
        best: dict[str, bool] = {}
        problem: VoiceReelError = ServerUnavailable(self._nowhere())
        for server in self.by_load():
            end = time.monotonic() + timeout_s
            try:
                told = {
                    model or "server": server.is_ready(model, max(0.01, end - time.monotonic()))
                    for model in models
                }
            except VoiceReelError as error:
                self._lost(server, error)
                problem = error
                continue
            self._known.add("")
            best = max(best, told, key=lambda found: (len(found), sum(found.values())))
            if all(told.values()):
                break
        if not best:
            raise problem
        return best

    def close(self) -> None:
        """Disconnect."""
        for server in [*self._servers.values(), *self._retired]:
            server.transport.close()

    def _repeated(
        self, model: str, timeout_s: float, attempt: Callable[[Server, ExitStack, float, str], T]
    ) -> T:
        """Run attempts until one succeeds, as `Repeats` says.

        An attempt gets the server, what ends with it (the server's being busy), the seconds left
        and the id of the request.
        """
        request_id = current_caller().request_id or str(uuid.uuid4())
        repeats = Repeats(self._addresses[0], self._return_s, timeout_s, request_id)
        asked, turn = set[Server](), next(self._turns[model])
        while True:
            self.all()  # names are resolved here, where nobody waits for it
            with self._choosing, ExitStack() as chosen:  # calls that begin together are spread
                left = [server for server in self.by_load(turn) if server not in asked]
                if left:
                    chosen.enter_context(left[0].busy())
                held = chosen.pop_all()
            if not left:
                asked.clear()
                if not self._servers:
                    repeats.or_raise(ServerUnavailable(self._nowhere()), is_known=bool(self._known))
                continue
            server = left[0]
            asked.add(server)
            repeats.address = server.address
            try:
                with held:
                    self._check(server, repeats.left_s, request_id)
                    result = attempt(server, held, repeats.left_s, request_id)
            except (NoConnection, ServerUnavailable, Overloaded) as problem:
                is_away = isinstance(problem, NoConnection)
                known = bool(self._known) if is_away else model in self._known
                if is_away or known:  # else it may be there, and not have such a model
                    self._lost(server, problem)
                repeats.or_raise(problem, others=len(left) > 1, is_known=known)
            else:
                server.succeeded()
                self._known.add(model)
                return result

    def _lost(self, server: Server, problem: Exception) -> None:
        server.failed(problem)
        if not isinstance(problem, Overloaded):
            self.losses += 1
            # It may have a new address; a name is not asked for with every failure.
            self._resolved = min(self._resolved, time.monotonic() - RESOLVE_S + SHUN_S[0])

    def _check(self, server: Server, left_s: float, request_id: str) -> None:
        """Pass over a server whose checkpoint is not that of the others.

        Raises:
            ServerUnavailable: If it is another one, while others have the one that was spoken with.
            NoConnection: If the server cannot tell.
        """
        if len(self._servers) < 2 or server.checked_until > time.monotonic():
            return
        server.checkpoint_id = server.told_checkpoint_id(min(left_s, _TELL_S), request_id)
        others = [s for s in self._servers.values() if s is not server and self._speaks(s)]
        if server.checkpoint_id and server.checkpoint_id != self._checkpoint_id:
            if self._checkpoint_id and others:
                raise ServerUnavailable(
                    f"{server.url} serves checkpoint {server.checkpoint_id[:80]!r}, but "
                    f"{others[0].url} serves {self._checkpoint_id[:80]!r}: servers behind one "
                    "client must serve the same. It is passed over; export the same one there"
                )
            if self._checkpoint_id:
                log.warning("no server has checkpoint %r any more; %s has %r, which speaks now",
                            self._checkpoint_id, server.url, server.checkpoint_id)  # fmt: skip
            self._checkpoint_id = server.checkpoint_id
        server.checked_until = time.monotonic() + CHECK_S

    def _speaks(self, server: Server) -> bool:
        return server.is_up and server.checkpoint_id == self._checkpoint_id

    def _nowhere(self) -> str:
        return f"no address of a server was found for {', '.join(map(str, self._addresses))}"
