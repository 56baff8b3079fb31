"""The file of `log_config_append`, as openstack-helm's chart writes it, says where logs go."""

from __future__ import annotations

import json

CHART = """\
[loggers]
keys = root,zaqar
[handlers]
keys = file,null
[formatters]
keys = json
[logger_root]
level = WARNING
handlers = null
[logger_zaqar]
level = INFO
handlers = file
qualname = zaqar
[handler_null]
class = logging.NullHandler
formatter = json
args = ()
[handler_file]
class = logging.handlers.WatchedFileHandler
args = ('{log}',)
formatter = json
[formatter_json]
class = oslo_log.formatters.JSONFormatter
"""


def test_its_handlers_and_levels_are_used(tmp_path, new_server):
    log, config = tmp_path / "zaqar.log", tmp_path / "logging.conf"
    config.write_text(CHART.replace("{log}", str(log)))
    server = new_server(options={"DEFAULT": {"log_config_append": config, "debug": True}})
    server.start()
    assert server.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"INFO"} <= {line["level"] for line in lines} <= {"INFO", "WARN", "ERROR"}
    assert all(line["target"].startswith("zaqar") or line["level"] != "INFO" for line in lines)
    assert "stopped" in [line["message"] for line in lines]
    assert server.log.read_text() == ""


def test_a_file_that_is_not_there_is_a_warning(tmp_path, new_server):
    server = new_server(options={"DEFAULT": {"log_config_append": tmp_path / "none.conf"}})
    server.start()
    assert server.stop() == 0
    assert "the file cannot be read: the other options" in server.log.read_text()
