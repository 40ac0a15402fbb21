"""A small CA for tests; it writes real keys and certificates in milliseconds (EC P-256)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.read_bytes()

    @property
    def key_pem(self) -> bytes:
        return self.key.read_bytes()


class Authority:
    """A CA that issues certificates for tests."""

    def __init__(self, folder: Path, name: str = "test-ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"CN={name}")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 400 * DAY)
            .not_valid_after(NOW + 400 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))

    def server(
        self,
        *,
        start: datetime = NOW - DAY,
        end: datetime = NOW + 30 * DAY,
        rsa_bits: int | None = None,
    ) -> Issued:
        """Issue a server certificate for `localhost`, 127.0.0.1 and ::1."""
        names: list[x509.GeneralName] = [x509.DNSName("localhost")]
        names += [x509.IPAddress(ip_address(it)) for it in ("127.0.0.1", "::1")]
        use = ExtendedKeyUsageOID.SERVER_AUTH
        return self.issue(
            "server", "CN=localhost", names, use, start=start, end=end, rsa_bits=rsa_bits
        )

    def client(
        self,
        subject: str,
        *,
        dns: str | None = None,
        uri: str | None = None,
        use: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
        start: datetime = NOW - DAY,
        end: datetime = NOW + 30 * DAY,
    ) -> Issued:
        """Issue a certificate for a client with this subject (RFC 4514)."""
        names: list[x509.GeneralName] = []
        if dns is not None:
            names.append(x509.DNSName(dns))
        if uri is not None:
            names.append(x509.UniformResourceIdentifier(uri))
        return self.issue("client", subject, names, use, start=start, end=end)

    def issue(
        self,
        stem: str,
        subject: str,
        names: list[x509.GeneralName],
        use: x509.ObjectIdentifier | None,
        *,
        start: datetime = NOW - DAY,
        end: datetime = NOW + 30 * DAY,
        rsa_bits: int | None = None,
    ) -> Issued:
        """Issue a certificate, and write it and its key to files named after `stem`."""
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
        if rsa_bits is None:
            key = ec.generate_private_key(ec.SECP256R1())
        else:
            key = rsa.generate_private_key(65537, rsa_bits)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if use is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        number = len(list(self._folder.iterdir()))
        issued = Issued(
            self._folder / f"{stem}-{number}.pem", self._folder / f"{stem}-{number}.key"
        )
        issued.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        write_key(issued.key, key)
        return issued


def write_key(
    path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, passphrase: bytes = b""
) -> None:
    """Write a private key with mode 0600."""
    path.touch(mode=0o600)
    protection: KeySerializationEncryption = NoEncryption()
    if passphrase:
        protection = BestAvailableEncryption(passphrase)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))


def _name(rfc4514: str) -> x509.Name:
    return x509.Name.from_rfc4514_string(rfc4514)
