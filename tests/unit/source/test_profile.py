"""What is found out about an unknown file, and which of its columns betray the label."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraudml import wiring
from fraudml.adapters.source.profile import label_purity, profile
from fraudml.errors import DataError
from fraudml.events.schema import LabelColumn
from fraudml.inference.guess import guess
from fraudml.settings import Settings


@pytest.mark.parametrize("word", ["fraud", "fraudulent", "bad", "Chargeback ", "1.0"])
def test_a_column_that_tells_the_label_is_found_whatever_the_label_says(tmp_path: Path, word: str) -> None:
    path = tmp_path / "t.csv"
    rows = (
        f"{i},2024-05-01T00:00:{i % 60:02},{word if i % 3 == 0 else '0'},{'x' if i % 3 == 0 else 'y'},{'ab'[i % 2]}"
        for i in range(300)
    )
    path.write_text("\n".join(["id,time,is_fraud,note,other", *rows]))
    settings = Settings(home=tmp_path)
    label = guess(wiring.profile(settings, str(path))).schema.label
    assert label is not None
    purity = wiring.label_purity(settings, str(path), label, ["note", "other"])
    assert purity["note"] == pytest.approx(1)
    assert purity["other"] == pytest.approx(0)


def test_columns_called_as_our_own_are_as_good_as_any(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = (f"{i},{-i},{i % 7},{i * 37 % 100}" for i in range(100))
    path.write_text("\n".join(["rising,rowid,row_no,n", *rows]))
    found = profile(path)
    assert [(column.name, column.rows) for column in found.columns] == [
        ("rising", 100),
        ("rowid", 100),
        ("row_no", 100),
        ("n", 100),
    ]
    assert (found["rising"].rising, found["rowid"].rising) == (1, 0)
    assert label_purity(path, "row_no", ["rowid"]).keys() == {"rowid"}


def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"is_fraud": ["0", "1"] * 50, "v": list(range(100))}), path)
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)  # its first pages; the description of the columns is at the end
    path.write_bytes(content)
    for read in (profile, lambda path: label_purity(path, "is_fraud", ["v"], fraud=LabelColumn("").fraud)):
        with pytest.raises(DataError, match=r"cannot read .*t\.parquet: ") as caught:
            read(path)
        assert "\n" not in str(caught.value)
