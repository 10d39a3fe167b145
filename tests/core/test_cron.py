"""Expressions are read by Kubeflow's own rules, which differ from those of other programs, and fire when they say."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metantk_core.adapters.kubeflow.cron import Cron, Every, admit, next_times, parse
from metantk_core.errors import InputError

NOW = datetime(2026, 11, 27, 15, 47, 20, tzinfo=UTC)  # a Friday


def following(text: str, moment: datetime = NOW, number: int = 3) -> list[str]:
    return [f"{time:%Y-%m-%d %H:%M:%S}" for time in next_times(parse(text), moment, number)]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("0 0 3 * * 1", "2026-11-30 03:00:00"),  # seconds come first
        ("0 0 3 * * MON", "2026-11-30 03:00:00"),
        ("0 0 3 ? nOv sUn", "2026-11-29 03:00:00"),  # names in any case, ? is *
        ("20/20 * * * * *", "2026-11-27 15:47:40"),  # N/step goes on to the field's end
        ("0 50/5 * * * *", "2026-11-27 15:50:00"),
        ("0 0 0 * * 5/1", "2026-11-28 00:00:00"),
        ("0 0 22 * * 0-4/2", "2026-11-29 22:00:00"),
        ("+5 0 0 * * *", "2026-11-28 00:00:05"),
        ("0,,30 48 15 * * *", "2026-11-27 15:48:00"),
        ("0 0 0 29 2 *", "2028-02-29 00:00:00"),
        ("@hourly", "2026-11-27 16:00:00"),
        ("@daily", "2026-11-28 00:00:00"),
        ("@midnight", "2026-11-28 00:00:00"),
        ("@weekly", "2026-11-29 00:00:00"),
        ("@monthly", "2026-12-01 00:00:00"),
        ("@yearly", "2027-01-01 00:00:00"),
        ("@every 1h30m", "2026-11-27 17:17:20"),
        ("@every 1.5h", "2026-11-27 17:17:20"),
        ("@every 10ms", "2026-11-27 15:47:21"),
    ],
)
def test_what_kubeflow_accepts_fires_first_when_kubeflow_would(text: str, first: str):
    assert following(text)[0] == first


def test_five_fields_are_read_from_the_seconds_on_as_kubeflow_does():
    assert following("0 5 * * *") == ["2026-11-27 16:05:00", "2026-11-27 17:05:00", "2026-11-27 18:05:00"]


def test_day_and_weekday_are_alternatives_only_where_neither_has_a_star():
    either = following("0 0 9 1,15 * mon", number=4)
    assert either == ["2026-11-30 09:00:00", "2026-12-01 09:00:00", "2026-12-07 09:00:00", "2026-12-14 09:00:00"]
    assert following("0 0 9 */2 * mon", number=3) == [
        "2026-12-07 09:00:00",
        "2026-12-21 09:00:00",
        "2027-01-11 09:00:00",
    ]
    assert following("0 0 9 13 * */5", number=2) == ["2026-12-13 09:00:00", "2027-06-13 09:00:00"]
    assert following("0 0 0 1-31 * 1", number=2) == ["2026-11-28 00:00:00", "2026-11-29 00:00:00"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 0 3 * * 7", "weekday goes from 0 to 6"),
        ("60 * * * * *", "second goes from 0 to 59"),
        ("0 0 24 * * *", "hour goes from 0 to 23"),
        ("0 0 0 0 * *", "day of the month goes from 1 to 31"),
        ("0 0 0 * 13 *", "month goes from 1 to 12"),
        ("0 0 22-3 * * *", "ends before it begins"),
        ("0 0 0 * * fri-mon", "ends before it begins"),
        ("*/0 * * * * *", "at least 1"),
        ("0 0 0 L * *", "'L' is no number"),
        ("0 0 0 15W * *", "'15W' is no number"),
        ("0 0 0 * * 1#2", "'1#2' is no number"),
        ("0 0 0 * * monday", "'monday' is no number or a name of three letters"),
        ("mon 0 0 * * *", "'mon' is no number"),
        ("1-2-3 * * * * *", "is no number"),
        ("1/2/3 * * * * *", "is no number"),
        ("-5 * * * * *", "'' is no number"),
        ("5- * * * * *", "'' is no number"),
        ("٣ * * * * *", "is no number"),
        ("* * * *", "it has 4 fields"),
        ("* * * * * * 2027", "it has 7 fields"),
        ("", "it has 0 fields"),
        ("TZ=UTC 0 0 3 * * *", "it has 7 fields"),
        ("@reboot", "got '@reboot': known are @yearly"),
        ("@every", "known are"),
        ("@every -1h", "known are"),
        ("@every 1d", "known are"),
        ("@every 50000h", "longer than five years"),
        ("0 0 3\n* * 1", "of that length"),
        ("*" * 300, "of that length"),
        (f"{10**19} * * * * *", "is no number"),
    ],
)
def test_what_kubeflow_would_refuse_is_refused_with_the_reason(text: str, words: str):
    with pytest.raises(InputError) as refused:
        parse(text)
    assert words in str(refused.value)
    assert "second minute hour day month weekday" in str(refused.value)


def test_five_fields_are_refused_with_the_six_that_were_most_likely_meant():
    with pytest.raises(InputError, match=r"six fields.*'0 0 5 \* \* \*'"):
        admit("0 5 * * *", NOW)


@pytest.mark.parametrize("text", ["0 0 0 30 2 *", "0 0 0 31 4,6,9,11 ?", ", * * * * *"])
def test_days_that_never_come_are_refused(text: str):
    assert parse(text).after(NOW) is None
    with pytest.raises(InputError, match="never"):
        admit(text, NOW)


def test_a_leap_day_more_than_five_years_away_never_comes():
    assert parse("0 0 0 29 2 *").after(datetime(2097, 1, 1, tzinfo=UTC)) is None
    assert parse("0 0 0 29 2 *").after(datetime(2099, 1, 1, tzinfo=UTC)) == datetime(2104, 2, 29, tzinfo=UTC)


def test_in_spring_a_time_that_clocks_leave_out_is_left_out_and_in_autumn_one_comes_twice():
    berlin = ZoneInfo("Europe/Berlin")
    spring = next_times(parse("0 30 2 * * *"), datetime(2026, 3, 28, 12, tzinfo=berlin), 1)
    assert [f"{time:%m-%d %H:%M}" for time in spring] == ["03-30 02:30"]
    autumn = next_times(parse("0 30 2 * * *"), datetime(2026, 10, 24, 12, tzinfo=berlin), 2)
    assert [(f"{time:%m-%d %H:%M}", time.utcoffset()) for time in autumn] == [
        ("10-25 02:30", timedelta(hours=2)),
        ("10-25 02:30", timedelta(hours=1)),
    ]


def _field(least: int, most: int) -> st.SearchStrategy[str]:
    number = st.integers(least, most)
    single = number.map(str)
    span = st.tuples(number, number).map(lambda ends: f"{min(ends)}-{max(ends)}")
    whole = st.sampled_from("*?")
    stepped = st.tuples(st.one_of(single, span, whole), st.integers(1, most)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    part = st.one_of(whole, single, span, stepped)
    return st.one_of(whole, st.lists(part, min_size=1, max_size=3).map(",".join))


def _allowed(field: str, least: int, most: int) -> tuple[set[int], bool]:
    """Return numbers and whether there is a star, by trying each number against the words of the rules."""
    numbers, star = set(), False
    for part in field.split(","):
        ends, _, step = part.partition("/")
        star |= ends in ("*", "?")
        low, _, high = (f"{least}-{most}" if ends in ("*", "?") else ends).partition("-")
        top = int(high) if high else most if step else int(low)
        numbers |= {n for n in range(least, most + 1) if int(low) <= n <= top and (n - int(low)) % int(step or 1) == 0}
    return numbers, star


@given(
    st.tuples(_field(0, 59), _field(0, 59), _field(0, 23), _field(1, 31), _field(1, 12), _field(0, 6)),
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)),
)
def test_the_next_firing_is_what_a_scan_of_all_days_hours_minutes_and_seconds_finds(fields, moment):
    moment = moment.replace(tzinfo=UTC)
    bounds = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
    (seconds, _), (minutes, _), (hours, _), (days, star), (months, _), (weekdays, other) = (
        _allowed(field, *bound) for field, bound in zip(fields, bounds, strict=True)
    )

    def on(day: datetime) -> bool:
        fits = (day.day in days, (day.weekday() + 1) % 7 in weekdays)
        return day.month in months and (all(fits) if star or other else any(fits))

    found = None
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    while found is None and day.year <= moment.year + 5:
        if on(day):
            times = (
                day.replace(hour=hour, minute=minute, second=second)
                for hour in sorted(hours)
                for minute in sorted(minutes)
                for second in sorted(seconds)
            )
            found = next((time for time in times if time > moment), None)
        day += timedelta(days=1)
    assert parse(" ".join(fields)).after(moment) == found


@given(_field(0, 59), _field(0, 59), st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)), st.integers(-48, 56))
def test_no_firing_comes_within_seconds_in_which_it_was_said_that_none_may(second, minute, moment, quarters):
    read = parse(f"{second} {minute} * * * *")
    assert isinstance(read, Cron)
    moment = moment.replace(tzinfo=UTC)
    if not read.may_fire(moment, 15):
        local = (moment + timedelta(minutes=15 * quarters)).replace(tzinfo=UTC)  # whatever the cluster's clock shows
        first = read.after(local)
        assert first is not None
        assert first - local > timedelta(seconds=14)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 0 3 * * 1", "at 03:00:00 on Mondays"),
        ("0 30 2 * * mon-fri", "at 02:30:00 on Mondays, Tuesdays, Wednesdays, Thursdays and Fridays"),
        ("0 */15 * * * *", "at the minutes 0, 15, 30 and 45 of every hour"),
        ("*/20 * * * * *", "at the seconds 0, 20 and 40 of every minute"),
        ("* * * * * *", "every second"),
        ("* * * * * 1", "every second on Mondays"),
        ("0 * * * * *", "every minute"),
        ("0 * 3 * * *", "every minute of the hour 3 every day"),
        ("0 10 8-17 * * *", "at the minute 10 of the hours 8–17 every day"),
        ("7 5 * * 2 *", "at the second 7 of the minute 5 of every hour in February"),
        ("5 */30 8-9 * * *", "at the second 5 of the minutes 0 and 30 of the hours 8–9 every day"),
        ("* 5 * * * *", "every second of the minute 5 of every hour"),
        ("0 0 9 1 * *", "at 09:00:00 on the day 1 of the month"),
        ("0 0 9 1,15 * mon", "at 09:00:00 on the days 1 and 15 of the month and also on Mondays"),
        ("0 0 9 1-31 * mon", "at 09:00:00 every day"),
        ("0 0 9 1,2 * */3", "at 09:00:00 on the days 1–2 of the month if that is a Sunday, Wednesday or Saturday"),
        ("0 0 3,9 * jan,7 ?", "at 03:00:00 and 09:00:00 every day in January and July"),
        ("@every 1h30m5s", "every 1 h 30 min 5 s, counted from when it is created"),
    ],
)
def test_an_expression_is_explained_in_words(text: str, words: str):
    assert parse(text).words() == words


def test_every_counts_from_a_firing_and_not_by_the_clock():
    assert parse("@every 90s") == Every(90)
    told = next_times(parse("@every 90s"), NOW, 1, created=NOW - timedelta(seconds=200))
    assert told == [NOW + timedelta(seconds=70)]
    assert following("@every 90s") == ["2026-11-27 15:48:50", "2026-11-27 15:50:20", "2026-11-27 15:51:50"]
