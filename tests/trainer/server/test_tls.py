"""A server that speaks TLS with a certificate of one's own, and devices that are told which one to believe."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge.bundle import Bundle
from edge.cli import main
from tests.bundles import SAMPLE_RATE, tone, write_wav
from tests.simulators.running_server import ServeProcess
from trainer.server.database import transaction
from trainer.server.opening import open_server
from trainer.server.spaces import know_space


def write_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    paths[1].write_bytes(private)
    return paths


def sync(state: Path, bundle: Bundle, *words: str) -> Result:
    return CliRunner().invoke(main, ["--state", str(state), "--bundle", str(bundle.path), *words])


def test_a_device_believes_the_certificate_it_was_given_and_no_other(tmp_path: Path, small_bundle: Bundle) -> None:
    state, beep = tmp_path / "state", tone(800.0, 2.0, np.random.default_rng(0))
    sound = write_wav(tmp_path / "beep.wav", beep, SAMPLE_RATE)
    ours, key = write_certificate(tmp_path, "ours")
    theirs, _ = write_certificate(tmp_path, "theirs")
    server = open_server(tmp_path / "data")
    with transaction(server.engine) as session:
        know_space(session, small_bundle.space)
    server.close()
    with ServeProcess(tmp_path / "data", "--tls-cert", str(ours), "--tls-key", str(key)) as process:
        assert process.url.startswith("https://127.0.0.1:")
        for wrong in ((), ("--ca", str(theirs))):
            refused = sync(state, small_bundle, "sync", "enrol", process.url, process.token, *wrong)
            assert refused.exit_code == 1 and "certificate" in refused.output.lower(), refused.output
        assert "not enrolled" in sync(state, small_bundle, "sync", "status").output
        enrolled = sync(state, small_bundle, "sync", "enrol", process.url, process.token, "--ca", str(ours))
        assert enrolled.exit_code == 0, enrolled.output
        assert sync(state, small_bundle, "teach", "beep", str(sound)).exit_code == 0
        done = sync(state, small_bundle, "sync", "now")
        assert done.exit_code == 0 and "the sums were sent" in done.output, done.output
        with pytest.raises(httpx.HTTPError):
            httpx.get(process.url.replace("https", "http"), timeout=5.0, trust_env=False).raise_for_status()
        trusting = ssl.create_default_context(cafile=str(ours))
        assert httpx.get(process.url, verify=trusting, timeout=10.0, trust_env=False).status_code == 200
        assert process.stop() == 0
