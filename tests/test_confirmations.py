"""Confirmations of subscribers, and mail by a command and by SMTP."""

from __future__ import annotations

import email
import email.message
import email.policy
import json
import re
import sqlite3
import stat
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from support.api import Api
from support.certificates import certificate
from support.receiver import Receiver
from support.server import Sections, Server, free_port
from support.wait import wait_until

PAGE = "https://confirm.example.org/page"

CONFIRMED: Sections = {
    "signed_url": {"secret_key": "the key of test_confirmations"},
    "notification": {
        "allow_networks": "127.0.0.0/8",
        "require_confirmation": True,
        "external_confirmation_url": PAGE,
    },
}


def subscribe(api: Api, subscriber: str, **options) -> str:
    document = {"subscriber": subscriber, "ttl": 3600, "options": options}
    answer = api.call("POST", "/v2/queues/q/subscriptions", json=document)
    assert answer.status_code == 201, answer.text
    return answer.json()["subscription_id"]


def signed_put(server: Server, request: dict, confirmed: bool) -> httpx.Response:
    """Confirms with the members that the subscriber was sent, and without a token."""
    names = ("URL-Signature", "URL-Methods", "URL-Paths", "URL-Expires", "X-Project-ID")
    headers = {name: request[name] for name in names} | {"Client-ID": str(uuid.uuid4())}
    body = request["SubscribeBody" if confirmed else "UnsubscribeBody"]
    return httpx.put(server.url + request["URL-Paths"], json=body, headers=headers, trust_env=False)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def test_a_webhook_confirms_gets_messages_and_unsubscribes(
    new_server: Callable[..., Server], receiver: Receiver
):
    server = new_server(options=CONFIRMED).start()

    def requests(count: int) -> list[dict]:
        wait_until(lambda: len(receiver.of("/ok")) >= count, f"{count} requests")
        return [request.json for request in receiver.of("/ok")]

    with Api(server.url) as api:
        id_ = subscribe(api, receiver.url("/ok"))
        (asked,) = requests(1)
        path = f"/v2/queues/q/subscriptions/{id_}/confirm"
        assert asked["Message_Type"] == "SubscriptionConfirmation"
        assert asked["Message"] == "You have chosen to subscribe to the queue: q"
        assert asked["URL-Methods"] == "PUT"
        assert re.fullmatch(re.escape(path) + r"\?for=[0-9a-f]{32}", asked["URL-Paths"])
        assert (asked["X-Project-ID"], asked["queue_name"]) == (api.project, "q")
        api.post("q", "too early")
        # Asked again, under the old id.
        assert subscribe(api, receiver.url("/ok")) == id_
        again = requests(2)[1]
        assert again["Message_Type"] == "SubscriptionConfirmation"

        assert signed_put(server, asked | {"URL-Signature": "0" * 64}, True).status_code == 404
        assert signed_put(server, asked, True).status_code == 204
        shown = api.call("GET", f"/v2/queues/q/subscriptions/{id_}").json()
        assert shown["confirmed"] is True
        api.post("q", "a message")
        assert requests(3)[2]["body"] == "a message"

        assert signed_put(server, asked, False).status_code == 204
        ended = requests(4)[3]
        assert ended["Message_Type"] == "UnsubscribeConfirmation"
        assert ended["Message"].startswith("You have unsubscribed successfully to the queue: q")
        api.post("q", "too late")
        assert signed_put(server, ended, True).status_code == 204
        api.post("q", "once more")
        assert requests(5)[4]["body"] == "once more"


def test_no_option_replaces_a_request_to_confirm(new_server: Callable[..., Server], receiver: Receiver):
    with Api(new_server(options=CONFIRMED).start().url) as api:
        document = {"subscriber": receiver.url("/asked"), "options": {"post_data": "an advertisement"}}
        assert api.call("POST", "/v2/queues/q/subscriptions", json=document).status_code == 201
        wait_until(lambda: receiver.of("/asked"), "a request")
        (asked,) = receiver.of("/asked")
        assert asked.json["Message_Type"] == "SubscriptionConfirmation"


def test_another_subscriber_must_confirm_for_itself(
    new_server: Callable[..., Server], receiver: Receiver, tmp_path: Path
):
    policy = tmp_path / "policy.yaml"
    policy.write_text("subscription:confirm: not role:reader\n")
    server = new_server(options={**CONFIRMED, "oslo_policy": {"policy_file": policy}}).start()

    def requests(path: str, count: int) -> list[dict]:
        wait_until(lambda: len(receiver.of(path)) >= count, f"{count} requests")
        return [request.json for request in receiver.of(path)]

    with Api(server.url) as api:
        id_ = subscribe(api, receiver.url("/mine"))
        (asked,) = requests("/mine", 1)
        assert signed_put(server, asked, True).status_code == 204
        path = f"/v2/queues/q/subscriptions/{id_}"
        same = api.call("PATCH", path, json={"subscriber": receiver.url("/mine"), "ttl": 3600})
        assert same.status_code == 204
        assert api.call("GET", path).json()["confirmed"] is True

        changed = api.call("PATCH", path, json={"subscriber": receiver.url("/other")})
        assert changed.status_code == 204
        assert api.call("GET", path).json()["confirmed"] is False
        api.post("q", "not for it")
        (request,) = requests("/other", 1)
        assert request["Message_Type"] == "SubscriptionConfirmation"
        # Neither the link of the one before nor one that was shared confirms for it.
        share = {"paths": ["subscriptions"], "methods": ["PUT"]}
        shared = api.call("POST", "/v2/queues/q/share", json=share).json()
        shared = asked | {
            "URL-Signature": shared["signature"],
            "URL-Paths": shared["paths"][0],
            "URL-Expires": shared["expires"],
        }
        assert signed_put(server, asked, True).status_code == 404
        assert signed_put(server, asked, False).status_code == 404
        url = f"{server.url}{path}/confirm"
        names = ("URL-Signature", "URL-Methods", "URL-Paths", "URL-Expires", "X-Project-ID")
        headers = {name: shared[name] for name in names} | {"Client-ID": str(uuid.uuid4())}
        answer = httpx.put(url, json={"confirmed": True}, headers=headers, trust_env=False)
        assert answer.status_code == 404
        assert api.call("GET", path).json()["confirmed"] is False

        assert signed_put(server, request, True).status_code == 204
        api.post("q", "a message")
        assert requests("/other", 2)[1]["body"] == "a message"
    assert len(receiver.of("/mine")) == 1


def test_a_repeated_change_asks_again_until_the_subscriber_confirms(
    new_server: Callable[..., Server], receiver: Receiver
):
    """A server may stop between the change and the question; its client repeats the change."""
    server = new_server(options=CONFIRMED).start()
    with Api(server.url) as api:
        path = f"/v2/queues/q/subscriptions/{subscribe(api, receiver.url('/mine'))}"
        for change in ({"subscriber": receiver.url("/other")}, {"ttl": 3600}):
            assert api.call("PATCH", path, json=change).status_code == 204
        for asked in (2, 3):
            same = {"subscriber": receiver.url("/other")}
            assert api.call("PATCH", path, json=same).status_code == 204
            wait_until(lambda asked=asked: len(receiver.of("/other")) >= asked, f"{asked} requests")
        request = receiver.of("/other")[-1].json
        assert request["Message_Type"] == "SubscriptionConfirmation"
        assert signed_put(server, request, True).status_code == 204
        assert api.call("PATCH", path, json=same).status_code == 204
        api.post("q", "a message")
        wait_until(lambda: len(receiver.of("/other")) >= 4, "the message")
    assert len(receiver.of("/other")) == 4
    assert receiver.of("/other")[-1].json["body"] == "a message"


def test_a_policy_leaves_confirming_to_the_link(
    new_server: Callable[..., Server], receiver: Receiver, tmp_path: Path
):
    policy = tmp_path / "policy.yaml"
    policy.write_text("subscription:confirm: not role:reader\n")
    server = new_server(options={**CONFIRMED, "oslo_policy": {"policy_file": policy}}).start()
    with Api(server.url) as api:
        id_ = subscribe(api, receiver.url("/ok"))
        path, reader = f"/v2/queues/q/subscriptions/{id_}", {"X-Roles": "member,reader"}
        own = api.call("PUT", f"{path}/confirm", json={"confirmed": True}, headers=reader)
        assert own.status_code == 403
        wait_until(lambda: receiver.of("/ok"), "the request")
        assert signed_put(server, receiver.of("/ok")[0].json, True).status_code == 204
        assert api.call("GET", path).json()["confirmed"] is True


class Mailbox:
    """Keeps what an SMTP server receives."""

    def __init__(self) -> None:
        self.mails: list[email.message.EmailMessage] = []
        self.envelopes: list = []

    async def handle_DATA(self, _server, _session, envelope) -> str:
        self.envelopes.append(envelope)
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"


def login(_server, _session, _envelope, _mechanism, data) -> AuthResult:
    is_right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"zaqar", b"pass word")
    return AuthResult(success=is_right)


@pytest.mark.parametrize("security", ["tls", "starttls"])
def test_mail_by_smtp_with_tls_and_a_login(new_server: Callable[..., Server], tmp_path: Path, security: str):
    context, trusted = certificate(tmp_path, "localhost")
    mailbox, port = Mailbox(), free_port()
    secured = {"ssl_context": context} if security == "tls" else {"tls_context": context}
    controller = Controller(
        mailbox,
        hostname="127.0.0.1",
        port=port,
        authenticator=login,
        auth_required=True,
        auth_require_tls=security == "starttls",
        **secured,
    )
    controller.start()
    notification = {
        "smtp_mode": "self_local",
        "smtp_host": "localhost",
        "smtp_port": port,
        "smtp_security": security,
        "smtp_user_name": "zaqar",
        "smtp_user_password": "pass word",
        "ca_file": trusted,
    }
    try:
        server = new_server(options={"notification": notification}).start()
        with Api(server.url) as api:
            subscribe(
                api,
                "mailto:user@example.org?subject=Of%20the%20queue",
                **{"from": "Queues <queues@example.org>", "subject": "not this"},
            )
            api.post("q", {"text": "ä\n.\nline"}, ttl=77)
            wait_until(lambda: mailbox.mails, "the mail arrives")
    finally:
        controller.stop()
    (mail,) = mailbox.mails
    assert mail["To"] == "user@example.org"
    assert mail["From"] == "Queues <queues@example.org>"
    assert mail["Subject"] == "Of the queue"
    assert mail["MIME-Version"] == "1.0"
    assert re.fullmatch(r"<[0-9a-f]{32}-[0-9a-f]{32}@example\.org>", mail["Message-ID"])
    assert mail["Date"].datetime.year >= 2026
    body = json.loads(mail.get_content())
    assert body == {
        "ttl": 77,
        "body": {"text": "ä\n.\nline"},
        "Message_Type": "Notification",
        "queue_name": "q",
    }


@pytest.fixture
def command(tmp_path: Path) -> tuple[Path, Path]:
    """A program that keeps the mail it reads; where it keeps them."""
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    program = tmp_path / "sendmail"
    program.write_text(f'#!/bin/sh\nfile=$(mktemp {outbox}/XXXXXX)\ncat > "$file"\nmv "$file" "$file.eml"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program, outbox


def mails(outbox: Path, count: int) -> list[email.message.EmailMessage]:
    wait_until(lambda: len(list(outbox.glob("*.eml"))) >= count, f"{count} mails")
    paths = sorted(outbox.glob("*.eml"), key=lambda path: path.stat().st_mtime_ns)
    return [email.message_from_bytes(path.read_bytes(), policy=email.policy.default) for path in paths]


def test_mail_by_a_command_asks_for_a_confirmation(
    new_server: Callable[..., Server], command: tuple[Path, Path]
):
    program, outbox = command
    options = {
        **CONFIRMED,
        "notification": {**CONFIRMED["notification"], "smtp_command": f"{program} -t -oi"},
    }
    server = new_server(options=options).start()
    with Api(server.url) as api:
        id_ = subscribe(api, "mailto:user@example.org")
        (asked,) = mails(outbox, 1)
        assert asked["From"] == "Zaqar Notifications <no-reply@openstack.org>"
        assert asked["Subject"] == "Zaqar Notification - Subscription Confirmation"
        text = asked.get_content()
        assert f"queue q of the project {api.project}" in text
        url = next(word for word in text.split() if word.startswith(PAGE))
        values = {name: value[0] for name, value in urllib.parse.parse_qs(url.partition("?")[2]).items()}
        assert values["Paths"].startswith(f"/v2/queues/q/subscriptions/{id_}/confirm?for=")
        request = {
            "URL-Signature": values["Signature"],
            "URL-Methods": values["Methods"],
            "URL-Paths": values["Paths"],
            "URL-Expires": values["Expires"],
            "X-Project-ID": values["Project"],
            "SubscribeBody": {"confirmed": True},
            "UnsubscribeBody": {"confirmed": False},
        }
        api.post("q", "too early")
        assert signed_put(server, request, True).status_code == 204
        api.post("q", "a message")
        assert '"body":"a message"' in mails(outbox, 2)[1].get_content()
        assert signed_put(server, request, False).status_code == 204
        ended = mails(outbox, 3)[2]
        assert ended["Subject"] == "Zaqar Notification - Unsubscribe Confirmation"


def test_a_subscriber_cannot_inject_headers(new_server: Callable[..., Server], command: tuple[Path, Path]):
    program, outbox = command
    server = new_server(options={"notification": {"smtp_command": program}}).start()
    with Api(server.url) as api:
        for wrong in ("mailto:", "mailto:a", "mailto:a@b.org,c@d.org", "mailto:a@b.org%0D%0ABcc:c@d.org"):
            answer = api.call("POST", "/v2/queues/q/subscriptions", json={"subscriber": wrong})
            assert answer.status_code == 400, wrong
        document = {"subscriber": "mailto:a@b.org", "options": {"from": "a@b.org\r\nBcc: c@d.org"}}
        assert api.call("POST", "/v2/queues/q/subscriptions", json=document).status_code == 400
        subscribe(api, "mailto:user@example.org", subject="one\r\nBcc: c@d.org\r\n\r\ntwo")
        api.post("q", 1)
        (mail,) = mails(outbox, 1)
        assert mail["Bcc"] is None
        assert mail["Subject"] == "one  Bcc: c@d.org    two"


def test_a_failed_command_is_retried(new_server: Callable[..., Server], tmp_path: Path):
    outbox, program = tmp_path / "outbox", tmp_path / "sendmail"
    outbox.mkdir()
    tried = tmp_path / "tried"
    program.write_text(
        f'#!/bin/sh\nif [ ! -e {tried} ]; then touch {tried}; echo "no way" >&2; exit 75; fi\n'
        f"cat > {outbox}/one.eml\n"
    )
    program.chmod(0o755)
    server = new_server(options={"notification": {"smtp_command": program}}).start()
    with Api(server.url) as api:
        subscribe(api, "mailto:user@example.org")
        api.post("q", 1)
        assert tried.exists() or mails(outbox, 1)
        assert len(mails(outbox, 1)) == 1


def test_messages_without_a_confirmed_subscriber_are_not_kept(
    new_server: Callable[..., Server], receiver: Receiver
):
    """The only subscriber never confirms, and the messages are gone: nothing of them is stored."""
    server = new_server(options=CONFIRMED).start()
    with Api(server.url) as api:
        subscribe(api, receiver.url("/ok"))
        for _ in range(20):
            api.post("q", *["x" * 20_000] * 10)
            assert api.call("DELETE", "/v2/queues/q/messages?pop=10").status_code == 200
        with closing(sqlite3.connect(server.data / "zaqar.db", isolation_level=None)) as database:

            def used() -> int:
                """Bytes of the pages that hold something; 4 MB were posted."""
                pages, free, size = (
                    database.execute(f"PRAGMA {name}").fetchone()[0]
                    for name in ("page_count", "freelist_count", "page_size")
                )
                return (pages - free) * size

            wait_until(lambda: used() < 500_000, "nothing of it is left")
    assert [one.json["Message_Type"] for one in receiver.of("/ok")] == ["SubscriptionConfirmation"]
