//! `zaqar-policy`: shows the effective rules, and evaluates them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::{Map, Value};
use zaqar_auth::policy::{Credentials, DEFAULTS, Default as Rule, Files, Loaded, Target};

use crate::config::{self, Environment, Sources};
use crate::error::{StartError, with_causes};
use crate::registry::Registry;

/// Everything was allowed, or shown.
const OK: u8 = 0;
/// Something was denied.
const DENIED: u8 = 1;
/// The command line, the configuration or a file is wrong.
const USAGE: u8 = 2;

/// The largest file of credentials or of a target, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Shows the policies of a zaqar-server, and evaluates them.
#[derive(Debug, Parser)]
#[command(name = "zaqar-policy", version)]
struct Arguments {
    /// Reads `[oslo_policy]` from this configuration file; may be given several times.
    #[arg(long, global = true, value_name = "PATH")]
    config_file: Vec<PathBuf>,
    /// Reads every *.conf in this directory after the files.
    #[arg(long, global = true, value_name = "DIR")]
    config_dir: Vec<PathBuf>,
    /// Uses the rules of this file, whatever the configuration says.
    #[arg(long, global = true, value_name = "PATH")]
    policy_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the names of all rules, with the checks of defaults.
    List,
    /// Evaluates rules for a caller: one line per rule, exit code 1 if one denies.
    Check {
        /// The rule; every rule if it is omitted.
        #[arg(long)]
        rule: Option<String>,
        /// A JSON object with the caller's roles, user_id, project_id and so on, or a token as
        /// Keystone describes it; - for standard input.
        #[arg(long, value_name = "FILE")]
        credentials: PathBuf,
        /// A JSON object with the attributes of the operation's target; if it is omitted, its
        /// project_id is the caller's.
        #[arg(long, value_name = "FILE")]
        target: Option<PathBuf>,
    },
    /// Prints a policy file with every default as a comment.
    Sample,
}

/// The command line, for the manual page and completions.
#[cfg(test)]
pub(crate) fn policy_command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// The main function of `zaqar-policy`.
pub(crate) fn policy_main(registry: &Registry) -> ExitCode {
    let arguments = Arguments::parse();
    ExitCode::from(match run(&arguments, registry) {
        Ok((text, code)) => match io::stdout().write_all(text.as_bytes()) {
            Ok(()) => code,
            // The reader has closed the pipe.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => code,
            Err(error) => print_error(&error.to_string()),
        },
        Err(error) => print_error(&with_causes(error.as_ref())),
    })
}

fn print_error(text: &str) -> u8 {
    // Standard error may be closed; the exit code reports the error too.
    let _ = writeln!(io::stderr(), "zaqar-policy: {text}");
    USAGE
}

fn run(arguments: &Arguments, registry: &Registry) -> Result<(String, u8), StartError> {
    let files = match &arguments.command {
        Command::Sample => return Ok((sample(), OK)),
        Command::List | Command::Check { .. } => files(arguments, registry)?,
    };
    let loaded = files.load()?;
    for problem in &loaded.problems {
        print_error(&problem.to_string());
    }
    Ok(match &arguments.command {
        Command::Check { rule, credentials, target } => {
            if let Some(rule) = rule {
                let names = loaded.rules.names();
                // A rule that is not there is decided by the default rule, where there is one.
                if ![rule.as_str(), &files.default_rule].iter().any(|name| names.contains(name)) {
                    let text = format!("there is no rule {rule:?}; `zaqar-policy list` names all");
                    return Err(text.into());
                }
            }
            let credentials = caller(object(credentials)?)?;
            let target = match target {
                Some(path) => object(path)?,
                None => own_target(&credentials),
            };
            check(&loaded, rule.as_deref(), &Target::new(target.into()), &credentials)
        }
        Command::List | Command::Sample => (list(&loaded), OK),
    })
}

fn files(arguments: &Arguments, registry: &Registry) -> Result<Files, StartError> {
    if let Some(path) = &arguments.policy_file {
        // A file that is named must exist.
        std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok(Files {
            file: Some(path.clone()),
            dirs: Vec::new(),
            default_rule: "default".to_owned(),
            enforce_scope: true,
            enforce_new_defaults: true,
        });
    }
    let sources = Sources {
        files: arguments.config_file.clone(),
        dirs: arguments.config_dir.clone(),
        environment: Environment::of_process(),
        ..Sources::default()
    };
    let loaded = config::load(&sources, &registry.registered());
    Ok(loaded.map_err(|errors| errors.to_string())?.settings.access.policies)
}

fn list(loaded: &Loaded) -> String {
    let defaults: BTreeMap<_, _> = DEFAULTS.iter().map(|rule| (rule.name, rule.check)).collect();
    let mut text = String::new();
    for name in loaded.rules.names() {
        let shown = match defaults.get(name) {
            Some(check) => format!("\"{name}\": default \"{check}\""),
            None => format!("\"{name}\""),
        };
        let _ = writeln!(text, "{shown}");
    }
    text
}

fn check(
    loaded: &Loaded,
    rule: Option<&str>,
    target: &Target,
    caller: &Credentials,
) -> (String, u8) {
    let rules = rule.map_or_else(|| loaded.rules.names(), |rule| vec![rule]);
    let (mut text, mut code) = (String::new(), OK);
    for rule in rules {
        let is_allowed = loaded.rules.allows(rule, target, caller);
        let _ = writeln!(text, "{}: {rule}", if is_allowed { "passed" } else { "failed" });
        if !is_allowed {
            code = DENIED;
        }
    }
    (text, code)
}

/// The caller from an object of attributes, or from a token.
fn caller(object: Map<String, Value>) -> Result<Credentials, StartError> {
    if object.contains_key("token") {
        return Ok(zaqar_auth::keystone::Token::read(&object.into())?.credentials);
    }
    Ok(Credentials::new(object.into()))
}

/// The target: an object of the caller's own project.
fn own_target(caller: &Credentials) -> Map<String, Value> {
    let project = caller.get("project_id").filter(|id| id.is_string());
    project.map(|id| ("project_id".to_owned(), id.clone())).into_iter().collect()
}

fn object(path: &Path) -> Result<Map<String, Value>, StartError> {
    let unreadable = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut text = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().take(MAX_BYTES + 1).read_to_end(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(|error| unreadable(&error))?;
        file.take(MAX_BYTES + 1).read_to_end(&mut text)
    };
    read.map_err(|error| unreadable(&error))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(unreadable(&format!("more than {MAX_BYTES} bytes")).into());
    }
    match serde_json::from_slice(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(unreadable(&"not a JSON object").into()),
        Err(error) => Err(unreadable(&error).into()),
    }
}

fn sample() -> String {
    let mut text = String::new();
    for Rule { name, check, description, requests, .. } in DEFAULTS {
        if !description.is_empty() {
            let _ = writeln!(text, "# {description}");
        }
        for request in *requests {
            let _ = writeln!(text, "# {request}");
        }
        let _ = writeln!(text, "#\"{name}\": \"{check}\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_in(dir: &tempfile::TempDir, words: &[&str]) -> (String, u8) {
        let at = |word: &&str| match word.strip_prefix('@') {
            Some(name) => dir.path().join(name).display().to_string(),
            None => (*word).to_owned(),
        };
        let words = std::iter::once("zaqar-policy".to_owned()).chain(words.iter().map(at));
        run(&Arguments::try_parse_from(words).unwrap(), &Registry::default()).unwrap()
    }

    #[test]
    fn it_decides_lists_and_prints_a_sample_that_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("p.yaml", "queues:create: role:member and project_id:%(project_id)s\nmine: '!'\n");
        write("z.conf", "[oslo_policy]\npolicy_file = p.yaml\n");
        write("member.json", r#"{"roles": ["member"], "project_id": "p"}"#);
        write("target.json", r#"{"project_id": "other"}"#);
        write(
            "token.json",
            r#"{"token": {"user": {"id": "u"}, "project": {"id": "p"}, "roles": [{"name": "member"}],
                "expires_at": "2099-01-01T00:00:00Z"}}"#,
        );
        for from in [["--policy-file", "@p.yaml"], ["--config-file", "@z.conf"]] {
            let ask = |more: &[&str]| run_in(&dir, &[&from[..], more].concat());
            for caller in ["@member.json", "@token.json"] {
                let create = ["check", "--rule", "queues:create", "--credentials", caller];
                assert_eq!(ask(&create), ("passed: queues:create\n".to_owned(), OK));
                let of_another = [&create[..], &["--target", "@target.json"]].concat();
                assert_eq!(ask(&of_another), ("failed: queues:create\n".to_owned(), DENIED));
            }
            let (all, code) = ask(&["check", "--credentials", "@member.json"]);
            assert_eq!((code, all.lines().count()), (DENIED, DEFAULTS.len() + 1));
            assert!(all.contains("failed: health:get\n") && all.contains("passed: ping:get\n"));
            let (listed, _) = ask(&["list"]);
            assert!(listed.contains("\"mine\"\n") && listed.contains("\"health:get\": default"));
        }
        let (sample, _) = run_in(&dir, &["sample"]);
        write("sample.yaml", &sample);
        let (of_sample, _) = run_in(&dir, &["--policy-file", "@sample.yaml", "list"]);
        write("empty.yaml", "");
        assert_eq!(run_in(&dir, &["--policy-file", "@empty.yaml", "list"]).0, of_sample);
        // Uncommented, its rules are the defaults.
        write("full.yaml", &sample.replace("#\"", "\""));
        assert_eq!(run_in(&dir, &["--policy-file", "@full.yaml", "list"]).0, of_sample);
    }

    #[test]
    fn a_rule_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("c.json"), "{}").unwrap();
        for (policies, expected) in [("a: '@'\n", None), ("default: '@'\n", Some(OK))] {
            std::fs::write(path("p.yaml"), policies).unwrap();
            let (file, caller) = (path("p.yaml"), path("c.json"));
            let words = ["zaqar-policy", "--policy-file", &file, "check", "--rule", "nope"];
            let words = words.into_iter().chain(["--credentials", &caller]);
            let ran = run(&Arguments::try_parse_from(words).unwrap(), &Registry::default());
            let said = ran.as_ref().err().map_or_else(String::new, ToString::to_string);
            assert_eq!(ran.ok().map(|(_, code)| code), expected, "{said}");
            assert_eq!(said.contains("there is no rule \"nope\""), expected.is_none(), "{said}");
        }
    }

    #[test]
    fn unreadable_files_are_reported() {
        for words in [
            &["--policy-file", "/none", "list"][..],
            &["check", "--credentials", "/none"],
            &["--config-file", "/none", "list"],
        ] {
            let words = std::iter::once(&"zaqar-policy").chain(words);
            let failed =
                run(&Arguments::try_parse_from(words).unwrap(), &Registry::default()).unwrap_err();
            assert!(failed.to_string().contains("/none"), "{failed}");
        }
    }
}
