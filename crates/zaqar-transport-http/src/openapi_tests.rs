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
fn resources() -> impl Iterator<Item = Route<'static>> {
    std::iter::successors(Some(Route::Versions), after)
}

/// The successor of a resource in a sequence of all. Without a wildcard arm, a new resource must be
/// added here to compile.
fn after(route: &Route<'static>) -> Option<Route<'static>> {
    Some(match route {
        Route::Versions => Route::Home,
        Route::Home => Route::Ping,
        Route::Ping => Route::Health,
        Route::Health => Route::Pools,
        Route::Pools => Route::Pool(NAMED),
        Route::Pool(_) => Route::Drain(NAMED),
        Route::Drain(_) => Route::PoolQueues(NAMED),
        Route::PoolQueues(_) => Route::Flavors,
        Route::Flavors => Route::Flavor(NAMED),
        Route::Flavor(_) => Route::QuotaList,
        Route::QuotaList => Route::Quotas(NAMED),
        Route::Quotas(_) => Route::Queues(Kind::Queue),
        Route::Queues(kind) => Route::Queue(*kind, NAMED),
        Route::Queue(kind, _) => Route::Stats(*kind, NAMED),
        Route::Stats(kind, _) => Route::Purge(*kind, NAMED),
        Route::Purge(kind, _) => Route::Messages(*kind, NAMED),
        Route::Messages(kind, _) => Route::Message(*kind, NAMED, NAMED),
        Route::Message(kind, ..) => Route::Subscriptions(*kind, NAMED),
        Route::Subscriptions(kind, _) => Route::Subscription(*kind, NAMED, NAMED),
        Route::Subscription(kind, ..) => Route::Confirm(*kind, NAMED, NAMED),
        Route::Confirm(kind, ..) => Route::Secret(*kind, NAMED, NAMED),
        Route::Secret(kind, ..) => Route::Deliveries(*kind, NAMED, NAMED),
        Route::Deliveries(kind, ..) => Route::Delivery(*kind, NAMED, NAMED, NAMED),
        Route::Delivery(kind, ..) => Route::Retry(*kind, NAMED, NAMED, NAMED),
        Route::Retry(kind, ..) => Route::SubscriberHealth(*kind, NAMED, NAMED),
        Route::SubscriberHealth(kind, ..) => Route::Resume(*kind, NAMED, NAMED),
        Route::Resume(kind, ..) => Route::Test(*kind, NAMED, NAMED),
        Route::Test(kind, ..) => Route::Recover(*kind, NAMED, NAMED),
        Route::Recover(kind, ..) => Route::Recovery(*kind, NAMED, NAMED, NAMED),
        Route::Recovery(Kind::Queue, ..) => Route::Claims(NAMED),
        Route::Claims(_) => Route::Claim(NAMED, NAMED),
        Route::Claim(..) => Route::Share(NAMED),
        Route::Share(_) => Route::Queues(Kind::Topic),
        Route::Recovery(Kind::Topic | Kind::Internal, ..) => return None,
    })
}

/// The methods that a resource answers.
fn answered(route: &Route<'_>) -> Vec<&'static str> {
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

/// A path that a template of the document stands for.
fn path_of(template: &str) -> String {
    let segment = |segment: &str| match segment.strip_prefix('{') {
        Some(_) => NAMED.to_owned(),
        None => segment.to_owned(),
    };
    template.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// All differences between the document and the routes.
fn differences(document: &str) -> Vec<String> {
    let mut differences = Vec::new();
    let mut undocumented: Vec<Route<'_>> = resources().collect();
    for (template, methods) in documented(document) {
        let path = path_of(&template);
        let Some(route) = Route::find(&path) else {
            differences.push(format!("{template} does not route"));
            continue;
        };
        let before = undocumented.len();
        undocumented.retain(|resource| *resource != route);
        if undocumented.len() == before {
            differences.push(format!("{template} names {route:?} once more"));
        }
        let answered = answered(&route);
        if methods != answered {
            differences.push(format!("{template} has {methods:?}, the route {answered:?}"));
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
