"""Messages into results: decode, score, and say what came of each."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from datasentinel.distributed.brokers.base import Record
from datasentinel.distributed.stream.payloads import Decoder, PayloadOptions
from datasentinel.errors import DataSentinelError, UnsupportedModelError
from datasentinel.streams import StreamDetector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.distributed.brokers.base import Message
    from datasentinel.distributed.stream.payloads import Rows
    from datasentinel.serving.served_model import ServedModel
    from datasentinel.types import Float32Array

_JSON = {"content-type": "application/json"}
_MAX_REASON_CHARACTERS = 1000
# RabbitMQ takes 255 bytes.
_LONGEST_ID = 63


@dataclass
class Answers:
    """What came of some messages.

    Attributes
    ----------
    results : list of Record
        One for each message that could be scored, in their order.
    dead_letters : list of Record
        One for each of the others: the message as it was, with the reason in its headers.
    rows, anomalies : int
        Rows that were scored, and how many of them are anomalies.
    """

    results: list[Record] = field(default_factory=list)
    dead_letters: list[Record] = field(default_factory=list)
    rows: int = 0
    anomalies: int = 0


class _Read(NamedTuple):
    """A message and what it holds."""

    message: Message
    rows: Rows

    @property
    def num_rows(self) -> int:
        """How many rows it holds."""
        return len(self.rows.values)


class Answerer:
    """Answers messages by one model after the other; used by one thread at a time.

    Parameters
    ----------
    options : PayloadOptions
    num_reasons : int
        How many reasons a result has for each row; 0 for none.
    """

    def __init__(self, options: PayloadOptions, num_reasons: int = 0) -> None:
        self._options = options
        self._num_reasons = num_reasons
        self._model: ServedModel | None = None
        self._decoder: Decoder | None = None
        self._streams: StreamDetector | None = None
        self._shadow: ServedModel | None = None

    def prepare(self, model: ServedModel) -> None:
        """Get ready for a model.

        Raises
        ------
        SettingsError
            The columns do not fit it.
        UnsupportedModelError
            The model has no reasons, and they are asked for.
        """
        if self._num_reasons and "contributions" not in model.outputs:
            raise UnsupportedModelError(
                f"model '{model.name}' scores without saying why; leave out --explain"
            )
        self._decoder = Decoder(model.detector.artifact.config, self._options)
        self._streams = _streams_of(model)
        self._model = model

    def answer(
        self, model: ServedModel, messages: Sequence[Message], shadow: ServedModel | None = None
    ) -> Answers:
        """Answer messages.

        What cannot be read, or cannot be scored, becomes a dead letter and harms no other message. A model
        with memory scores each row in the past of its series, and so does, for nobody yet, the version that
        warms up in its shadow.
        """
        if model is not self._model:
            self.prepare(model)
        self._shadow = shadow
        assert self._decoder is not None  # noqa: S101
        answers = Answers()
        read: list[_Read] = []
        for message in messages:
            try:
                read.append(_Read(message, self._decoder.decode(message.payload)))
            except DataSentinelError as error:
                answers.dead_letters.append(dead_letter(message, str(error)))
            except Exception as error:  # an internal error, which must fail this message alone
                answers.dead_letters.append(dead_letter(message, f"cannot be read: {error!r}"))
        if read:
            self._score(model, self._decoder, read, answers)
        return answers

    def _score(self, model: ServedModel, decoder: Decoder, read: list[_Read], answers: Answers) -> None:
        """Score messages together or, where one of them spoils that, each by itself."""
        try:
            values = decoder.join([one.rows for one in read])
            scored = self._score_rows(model, values, read)
        except Exception as error:  # also an internal error, which must not be tried again for ever
            if len(read) > 1:
                for one in read:
                    self._score(model, decoder, [one], answers)
            else:
                reason = (
                    str(error) if isinstance(error, DataSentinelError) else f"cannot be scored: {error!r}"
                )
                answers.dead_letters.append(dead_letter(read[0].message, reason))
            return
        answers.rows += len(values)
        answers.anomalies += int(np.count_nonzero(scored["anomaly"]))
        columns = {
            name: column.tolist() if isinstance(column, np.ndarray) else column
            for name, column in scored.items()
        }
        facts = {"model": model.name, "version": model.version, "threshold": model.detector.threshold}
        first = 0
        for message, rows in read:
            end = first + len(rows.values)
            told = {name: column[first:end] for name, column in columns.items()}
            answers.results.append(_result(message, rows, facts, told))
            first = end

    def _score_rows(self, model: ServedModel, values: Float32Array, read: list[_Read]) -> dict[str, Any]:
        """Return the columns of a result, by name, each of length N."""
        detector = model.detector
        told: dict[str, Any] = {}
        reasons = None
        if self._streams is not None:
            series = [key for one in read for key in one.rows.series or [one.message.key] * one.num_rows]
            times = [time for one in read for time in one.rows.times or [None] * one.num_rows]
            filled = np.empty_like(values)
            if self._num_reasons:
                scores, warming, reasons = self._streams.explain_many(
                    values, series, times, self._num_reasons, filled=filled
                )
            else:
                scores, warming = self._streams.update_many(values, series, times, filled=filled)
            if self._shadow is not None and (shadow := _streams_of(self._shadow)) is not None:
                if self._shadow.detector.artifact.config.calendar and None not in times:
                    filled = filled[:, :-1]  # Both end with a clock, and it has one of its own.
                with contextlib.suppress(DataSentinelError):  # It takes over later, and harms nothing before.
                    shadow.update_many(filled, series, times, leader=self._streams)
            anomaly = (scores.astype(np.float64) > detector.threshold) & ~warming
            told = {"score": scores, "anomaly": anomaly, "warming": warming}
        else:
            scores = detector.score(values)
            told = {"score": scores, "anomaly": scores.astype(np.float64) > detector.threshold}
            if self._num_reasons:
                reasons = detector.explain(values, min(self._num_reasons, detector.input_dim))
        if detector.p_value_table is not None:
            told["p_value"] = detector.p_values_of_scores(scores)
        if reasons is not None:
            told["reasons"] = [[asdict(reason) for reason in row] for row in reasons]
        return told


def _streams_of(model: ServedModel) -> StreamDetector | None:
    """Return what scores rows in the states of a model with memory."""
    if model.streams is None:
        return None
    return StreamDetector(model.detector, store=model.streams.store)


def _result(message: Message, rows: Rows, facts: dict[str, Any], columns: dict[str, list[Any]]) -> Record:
    """Return what is published of a message: single values for one of one row, lists for one of several."""
    identity = identity_of(message)
    told: dict[str, Any] = {"id": identity, "position": message.position, "key": message.key, **facts}
    if rows.is_batch:
        if rows.series is not None:
            told["series"] = rows.series
        if rows.times is not None:
            told["time"] = rows.times
        told |= columns
    else:
        if rows.series is not None:
            told["key"] = rows.series[0]
        if rows.times is not None:
            told["time"] = rows.times[0]
        told |= {name: column[0] for name, column in columns.items()}
    return Record(json.dumps(told, default=str).encode(), told["key"], identity, _JSON)


def dead_letter(message: Message, reason: str) -> Record:
    """Return a message as it was, with the reason why it has no result in its headers."""
    headers = {
        **message.headers,
        "reason": reason[:_MAX_REASON_CHARACTERS].encode(errors="replace").decode(),
        "source-position": message.position,
        "source-key": message.key,
    }
    return Record(message.payload, message.key, identity_of(message), headers)


def bare(letter: Record) -> Record:
    """Return a dead letter that is too large without what its message brought along."""
    headers = {
        "reason": letter.headers["reason"],
        "source-position": letter.headers["source-position"],
        "left-out": f"a payload of {len(letter.payload)} bytes, and the message's headers",
    }
    identity = letter.id if len(letter.id) <= _LONGEST_ID else hashlib.sha256(letter.id.encode()).hexdigest()
    return Record(b"", "", identity, headers)


def identity_of(message: Message) -> str:
    """Return what is the same for a message each time it is delivered, and differs from all others'.

    It is the id that the message carries in a header, or its position, or else a digest of its content: where
    a broker does not number messages, equal ones have equal ids.
    """
    told = message.headers.get("id") or message.position
    return told or hashlib.sha256(message.key.encode() + b"\0" + message.payload).hexdigest()[:32]
