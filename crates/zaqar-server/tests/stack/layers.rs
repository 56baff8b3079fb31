//! Which layers an operation passes, in which order, with which facts.

use std::sync::Arc;

use async_trait::async_trait;
use zaqar_api::{Asked, Context, Layers, Rejection, Stage};

use crate::support::{ID, Lines, Log, OPERATIONS, Wires, all};

#[tokio::test]
async fn operations_pass_the_same_layers_with_the_same_facts_on_both_wires() {
    let log = Log::default();
    let wires = Wires::new(log.layers());
    let mut socket = wires.connect().await;
    for operation in OPERATIONS {
        let (name, path) = (operation.name, operation.path);
        wires.http(operation, &[]).await;
        let seen = log.take();
        let layers: Vec<_> = seen.iter().map(|line| line.split(' ').next().unwrap()).collect();
        let expected: &[&str] = match name {
            name if name.contains("pool") || name.contains("flavor") || name.contains("quotas") => {
                &["quota:", "policy:", "metrics:"]
            }
            "ping" | "check_health" => &["quota:", "policy:", "metrics:"],
            "read_home" => &["quota:", "metrics:"],
            _ => &["quota:", "policy:", "before:", "after:", "metrics:"],
        };
        assert_eq!(layers, expected, "{name} {path}");
        assert!(seen.iter().all(|line| line.contains(&format!(" {name}"))), "{name}: {seen:?}");
        // The facts match the request.
        let path = path.split('?').next().unwrap().replace("ID", ID);
        let asked = format!(" {} {path} ", operation.method);
        assert!(seen[0].contains(&asked), "{asked}: {}", seen[0]);

        let Some((action, body)) = operation.frame else { continue };
        socket.ask(action, body, &[]).await;
        assert_eq!(log.take(), seen, "{action}");
    }
}

/// Logs a warning for everything, as a store may.
struct Warns;

#[async_trait]
impl Stage for Warns {
    async fn before(&self, _: &Context, _: &mut Asked<'_>) -> Result<(), Rejection> {
        // After a yield, like an answer of a store.
        tokio::task::yield_now().await;
        tracing::warn!("odd");
        Ok(())
    }
}

#[tokio::test]
async fn what_is_logged_on_the_way_names_the_request_and_the_project() {
    let stage: Arc<dyn Stage> = Arc::new(Warns);
    let wires = Wires::new(Layers { pipelines: all(&stage), ..Layers::default() });
    let global = "req-0f6d2b8c-3f4e-4d57-9a4e-1b2c3d4e5f60";
    let more = [("X-OpenStack-Request-ID", global)];
    let list = OPERATIONS.iter().find(|operation| operation.name == "list_messages").unwrap();
    let (action, body) = list.frame.unwrap();
    wires.http(list, &more).await;
    wires.connect().await.ask(action, body, &more).await;
    let text = Lines::of_this_process().text();
    let written: Vec<_> = text.lines().filter(|line| line.contains("odd")).collect();
    assert_eq!(written.len(), 2, "{text}");
    for line in written {
        for part in [
            "name=\"list_messages\"",
            "request_id=\"req-",
            &format!("global_request_id=\"{global}\""),
            "project=\"p\"",
            "queue=\"q\"",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}
