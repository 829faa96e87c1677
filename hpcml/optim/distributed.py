"""An optimizer whose gradients are averaged over MPI ranks: synchronous data parallelism."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcml import collectives as hc
from hpcml.collectives.arrays import DEVICE, as_array, kind_of
from hpcml.collectives.channel import channel_of
from hpcml.collectives.errors import raise_together
from hpcml.collectives.queue import Queue
from hpcml.optim.account import Account, Book, Trace
from hpcml.optim.ballot import LENGTH, Ballot
from hpcml.optim.buckets import Bucket, buckets
from hpcml.optim.intake import Intake, check_weight, require_rows, require_weight
from hpcml.optim.links import bound, bucket_bytes
from hpcml.optim.local import Local, LocalSteps
from hpcml.optim.messages import Message
from hpcml.optim.optimizer import Optimizer
from hpcml.optim.parameters import Arrays, Values, check_gradient, matched
from hpcml.optim.pipeline import Pipeline
from hpcml.optim.precision import short
from hpcml.optim.reductions import Exact, Part, Reduction, Scattered, Summed, Wire
from hpcml.optim.shards import Gathered, gathered_state, own_state, ranges
from hpcml.optim.starting import agree, start_as_rank_0


class Distributed:
    """Averages gradients over the ranks of ``comm``, then lets ``optimizer`` make the same step on each.

    With gradient g_r and weight w_r on rank r, the step is made with Σ w_r·g_r / Σ w_r. Where g_r is the
    mean over w_r samples, this is the mean over all samples, however unevenly they lie.

    At the start, which is collective, the ranks check that their parameters have the same names, shapes
    and dtypes in the same order; all take over parameters, state, step count and hyperparameters of rank 0.

    Gradients are packed, times their weight, into flat buckets that live as long as the optimizer, one collective
    each. Some numbers ride with them: weights as digits that even float32 sums without rounding (counts of samples
    are exact up to 2⁴⁸ on up to 4096 ranks), and a count of ranks whose arguments were wrong; so a mistake on one rank
    is an error on all.

    On one rank ``step(grads)`` packs and scales nothing: it has the bits of ``optimizer`` alone. With a `Wire` as much
    is left out there as on several ranks.

    Arguments:
        optimizer: from ``SGD``, ``Adam`` or their kin.
        comm: an mpi4py communicator; None: MPI.COMM_WORLD.
        algorithm: of the all-reduce, or of reduce-scatter and all-gather.
        bucket: bytes (a larger array travels alone); None: as the measured latency and bandwidth between nodes suggest.
        values: how many further numbers ride along in each step to be summed over the ranks.
        overlap: whether buckets are reduced in the background as soon as all of their gradients are `ready`; None:
            where the ranks are on several nodes.
        accumulate: how many gradients of each parameter are added up here before its bucket is sent; with `step`, it is
            sent in any case. None: one, or as many as there are ``shards``.
        shard: each rank keeps the state of, and updates, its part of the parameters (ZeRO stage 1): reduce-scatter,
            update, all-gather. 2(p−1)/p·n bytes sent, as for an all-reduce.
        reproducible: V: a step is made of V gradients, those of V fixed virtual shards of the batch, spread over the
            ranks in any way, summed exactly: then every number of ranks gives the same bits, if the gradients have
            them. Rank r has the ``shards`` of numpy.array_split(range(V), p)[r], unless you spread them otherwise.
        wire: what is sent for gradients: None, they themselves; "float16" or "bfloat16", numbers of 16 bits, scaled by
            a power of two to about the size of the mean gradient; or ``optim.TopK``, ``optim.Int8`` or
            ``optim.PowerSGD``. What those owe is no part of `state_dict`: a run that is resumed starts owing nothing.
        sync: how often ranks communicate: in every step, or every so many, as `Local` says; H stands for ``Local(H)``.
            Then errors and ``values`` reach the others with the next average, and only ``wire`` goes with it.
        allow_unused: parameters whose gradients do not come count as zero; otherwise that is an error that names them.

    Attributes: ``optimizer``; ``lr``, which every rank sets alike; ``params``, ``steps``; ``shards``; ``overlap``;
    ``expected``, how many gradients of a parameter come before its bucket is sent; ``intake``, what came for this step.

    Raises CollectiveError on every rank where the arguments or structures differ or the algorithm is not known.

    Example, on every rank::

        opt = optim.Distributed(optim.Adam(params, lr=1e-3))
        for batch in batches:                         # this rank's rows of each batch
            grads = gradient(params, batch) if len(batch) else None
            opt.step(grads, weight=len(batch))
        opt.finish()                                  # other ranks may have more batches
    """

    def __init__(
        self,
        optimizer: Optimizer,
        comm: MPI.Intracomm | None = None,
        algorithm: str = "auto",
        bucket: int | None = None,
        values: int = 0,
        *,
        overlap: bool | None = None,
        accumulate: int | None = None,
        shard: bool = False,
        reproducible: int | None = None,
        allow_unused: bool = False,
        wire: str | Wire | None = None,
        sync: int | Local = 1,
    ) -> None:
        self.optimizer = optimizer
        self.comm = comm = MPI.COMM_WORLD if comm is None else comm
        arguments = dict(
            algorithm=algorithm,
            bucket=bucket,
            values=values,
            overlap=overlap,
            accumulate=accumulate,
            shard=shard,
            reproducible=reproducible,
            allow_unused=allow_unused,
            wire=wire,
            sync=sync,
        )
        agree(optimizer, arguments, comm)
        start_as_rank_0(optimizer, comm)
        self._virtual = reproducible
        self.intake = Intake(optimizer, values, allow_unused)
        self._wire, self._pipeline = wire, Pipeline([])
        self._local: LocalSteps | None = None
        self._gathered: list[Gathered] = []
        self._book = Book(False, 0.0)
        self.shards = np.array_split(np.arange(reproducible or 0), comm.size)[comm.rank].tolist()
        self.expected = accumulate or max(1, len(self.shards))
        if sync != 1:

            def make(one: Optimizer, among: MPI.Intracomm, riding: int, sent: str | Wire | None) -> Distributed:
                more: dict[str, Any] = dict(accumulate=accumulate, allow_unused=allow_unused, overlap=False, wire=sent)
                return Distributed(one, among, algorithm, bucket, riding, **more)

            self.overlap = False
            dial = Local(sync) if isinstance(sync, int) else sync
            self._local = LocalSteps(optimizer, dial, comm, values, wire, make)
            return
        # On one rank a sum rounds nothing, unless a `Wire` leaves something out, as it does on several.
        self._unchanged_alone = comm.size == 1 and not reproducible and (wire is None or isinstance(wire, str))
        self._unit = None if isinstance(wire, str) else 1.0  # what weights are divided by: a power of two
        self.overlap = channel_of(comm).machine.nodes > 1 if overlap is None else overlap
        arrays = [as_array(array) for _, array in optimizer.pairs]
        together = bucket_bytes(comm) if bucket is None else bucket
        found = buckets(arrays, together)
        self._queue = Queue(together)  # the first sums are there first, to step with while others travel
        self._bucket_of = {i: k for k, one in enumerate(found) for i in one.members}
        # What the ranks have to say rides in the first message, where nothing is under way before it is known.
        on_device = kind_of(arrays[0]) == DEVICE
        if on_device and (shard or reproducible or wire):
            raise TypeError("shard, reproducible and wire are not there for parameters in GPU memory")
        self._rides = not (self.overlap or shard or reproducible or wire or on_device)
        extra = [LENGTH + values if self._rides and one is found[0] else 0 for one in found]
        self._pipeline = Pipeline(
            [self._reduction(one, algorithm, more, shard) for one, more in zip(found, extra, strict=True)]
        )
        self._book = Book(self.overlap, bound((r.message.nbytes for r in self._pipeline.reductions), comm))
        first = self._pipeline.reductions[0].message
        self._ballot = first.extra if self._rides else np.zeros(LENGTH + values)
        if shard:
            parts = [reduction.part for reduction in self._pipeline.reductions]
            optimizer.restrict(ranges(found, parts, len(arrays)))
            self._gathered = [Gathered(one, arrays, comm, algorithm, self.overlap) for one in found]

    def _reduction(self, bucket: Bucket, algorithm: str, extra: int, shard: bool) -> Reduction:
        wire, comm, exact = self._wire, self.comm, self._virtual is not None
        first = self.optimizer.pairs[bucket.members[0]][1]
        if kind_of(first) == DEVICE:
            from hpcml.optim.device.messages import DeviceMessage

            return Summed(DeviceMessage(bucket, first), comm, algorithm, self.overlap)
        dtype = short(wire) if isinstance(wire, str) else bucket.dtype
        message = Message(bucket, dtype, extra, apart=exact, rows=self.expected if exact else 1)
        whole: Reduction
        if exact:
            whole = Exact(message, comm, algorithm, self.overlap)
        elif wire is None or isinstance(wire, str):
            summed = (Scattered if shard else Summed)(message, comm, algorithm, self.overlap)
            if self.overlap:
                summed.queue(self._queue)
            return summed
        else:
            shapes = [self.optimizer.pairs[i][1].shape for i in bucket.members]
            whole = wire.reduction(message, shapes, comm, algorithm, self.overlap)
        return Part(whole, comm.rank, comm.size) if shard else whole

    def ready(self, name: Any, grad: Any, weight: float = 1.0) -> None:
        """Hand over the gradient of one parameter (its position, in a list); ``step()`` waits for the rest. Local.

        In any order, another on each rank. A bucket whose gradients have all come, ``accumulate`` times, is reduced in
        the background, if that was asked for, while the caller goes on. The n-th gradients of all parameters have the
        same weight. Errors are raised by `step`, on every rank.
        """
        if self._local is not None:
            return self._local.inner.ready(name, grad, weight)
        try:
            i = self.intake.place(name)
            self.intake.weigh(self._message(i).times[i], weight)
            self._pack(i, check_gradient(*self.optimizer.pairs[i], grad), weight)
        except Exception as caught:
            self.intake.fail(caught)
            return
        self._send_full()

    def add(self, grads: Arrays | None, weight: float = 1.0) -> None:
        """As `ready`, of all parameters: one part of what makes the next step. None: of a part without samples."""
        if self._local is not None:
            return self._local.inner.add(grads, weight)
        try:
            gradients = None if grads is None else matched(self.optimizer.pairs, grads)
            if gradients is None and weight > 0:
                raise ValueError(f"grads is None with weight {weight!r}: a rank without samples passes weight=0")
            self.intake.weigh(len(self.intake.weights), weight)
            for reduction in self._pipeline.reductions:
                for i in reduction.message.bucket.members:
                    self._pack(i, None if gradients is None else gradients[i], weight)
                self._send_full()
        except Exception as caught:
            self.intake.fail(caught)

    def step(self, grads: Arrays | None = None, weight: float = 1.0, values: Values = None) -> np.ndarray:
        """Average the gradients, weighted, over the ranks and make one step. Collective.

        ``grads`` has the keys and shapes of the parameters and is not changed; ``weight`` ≥ 0 is
        usually the number of samples that it is the mean of. A rank without samples passes None and weight
        0. After `ready` or `add`, ``grads`` is what comes last, or nothing. ``values`` (None: zeros) are summed over
        the ranks, in the dtype of the gradients; the sums are returned.

        Raises CollectiveError on every rank, before any parameter changes, when an argument is wrong on
        some rank or the weights of all ranks are 0.
        """
        if self._local is not None:
            return self._local.step(grads, weight, values)
        riding = self.intake.riding(values)
        if self._unchanged_alone and grads is not None and not self.intake.weights:
            return self._alone(grads, weight, riding)
        if grads is not None or (not self.intake.weights and weight != 0):
            self.add(grads, weight)
        self.intake.require_all(reduction.message for reduction in self._pipeline.unsent)
        return self._make_step(riding, finished=False)[1]

    def finish(self) -> None:
        """This rank has no more samples: take part in the steps of those that have, until all have none. Collective.

        Every rank calls it once, after its last step; none of them need to have made the same number of steps.
        """
        if self._local is not None:
            return self._local.finish()
        done = False
        while not done:
            done, _ = self._make_step(self.intake.riding(None), finished=True)

    def _alone(self, grads: Arrays, weight: float, values: np.ndarray) -> np.ndarray:
        error = self.intake.error
        try:
            check_weight(weight)
            if weight and not error:
                self.optimizer.step(grads)
        except Exception as caught:
            error = error or caught
        self._close()
        raise_together(error, self.comm)
        require_weight(weight)
        return values

    def _make_step(self, values: np.ndarray, finished: bool) -> tuple[bool, np.ndarray]:
        """Sum, verdict, update. Returns whether all ranks have finished, and the sums of the values."""
        intake, error = self.intake, self.intake.error
        rows = len(self.shards) if finished else len(intake.weights)
        mine = Ballot(error is not None, finished, rows, intake.weight, values)
        if self._unit is None:
            self._unit = self._first_unit(0.0)
        total, first = self._voted(mine)
        done = total.finished == self.comm.size
        if total.failed or done or not total.weight or self._virtual not in (None, total.rows):
            self._pipeline.drain()
            self._close()
            if done:
                return True, total.values
            raise_together(error, self.comm)
            require_rows(total.rows, self._virtual)
            require_weight(total.weight)
        self._update(self._unit / total.weight, first)
        if isinstance(self._wire, str):
            self._unit = power_of_two(total.weight)
        self._pipeline.begin()
        self._close()
        return False, total.values

    def _voted(self, mine: Ballot) -> tuple[Ballot, list[np.ndarray]]:
        """The sum of what all ranks have to say, and the sums of buckets that came with it."""
        mine.write(self._ballot)
        if self._rides:
            first = [self._pipeline.receive()]
            return Ballot.read(self._ballot), first
        if self.overlap:
            self._pipeline.send_all()
        self._pipeline.timed(lambda: hc.allreduce(self._ballot, out=self._ballot, comm=self.comm))
        return Ballot.read(self._ballot), []

    def _update(self, scale: float, first: list[np.ndarray]) -> None:
        """Each parameter as soon as its sum is there, unless the rule wants to see all of them first."""
        optimizer = self.optimizer
        if optimizer.needs_all:
            gradients = {i: gradient for parts in self._received(first) for i, gradient in parts.items()}
            if not optimizer.update([gradients[i] for i in range(len(gradients))], scale, self._complete):
                return
            for gathered in self._gathered:
                self._pipeline.timed(gathered.start)
        else:
            optimizer.advance()
            for k, parts in enumerate(self._received(first)):
                for i, gradient in parts.items():
                    optimizer.apply(i, gradient, scale)
                if self._gathered:
                    self._pipeline.timed(self._gathered[k].start)
        for gathered in self._gathered:
            self._pipeline.timed(gathered.wait)

    def _received(self, first: list[np.ndarray]) -> Iterator[dict[int, np.ndarray]]:
        """Of each bucket the gradients in this rank's part of the sum: of each member the elements in its range."""
        for k, reduction in enumerate(self._pipeline.reductions):
            found = first[k] if k < len(first) else self._pipeline.receive()
            parts = {}
            for member, start, _ in reduction.message.bucket.spans():
                begin, end = self.optimizer.ranges[member]
                at = start + begin - reduction.part[0] if begin < end else 0
                parts[member] = cut(found, at, at + end - begin)
            yield parts

    def _complete(self, sums: np.ndarray) -> None:
        """Sums over blocks of which each rank has its own, and zeros: adding them rounds nothing."""
        if self._gathered:
            self._pipeline.timed(lambda: hc.allreduce(sums, out=sums, comm=self.comm))

    def _message(self, i: int) -> Message:
        return self._pipeline.reductions[self._bucket_of[i]].message

    def _send_full(self) -> None:
        if self._book.hides:
            self._pipeline.send_full(self.expected)

    def _pack(self, i: int, gradient: np.ndarray | None, weight: float) -> None:
        if self._bucket_of[i] < self._pipeline.sent:
            raise ValueError(
                f"the gradient of {self.optimizer.pairs[i][0]!r} came more than {self.expected} times before step(): "
                "its bucket was sent already"
            )
        if self._unit is None:
            self._unit = self._first_unit(weight)
        self._message(i).pack(i, gradient, weight / self._unit)

    def _first_unit(self, weight: float) -> float:
        """Before anything is packed for the first time: what the steps before would have told. Collective."""
        return power_of_two(float(hc.allreduce(np.array(weight), comm=self.comm)))

    def _close(self) -> None:
        """The step is over."""
        self.intake.begin()
        self._book.close(self._pipeline.seconds)

    @property
    def communication_seconds(self) -> float:
        """Time that this rank has spent waiting for communication so far."""
        return self._pipeline.seconds if self._local is None else self._local.outer.communication_seconds

    @property
    def account(self) -> Account:
        """Where the time of the last step went, as far as communication is concerned, on this rank.

        To know what communication takes alone, an optimizer that overlaps does not in its second to fourth step.
        """
        return self._book.last if self._local is None else self._local.outer.account

    def trace(self, note: Trace) -> None:
        """From now on call ``note`` for each reduction that was under way."""
        (self if self._local is None else self._local.outer)._pipeline.note = note

    @property
    def is_sharded(self) -> bool:
        """Whether each rank has its part of the state only."""
        return bool(self._gathered)

    @property
    def is_local(self) -> bool:
        """Whether ranks make steps of their own."""
        return self._local is not None

    @property
    def params(self) -> Arrays:
        return self.optimizer.params

    @property
    def steps(self) -> int:
        return self.optimizer.steps

    @property
    def lr(self) -> float:
        return self.optimizer.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self.optimizer.lr = value

    def state_dict(self) -> dict[str, Any]:
        """As ``optimizer.state_dict()``, whole: it is the same on every rank. Collective where it is sharded.

        With ``sync``, this rank's own, which differs from the others', and that of the outer steps.
        """
        if self._local is not None:
            return self._local.state_dict()
        state = self.optimizer.state_dict()
        return gathered_state(state, self.optimizer, self.comm) if self._gathered else state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As ``optimizer.load_state_dict()``; every rank loads the same, whole; with ``sync`` its own."""
        if self._local is not None:
            return self._local.load_state_dict(state_dict)
        if self._gathered:
            state_dict = own_state(state_dict, self.optimizer)
        self.optimizer.load_state_dict(state_dict)


def cut(found: Any, start: int, stop: int) -> Any:
    """Items of a flat array, of the host or in GPU memory."""
    return as_array(found).part(start, (stop - start,)) if kind_of(found) == DEVICE else found[start:stop]


def power_of_two(number: float) -> float:
    """The one that is nearest, by ratio; 1 for 0."""
    return 2.0 ** round(math.log2(number)) if number > 0 else 1.0
