//! The program, run by its command line against the real server.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that asked")]

#[path = "../../zaqar-client/tests/support/mod.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod support;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::Server;

struct Cli<'a> {
    server: &'a Server,
}

impl Cli<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zaqar"));
        command.args(arguments).env_clear().env("OS_ENDPOINT", &self.server.url);
        command.env("OS_PROJECT_ID", "demo").stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let ran = self.command(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{arguments:?}: {error}");
        String::from_utf8(ran.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.run(&[&["--format", "json"], arguments].concat());
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }

    fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let ran = self.command(arguments).output().unwrap();
        (ran.status.code().unwrap(), String::from_utf8(ran.stderr).unwrap())
    }

    fn with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

#[test]
fn queues() {
    let server = Server::start();
    let cli = Cli { server: &server };
    assert_eq!(
        cli.run(&["queue", "create", "jobs", "team=shop", "_max_claim_count=2"]),
        "jobs created\n"
    );
    assert!(cli.run(&["queue", "create", "jobs"]).contains("was there already"));
    assert_eq!(cli.json(&["queue", "show", "jobs"])["_max_claim_count"], 2);
    assert_eq!(cli.json(&["queue", "set", "jobs", "team=store"])["team"], "store");
    assert!(cli.json(&["queue", "set", "jobs", "--unset", "team"]).get("team").is_none());
    cli.run(&["queue", "create", "other"]);
    assert_eq!(cli.run(&["queue", "list", "--name", "^job"]), "name\njobs\n");
    assert_eq!(cli.json(&["queue", "list"]).as_array().unwrap().len(), 2);
    assert_eq!(cli.json(&["queue", "stats", "jobs"])["total"], 0);
    cli.run(&["message", "post", "other", "a"]);
    let top = cli.run(&["queue", "top", "--count", "1"]);
    assert!(top.starts_with("queue  free  claimed  total") && top.contains("\nother  1 "), "{top}");
    let top = cli.json(&["queue", "top", "--count", "1", "--rows", "1"]);
    assert_eq!((&top[0]["queue"], &top[0]["total"]), (&"other".into(), &1.into()));
    assert_eq!(cli.run(&["queue", "purge", "other"]), "other purged\n");
    assert_eq!(cli.run(&["queue", "delete", "other"]), "other deleted\n");
    assert_eq!(cli.run(&["queue", "list"]), "name\njobs\n");
}

#[test]
fn messages() {
    let server = Server::start();
    let cli = Cli { server: &server };
    let ids = cli.json(&["message", "post", "jobs", "one", "two", "--ttl", "600"]);
    let id = ids[0].as_str().unwrap();
    cli.run(&["message", "post", "jobs", "--json", r#"{"three":3}"#]);
    let listed = cli.run(&["message", "list", "jobs"]);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    assert!(
        listed.starts_with("id") && listed.contains("600") && listed.contains(r#"{"three":3}"#)
    );
    let shown = cli.json(&["message", "show", "jobs", id]);
    assert_eq!(shown[0]["body"], "one");
    let tail = cli.run(&["--format", "json", "message", "tail", "jobs", "--count", "2"]);
    let bodies: Vec<Value> = tail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&bodies[0]["body"], &bodies[1]["body"]), (&"one".into(), &"two".into()));
    cli.run(&["message", "delete", "jobs", id]);
    assert_eq!(cli.json(&["message", "pop", "jobs", "--count", "5"]).as_array().unwrap().len(), 2);
}

#[test]
fn lines_of_standard_input_are_messages_in_order() {
    let server = Server::start();
    let cli = Cli { server: &server };
    let input: String = (0..250).map(|number| format!("{number}\n")).collect();
    let ran = cli.with_input(&["message", "post", "jobs", "--json"], &input);
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), "250 messages posted\n");
    let listed = cli.json(&["message", "list", "jobs", "--limit", "1000"]);
    let bodies: Vec<_> =
        listed.as_array().unwrap().iter().map(|one| one["body"].as_u64().unwrap()).collect();
    assert_eq!(bodies, (0..250).collect::<Vec<_>>());

    let ran = cli.with_input(&["message", "post", "jobs", "--json"], "1\nno json\n");
    let error = String::from_utf8(ran.stderr).unwrap();
    assert!(
        error.contains("\"no json\" is no JSON") && error.contains("posted before: "),
        "{error}"
    );
}

#[test]
fn a_line_that_is_not_utf8_is_reported_by_its_number() {
    let server = Server::start();
    let cli = Cli { server: &server };
    let mut command = cli.command(&["message", "post", "jobs"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"good\n\xff\n").unwrap();
    let ran = child.wait_with_output().unwrap();
    let error = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(2));
    assert!(error.contains("standard input: line 2 is not UTF-8\n"), "{error}");
}

#[test]
fn a_rejected_post_exits_while_its_standard_input_is_open() {
    let server = Server::start();
    let cli = Cli { server: &server };
    cli.run(&["queue", "create", "small", "_max_messages_post_size=20"]);
    let mut command = cli.command(&["message", "post", "small"]);
    let command = command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"a line that is longer than this\n").unwrap();
    // A program that reads on would wait for the end of the input.
    let code = child.wait().unwrap().code();
    drop(input);
    assert_eq!(code, Some(1));
}

#[test]
fn a_tail_shows_what_is_posted_while_it_runs() {
    use std::io::{BufRead, BufReader};
    let server = Server::start();
    let cli = Cli { server: &server };
    cli.run(&["message", "post", "jobs", "old"]);
    let mut command =
        cli.command(&["message", "tail", "jobs", "--count", "2", "--interval", "0.01"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().ends_with("  old"));
    cli.run(&["message", "post", "jobs", "new"]);
    assert!(lines.next().unwrap().unwrap().ends_with("  new"));
    assert!(child.wait().unwrap().success());
}

#[test]
fn claims() {
    let server = Server::start();
    let cli = Cli { server: &server };
    assert_eq!(cli.run(&["claim", "create", "jobs"]), "there is nothing to claim\n");
    cli.run(&["message", "post", "jobs", "one", "two"]);
    let claimed = cli.json(&["claim", "create", "jobs", "--limit", "1"]);
    let claim = claimed["claim"].as_str().unwrap();
    let id = claimed["messages"][0]["id"].as_str().unwrap();
    // It outlives the program that made it.
    assert_eq!(cli.json(&["queue", "stats", "jobs"])["claimed"], 1);
    cli.run(&["claim", "renew", "jobs", claim, "--ttl", "600"]);
    assert!(cli.run(&["claim", "show", "jobs", claim]).contains("of 600 s"));
    let (code, error) = cli.fails(&["message", "delete", "jobs", id]);
    assert!(code == 1 && error.contains("hint:") && error.contains("--claim"), "{error}");
    cli.run(&["message", "delete", "jobs", id, "--claim", claim]);
    cli.run(&["claim", "release", "jobs", claim]);
    assert_eq!(cli.json(&["queue", "stats", "jobs"])["free"], 1);
}

#[test]
fn subscriptions_topics_and_deliveries() {
    let server = Server::start();
    let cli = Cli { server: &server };
    let made = cli.json(&[
        "subscription",
        "create",
        "news",
        "mailto:a@example.org",
        "--topic",
        "--ttl",
        "600",
    ]);
    let id = made["subscription_id"].as_str().unwrap();
    let of = |command: &[&'static str]| [command, &["--topic", "news"]].concat();
    let one = |command: &[&'static str]| {
        let arguments: Vec<&str> = of(command);
        cli.run(&[&arguments[..], &[id]].concat())
    };
    assert!(one(&["subscription", "show"]).contains("mailto:a@example.org"));
    assert!(one(&["subscription", "health"]).contains("state"));
    assert!(one(&["subscription", "set", "--ttl", "900"]).contains("900"));
    one(&["subscription", "confirm"]);
    one(&["subscription", "resume"]);
    assert!(one(&["subscription", "test"]).starts_with("delivery"));
    assert!(one(&["delivery", "list"]).starts_with("id"));
    let recovered = one(&["delivery", "recover", "--since", "2026-11-29T12:00:00Z"]);
    assert!(recovered.contains("done") && recovered.contains("remaining"), "{recovered}");
    assert!(cli.run(&of(&["subscription", "list"])).contains(id));
    assert_eq!(cli.run(&["topic", "list"]), "name\nnews\n");
    cli.run(&["message", "post", "news", "hello", "--topic"]);
    assert_eq!(cli.json(&["topic", "stats", "news"])["total"], 1);
    one(&["subscription", "delete"]);
    cli.run(&["topic", "delete", "news"]);
    let (code, error) = cli.fails(&[&of(&["subscription", "set"])[..], &[id]].concat());
    assert!(code == 2 && error.contains("--ttl"), "{error}");
}

#[test]
fn pools_flavors_and_health_are_for_administrators() {
    let server = Server::start();
    let cli = Cli { server: &server };
    let (code, error) = cli.fails(&["pool", "list"]);
    assert!(code == 1 && error.contains("--roles admin"), "{error}");
    let admin = |arguments: &[&str]| cli.run(&[&["--roles", "admin"], arguments].concat());
    let directory = tempfile::tempdir().unwrap();
    let uri = format!("embedded://{}", directory.path().display());
    assert_eq!(admin(&["pool", "create", "one", &uri, "10"]), "one registered\n");
    assert!(admin(&["pool", "set", "one", "--weight", "20"]).contains("20"));
    assert!(admin(&["pool", "list"]).starts_with("name  uri"));
    admin(&["flavor", "create", "quick", "one"]);
    assert!(admin(&["flavor", "show", "quick"]).contains("capabilities"));
    assert!(admin(&["flavor", "list"]).contains(r#"["one"]"#));
    let health = admin(&["health"]);
    assert!(
        health.contains("post_messages") && health.contains("the pool one answers"),
        "{health}"
    );
    let (code, error) = cli.fails(&["--roles", "admin", "pool", "drain", "one"]);
    assert!(code == 1 && error.contains("no other pool of flavor quick"), "{error}");
    let other = tempfile::tempdir().unwrap();
    let uri = format!("embedded://{}", other.path().display());
    admin(&["pool", "create", "two", &uri, "10", "--flavor", "quick"]);
    assert_eq!(admin(&["pool", "drain", "one"]), "one has no queues left\n");
    assert!(admin(&["pool", "drain", "one", "--show"]).contains("draining"));
    assert_eq!(admin(&["pool", "drain", "one", "--stop"]), "one is not drained any more\n");
    let (code, error) = cli.fails(&["--roles", "admin", "queue", "move", "nothing", "one"]);
    assert_eq!(code, 1, "{error}");
    admin(&["flavor", "delete", "quick"]);
    admin(&["pool", "delete", "one"]);
    admin(&["pool", "delete", "two"]);
    assert_eq!(admin(&["health"]), "the configured stores answer\n");
    assert_eq!(cli.run(&["ping"]), "the server can serve\n");
}

#[test]
fn quotas_are_for_administrators() {
    let server = Server::start();
    let cli = Cli { server: &server };
    let (code, error) = cli.fails(&["quota", "show", "trial"]);
    assert!(code == 1 && error.contains("--roles admin"), "{error}");
    let admin = |arguments: &[&str]| cli.run(&[&["--roles", "admin"], arguments].concat());
    let set = admin(&["quota", "set", "trial", "--max-messages", "1000", "--max-queues", "0"]);
    assert!(set.lines().any(|line| line.starts_with("max_messages ") && line.ends_with("1000")));
    assert_eq!(admin(&["quota", "show", "trial"]), set);
    let listed = admin(&["quota", "list"]);
    let last = listed.lines().last().unwrap();
    assert!(last.starts_with("trial ") && last.contains("\"max_messages\":1000"), "{listed}");
    let unset = admin(&["quota", "unset", "trial"]);
    assert_eq!(unset, "trial has the quotas that are configured\n");
    assert!(!admin(&["quota", "show", "trial"]).contains("1000"));
    let (code, error) = cli.fails(&["--roles", "admin", "quota", "set", "trial"]);
    assert!(code == 2 && error.contains("--max-messages"), "{error}");
}

#[test]
fn a_signed_url_is_used_instead_of_credentials() {
    let server = Server::start();
    let cli = Cli { server: &server };
    let url = cli.json(&["queue", "share", "jobs", "--method", "POST", "--method", "GET"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("signed.json");
    std::fs::write(&file, url.to_string()).unwrap();
    let signed = file.to_str().unwrap();
    let guest = |arguments: &[&str]| {
        let mut command = cli.command(&[&["--signed", signed], arguments].concat());
        command.env_remove("OS_PROJECT_ID").output().unwrap()
    };
    assert!(guest(&["message", "post", "jobs", "signed"]).status.success());
    assert!(!guest(&["queue", "stats", "jobs"]).status.success());
    assert_eq!(cli.json(&["queue", "stats", "jobs"])["total"], 1);
}

#[test]
fn redrive_moves_dead_letters_back_in_order() {
    let server = Server::start();
    let cli = Cli { server: &server };
    let input: String = (0..45).map(|number| format!("{number}\n")).collect();
    cli.with_input(&["message", "post", "jobs.dead", "--json"], &input);
    let said = cli.run(&["redrive", "jobs.dead", "jobs", "--ttl", "700", "--max", "25"]);
    let expected = "25 messages moved from jobs.dead to jobs, each at least once\n";
    assert_eq!(said, expected);
    assert!(cli.run(&["redrive", "jobs.dead", "jobs"]).starts_with("20 messages moved"));
    let stats = cli.json(&["queue", "stats", "jobs.dead"]);
    assert_eq!((&stats["free"], &stats["claimed"]), (&0.into(), &0.into()));
    let listed = cli.json(&["message", "list", "jobs"]);
    let listed = listed.as_array().unwrap();
    let bodies: Vec<_> = listed.iter().map(|one| one["body"].as_u64().unwrap()).collect();
    assert_eq!(bodies, (0..45).collect::<Vec<_>>());
    assert_eq!(listed[0]["ttl"], 700);
    let (code, _) = cli.fails(&["redrive", "jobs", "jobs"]);
    assert_eq!(code, 2);
}

#[test]
fn a_redrive_loses_no_message_that_the_target_rejects() {
    let server = Server::start();
    let cli = Cli { server: &server };
    cli.run(&["queue", "create", "small", "_max_messages_post_size=20"]);
    cli.run(&["message", "post", "jobs.dead", "a body that is longer than this"]);
    let (code, error) = cli.fails(&["redrive", "jobs.dead", "small"]);
    assert!(code == 1 && error.contains("moved before: 0 messages"), "{error}");
    let stats = cli.json(&["queue", "stats", "jobs.dead"]);
    assert_eq!((&stats["free"], &stats["claimed"]), (&1.into(), &0.into()));
}

#[test]
fn errors_name_the_remedy() {
    let server = Server::start();
    let cli = Cli { server: &server };
    let ran = cli.command(&["queue", "list"]).env_remove("OS_ENDPOINT").output().unwrap();
    let error = String::from_utf8(ran.stderr).unwrap();
    assert!(error.contains("hint: say --url"), "{error}");
    let (_, error) = cli.fails(&["--url", "http://127.0.0.1:1", "queue", "list"]);
    assert!(error.contains("is the server running there,"), "{error}");
    let ran = cli.command(&["queue", "list"]).env_remove("OS_PROJECT_ID").output().unwrap();
    let error = String::from_utf8(ran.stderr).unwrap();
    assert!(error.contains("--project") && error.contains("request: req-"), "{error}");
    let (code, error) = cli.fails(&["--cloud", "nowhere", "queue", "list"]);
    assert!(code == 1 && error.contains("clouds.yaml"), "{error}");
    assert_eq!(cli.fails(&["queue"]).0, 2);
}

#[test]
fn completions_of_each_shell_have_the_commands() {
    let server = Server::start();
    let cli = Cli { server: &server };
    for shell in ["bash", "zsh", "fish"] {
        let script = cli.run(&["completion", shell]);
        assert!(script.contains("redrive"), "{shell}");
        // A closed pipe is no error.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = cli.command(&["completion", shell]);
        let ran = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let error = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() && error.is_empty(), "{shell}: {error}");
    }
}
