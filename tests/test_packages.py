"""Packages and images: every file and option that they name exists, and they agree with each other."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import tomllib

import pytest
import yaml

from support.server import REPOSITORY, server_binary

ETC = REPOSITORY / "etc"
#: The crates that have a Debian package, and their programs.
PACKAGED = {
    "zaqar-server": {
        "zaqar-server",
        "zaqar-gc",
        "zaqar-manage",
        "zaqar-policy",
        "zaqar-sql-db-manage",
        "zaqar-status",
    },
    "zaqar-cli": {"zaqar"},
    "zaqar-bench": {"zaqar-bench"},
}
WORKSPACE = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())


def manifest(crate: str) -> dict:
    return tomllib.loads((REPOSITORY / "crates" / crate / "Cargo.toml").read_text())["package"]


CRATE = REPOSITORY / "crates/zaqar-server"
DEB = manifest("zaqar-server")["metadata"]["deb"]
PROGRAMS = PACKAGED["zaqar-server"]


def assets(crate: str = "zaqar-server") -> dict[str, str]:
    """Where each file of a Debian package comes from, by where it goes."""
    found = {}
    directory = REPOSITORY / "crates" / crate
    for source, target, _ in manifest(crate)["metadata"]["deb"]["assets"]:
        paths = [source] if source.startswith("target/") else [str(p) for p in directory.glob(source)]
        assert paths, f"{source} names nothing"
        for path in paths:
            name = target + path.rsplit("/", 1)[-1] if target.endswith("/") else target
            found[name] = path
    return found


def test_each_program_is_in_a_debian_package():
    metadata = json.loads(
        subprocess.run(
            ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"],
            cwd=REPOSITORY,
            capture_output=True,
            check=True,
        ).stdout
    )
    installed = {
        target["name"]
        for package in metadata["packages"]
        if package["publish"] is None
        for target in package["targets"]
        if target["kind"] == ["bin"]
    }
    assert installed == set().union(*PACKAGED.values())


@pytest.mark.parametrize("crate", PACKAGED)
def test_a_debian_package_has_every_program_and_what_it_needs(crate):
    deb, programs, packaged = manifest(crate)["metadata"]["deb"], PACKAGED[crate], assets(crate)
    assert {name for name in packaged if name.startswith("usr/bin/")} == {f"usr/bin/{p}" for p in programs}
    manuals = {name.rsplit("/", 1)[-1] for name in packaged if "/man1/" in name}
    if crate == "zaqar-cli":
        others = {f"{p}.1" for p in set().union(*PACKAGED.values()) - programs}
        assert manuals == {file.name for file in (ETC / "man").iterdir()} - others
    else:
        assert manuals == {f"{program}.1" for program in programs}
    changelog = (REPOSITORY / "crates" / crate / deb["changelog"]).read_text()
    assert changelog.startswith(f"{deb['name']} ({WORKSPACE['workspace']['package']['version']}-1) ")
    # cargo-deb strips nothing where the profile keeps symbols, unless they get a package of their
    # own.
    assert not WORKSPACE["profile"]["release"].get("debug") or deb.get("dbgsym")


def test_the_package_of_the_server_has_its_units():
    packaged = assets()
    assert {name.rsplit("/", 1)[-1] for name in packaged if "systemd" in name} == {
        file.name for file in (ETC / "systemd").iterdir()
    }
    for file in DEB["conf-files"]:
        assert file.lstrip("/") in packaged
    assert "etc/zaqar/zaqar.conf" not in packaged, "a file that others made would be asked about"


def test_the_packages_can_be_installed_together():
    """The server provides names of the original without a version; nobody must conflict with those."""
    provided = DEB["provides"].split(", ")
    for crate in PACKAGED.keys() - {"zaqar-server"}:
        conflicts = manifest(crate)["metadata"]["deb"].get("conflicts", "")
        assert not set(conflicts.split(", ")) & set(provided)


def test_the_debian_package_replaces_that_of_the_original():
    for relation in ("provides", "conflicts", "replaces"):
        assert DEB[relation] == "zaqar-server, zaqar-common"
    # The original's version is higher, so a package of the same name would count as older.
    assert DEB["name"] != "zaqar-server"


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_the_scripts_of_the_debian_package_are_sound(script):
    path = CRATE / DEB["maintainer-scripts"] / script
    subprocess.run(["sh", "-n", path], check=True)
    text = path.read_text()
    assert text.startswith("#!/bin/sh\nset -e\n")
    for name in re.findall(r"/usr/share/[^ \n]+", text):
        assert name.lstrip("/") in assets(), name


def test_each_unit_that_was_enabled_is_disabled_by_a_purge():
    installed, removed = ((ETC / "debian" / name).read_text() for name in ("postinst", "postrm"))
    for unit in (ETC / "systemd").iterdir():
        assert f"deb-systemd-helper update-state {unit.name}" in installed
        assert re.search(rf"deb-systemd-helper purge .*\b{re.escape(unit.name)}\b", removed)


@pytest.fixture
def unit() -> dict[str, dict[str, str]]:
    """The sections of the unit; of options that are there several times the last."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(ETC / "systemd/zaqar-server.service")
    return {name: dict(parser[name]) for name in parser.sections()}


def test_the_unit_runs_a_program_that_is_packaged(unit):
    assert unit["Service"]["ExecStart"].split()[0].lstrip("/") in assets()


def test_the_unit_starts_a_server_with_a_wrong_configuration_once(unit, tmp_path):
    (tmp_path / "zaqar.conf").write_text("[transport]\nmax_message_ttl = many\n")
    command = [server_binary(), "--config-file", tmp_path / "zaqar.conf"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert unit["Service"]["RestartPreventExitStatus"].split() == [str(done.returncode)]
    # `systemctl status` shows the last lines of the main process: it has to say what is wrong.
    assert "max_message_ttl" in done.stderr
    assert "ExecStartPre" not in unit["Service"]


def test_the_unit_is_patient(unit):
    # At systemd's limit of five failed starts in ten seconds the service and its socket stay down.
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    sample = (CRATE / "zaqar.conf").read_text()
    [grace] = re.findall(r"^#graceful_shutdown_timeout = (\d+)$", sample, re.M)
    assert int(unit["Service"]["TimeoutStopSec"]) > int(grace)


def test_the_image_copies_what_exists_and_runs_without_root():
    lines = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    stages = [n for n, line in enumerate(lines) if line.startswith("FROM ")]
    assert len(stages) == 2
    last = lines[stages[-1] :]
    [user] = [line.split()[1] for line in last if line.startswith("USER ")]
    assert user.split(":")[0] not in ("0", "root")
    copied = set()
    for line in (line for line in last if line.startswith("COPY ")):
        sources = [word for word in line.split()[1:-1] if not word.startswith("--")]
        if "--from=build" in line:
            copied |= {source.rsplit("/", 1)[-1] for source in sources}
        else:
            assert all((REPOSITORY / source).exists() for source in sources), line
    assert copied == PROGRAMS
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    assert not {"crates", "etc", "Cargo.toml", "Cargo.lock"} & set(ignored)
    assert any(line.startswith("HEALTHCHECK ") and '"zaqar-server", "health"' in line for line in last)


def test_the_configuration_of_the_image_opens_both_transports(tmp_path):
    text = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ")
    [command] = re.findall(r"^RUN (printf .*)$", text, re.M)
    file = tmp_path / "zaqar.conf"
    subprocess.run(["sh", "-c", command.replace("/etc/zaqar/zaqar.conf", str(file))], check=True)
    conf = configparser.ConfigParser()
    conf.read(file)
    assert conf["drivers"]["transport"] == "wsgi, websocket"
    for transport in ("wsgi", "websocket"):
        assert conf[f"drivers:transport:{transport}"]["bind"] == "0.0.0.0"


def rendered(values: dict) -> dict[str, dict[str, str]]:
    """The zaqar.conf that the chart makes of these values: its own file, then theirs, null for none."""
    chart = configparser.RawConfigParser(default_section="")
    chart.read(REPOSITORY / "tests/deployers/openstack-helm/zaqar.conf")
    conf = {name: dict(chart[name]) for name in chart.sections()}
    for section, options in values["conf"]["zaqar"].items():
        merged = {} if options is None else conf.get(section, {}) | options
        conf[section] = {name: value for name, value in merged.items() if value is not None}
    return conf


def test_the_helm_values_make_a_valid_configuration(tmp_path):
    values = yaml.safe_load((ETC / "openstack-helm/values.yaml").read_text())
    conf = rendered(values)
    # A file that is mounted beside it.
    del conf["DEFAULT"]["log_config_append"]
    # What the chart writes into a file of its own.
    credentials = {"username": "zaqar", "password": "pw", "user_domain_name": "service"}
    scope = {"project_name": "service", "project_domain_name": "service"}
    conf["keystone_authtoken"] |= credentials | scope
    text = "".join(
        f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in options.items())
        for section, options in conf.items()
    )
    (tmp_path / "zaqar.conf").write_text(text)
    command = [server_binary(), "--config-file", tmp_path / "zaqar.conf", "config", "check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # The chart's templates need these.
    unused = ("[drivers:management_store:sqlalchemy] uri", "[keystone_authtoken] identity_uri", "[oslo_conc")
    warnings = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("warning: ")]
    assert len(warnings) == len(unused)
    for option in unused:
        assert any(option in line for line in warnings), option
    # The probes of the chart look at the port only; the stop is longer than the server's own.
    grace = values["pod"]["lifecycle"]["termination_grace_period"]["api"]["timeout"]
    assert grace > conf["DEFAULT"]["graceful_shutdown_timeout"]
    container = values["pod"]["security_context"]["zaqar"]["container"]["zaqar_api"]
    assert container["readOnlyRootFilesystem"]
    assert container["runAsUser"] == values["pod"]["security_context"]["zaqar"]["pod"]["runAsUser"]


def test_the_helm_values_leave_out_the_secret_of_the_chart():
    """Whoever knows the secret of signed URLs needs no token, and the chart's is published."""
    values = yaml.safe_load((ETC / "openstack-helm/values.yaml").read_text())
    assert "secret_key" not in rendered(values)["signed_url"]


def test_the_image_runs_as_the_user_that_the_chart_names():
    values = yaml.safe_load((ETC / "openstack-helm/values.yaml").read_text())
    user = values["pod"]["security_context"]["zaqar"]["pod"]["runAsUser"]
    assert f"USER {user}:{user}\n" in (REPOSITORY / "Dockerfile").read_text()
