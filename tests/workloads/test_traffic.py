"""Requests of a trace as users have them: times, counts and columns in the spellings that other tools write."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftkv.errors import UserError
from swiftkv.workloads import traces, traffic
from swiftkv.workloads.traffic import Traffic

HEADER = "arrival_s,prompt_tokens,output_tokens\n"
DAY = st.datetimes(timezones=st.timezones())


def read(folder, text: str) -> Traffic:
    path = folder / "requests.csv"
    path.write_text(text, encoding="utf-8")
    return traffic.read(str(path))


def test_failed_requests_are_left_out_and_said(tmp_path):
    good = "".join(f"{2 * n}.0,500,100\n" for n in range(300))
    failed = "".join(f"{n / 2},3000,0\n" for n in range(1200))
    with_failures, without = read(tmp_path, HEADER + good + failed), read(tmp_path, HEADER + good)
    for one, two in zip(with_failures.requests, without.requests, strict=True):
        assert np.array_equal(one, two)
    assert "1,200 of 1,500 requests, without output tokens, are left out as failed" in with_failures.source
    assert "left out" not in without.source
    assert (with_failures.span_s, without.span_s) == (599.5, 598.0), "the time over which requests came"


def test_a_trace_of_failures_alone_is_no_traffic(tmp_path):
    with pytest.raises(UserError, match=r"requests\.csv: no request has output tokens"):
        read(tmp_path, HEADER + "0,5,0\n1,5,0\n")


def test_a_request_without_a_prompt_is_counted_and_said(tmp_path):
    made = read(tmp_path, HEADER + "0,0,3\n1,5,3\n")
    assert made.requests.prompt.tolist() == [1, 5]
    assert "1 without prompt tokens count as one token of prompt" in made.source


def test_requests_out_of_order_are_put_in_order_and_said(tmp_path):
    made = read(tmp_path, HEADER + "0,5,1\n4,6,1\n2,7,1\n3,8,1\n5,9,1\n")
    assert made.requests.prompt.tolist() == [5, 7, 8, 6, 9]
    assert "2 of 5 requests, which stand after later ones, are put in order" in made.source
    assert read(tmp_path, HEADER + "0,5,1\n0,6,1\n2,7,1\n").source == "the file given"


@pytest.mark.parametrize(
    ("zones", "local"), [(("Z", "", "+00:00", ""), 2), (("", "", "", ""), 0), (("Z", "Z", "+00:00", "Z"), 0)]
)
def test_dates_without_an_offset_among_others_are_said(tmp_path, zones, local):
    rows = "".join(f"2026-01-01T00:00:0{n}{zone},5,1\n" for n, zone in enumerate(zones))
    said = f"{local} of 4 times, which name no offset from UTC as the others do, are taken for UTC"
    made = read(tmp_path, HEADER + rows)
    assert made.span_s == 3 and made.source == ("the file given" + f"; {said}" * (local > 0))


def test_blocks_that_some_requests_lack_are_not_used_and_said(tmp_path):
    trace = traces.known_traces()["mooncake_conversation"]
    fields = trace.time_field, trace.prompt_field, trace.output_field
    rows = [dict(zip(fields, (1000 * n, 600, 5), strict=True)) | {"hash_ids": [0, n]} for n in range(4)]

    def made() -> Traffic:
        return traffic._parsed(trace, "".join(f"{json.dumps(row)}\n" for row in rows).encode(), "t.jsonl", "here")

    assert made().blocks == [[0, 0], [0, 1], [0, 2], [0, 3]] and made().source == "here"
    del rows[2]["hash_ids"]
    assert made().blocks is None
    assert made().source == "here; hash_ids are not used: 1 of 4 requests have no list of whole numbers there"


@pytest.mark.parametrize("second", ["4e-05", "4E-5", "0.00004", " 4e-05"])
def test_small_floats_as_pandas_writes_them(tmp_path, second):
    assert read(tmp_path, HEADER + f"0.0,300,20\n{second},300,20\n").span_s == pytest.approx(4e-5)


@pytest.mark.parametrize(
    ("first", "second", "span"),
    [
        ("2023-11-16 18:17:03.9799600", "2023-11-16 18:17:04.0319600", 0.052),
        ("2024-05-10 00:00:00+00:00", "2024-05-10 00:00:03.009930+00:00", 3.00993),
        ("2024-05-10T02:00:00+02:00", "2024-05-10T00:00:01Z", 1.0),
        ("2024-05-10 00:00:00", "2024-05-10 01:00:02+01:00", 2.0),
    ],
)
def test_dates_keep_their_fraction_and_offset(tmp_path, first, second, span):
    assert read(tmp_path, HEADER + f"{first},1,1\n{second},1,1\n").span_s == pytest.approx(span, abs=1e-6)


@given(DAY, DAY)
def test_a_date_means_its_instant_in_any_zone(one, two):
    seconds = [traffic._seconds(moment.isoformat(" "), "here") for moment in (one, two)]
    assert seconds[1] - seconds[0] == pytest.approx(two.timestamp() - one.timestamp(), abs=1e-3)


def test_blanks_around_names_and_fields_and_whole_floats(tmp_path):
    made = read(tmp_path, "arrival_s, prompt_tokens , output_tokens\n0.0, 300.0 , 20\n1.5, 310, 22.0\n")
    assert made.requests.prompt.tolist() == [300, 310] and made.requests.output.tolist() == [20, 22]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arrival_s;prompt_tokens;output_tokens\n0;3;2\n", r"csv:2: no column 'prompt_tokens'; the columns are 'arri"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n0,3,2\n",
            "no column 'prompt_tokens'; the columns are 'TIMESTAMP', ",
        ),
        ("prompt_tokens,output_tokens\n3,2\n", r"csv:2: no column 'arrival_s'"),
        (HEADER + "0,1,1\nsoon,1,1\n", r"csv:3: arrival_s is 'soon'; allowed are seconds or a date and time"),
        (HEADER + "0,1,1\ninf,1,1\n", r"csv:3: arrival_s is 'inf'"),
        (HEADER + "0,1,1\n1,1.5,1\n", r"csv:3: malformed row, prompt_tokens is '1.5'"),
        (HEADER + "0,1,1\n0,1,1\n", "all requests arrive at once"),
        ("", "empty trace"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)
