"""CSV text is read whole or not at all."""

import random

import pytest

from camscope.cohort.tables import read_table
from camscope.delimited import read_records
from camscope.errors import DelimitedError, TableError


def rows(count, *, box=True):
    lines = ["path,patient,effusion,box" if box else "path,patient,effusion"]
    lines += [f"images/{n}.png,P{n:03},{n % 2}" + (',"4,4,20,24"' if box else "") for n in range(count)]
    return lines


@pytest.mark.parametrize("box", [True, False])
@pytest.mark.parametrize("column", range(3))
@pytest.mark.parametrize("place", [1, 20, 60])
def test_an_unclosed_quote_is_one_error_with_its_line(tmp_path, box, column, place):
    lines = rows(60, box=box)
    cells = lines[place].split(",")
    cells[column] = f'"{cells[column]}'
    lines[place] = ",".join(cells)
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(TableError, match=f"t.csv:{place + 1}: a quote"):
        read_table(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("column", range(3))
@pytest.mark.parametrize("other", range(3))
def test_two_unclosed_quotes_do_not_swallow_the_rows_between_them(column, other):
    lines = rows(60, box=False)
    for place, n, quoted in ((20, column, '"{}'), (40, other, '{}"')):
        cells = lines[place].split(",")
        cells[n] = quoted.format(cells[n])
        lines[place] = ",".join(cells)
    with pytest.raises(DelimitedError, match="line 21: a quote"):
        read_records("\n".join(lines))


def test_two_unclosed_quotes_in_a_table_of_words():
    lines = ["case,finding", *(f"case {n} x,{('nodule', 'none')[n % 2]}" for n in range(30))]
    lines[3] = lines[3].replace("case", '"case')
    lines[9] = lines[9].replace(" x", ' x"')
    with pytest.raises(DelimitedError, match="line 4"):
        read_records("\n".join(lines))


def test_random_stray_quotes_never_lose_a_row_in_silence():
    draw = random.Random(0)
    refused = 0
    for _ in range(400):
        lines = rows(30, box=draw.random() < 0.5)
        for _ in range(draw.choice([1, 2])):
            place = draw.randrange(1, len(lines))
            at = draw.randrange(len(lines[place]) + 1)
            lines[place] = lines[place][:at] + '"' + lines[place][at:]
        try:
            assert len(read_records("\n".join(lines))) == len(lines)
        except DelimitedError:
            refused += 1
    assert 40 < refused < 400


@pytest.mark.parametrize(
    "report",
    [
        "two\nlines",
        "Findings:\nsmall, left\n\nImpression: none, stable",
        'he said ""no""\nand left',
        "a,b\nc,d\r\ne,f",
        "\n",
    ],
)
def test_quoted_cells_of_several_lines_stay_readable(tmp_path, report):
    lines = [f'{n}.png,P{n},{n % 2},"{report}"' for n in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["path,patient,effusion,report", *lines]), newline="")
    table, ragged = read_table(str(tmp_path / "t.csv"))
    assert len(table) == 12
    assert ragged == {}
    assert table["report"].to_list() == [report.replace('""', '"')] * 12


def test_quotes_inside_a_cell_that_is_not_quoted_are_its_text():
    assert read_records('path,size\na.png,5" tube\nb.png,3"')[1:] == [(2, ["a.png", '5" tube']), (3, ["b.png", '3"'])]


def test_a_quote_inside_a_quoted_cell_is_named():
    with pytest.raises(DelimitedError, match=r"line 2: a quote .* double it"):
        read_records('path,note\na.png,"a "big" one"\n')


def test_line_ends_of_old_macintosh_files():
    assert [r.cells for r in read_records("a,b\r1,2\r3,4\r")] == [["a", "b"], ["1", "2"], ["3", "4"]]


def test_a_label_file_with_an_unclosed_quote(tmp_path):
    from camscope.errors import SettingError
    from camscope.models.labels import read_labels

    (tmp_path / "l.csv").write_text('index,label\n0,"cat\n1,dog\n2,cow\n')
    with pytest.raises(SettingError, match=r"l.csv cannot be read as class names: line 2: a quote"):
        read_labels(tmp_path / "l.csv")
