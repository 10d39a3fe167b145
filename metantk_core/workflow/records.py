"""What has been scored so far, as a value: score records enter, answers to jobs leave; as JSON lines between steps."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from metantk_core.errors import InputError
from metantk_core.scores import SCORES, ScoreRecord
from metantk_core.search import Job

_Of = tuple[str, str, str]  # genotype, stream, weights


@dataclass(frozen=True)
class Records:
    """The records of a search: of each score of a job the one with most draws.

    Attributes:
        by_job: Records by score, by what was scored: genotype, stream and weights.
    """

    by_job: Mapping[_Of, Mapping[str, ScoreRecord]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[ScoreRecord]:
        return (record for group in self.by_job.values() for record in group.values())

    def joined(self, more: Iterable[ScoreRecord]) -> "Records":
        """Return these records and more.

        Raises:
            InputError: Two records of one thing, from one kind of device, contradict each other.
        """
        by_job = dict(self.by_job)
        for record in more:
            of = (record.genotype, record.stream, record.weights)
            group = by_job.get(of, {})
            kept = group.get(record.score)
            if kept is None or len(_longer(kept, record).draws) > len(kept.draws):
                by_job[of] = {**group, record.score: record}
        return Records(by_job)

    def found(self, job: Job) -> Mapping[str, ScoreRecord]:
        """Return what there is of a job by score, with fewer or more draws than it asks for."""
        return self.by_job.get((str(job.genotype), job.stream, job.weights), {})

    def of(self, job: Job, scores: Sequence[str]) -> tuple[ScoreRecord, ...]:
        """Return the records of a job with exactly its draws, one a score.

        Args:
            job: What was scored.
            scores: Names of the scores.

        Raises:
            InputError: They are not all there.
        """
        found = self.found(job)
        missing = max((len(lacking(job, name, found.get(name))) for name in scores), default=0)
        if missing:
            raise InputError(
                f"Expected {job.draws} draws of {job.genotype}, but {missing} are missing; score all shards of "
                "the round with one configuration."
            )
        return tuple(found[name].first(job.draws) for name in scores)


def lacking(job: Job, name: str, record: ScoreRecord | None) -> range:
    """Return the draws of a score that a job asks for and a record does not have; what is counted has one."""
    return range(len(record.draws) if record else 0, job.draws if SCORES[name].cost != "none" else 1)


def write_records(records: Iterable[ScoreRecord]) -> str:
    """Return records as JSON lines."""
    return "".join(f"{record.to_json()}\n" for record in records)


def read_records(text: str) -> tuple[ScoreRecord, ...]:
    """Return the records of JSON lines, in their order.

    Raises:
        InputError: A line is not a whole record.
    """
    # Not splitlines: JSON strings may hold other characters that it takes for the end of a line.
    return tuple(ScoreRecord.from_json(line) for line in text.split("\n") if line.strip())


def load_records(*paths: str | Path) -> Records:
    """Return the records of files with JSON lines, which earlier steps wrote.

    Raises:
        InputError: A file can't be read or holds something else, or two contradict each other.
    """
    found = Records()
    for path in map(Path, paths):
        try:
            found = found.joined(read_records(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(f"Can't read the records {path}: {error.strerror}; score this shard again.") from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"Expected score records as text in {path}, but {error}; score this shard again."
            ) from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    return found


def _longer(kept: ScoreRecord, other: ScoreRecord) -> ScoreRecord:
    """Return the one of two records of one thing that has more draws."""
    shared = min(len(kept.draws), len(other.draws))
    if kept.device == other.device and (kept.seed, kept.draws[:shared]) != (other.seed, other.draws[:shared]):
        raise InputError(
            f"Two different records of {kept.score} for {kept.genotype} came; score all shards of a search with one "
            "configuration."
        )
    return other if len(other.draws) > len(kept.draws) else kept
