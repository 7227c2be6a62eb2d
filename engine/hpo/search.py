"""The search: keeps slots busy with trials until the budget is used, and loses none of them.

The journal is its only memory. A trial is queued, leased (a durable event with a token that only
rises), heard of and ended, each an event that is folded at once; a search that was killed is a new
one over the trials that the journal tells. What ran then is taken as finished where its whole
output lies in the folder of its lease, else it was interrupted and is run again. An assignment
that has finished is not trained again: a trial that repeats it ends with its values.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine import events as ev
from engine.errors import AiokError, HostLost, InputError, RunStopped, StepFailed
from engine.hpo.front import findings
from engine.hpo.leases import Ended, Heard, Lease, Outcome, Runner, Slot
from engine.hpo.optimizer import Optimizer
from engine.hpo.pruner import Pruner
from engine.hpo.space import Assignment
from engine.hpo.study import TRAINING_TIME, Budget, Study
from engine.hpo.tally import Tally
from engine.hpo.trials import OPEN, Failure, Trial, TrialState
from engine.hpo.twins import Twins
from engine.state import RunState, fold

POLL_S = 0.1
FIRST = 5  # when more than half of so many trials fail, the next ones would, too
MOST_LOSSES = 5  # of a host, one after the other: then its slot is given up
REST_S = 3.0  # of a slot after the first loss of its host, twice that after the second, ...
RETRIED = (Failure.CRASH, Failure.OUT_OF_MEMORY)
MOST_REPEATS = 50  # proposals in a row that are none: then the optimizer has no more to say
STOPPED = "stopped on request"
NO_LIMIT = Budget(trials=None)  # of a grid, which ends by itself


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is asked of every trial: retries after a crash, seconds over all of its leases."""

    retries: int = 1
    timeout_s: float | None = None


@dataclass
class _Place:
    """A slot and how it does. `losses`: of its host, since a trial was last heard there."""

    slot: Slot
    losses: int = 0
    rests_until: float = 0.0
    lost: str = ""


@dataclass
class _Work:
    """A lease at work; `verdict`: what it was told to stop for."""

    lease: Lease
    place: _Place
    since: float
    verdict: tuple[TrialState, Failure | None, str] | None = None
    level: int = 0


class Search:
    """One run of a search, from wherever its journal stands. Use it from one thread."""

    def __init__(
        self, study: Study, optimizer: Optimizer, runner: Runner, slots: Sequence[Slot],
        journal: Callable[[ev.Event], None], *, step: str = "search",
        trials: Mapping[int, Trial] | None = None, died: float = 0.0,
        pruner: Pruner | None = None, policy: Policy = Policy(),
        earlier: Callable[[], Sequence[Trial]] = tuple,
        stop_level: Callable[[], int] = lambda: 0,
    ) -> None:  # fmt: skip
        """`trials`: as the journal tells them, `died`: when an earlier engine was last heard there;
        `earlier`: ended trials of other searches, to learn from: asked for by a search that has
        not begun, the journal of one that has holds them."""
        self._study, self._optimizer, self._runner = study, optimizer, runner
        self._journal, self._step, self._died = journal, step, died
        self._pruner, self._policy, self._earlier = pruner, policy, earlier
        self._stop_level = stop_level
        self._state = RunState(trials=dict(trials or {}))
        self._places = [_Place(slot) for slot in slots]
        self._tally, self._total = Tally(study), float(study.most_trials() or 0)
        self._work: dict[int, _Work] = {}
        self._twins = Twins(self.trials.values())
        self._open: list[int] = []  # a heap of the numbers that wait for a slot
        self._token = max((trial.token for trial in self.trials.values()), default=0)
        self._number = max(self.trials, default=-1) + 1  # of the next trial
        self._exhausted = False
        self._problem: AiokError | None = None
        self._first: list[Trial] = []  # that ended here: a resumed search gets another chance
        self._began, self._spent_s = time.monotonic(), 0.0

    @property
    def trials(self) -> dict[int, Trial]:
        """All trials by number."""
        return self._state.trials

    def run(self) -> Trial:
        """Search until the budget is used; the best trial, whose output the runner still has.

        Raises RunStopped on request, HostLost when no host is left, StepFailed when trials fail
        for a common reason or none finishes.
        """
        self._take_over()
        self._queue_first()
        self._replay()
        self._fill()
        while self._work or (self._open and not self._is_ending()):
            for word in self._runner.poll(POLL_S):
                self._take(word)
            self._watch()
            self._fill()
        if self._problem is None and self._stop_level():
            self._problem = RunStopped(STOPPED)
        if self._problem is not None:
            raise self._problem
        self._close_open()
        if self._tally.best is None:
            self._queue_again(self.trials.values())
            raise _common_failure(list(self.trials.values()), "no trial of the search finished")
        self._tell_why()
        return self._tally.best

    # --- from the journal -----------------------------------------------------------------------

    def _take_over(self) -> None:
        """Judge what an earlier engine left running."""
        for trial in list(self.trials.values()):
            if not trial.is_leased:
                continue
            slot = Slot(host=trial.host, cores=tuple(trial.cores))
            lease = Lease(number=trial.number, token=trial.token, assignment=trial.assignment,
                          slot=slot, seconds=trial.seconds)  # fmt: skip
            lived = max(0.0, self._died - (trial.started or self._died))
            found = self._runner.recover(lease) or Outcome(
                state=TrialState.INTERRUPTED, what="the engine was killed", seconds=lived
            )
            self._end(trial, *self._judge(trial, found), found)

    def _queue_first(self) -> None:
        """The default assignment, those of the user and the best of earlier studies, to be trained;
        then what those studies know, to learn from.

        A search that was killed here goes on where it was: the list is always the same.
        """
        if any(trial.origin == "search" for trial in self.trials.values()):
            return
        default = self._study.space.default()
        chosen: list[tuple[str, Assignment]] = [("default", default)] if default else []
        chosen += [("start", assignment) for assignment in self._study.start]
        known_trials = self._earlier()
        best = findings(self._study, known_trials).chosen  # its weights are not of this search
        has_room = len(chosen) < (self._study.budget.trials or math.inf)
        if best is not None and has_room and all(best.assignment != one for _, one in chosen):
            chosen.append(("start", best.assignment))
        for number, (origin, assignment) in enumerate(chosen):
            self._queue(number, assignment, origin)
        for number, known in enumerate(known_trials, len(chosen)):
            self._queue(number, known.assignment, "warm")
            if not self.trials[number].state.is_over:
                values = dict(known.values)
                self._tell(ev.TrialEnded, trial=number, token=0, state=str(known.state),
                           values=values, failure=known.failure or "", what=known.what)  # fmt: skip

    def _queue(self, number: int, assignment: Assignment, origin: str) -> None:
        if number not in self.trials:
            chosen = dict(assignment)
            self._tell(ev.TrialQueued, trial=number, assignment=chosen, origin=origin)
            self._twins.add(self.trials[number])
            self._number = max(self._number, number + 1)

    def _replay(self) -> None:
        """Tell a new optimizer all that is known, and count it."""
        known = sorted(self.trials.values(), key=lambda trial: trial.number)
        for trial in known:
            if trial.state.is_over:
                self._optimizer.tell(trial.number, trial.assignment, trial.state, trial.values)
        for trial in known:
            if trial.state in OPEN:
                self._optimizer.pending(trial.number, trial.assignment)
                heapq.heappush(self._open, trial.number)
        for trial in sorted(known, key=lambda trial: trial.ended or 0.0):
            tried_again = trial.state is TrialState.FAILED and self._twins.has_later(trial)
            if trial.state.is_over and not tried_again:
                self._tally.count(trial)
        for trial in known:
            if trial.state.is_over and trial is not self._tally.best:
                self._runner.drop(trial.number)
        busy = sum(trial.seconds for trial in known if trial.origin != "warm")
        self._spent_s = busy / max(1, len(self._places))

    # --- leases ---------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Give every free slot a trial."""
        busy, now = {id(work.place) for work in self._work.values()}, time.monotonic()
        for place in self._places:
            if id(place) in busy or place.rests_until > now:
                continue
            trial = self._next()
            if trial is None:
                return
            self._lease(trial, place)

    def _next(self) -> Trial | None:
        """The trial to run next: one that waits, else a new one; None: none is to be begun."""
        if self._is_ending():
            return None
        while (trial := self._waiting()) is None and self._ask():
            pass
        return trial

    def _waiting(self) -> Trial | None:
        """The first trial that waits for nothing but a slot. One with a twin that has finished ends
        as that did; one whose twin is at work goes on waiting for it."""
        held: list[int] = []
        found: Trial | None = None
        while self._open and found is None:
            trial = self.trials[heapq.heappop(self._open)]
            twin = self._twins.of(trial)
            if twin is None:
                found = trial
            elif twin.state.is_over:
                self._repeat(trial, twin)
            else:
                held.append(trial.number)
        for number in held:
            heapq.heappush(self._open, number)
        return found

    def _repeat(self, trial: Trial, twin: Trial) -> None:
        """End a trial with the values that are known of its assignment."""
        self._tell(
            ev.TrialEnded, trial=trial.number, token=trial.token, state=str(TrialState.FINISHED),
            values=dict(twin.values), what=f"as trial {twin.number}", as_trial=twin.number,
        )  # fmt: skip
        self._optimizer.tell(trial.number, trial.assignment, trial.state, trial.values)

    def _ask(self) -> bool:
        """Let the optimizer choose one more trial, which then waits; False: there is none now."""
        limit = self._study.budget.trials
        full = limit is not None and self._tally.counted + len(self._work) >= limit
        # An optimizer that repeats what is at work hears first how that ends.
        repeats = any(self.trials[number].origin == "search" for number in self._open)
        if full or repeats or self._exhausted or self._tally.over(self._seconds()):
            return False
        if self._only_repeats():
            return self._exhaust(f"its last {MOST_REPEATS} proposals had all been tried before")
        try:
            assignment = self._optimizer.ask(self._number)
        except ValueError as error:
            raise InputError(f"the search finds nothing to try: {error}") from None
        if assignment is None:
            return self._exhaust("there is nothing left to try")
        self._queue(self._number, assignment, "search")
        heapq.heappush(self._open, self._number - 1)
        return True

    def _only_repeats(self) -> bool:
        """Whether the optimizer has had nothing new to say for long, as the journal tells it."""
        last = range(self._number - 1, self._number - 1 - MOST_REPEATS, -1)
        return all(
            number in self.trials and self.trials[number].origin == "search"
            and self.trials[number].as_trial is not None
            for number in last
        )  # fmt: skip

    def _exhaust(self, why: str) -> bool:
        """Ask the optimizer no more, and say why where the budget would have allowed more."""
        self._exhausted = True
        if self._study.budget != NO_LIMIT:
            text = f"the search ends before its budget is used: {why}"
            self._tell(ev.Noted, text=text)
        return False

    def _lease(self, trial: Trial, place: _Place) -> None:
        self._token += 1
        lease = Lease(number=trial.number, token=self._token, assignment=trial.assignment,
                      slot=place.slot, seconds=trial.seconds)  # fmt: skip
        self._tell(
            ev.TrialStarted, trial=trial.number, token=self._token, host=place.slot.host,
            cores=list(place.slot.cores), log=self._runner.log(lease),
        )  # fmt: skip
        self._work[trial.number] = _Work(lease, place, time.monotonic())
        self._runner.start(lease)

    def _is_ending(self) -> bool:
        """Whether nothing at all is to be begun any more."""
        return self._is_late() or self._problem is not None or self._stop_level() > 0

    def _is_late(self) -> bool:
        """Whether the minutes are over; without a result, what runs has them once more for one."""
        seconds = self._seconds()
        return self._tally.is_late(seconds if self._tally.best is not None else seconds / 2)

    def _seconds(self) -> float:
        """How long the search has run, over all of its engines."""
        return self._spent_s + time.monotonic() - self._began

    # --- words of the runner --------------------------------------------------------------------

    def _take(self, word: Heard | Ended) -> None:
        """Fold in a word; one of another lease than the trial's latest changes nothing."""
        work = self._work.get(word.number)
        if work is None or work.lease.token != word.token:
            return
        if isinstance(word, Heard):
            self._hear(work, word)
            return
        del self._work[word.number]
        trial, outcome = self.trials[word.number], word.outcome
        if outcome.lost_host:
            self._lose(work.place, outcome)
        else:
            work.place.losses = 0
        state, failure, what = self._judge(trial, outcome, work)
        self._end(trial, state, failure, what, outcome)
        if trial.state in OPEN:
            heapq.heappush(self._open, trial.number)
            return
        self._optimizer.tell(trial.number, trial.assignment, trial.state, trial.values)
        before = self._tally.best
        self._tally.count(trial)
        self._keep_best(before, trial)
        self._look_for_common_failure(trial)
        self._tell_progress()

    def _hear(self, work: _Work, word: Heard) -> None:
        if not math.isfinite(word.value):
            what = f"{word.name} is {word.value} at step {word.step}"
            self._stop(work, 1, (TrialState.FAILED, Failure.NAN, what))
            return
        trial = self.trials[word.number]
        self._tell(ev.TrialMeasured, trial=trial.number, token=word.token, name=word.name,
                   value=word.value, step_count=word.step)  # fmt: skip
        if self._pruner is not None and work.verdict is None:
            others = [other for other in self.trials.values() if other is not trial]
            if reason := self._pruner.decide(trial, others):
                self._stop(work, 1, (TrialState.PRUNED, None, reason))

    def _judge(
        self, trial: Trial, outcome: Outcome, work: _Work | None = None
    ) -> tuple[TrialState, Failure | None, str]:
        """What becomes of a trial: state, class of a failure, and why."""
        failure, what = outcome.failure, outcome.what
        if outcome.state is TrialState.FINISHED:
            failure, what = self._flaw(self._values(trial, outcome))
            if failure is None:
                return TrialState.FINISHED, None, ""
        elif work is not None and work.verdict is not None:
            return work.verdict
        if failure is None:
            return TrialState.INTERRUPTED, None, what
        if failure in RETRIED and trial.retries < self._policy.retries:
            return TrialState.INTERRUPTED, failure, what
        return TrialState.FAILED, failure, what

    def _values(self, trial: Trial, outcome: Outcome) -> dict[str, float]:
        """The metrics of the study among those that a trial ended with."""
        measured = {TRAINING_TIME: trial.seconds + outcome.seconds, **outcome.values}
        names = [objective.name for objective in self._study.objectives]
        return {name: float(measured[name]) for name in names if name in measured}

    def _flaw(self, values: Mapping[str, float]) -> tuple[Failure | None, str]:
        """Why the metrics of a finished trial are no result."""
        missing = [o.name for o in self._study.objectives if o.name not in values]
        if missing:
            return Failure.NO_METRIC, f"it ended without {' and '.join(missing)}"
        bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        return (Failure.NAN, " and ".join(bad)) if bad else (None, "")

    def _end(
        self, trial: Trial, state: TrialState, failure: Failure | None, what: str, outcome: Outcome
    ) -> None:
        values: dict[str, float] = {}
        if state is TrialState.FINISHED:
            values = self._values(trial, outcome)
        elif state is TrialState.PRUNED:
            values = {name: reports[-1].value for name, reports in trial.reports.items() if reports}
        self._tell(
            ev.TrialEnded, trial=trial.number, token=trial.token, state=str(state), values=values,
            failure=str(failure or ""), what=what, seconds=round(outcome.seconds, 3),
        )  # fmt: skip

    def _lose(self, place: _Place, outcome: Outcome) -> None:
        """Let a slot rest whose host was lost; give it up when that happens again and again."""
        place.losses += 1
        place.lost = outcome.what
        place.rests_until = time.monotonic() + REST_S * place.losses
        if place.losses >= MOST_LOSSES:
            self._places.remove(place)
            if not any(other.slot.host == place.slot.host for other in self._places):
                text = f"{place.slot.host} takes no more trials: {outcome.what}"
                self._tell(ev.Noted, text=text, level="warning")
        if not self._places:
            self._problem = HostLost(
                "no host is left for the trials of the search", why=outcome.what,
                todo="bring them back, then: aiok resume RUN",
            )  # fmt: skip

    def _keep_best(self, before: Trial | None, trial: Trial) -> None:
        """Only the output of the best trial so far is kept."""
        best = self._tally.best
        if trial is not best:
            self._runner.drop(trial.number)
        elif before is not None:
            self._runner.drop(before.number)

    def _look_for_common_failure(self, trial: Trial) -> None:
        if len(self._first) < FIRST:
            self._first.append(trial)
            failed = [one for one in self._first if one.state is TrialState.FAILED]
            if len(failed) > FIRST // 2:
                self._queue_again(failed)
                what = f"{len(failed)} of the first {len(self._first)} trials failed"
                self._problem = _common_failure(failed, what)

    def _queue_again(self, trials: Iterable[Trial]) -> None:
        """What the search fails of is tried once more when it is resumed, its cause being mended:
        as new trials, which take the places of the failed ones in the budget."""
        for trial in list(trials):
            failed = trial.state is TrialState.FAILED and trial.is_own
            if failed and not self._twins.has_later(trial):
                self._queue(self._number, trial.assignment, trial.origin)

    # --- the clock, and orders to stop ----------------------------------------------------------

    def _watch(self) -> None:
        """Stop what runs too long, and all of it when the search is to end."""
        level = self._stop_level()
        for work in list(self._work.values()):
            if level or self._problem is not None:
                why = f"the search ended: {self._problem.what}" if self._problem else STOPPED
                told = (TrialState.INTERRUPTED, None, STOPPED if level else why)
                self._stop(work, max(1, level), work.verdict or told)
            elif self._is_late():
                told_late = (TrialState.PRUNED, None, "the minutes of the search are over")
                self._stop(work, 1, work.verdict or told_late)
            elif self._policy.timeout_s is not None:
                lived = work.lease.seconds + time.monotonic() - work.since
                if lived > self._policy.timeout_s:
                    what = f"it took longer than {self._policy.timeout_s / 60:g} minutes"
                    self._stop(work, 1, work.verdict or (TrialState.FAILED, Failure.TIMEOUT, what))

    def _stop(
        self, work: _Work, level: int, verdict: tuple[TrialState, Failure | None, str]
    ) -> None:
        work.verdict = work.verdict or verdict
        if level > work.level:
            work.level = level
            self._runner.stop(work.lease, level)

    def _close_open(self) -> None:
        """What still waits when the time is over has an end, too."""
        for trial in self.trials.values():
            twin = self._twins.of(trial) if trial.state in OPEN else None
            if twin is not None and twin.state.is_over:
                self._repeat(trial, twin)
            elif trial.state in OPEN:
                what = "the minutes of the search are over"
                self._tell(ev.TrialEnded, trial=trial.number, token=trial.token,
                           state=str(TrialState.PRUNED), what=what)  # fmt: skip

    def _tell_why(self) -> None:
        """Why the search ends, where that is not simply that all of its trials are done."""
        limit, why = self._study.budget.trials, self._tally.over(self._seconds())
        if why and (limit is None or self._tally.counted < limit):
            self._tell(ev.Noted, text=f"the search ends: {why}")

    # --- events ---------------------------------------------------------------------------------

    def _tell(self, cls: type[ev.Event], **fields: Any) -> None:
        """Write an event to the journal, then believe it."""
        event = cls(t=time.time(), step=self._step, **fields)  # type: ignore[call-arg]
        self._journal(event)
        fold([event], self._state)

    def _tell_progress(self) -> None:
        self._tell(
            ev.StepProgressed, phase="trials", done=float(self._tally.counted),
            total=self._total, unit="trials",
        )  # fmt: skip


def _common_failure(trials: Sequence[Trial], what: str) -> StepFailed:
    """The error that most of the failed trials share."""
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    if not failed:
        return StepFailed(what, todo="give the search more trials or minutes")
    shared, times = Counter((trial.failure, trial.what) for trial in failed).most_common(1)[0]
    example = next(trial for trial in failed if (trial.failure, trial.what) == shared)
    return StepFailed(
        what, why=f"{times} of them ({shared[0]}): {shared[1]}",
        todo="mend the cause; `aiok resume` then goes on with the search", log=example.log,
    )  # fmt: skip
