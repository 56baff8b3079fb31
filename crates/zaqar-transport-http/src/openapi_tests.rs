//! Checks that `docs/api/openapi.yaml` has exactly the resources and methods that this crate
//! routes.

use std::collections::BTreeMap;

use serde_json::Value;
use zaqar_core::Kind;

use crate::route::Route;

const DOCUMENT: &str = include_str!("../../../docs/api/openapi.yaml");

/// The value of path variables in these tests.
const NAMED: &str = "x";

/// Every resource once, with [`NAMED`] for its variables.
fn resources() -> impl Iterator<Item = Route> {
    std::iter::successors(Some(Route::Versions), after)
}

/// The successor of a resource in a sequence of all. Without a wildcard arm, a new resource must be
/// added here to compile.
fn after(route: &Route) -> Option<Route> {
    let x = || NAMED.to_owned();
    Some(match route {
        Route::Versions => Route::Home,
        Route::Home => Route::Ping,
        Route::Ping => Route::Health,
        Route::Health => Route::Pools,
        Route::Pools => Route::Pool(x()),
        Route::Pool(_) => Route::Drain(x()),
        Route::Drain(_) => Route::PoolQueues(x()),
        Route::PoolQueues(_) => Route::Flavors,
        Route::Flavors => Route::Flavor(x()),
        Route::Flavor(_) => Route::Quotas(x()),
        Route::Quotas(_) => Route::Queues(Kind::Queue),
        Route::Queues(kind) => Route::Queue(*kind, x()),
        Route::Queue(kind, _) => Route::Stats(*kind, x()),
        Route::Stats(kind, _) => Route::Purge(*kind, x()),
        Route::Purge(kind, _) => Route::Messages(*kind, x()),
        Route::Messages(kind, _) => Route::Message(*kind, x(), x()),
        Route::Message(kind, ..) => Route::Subscriptions(*kind, x()),
        Route::Subscriptions(kind, _) => Route::Subscription(*kind, x(), x()),
        Route::Subscription(kind, ..) => Route::Confirm(*kind, x(), x()),
        Route::Confirm(kind, ..) => Route::Secret(*kind, x(), x()),
        Route::Secret(kind, ..) => Route::Deliveries(*kind, x(), x()),
        Route::Deliveries(kind, ..) => Route::Delivery(*kind, x(), x(), x()),
        Route::Delivery(kind, ..) => Route::Retry(*kind, x(), x(), x()),
        Route::Retry(kind, ..) => Route::SubscriberHealth(*kind, x(), x()),
        Route::SubscriberHealth(kind, ..) => Route::Resume(*kind, x(), x()),
        Route::Resume(kind, ..) => Route::Test(*kind, x(), x()),
        Route::Test(kind, ..) => Route::Recover(*kind, x(), x()),
        Route::Recover(kind, ..) => Route::Recovery(*kind, x(), x(), x()),
        Route::Recovery(Kind::Queue, ..) => Route::Claims(x()),
        Route::Claims(_) => Route::Claim(x(), x()),
        Route::Claim(..) => Route::Share(x()),
        Route::Share(_) => Route::Queues(Kind::Topic),
        Route::Recovery(Kind::Topic | Kind::Internal, ..) => return None,
    })
}

/// The methods that a resource answers.
fn answered(route: &Route) -> Vec<&'static str> {
    let mut methods: Vec<&str> = route.methods().iter().map(http::Method::as_str).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.push("OPTIONS");
    methods.sort_unstable();
    methods
}

/// The paths of a document with their methods.
fn documented(document: &str) -> BTreeMap<String, Vec<String>> {
    let document: Value = serde_saphyr::from_str(document).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let is_method =
        |key: &String| !["parameters", "summary", "description"].contains(&key.as_str());
    let methods = |item: &Value| {
        let keys = item.as_object().unwrap().keys().filter(|key| is_method(key));
        let mut methods: Vec<String> = keys.map(|key| key.to_uppercase()).collect();
        methods.sort_unstable();
        methods
    };
    paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
}

/// The resource that a path of the document names.
fn routed(template: &str) -> Option<Route> {
    let segment = |segment: &str| match segment.strip_prefix('{') {
        Some(_) => NAMED.to_owned(),
        None => segment.to_owned(),
    };
    Route::find(&template.split('/').map(segment).collect::<Vec<_>>().join("/"))
}

/// All differences between the document and the routes.
fn differences(document: &str) -> Vec<String> {
    let mut differences = Vec::new();
    let mut undocumented: Vec<Route> = resources().collect();
    for (path, methods) in documented(document) {
        let Some(route) = routed(&path) else {
            differences.push(format!("{path} does not route"));
            continue;
        };
        let before = undocumented.len();
        undocumented.retain(|resource| *resource != route);
        if undocumented.len() == before {
            differences.push(format!("{path} names {route:?} once more"));
        }
        let answered = answered(&route);
        if methods != answered {
            differences.push(format!("{path} has {methods:?}, the route {answered:?}"));
        }
    }
    differences.extend(undocumented.iter().map(|route| format!("{route:?} is not documented")));
    differences
}

#[test]
fn the_document_has_what_routes_and_nothing_else() {
    assert_eq!(differences(DOCUMENT), [""; 0]);
}

#[test]
fn differences_show() {
    let changed = |from: &str, to: &str| {
        assert!(DOCUMENT.contains(from), "{from}");
        differences(&DOCUMENT.replacen(from, to, 1))
    };
    assert_eq!(
        changed("\n  /v2/ping:\n", "\n  /v2/pong:\n"),
        ["/v2/pong does not route", "Ping is not documented"]
    );
    assert_eq!(
        changed("/{queue_name}/claims:\n", "/{queue_name}/stats/:\n"),
        ["/v2/queues/{queue_name}/stats/ does not route", "Claims(\"x\") is not documented"]
    );
    assert_eq!(
        changed("    head: *headOfMessages\n", ""),
        ["/v2/topics/{topic_name}/messages has [\"DELETE\", \"GET\", \"OPTIONS\", \"POST\"], the \
          route [\"DELETE\", \"GET\", \"HEAD\", \"OPTIONS\", \"POST\"]"]
    );
    let topic = "\n  /v2/topics/{topic_name}:\n";
    assert_eq!(
        changed(topic, &format!("\n  /v2/topics/{{name}}:\n    options: *options\n{topic}"))[1..],
        ["/v2/topics/{topic_name} names Queue(Topic, \"x\") once more"]
    );
}
