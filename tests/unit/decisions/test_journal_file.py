"""What is particular to the journal's file: how it breaks, and that nothing acknowledged is lost by it."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from fraudml import wiring
from fraudml.adapters.log import journal as module
from fraudml.adapters.log.journal import FORMAT, HEADER_SIZE, FileJournal
from fraudml.decisions.record import Decision
from fraudml.errors import DecisionLogError
from fraudml.events.schema import Attribute, AttributeType, Schema
from fraudml.settings import Settings
from tests.support.scoring import SCHEMA, decision, transaction

ROOT = Path(__file__).parents[3]


def made(*numbers: int) -> list[Decision]:
    return [decision(transaction(number), number) for number in numbers]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "decisions.journal"


def filled(path: Path, *batches: list[Decision]) -> list[int]:
    """Where each frame ends."""
    journal = FileJournal(path)
    ends = []
    for batch in batches:
        journal.append(batch)
        ends.append(path.stat().st_size)
    journal.close()
    return ends


def held(path: Path) -> list[Decision]:
    with closing(FileJournal(path)) as journal:
        found = list(journal.read())
        assert len(journal) == len(found)
        return found


def test_only_the_owner_may_read_it_and_it_is_made_when_needed(path: Path) -> None:
    journal = FileJournal(path)
    assert not path.parent.exists()
    journal.append(made(1))
    journal.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(FORMAT)


def of(settings: Settings, schema: Schema = SCHEMA, *new: Decision) -> list[Decision]:
    """What the journal of these settings holds, after ``new`` is appended."""
    with closing(wiring.journals(settings, schema)[0]) as journal:
        journal.append(new)
        return list(journal.read())


def test_it_lies_in_the_home_directory_one_for_each_database(tmp_path: Path) -> None:
    first = Settings(home=tmp_path / "home")
    second = Settings(home=tmp_path / "home", database_url=f"sqlite:///{tmp_path / 'other.db'}")
    assert of(first, SCHEMA, *made(1)) == made(1)
    assert of(second, SCHEMA, *made(2)) == made(2)
    assert (of(first), of(second)) == (made(1), made(2))
    assert len(list((tmp_path / "home" / "journal").glob("decisions-*.journal"))) == 2


def test_each_process_has_its_own_and_finds_those_left_behind(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    first, left = wiring.journals(settings, SCHEMA)
    second, more = wiring.journals(settings, SCHEMA)
    assert (left, more) == ([], [])
    second.append(made(2))
    second.close()  # as the end of its process would
    third, left = wiring.journals(settings, SCHEMA)
    assert (list(third.read()), left) == (made(2), [])
    third.close()
    first.close()
    again, left = wiring.journals(settings, SCHEMA)
    assert (list(again.read()), [list(each.read()) for each in left]) == ([], [made(2)])
    for journal in (again, *left):
        journal.close()


def test_it_is_found_again_whatever_the_path_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of(Settings(home=tmp_path / "home"), SCHEMA, *made(1))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "home")
    for settings in (
        Settings(home=Path("home")),
        Settings(home=Path("link")),
        Settings(home=Path("home"), database_url="sqlite:///home/fraudml.db"),
    ):
        assert of(settings) == made(1)
    (tmp_path / "home").rename(tmp_path / "restored")
    assert of(Settings(home=tmp_path / "restored")) == made(1)


def test_what_was_made_under_other_names_is_refused_until_the_log_has_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    of(settings, SCHEMA, *made(1))
    swapped = msgspec.structs.replace(SCHEMA, entities=dict(reversed(SCHEMA.entities.items())))
    for change in (
        swapped,
        msgspec.structs.replace(SCHEMA, attributes={}),
        msgspec.structs.replace(
            SCHEMA,
            entities={"customer": "cust_no"},
            attributes={"terminal": Attribute(AttributeType.category), **SCHEMA.attributes},
        ),
    ):
        with pytest.raises(DecisionLogError, match="restore the declarations, start once"):
            wiring.journals(settings, change)
    assert of(settings) == made(1)
    with closing(wiring.journals(settings, SCHEMA)[0]) as journal:
        journal.clear()
    assert of(settings, swapped) == []  # an empty one is anybody's
    assert of(settings, swapped, *made(2)) == made(2)
    with pytest.raises(DecisionLogError, match="other names"):
        wiring.journals(settings, SCHEMA)


def test_a_file_cut_anywhere_holds_all_whole_appends_and_takes_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = filled(path, made(1), made(2, 3))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands would take long
    whole = path.read_bytes()
    assert len(whole) == second
    for size in range(second + 1):
        path.write_bytes(whole[:size])
        wanted = made(1, 2, 3) if size == second else made(1) if size >= first else []
        assert held(path) == wanted, size
        journal = FileJournal(path)
        journal.append(made(9))
        assert list(journal.read()) == [*wanted, *made(9)], size
        journal.close()
        assert held(path) == [*wanted, *made(9)], size


def test_a_tail_of_zeros_is_an_append_that_did_not_return(path: Path) -> None:
    filled(path, made(1))
    with path.open("ab") as file:
        file.write(bytes(5_000))
    assert held(path) == made(1)
    filled(path, made(2))
    assert held(path) == made(1, 2)


def test_an_append_that_lacks_data_at_its_end_after_a_power_cut_is_cut_off(path: Path) -> None:
    first, second = filled(path, made(1), made(2, 3))
    whole = path.read_bytes()
    assert whole[first - 1]
    assert whole[second - 1]
    for lacking in (1, 8, 100):
        path.write_bytes(whole[:-lacking] + bytes(lacking))
        assert held(path) == made(1), lacking
        filled(path, made(9))
        assert held(path) == made(1, 9), lacking


def test_zeros_inside_are_damage(path: Path) -> None:
    first, second = filled(path, made(1), made(2))
    whole = path.read_bytes()
    for place in (first, second - 50):  # the end of a frame that is not the last, the middle of the last one
        path.write_bytes(whole[: place - 8] + bytes(8) + whole[place:])
        with pytest.raises(DecisionLogError, match="damaged"):
            FileJournal(path)


def test_a_flipped_bit_is_found_wherever_it_is_and_nothing_is_removed(path: Path) -> None:
    filled(path, made(1), made(2))
    whole = path.read_bytes()
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 0x10
        path.write_bytes(broken)
        with pytest.raises(DecisionLogError, match="move"):
            FileJournal(path)
        assert path.read_bytes() == broken


def test_damage_that_happens_while_it_is_open_is_found_by_reading(path: Path) -> None:
    (end,) = filled(path, made(1))
    journal = FileJournal(path)
    with path.open("r+b") as file:
        file.seek(end - 1)
        file.write(b"\xff")
    with pytest.raises(DecisionLogError, match=f"damaged at byte {HEADER_SIZE}"):
        list(journal.read())
    journal.close()


def test_another_format_and_another_kind_of_decision_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(module, "_encode", lambda decisions: b"\x91\x80")
        filled(path, made(1))
    with pytest.raises(DecisionLogError, match="the version that wrote it"):
        held(path)
    path.write_bytes(b"fraudml journal 1\n")
    with pytest.raises(DecisionLogError, match="the version that wrote it"):
        FileJournal(path)


def test_when_the_disk_does_not_answer_nothing_of_the_call_is_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = FileJournal(path)
    journal.append(made(1))
    before = path.read_bytes()
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(errno.EIO, "the test's disk is broken")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fsync)
        with pytest.raises(DecisionLogError, match="the test's disk is broken"):
            journal.append(made(2))
    assert path.read_bytes() == before
    assert len(journal) == 1
    journal.append(made(3))
    journal.close()
    assert held(path) == made(1, 3)


def test_what_could_not_be_undone_is_undone_by_the_next_append(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = FileJournal(path)
    journal.append(made(1))

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "the test's disk is broken")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        broken.setattr(os, "ftruncate", fail)
        for _ in range(2):
            with pytest.raises(DecisionLogError):
                journal.append(made(2))
    assert (len(journal), list(journal.read())) == (1, made(1))
    journal.append(made(3))
    journal.close()
    assert held(path) == made(1, 3)


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DecisionLogError, match="check its folder"):
        FileJournal(tmp_path / "file" / "decisions.journal").append(made(1))


FILL = """
import resource, sys
from pathlib import Path
from fraudml.adapters.log.journal import FileJournal
from fraudml.errors import DecisionLogError
from tests.support.scoring import decision, transaction
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
journal = FileJournal(Path(sys.argv[1]))
for number in range(1_000):
    try:
        journal.append([decision(transaction(number), number)])
    except DecisionLogError as error:
        assert Path(sys.argv[1]).stat().st_size < 20_000
        assert len(journal) == len(list(journal.read())) == number
        print(number, error)
        break
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files is POSIX's")
def test_a_full_disk_takes_nothing_of_the_call(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILL, path], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    count, _, message = done.stdout.partition(" ")
    assert "check its folder, its permissions and the free disk space" in message
    assert int(count) > 10
    assert held(path) == made(*range(int(count)))


APPEND = """
import itertools, sys
from pathlib import Path
from fraudml.adapters.log.journal import FileJournal
from tests.support.scoring import decision, transaction
journal = FileJournal(Path(sys.argv[1]))
for number in itertools.count(0, 2):
    journal.append([decision(transaction(number + i), number + i) for i in range(2)])
    print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX's")
def test_kill_9_in_the_middle_of_appends_loses_nothing_acknowledged(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", APPEND, path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(next(process.stdout)) for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    acknowledged += map(int, process.stdout)
    assert process.wait(30) == -signal.SIGKILL
    process.stdout.close()
    found = held(path)
    assert found == made(*range(len(found)))
    assert len(found) >= acknowledged[-1] + 2
    assert len(found) % 2 == 0
