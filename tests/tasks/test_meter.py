"""What attempts are charged adds up to the time of their process, and has the price of its hour."""

import pytest

from pipeline_core.errors import RequestError
from tasks.meter import PRICE, Meter, price_per_hour


def test_what_runs_at_once_shares_the_time_equally():
    now = [100.0]
    meter = Meter(lambda: now[0])
    with meter.share() as first:
        now[0] += 4.0
        with meter.share() as second:
            now[0] += 6.0
            assert (first(), second()) == (7.0, 3.0)
            with meter.share() as third:
                now[0] += 3.0
                assert (first(), second(), third()) == (8.0, 4.0, 1.0)
        now[0] += 2.0
        assert first() == 10.0
    now[0] += 50.0
    with meter.share() as later:
        assert later() == 0.0


@pytest.mark.parametrize(("text", "price"), [("", None), ("2.50", 2.5), ("0", 0.0)])
def test_a_price_is_a_number(text, price, monkeypatch):
    monkeypatch.setenv(PRICE, text)
    assert price_per_hour() == price


@pytest.mark.parametrize("text", ["2,50", "-1", "nan", "inf"])
def test_what_is_no_price_is_refused(text, monkeypatch):
    monkeypatch.setenv(PRICE, text)
    with pytest.raises(RequestError, match=f"{PRICE}='{text}' is not a price"):
        price_per_hour()
