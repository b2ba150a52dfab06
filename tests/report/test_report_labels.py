"""Labels of Snakemake's report; what they do in a browser is tested by `make test-browser`."""

import zipfile

import pytest

from swiftkv.errors import UserError
from swiftkv.report import exhibits, labels


@pytest.fixture
def archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "report.zip", "w") as made:
        made.writestr("report/report.html", "<html><body><div id='app'></div></body></html>")
        made.writestr("report/data/raw/a.png", b"picture")
    return tmp_path / "report.zip"


def test_the_page_gets_a_script_that_knows_every_exhibit_once(archive):
    for _ in range(2):
        labels.run(archive)
        with zipfile.ZipFile(archive) as labelled:
            page = labelled.read("report/report.html").decode()
            assert labelled.read("report/data/raw/a.png") == b"picture"
        assert page.count("<script") == 1 and page.endswith("</script>\n</body></html>")
        assert all(text in page for text in exhibits.TEXTS.values())


def test_what_is_no_report_is_named(tmp_path):
    with pytest.raises(UserError, match="no zip archive"):
        labels.run(tmp_path / "gone.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as made:
        made.writestr("a.txt", "x")
    with pytest.raises(UserError, match=r"holds no report\.html"):
        labels.run(tmp_path / "other.zip")
    with pytest.raises(UserError, match="not a report of Snakemake"):
        labels.with_labels("<p>")
