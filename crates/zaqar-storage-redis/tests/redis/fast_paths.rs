//! The fast paths of scripts (`src/lua/*_plain.lua`) have the same effect as the general scripts.

use std::collections::BTreeMap;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::{Connection, Value, cmd};

use crate::servers::Server;
use crate::support::now;

/// Operations of one run, and runs.
const STEPS: usize = 120;
const RUNS: u64 = 12;

type Bytes = Vec<u8>;

/// The scripts as `src/scripts.rs` assembles them, with the fast paths or without.
fn scripts(has_fast_paths: bool) -> BTreeMap<String, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: &Path| std::fs::read_to_string(path).expect("it is there");
    let all = read(&source.join("scripts.rs"));
    let all = all.split("\nscripts! {").nth(1).and_then(|rest| rest.split("\n}").next());
    let mut found = BTreeMap::new();
    for script in all.expect("a list of scripts").split(';') {
        let Some((name, files)) = script.split_once('=') else { continue };
        let files = files.split('"').skip(1).step_by(2);
        let files = files.filter(|file| has_fast_paths || !file.ends_with("_plain"));
        let text = files.map(|file| read(&source.join("lua").join(format!("{file}.lua"))));
        found.insert(name.trim().to_owned(), text.collect());
    }
    found
}

/// A queue on which scripts are called with chosen times and requests.
struct Queue {
    connection: Connection,
    scripts: BTreeMap<String, String>,
    base: String,
    scheduled: Bytes,
}

impl Queue {
    fn new(server: &Server, name: &str, has_fast_paths: bool) -> Self {
        let client = redis::Client::open(("127.0.0.1", server.port)).expect("an address");
        Self {
            connection: client.get_connection().expect("it accepts connections"),
            scripts: scripts(has_fast_paths),
            base: format!("zq1:{{q/p/{name}}}:"),
            scheduled: Bytes::new(),
        }
    }

    /// Calls a script, again if it must be scheduled first.
    fn call(&mut self, name: &str, at: u64, request: u64, own: &[Bytes]) -> Vec<Value> {
        let mut envelope = Bytes::new();
        for number in [at, u64::MAX >> 12, 1] {
            envelope.extend(number.to_be_bytes());
        }
        for number in [0, 600_000_u32, 7] {
            envelope.extend(number.to_be_bytes());
        }
        envelope.push(1);
        envelope.extend(format!("{request:012}").bytes());
        for _ in 0..2 {
            let mut call = cmd("EVAL");
            call.arg(&self.scripts[name]).arg(2).arg(format!("{}h", self.base));
            call.arg(format!("{}!", self.base));
            if name == "OPEN" {
                call.arg(own);
            } else {
                call.arg(digits(7)).arg(if name == "DELETE" { Bytes::new() } else { digits(1) });
                call.arg(&self.scheduled).arg(own);
            }
            let answer = call.arg(&envelope).query(&mut self.connection).expect("it answers");
            let Value::Array(answer) = answer else { panic!("{answer:?}") };
            if text(&answer[0]) != "schedule" {
                return answer;
            }
            self.scheduled = text(&answer[1]).into_bytes();
        }
        panic!("{name} is never scheduled");
    }

    /// Everything that the queue has, by the end of the key.
    fn content(&mut self) -> BTreeMap<String, Value> {
        let connection = &mut self.connection;
        let keys: Vec<String> =
            cmd("KEYS").arg(format!("{}*", self.base)).query(connection).expect("it answers");
        let mut content = BTreeMap::new();
        for key in keys {
            let kind: String = cmd("TYPE").arg(&key).query(connection).expect("it answers");
            let value = match kind.as_str() {
                "hash" => hash(cmd("HGETALL").arg(&key).query(connection).expect("it answers")),
                _ => {
                    let mut range = cmd("ZRANGE");
                    range.arg(&key).arg(0).arg(-1).arg("WITHSCORES");
                    range.query(connection).expect("it answers")
                }
            };
            content.insert(key[self.base.len()..].to_owned(), value);
        }
        content
    }
}

/// The fields that are not empty, in order.
fn hash(fields: BTreeMap<Bytes, Bytes>) -> Value {
    let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
    Value::Array(fields.flat_map(|(name, value)| [name, value]).map(Value::BulkString).collect())
}

fn text(value: &Value) -> String {
    redis::from_redis_value(value.clone()).expect("a text or a number")
}

fn digits(number: u64) -> Bytes {
    format!("{number:020}").into_bytes()
}

fn number(number: u64) -> Bytes {
    number.to_string().into_bytes()
}

/// The record of a message: see `src/record.rs`.
fn record(at: u64, life: Option<u64>, delay: u64, key: Option<u8>) -> Bytes {
    let mut record = at.to_be_bytes().to_vec();
    let sealed = u8::from(key.is_some());
    record.push(sealed + life.map_or(0, |_| if delay == 0 { 12 } else { 4 }));
    record.extend(2_u32.to_be_bytes());
    record.extend(b"me");
    record.extend(key.map(key_name).into_iter().flatten());
    record.extend(b"body");
    record.extend(life.map(|life| (life as u32).to_be_bytes()).into_iter().flatten());
    record
}

/// The name of a key, as records have it.
fn key_name(key: u8) -> [u8; 5] {
    [0, 0, 0, 1, key]
}

/// A script and its own arguments.
fn operation(
    random: &mut StdRng,
    at: u64,
    held: &mut Vec<(Bytes, Bytes)>,
    posted: &mut Vec<Bytes>,
) -> (&'static str, Vec<Bytes>) {
    match random.random_range(0..10) {
        0..4 => {
            let count = random.random_range(1..4);
            let has_life = random.random_bool(0.9);
            let delay = if random.random_bool(0.1) { 20 } else { 0 };
            let sizes = vec!["1"; count].join(" ").into_bytes();
            let mut own = vec![Bytes::new(), b"60000".to_vec(), sizes];
            for _ in 0..count {
                let ttl = if random.random_bool(0.8) { 60 } else { 3600 };
                let key = random.random_bool(0.2).then(|| random.random_range(b'a'..=b'b'));
                own.push(record(at, has_life.then_some(ttl), delay, key));
                own.extend([number(1000 * ttl), number(1000 * delay)]);
            }
            ("POST", own)
        }
        4..7 => {
            let id = format!("{:032x}", random.random::<u128>()).into_bytes();
            let (ttl, limit) = (random.random_range(20..60), random.random_range(1..5));
            let moving = vec![b'0'; 32];
            let keys = match random.random_range(0..4) {
                0 => Bytes::new(),
                1 => key_name(b'a').to_vec(),
                2 => [key_name(b'b'), key_name(b'a')].concat(),
                _ => b"*".to_vec(),
            };
            let [none, most, last, after] = [const { Bytes::new() }; 4];
            let mut own = vec![none, most, last, moving, after, keys, id];
            own.extend([ttl, 1000 * ttl, 1000 * ttl + 20_000, limit].map(number));
            ("CLAIM", own)
        }
        // A message that may be free, claimed, delayed or gone.
        7 if !posted.is_empty() && random.random_bool(0.6) => {
            let position = posted.swap_remove(random.random_range(0..posted.len()));
            ("DELETE", vec![position, Bytes::new()])
        }
        7 if !held.is_empty() => {
            let (_, claim) = held.swap_remove(random.random_range(0..held.len()));
            ("CLAIM_RELEASE", vec![claim])
        }
        _ => {
            let count = random.random_range(0..4).min(held.len());
            let own = held.drain(..count).flat_map(|(position, claim)| [position, claim]).collect();
            ("DELETE", own)
        }
    }
}

/// Random operations as time passes: both answer the same and leave the same in Redis.
#[test]
fn fast_paths_have_the_effect_of_the_general_scripts() {
    let server = Server::start(&[]);
    for run in 0..RUNS {
        let mut random = StdRng::seed_from_u64(run);
        let mut fast = Queue::new(&server, &format!("fast{run}"), true);
        let mut general = Queue::new(&server, &format!("general{run}"), false);
        let (mut at, mut held, mut posted) = (now().as_millis(), Vec::new(), Vec::new());
        for queue in [&mut fast, &mut general] {
            queue.call("OPEN", at, 0, &[digits(7), digits(1)]);
        }
        for step in 1..=STEPS {
            at += [0, 1, 500, 15_000][random.random_range(0..4)];
            let (script, own) = operation(&mut random, at, &mut held, &mut posted);
            if own.is_empty() {
                continue;
            }
            let request = step as u64;
            let answer = fast.call(script, at, request, &own);
            assert_eq!(answer, general.call(script, at, request, &own), "run {run}, step {step}");
            assert_eq!(fast.content(), general.content(), "run {run}, step {step}: {script}");
            if script == "POST" {
                posted.push(text(&answer[1]).into_bytes());
            }
            if script == "CLAIM" {
                let positions = answer.get(5..).unwrap_or_default().iter().step_by(5);
                let positions = positions.map(|position| text(position).into_bytes());
                held.extend(positions.map(|position| (position, own[6].clone())));
            }
        }
    }
}
