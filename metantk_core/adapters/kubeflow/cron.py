"""When Kubeflow fires a schedule: an expression enters; the next times, or the same in words, leave.

Kubeflow reads expressions with version 1 of Go's robfig/cron. Its rules are its own: six fields, seconds first; a
weekday is 0 (Sunday) to 6; ``N/step`` goes on from N to the field's end; a range never wraps around; no ``L``, ``W``,
``#`` or time zones. Day and weekday are alternatives only where neither has a star, and ``*/2`` has one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice

from metantk_core.errors import InputError, quoted

_YEARS = 5  # ahead of the present one, after which Kubeflow gives up
_LONGEST = 200  # characters
_MOST_TIMES = 6  # of a day, that are written out
_LARGEST = 2**63 - 1
_QUARTER = 15  # minutes, of which the offset of every time zone is a multiple
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_NICKNAMES = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_EVERY = re.compile(r"@every (?P<amounts>([0-9]+(\.[0-9]*)?(h|ms|m|s|us|µs|ns))+)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class _Bounds:
    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()


_FIELDS = (
    _Bounds("second", 0, 59),
    _Bounds("minute", 0, 59),
    _Bounds("hour", 0, 23),
    _Bounds("day of the month", 1, 31),
    _Bounds("month", 1, 12, _MONTHS),
    _Bounds("weekday", 0, 6, _WEEKDAYS),
)


@dataclass(frozen=True)
class Field:
    """What one field of an expression allows.

    Attributes:
        values: The numbers.
        star: Whether a part of it began with ``*`` or ``?``.
    """

    values: frozenset[int]
    star: bool


@dataclass(frozen=True)
class Cron:
    """An expression of six fields, as Kubeflow understands it."""

    second: Field
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field

    def after(self, moment: datetime) -> datetime | None:
        """Return when it fires first after a moment, in the time zone of the moment; none if not for five years."""
        zone, last_year = moment.tzinfo, moment.year + _YEARS
        time = moment.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
        if not all(field.values for field in (self.second, self.minute, self.hour)):
            return None
        while (local := time.astimezone(zone)).year <= last_year:
            # Steps that jump over nothing that fits, in the time of clocks that never go back.
            if local.month not in self.month.values or not self._on(local):
                time = _next_midnight(local).astimezone(UTC)
            elif local.hour not in self.hour.values:
                time += timedelta(seconds=3600 - 60 * local.minute - local.second)
            elif local.minute not in self.minute.values:
                time += timedelta(seconds=60 - local.second)
            elif local.second not in self.second.values:
                time += timedelta(seconds=1)
            else:
                return local
        return None

    def may_fire(self, moment: datetime, seconds: int) -> bool:
        """Return whether it may fire within some seconds after a moment, whatever the cluster's time zone is.

        Args:
            moment: With a time zone.
            seconds: How many; less than an hour.
        """
        quarters = {minute % _QUARTER for minute in self.minute.values}
        times = (moment.astimezone(UTC) + timedelta(seconds=number) for number in range(seconds + 1))
        return any(time.second in self.second.values and time.minute % _QUARTER in quarters for time in times)

    def words(self) -> str:
        """Return it in words, such as "at 03:00:00 on Mondays"."""
        clock, days = self._clock(), self._days()
        if days == "every day" and clock.endswith(("every second", "every minute", "every hour")):
            days = ""
        return " ".join(part for part in (clock, days, self._months()) if part)

    def _on(self, day: datetime) -> bool:
        fits = day.day in self.day.values, day.isoweekday() % 7 in self.weekday.values
        return all(fits) if self.day.star or self.weekday.star else any(fits)

    def _clock(self) -> str:
        seconds, minutes, hours = (sorted(field.values) for field in (self.second, self.minute, self.hour))
        if len(seconds) == len(minutes) == 1 and len(hours) <= _MOST_TIMES:
            return f"at {_joined([f'{hour:02}:{minutes[0]:02}:{seconds[0]:02}' for hour in hours])}"
        parts = [_the("second", seconds, 60), _the("minute", minutes, 60), _the("hour", hours, 24)]
        if seconds == [0]:
            del parts[0]
        while len(parts) > 1 and parts[-1].startswith("every") and parts[-2].startswith("every"):
            del parts[-1]  # every minute of every hour is every minute
        return f"{'' if parts[0].startswith('every') else 'at '}{' of '.join(parts)}"

    def _days(self) -> str:
        every_day, every_weekday = len(self.day.values) == 31, len(self.weekday.values) == 7
        on_days = (
            f"on the {'day' if len(self.day.values) == 1 else 'days'} {_runs(sorted(self.day.values))} of the month"
        )
        weekdays = [_WEEKDAYS[number] for number in sorted(self.weekday.values)]
        on_weekdays = f"on {_joined([f'{name}s' for name in weekdays])}"
        if not (self.day.star or self.weekday.star):
            return "every day" if every_day or every_weekday else f"{on_days} and also {on_weekdays}"
        if every_day and every_weekday:
            return "every day"
        if every_day or every_weekday:
            return on_weekdays if every_day else on_days
        return f"{on_days} if that is a {_joined(weekdays, 'or')}"

    def _months(self) -> str:
        if len(self.month.values) == 12:
            return ""
        return f"in {_joined([_MONTHS[number - 1] for number in sorted(self.month.values)])}"


@dataclass(frozen=True)
class Every:
    """``@every``: some time after it was created or has fired last, by no clock on the wall.

    Attributes:
        seconds: Whole ones, at least 1.
    """

    seconds: int

    def after(self, moment: datetime) -> datetime:
        """Return when it fires after a moment at which it fired."""
        following = moment.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=self.seconds)
        return following.astimezone(moment.tzinfo)

    def may_fire(self, moment: datetime, seconds: int) -> bool:
        """Return false: one that is created anew begins to count anew."""
        del moment, seconds
        return False

    def words(self) -> str:
        """Return it in words."""
        hours, rest = divmod(self.seconds, 3600)
        amounts = (hours, "h"), (rest // 60, "min"), (rest % 60, "s")
        every = " ".join(f"{amount} {unit}" for amount, unit in amounts if amount)
        return f"every {every}, counted from when it is created"


def parse(text: str) -> Cron | Every:
    """Return what Kubeflow understands by an expression, with five fields too, which it reads without a weekday.

    Raises:
        InputError: Kubeflow would refuse it.
    """
    if len(text) > _LONGEST or not text.isprintable():
        raise _refused(text, "it is no expression of that length")
    if every := _EVERY.fullmatch(text):
        amounts = re.findall(r"([0-9.]+)([a-zµ]+)", every["amounts"])
        total = sum(float(number) * _SECONDS[unit] for number, unit in amounts)
        if total > timedelta(days=366 * _YEARS).total_seconds():
            raise _refused(text, "that is longer than five years")
        return Every(max(1, int(total)))
    if text.startswith("@") and text not in _NICKNAMES:
        raise _refused(text, f"known are {', '.join(_NICKNAMES)} and @every with a duration such as 1h30m")
    parts = _NICKNAMES.get(text, text).split()
    if len(parts) not in (5, 6):
        raise _refused(text, f"it has {len(parts)} fields")
    read = [_field(text, part, bounds) for part, bounds in zip([*parts, "*"][:6], _FIELDS, strict=True)]
    return Cron(*read)


def admit(text: str, now: datetime) -> Cron | Every:
    """Return what Kubeflow understands by an expression, if that is most likely what a person means.

    Args:
        text: The expression.
        now: The present, with a time zone.

    Raises:
        InputError: Kubeflow would refuse it, or read its five fields as seconds to months, or never fire it.
    """
    if not text.startswith("@") and len(text.split()) == 5:
        raise InputError(
            f"Expected six fields, of which the first is seconds, got the five of {quoted(text)}, whose first one "
            f"Kubeflow would take for seconds; for minutes and hours give {quoted(f'0 {text}')}."
        )
    read = parse(text)
    if read.after(now) is None:
        raise InputError(
            f"The schedule {quoted(text)} would not fire within {_YEARS} years, and so never; give days that exist."
        )
    return read


def next_times(
    schedule: Cron | Every, moment: datetime, number: int = 3, *, created: datetime | None = None
) -> list[datetime]:
    """Return the first times after a moment at which a schedule fires, as many as there are.

    Args:
        schedule: When it fires.
        moment: With a time zone, which is that of the times.
        number: How many times.
        created: When it was made, from which ``@every`` counts; none for the moment.
    """
    if isinstance(schedule, Every) and created is not None:
        moment -= timedelta(seconds=(moment - created).total_seconds() % schedule.seconds)
    return list(islice(_times(schedule, moment), number))


def zone_for_people(zone: tzinfo | None) -> str:
    """Return what to say of a time zone in which times of a schedule are shown."""
    return (
        f"in {zone or UTC}; Kubeflow fires in the time zone of its cluster, which is UTC unless CRON_SCHEDULE_TIMEZONE "
        "is set there"
    )


def _times(schedule: Cron | Every, moment: datetime) -> Iterator[datetime]:
    while (following := schedule.after(moment)) is not None:
        yield following
        moment = following


def _field(text: str, field: str, bounds: _Bounds) -> Field:
    values: set[int] = set()
    star = False
    for part in filter(None, field.split(",")):
        found, starred = _range(text, part, bounds)
        values |= set(found)
        star |= starred
    return Field(frozenset(values), star)


def _range(text: str, part: str, bounds: _Bounds) -> tuple[range, bool]:
    ends, slash, step = part.partition("/")
    first, dash, last = ends.partition("-")
    star = first in ("*", "?")
    if star:
        start, stop = bounds.least, bounds.most
    else:
        start = _number(text, first, bounds, bounds.names)
        stop = _number(text, last, bounds, bounds.names) if dash else bounds.most if slash else start
    width = _number(text, step, bounds) if slash else 1
    if width == 0:
        raise _refused(text, f"a step of the {bounds.name} is at least 1")
    if start < bounds.least or stop > bounds.most:
        raise _refused(text, f"the {bounds.name} goes from {bounds.least} to {bounds.most}")
    if start > stop:
        raise _refused(text, f"the range {part} of the {bounds.name} ends before it begins; give two, with a comma")
    return range(start, stop + 1, width), star


def _number(text: str, word: str, bounds: _Bounds, names: tuple[str, ...] = ()) -> int:
    known = {name[:3].lower(): number for number, name in enumerate(names, bounds.least)}
    if word.lower() in known:
        return known[word.lower()]
    if not re.fullmatch(r"\+?[0-9]{1,19}", word) or int(word) > _LARGEST:
        also = " or a name of three letters" if names else ""
        raise _refused(text, f"{quoted(word)} is no number{also} for the {bounds.name}")
    return int(word)


def _refused(text: str, why: str) -> InputError:
    shown = repr(text) if re.fullmatch(r"@[a-z0-9 .-]{1,40}", text) else quoted(text)  # which has the @ of an address
    return InputError(
        "Expected when to fire as six fields, second minute hour day month weekday, such as '0 0 3 * * 1' for Mondays "
        f"at three, got {shown}: {why}."
    )


def _next_midnight(local: datetime) -> datetime:
    """Return the beginning of the next day; where clocks leave midnight out, what is there in its place."""
    return datetime(local.year, local.month, local.day, tzinfo=local.tzinfo) + timedelta(days=1)


def _joined(words: list[str], last: str = "and") -> str:
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _the(unit: str, numbers: list[int], all_of_them: int) -> str:
    if len(numbers) == all_of_them:
        return f"every {unit}"
    return f"the {unit}{'s' * (len(numbers) > 1)} {_runs(numbers)}"


def _runs(numbers: list[int]) -> str:
    """Return sorted numbers in few words: neighbours as a range."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return _joined([str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts])
