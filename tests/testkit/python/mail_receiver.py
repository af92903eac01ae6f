"""A mail server that records every mail, and fails at a chosen point.

    mail_receiver.py ADDRESS PORT FOLDER [CERTIFICATE KEY]

FOLDER/log has one JSON object per line, with the time on CLOCK_BOOTTIME in nanoseconds: `ready`, `connect`, `hello`,
`mail`, `close`. The mails are FOLDER/1.eml, 2.eml and so on, with the bytes as they came. FOLDER/behaviour is JSON that
the test replaces: `serial` (another one for each replacement), `fault` (one of FAULTS, or null), `times` (faults until
mails are accepted again, or null for no end), `pause` (seconds between a mail and its reply).

With CERTIFICATE and KEY, which are read for each connection, STARTTLS and a login are required. Each login is then an event
of the log, `login`, and FOLDER/login is JSON: the user and the password that are accepted.
"""

import asyncio
import email
import json
import pathlib
import ssl
import sys
import time

from aiosmtpd.smtp import SMTP, AuthResult, TLSSetupException

# Before the greeting; at STARTTLS, which is only offered then; within the mail; after the mail and before its reply;
# a temporary and a permanent refusal of the mail.
FAULTS = ("greeting", "starttls", "data", "reply", "defer", "refuse")


class Journal:
    """The log, the mails, and the behaviour that the test wants."""

    def __init__(self, folder):
        self.folder = folder
        self.log = (folder / "log").open("a", encoding="utf-8")
        self.sessions = 0
        self.mails = 0
        self.serial = None
        self.fault = None
        self.left = None
        self.pause = 0.0

    def write(self, event, **fields):
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.log.write(json.dumps({"event": event, "at": now, **fields}) + "\n")
        self.log.flush()

    def read_behaviour(self):
        try:
            wanted = json.loads((self.folder / "behaviour").read_text())
        except FileNotFoundError:
            return
        if wanted["serial"] != self.serial:
            self.serial, self.fault, self.left = wanted["serial"], wanted["fault"], wanted["times"]
            self.pause = wanted["pause"]
            assert self.fault is None or self.fault in FAULTS, self.fault

    def wants(self, fault):
        """Whether the next session is to fail there."""
        self.read_behaviour()
        return self.fault == fault and self.left != 0

    def fails(self, fault):
        """Whether to fail there now; counts it."""
        wanted = self.wants(fault)
        if wanted and self.left is not None:
            self.left -= 1
        return wanted


class Server(SMTP):
    """One connection."""

    def __init__(self, journal, loop, certificate):
        secured = {}
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            secured = {"tls_context": context, "require_starttls": True, "auth_required": True, "authenticator": self.login}
        super().__init__(Handler(journal), hostname="receiver.test", ident="ESMTP", loop=loop, **secured)
        self.journal = journal
        journal.sessions += 1
        self.number = journal.sessions

    def connection_made(self, transport):
        self.journal.write("connect", session=self.number, peer=transport.get_extra_info("peername")[0])
        super().connection_made(transport)

    def connection_lost(self, error):
        self.journal.write("close", session=self.number)
        super().connection_lost(error)

    async def _handle_client(self):
        if self.journal.fails("greeting"):
            self.transport.close()
            return
        await super()._handle_client()

    def login(self, _server, _session, _envelope, _mechanism, data):
        user, password = data.login.decode(), data.password.decode()
        try:
            accepted = json.loads((self.journal.folder / "login").read_text()) == [user, password]
        except FileNotFoundError:
            accepted = False
        self.journal.write("login", session=self.number, user=user, accepted=accepted)
        return AuthResult(success=accepted, handled=False)

    async def start_tls(self):
        """aiosmtpd 1.4.3 cannot do it itself with Python 3.11."""
        await self.push("220 2.0.0 ready")
        plain = self.transport
        try:
            secure = await self.loop.start_tls(plain, self, self.tls_context, server_side=True)
        except OSError as error:
            # The client does not like the certificate.
            plain.abort()
            raise TLSSetupException from error
        self._original_transport, self._tls_protocol = plain, secure
        self._reader._transport = self._writer._transport = self.transport = secure
        self._set_rset_state()
        self.session = self._create_session()
        self.session.peer = secure.get_extra_info("peername")
        self.session.ssl = secure.get_extra_info("ssl_object")

    async def smtp_STARTTLS(self, _arg):
        if self.tls_context:
            await self.start_tls()
            return
        if not self.journal.fails("starttls"):
            await self.push("454 4.7.0 no TLS here")
            return
        await self.push("220 2.0.0 ready")
        self.transport.close()

    async def smtp_DATA(self, arg):
        if self.journal.fails("data"):
            await self.push("354 go on")
            await self._reader.readline()
            self.transport.abort()
            return
        await super().smtp_DATA(arg)


class Handler:
    """The replies of all connections."""

    def __init__(self, journal):
        self.journal = journal

    async def handle_EHLO(self, server, session, _envelope, name, responses):
        session.host_name = name
        self.journal.write("hello", session=server.number, name=name)
        if self.journal.wants("starttls"):
            responses.insert(1, "250-STARTTLS")
        return responses

    async def handle_DATA(self, server, session, envelope):
        journal = self.journal
        journal.mails += 1
        file = f"{journal.mails}.eml"
        (journal.folder / file).write_bytes(envelope.content)
        outcome = next((fault for fault in ("reply", "defer", "refuse") if journal.fails(fault)), "accepted")
        message_id = email.message_from_bytes(envelope.content).get("Message-ID", "")
        journal.write(
            "mail",
            session=server.number,
            hello=session.host_name,
            sender=envelope.mail_from,
            recipients=envelope.rcpt_tos,
            message_id=message_id.strip().strip("<>"),
            file=file,
            outcome=outcome,
        )
        if outcome == "reply":
            server.transport.abort()
            # The task ends with the connection.
            await asyncio.sleep(60)
        if journal.pause:
            await asyncio.sleep(journal.pause)
        if outcome == "defer":
            return "451 4.3.0 come again later"
        if outcome == "refuse":
            return "550 5.7.1 not wanted here"
        return "250 2.0.0 taken"


async def main(address, port, folder, *certificate):
    journal = Journal(pathlib.Path(folder))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(journal, loop, certificate), address, int(port))
    journal.write("ready")
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
