"""Addresses of devices: every one reads back as written, and what is none is refused in one sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigurationError
from firmware_bridge.address import DEFAULT_BAUD, Address, parse_address

HOSTS = st.from_regex(r"[a-z][a-z0-9.-]{0,30}", fullmatch=True) | st.sampled_from(["127.0.0.1", "::1", "fe80::2%eth0"])
PORTS = st.integers(1, 65_535)
PATHS = st.from_regex(r"/dev/[A-Za-z0-9._/@:-]{1,40}", fullmatch=True)
ADDRESSES = st.one_of(
    st.just(Address("pty")),
    st.builds(Address, st.just("serial"), PATHS, st.integers(300, 12_000_000)),
    st.builds(Address, st.just("tcp"), HOSTS, PORTS),
    st.builds(Address, st.just("udp"), HOSTS | st.just(""), PORTS),
)


@given(ADDRESSES)
def test_an_address_reads_back_as_it_was_written(address: Address) -> None:
    assert parse_address(str(address)) == address


def test_a_serial_port_without_a_rate_has_the_usual_one() -> None:
    assert parse_address("serial:/dev/ttyACM0") == Address("serial", "/dev/ttyACM0", DEFAULT_BAUD)


NO_PLACES = ["", "serial:", "serial:@9600", "tcp:", "tcp:host", "tcp::1", "udp:", "tcp:a b:1", "serial:/dev/\0@9600"]
NO_NUMBERS = ["serial:/dev/x@fast", "serial:/dev/x@1", "tcp:h:0", "tcp:h:65536", "tcp:h:1_0", "udp:x", "udp:70000"]


@pytest.mark.parametrize("text", [*NO_PLACES, *NO_NUMBERS, "usb:1", "pty:1"])
def test_what_is_no_address_is_refused_with_what_was_wanted(text: str) -> None:
    with pytest.raises(ConfigurationError, match="wanted"):
        parse_address(text)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_sentence(text: str) -> None:
    try:
        parse_address(text)
    except ConfigurationError as error:
        assert "\n" not in str(error)
