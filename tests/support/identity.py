"""A real Keystone (PyPI) as a process of its own, on SQLite with Fernet tokens, and what tests ask it for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
from cryptography.fernet import Fernet

from support.server import free_port

PASSWORD = "a password of Keystone's"
#: The endpoint of the messaging service in the catalog, until a server says where it is.
REGION = "here"

#: Creates the database where there is none, then serves. One process: its imports take seconds.
LAUNCHER = """
import os, sys, warnings
warnings.filterwarnings("ignore")
from pathlib import Path
from keystone.cmd import cli
conf, database, port, password, seed = sys.argv[1:]

def manage(*words):
    # Each command in a child, as a process parses its options once.
    child = os.fork()
    if child == 0:
        cli.main(["keystone-manage", "--config-file", conf, *words])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, words

is_new = not Path(database).exists()
if is_new:
    manage("db_sync")
    urls = [f"--bootstrap-{kind}-url=http://127.0.0.1:{port}/" for kind in ("admin", "internal", "public")]
    manage("bootstrap", f"--bootstrap-password={password}", "--bootstrap-region-id=here", *urls)
sys.argv = ["keystone", "--config-file", conf]
from keystone.common.provider_api import ProviderAPIs as providers
from keystone.server.wsgi import initialize_public_application
from werkzeug.serving import make_server
application = initialize_public_application()
if is_new:
    exec(seed)
make_server("127.0.0.1", int(port), application, threaded=True).serve_forever()
"""

#: What every cloud has, made past the HTTP API, of which each request costs half a second.
SEED = """
import json, uuid
made = {"projects": {}, "users": {}}
roles = {role["name"]: role["id"] for role in providers.role_api.list_roles()}
for name in ("service", "demo", "other"):
    id = made["projects"][name] = uuid.uuid4().hex
    providers.resource_api.create_project(id, {"id": id, "name": name, "domain_id": "default",
                                               "enabled": True, "description": "", "is_domain": False})
for name, grants in {"zaqar": [("service", "service")], "nova": [("service", "service")],
                     "ann": [("member", "demo"), ("member", "other")], "root": [("admin", "demo")]}.items():
    user = providers.identity_api.create_user(
        {"name": name, "domain_id": "default", "enabled": True, "password": password})["id"]
    made["users"][name] = user
    for role, project in grants:
        providers.assignment_api.create_grant(roles[role], user_id=user, project_id=made["projects"][project])
providers.assignment_api.create_system_grant_for_user(made["users"]["root"], roles["admin"])
service, endpoint = uuid.uuid4().hex, uuid.uuid4().hex
providers.catalog_api.create_service(service, {"id": service, "type": "messaging", "name": "zaqar",
                                               "enabled": True})
providers.catalog_api.create_endpoint(endpoint, {"id": endpoint, "service_id": service, "interface": "public",
                                                 "region_id": "here", "url": MESSAGING, "enabled": True})
Path(database).with_name("made.json").write_text(json.dumps(made))
"""


class Keystone:
    """One Keystone process; it can be paused, killed, and started again on the same data."""

    def __init__(self, root: Path, *, data: Path | None = None, expiration: int = 3600) -> None:
        self.root = root
        self.data = data or root
        self.log = root / "keystone.log"
        self.conf = root / "keystone.conf"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.admin_token = ""
        keys = self.data / "keys"
        if not keys.exists():
            keys.mkdir(mode=0o700)
            for name in ("0", "1"):
                (keys / name).write_bytes(Fernet.generate_key())
                (keys / name).chmod(0o600)
        # With a file of rules that does not change, they are not made anew for every request.
        (root / "policy.yaml").write_text("{}")
        self.conf.write_text(
            "[DEFAULT]\nlog_file =\nuse_stderr = true\n"
            f"[database]\nconnection = sqlite:///{self.data}/keystone.db\n"
            f"[fernet_tokens]\nkey_repository = {keys}\n[fernet_receipts]\nkey_repository = {keys}\n"
            f"[credential]\nkey_repository = {keys}\n"
            f"[token]\nexpiration = {expiration}\n"
            f"[oslo_policy]\npolicy_file = {root}/policy.yaml\n"
            # A revocation counts at once, and hashing passwords is not what is tested.
            "[cache]\nenabled = false\n[identity]\npassword_hash_rounds = 4\n"
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v3"

    def seed(self) -> str:
        """What a new Keystone does before it serves, in Python."""
        return ""

    def start(self, timeout: float = 500.0) -> Keystone:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", LAUNCHER, self.conf, self.data / "keystone.db", str(self.port)),
                    *(PASSWORD, self.seed()),
                ],
                cwd=self.root,
                env={**os.environ, "OS_KEYSTONE_CONFIG_FILES": str(self.conf)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            try:
                if httpx.get(self.url, timeout=5).status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        self.kill()
        raise AssertionError(f"Keystone did not answer within {timeout} s:\n{self.log.read_text()[-4000:]}")

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    # --- What its users do

    def authenticate(self, identity: dict, scope: object = None) -> httpx.Response:
        auth = {"identity": identity}
        if scope is not None:
            auth["scope"] = scope
        answer = httpx.post(self.url + "/auth/tokens", json={"auth": auth}, timeout=60)
        assert answer.status_code == 201, answer.text
        return answer

    def token(self, user: str, scope: object = None, password: str = PASSWORD) -> str:
        """A token of a user; `scope` is a project's id, or what Keystone calls a scope."""
        if isinstance(scope, str):
            scope = {"project": {"id": scope}}
        who = {"name": user, "domain": {"id": "default"}, "password": password}
        answer = self.authenticate({"methods": ["password"], "password": {"user": who}}, scope)
        return answer.headers["x-subject-token"]

    def credential_token(self, credential: dict) -> str:
        """A token of an application credential."""
        parts = {"id": credential["id"], "secret": credential["secret"]}
        identity = {"methods": ["application_credential"], "application_credential": parts}
        return self.authenticate(identity).headers["x-subject-token"]

    def request(self, method: str, path: str, document: object = None, token: str = "") -> dict:
        """What administrators do, or with a token what its owner does."""
        if not token and not self.admin_token:
            scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
            self.admin_token = self.token("admin", scope)
        headers = {"X-Auth-Token": token or self.admin_token}
        answer = httpx.request(method, self.url + path, json=document, headers=headers, timeout=60)
        assert answer.is_success, (method, path, answer.text)
        return answer.json() if answer.content else {}

    def revoke(self, token: str) -> None:
        headers = {"X-Auth-Token": token, "X-Subject-Token": token}
        answer = httpx.delete(self.url + "/auth/tokens", headers=headers, timeout=60)
        assert answer.status_code == 204, answer.text

    def application_credential(self, token: str, user: str, rules: list[dict] | None = None) -> dict:
        """A credential of the token's owner; its id and secret."""
        attributes: dict = {"name": os.urandom(8).hex(), "unrestricted": False}
        if rules is not None:
            attributes["access_rules"] = rules
        path = f"/users/{user}/application_credentials"
        made = self.request("POST", path, {"application_credential": attributes}, token)
        return made["application_credential"]


class Cloud(Keystone):
    """Keystone with the users of the tests, and the service `messaging` in its catalog."""

    def __init__(self, root: Path, messaging_port: int) -> None:
        super().__init__(root)
        self.messaging_port = messaging_port

    def seed(self) -> str:
        return f"MESSAGING = 'http://127.0.0.1:{self.messaging_port}/'\n{SEED}"

    def start(self, timeout: float = 500.0) -> Cloud:
        super().start(timeout)
        made = json.loads((self.data / "made.json").read_text())
        self.users = made["users"]
        self.service_project, self.demo, self.other = (
            made["projects"][name] for name in ("service", "demo", "other")
        )
        return self

    def options(self, **more: object) -> dict[str, dict[str, object]]:
        """The sections that make a server ask this Keystone."""
        return {
            "DEFAULT": {"auth_strategy": "keystone", "debug": True},
            "keystone_authtoken": {
                "auth_url": self.url,
                "www_authenticate_uri": "http://keystone.example.com/",
                "auth_type": "password",
                "username": "zaqar",
                "password": PASSWORD,
                "user_domain_id": "default",
                "project_name": "service",
                "project_domain_id": "default",
                "service_type": "messaging",
                # A Keystone of one process on a busy machine takes its time.
                "timeout": 120,
                **more,
            },
        }
