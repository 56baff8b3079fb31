//! Every action, in both encodings.

use std::sync::Arc;

use serde_json::{Value, json};
use zaqar_api::Api;
use zaqar_core::storage::Upkeep;
use zaqar_storage_testkit::Memory;
use zaqar_transport_ws::Options;

use crate::support::{BOTH, CLIENT, Peer, Setup};

async fn posted(peer: &mut Peer, queue: &str, bodies: &[Value]) -> Vec<String> {
    let messages: Vec<Value> = bodies.iter().map(|body| json!({ "body": body })).collect();
    let (status, body) =
        peer.ask("message_post", json!({ "queue_name": queue, "messages": messages })).await;
    assert_eq!(status, 201, "{body}");
    let ids = body["message_ids"].as_array().unwrap();
    ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_answer_repeats_its_request_but_no_token() {
    for encoding in BOTH {
        let mut peer = Setup::new(Options::default()).connect_as(encoding).await;
        peer.headers["X-Auth-Token"] = "secret".into();
        peer.headers["Odd"] = json!([1]);
        peer.send("queue_create", json!({ "queue_name": "q", "metadata": { "a": 1.5 } })).await;
        assert_eq!(
            peer.next().await,
            json!({
                "request": {
                    "action": "queue_create",
                    "body": { "queue_name": "q", "metadata": { "a": 1.5 } },
                    "headers": { "Client-ID": CLIENT, "X-Project-ID": "p", "Odd": [1] },
                    "api": "v2",
                },
                "body": "Queue q created.",
                "headers": { "status": 201 },
            })
        );
        // Without a body, the answer has an empty one.
        let request = json!({ "action": "queue_list", "headers": peer.headers });
        peer.send_raw(encoding.message(&request)).await;
        assert_eq!(peer.next().await["request"]["body"], json!({}));
    }
}

#[tokio::test]
async fn queue_actions() {
    for encoding in BOTH {
        let peer = &mut Setup::new(Options::default()).connect_as(encoding).await;
        let q = json!({ "queue_name": "q1" });
        assert_eq!(peer.ask("queue_get", q.clone()).await, (200, json!({})));
        let none = json!({ "messages": { "claimed": 0, "free": 0, "total": 0 } });
        assert_eq!(peer.ask("queue_get_stats", q.clone()).await, (404, none.clone()));
        let create = json!({ "queue_name": "q1", "metadata": { "z": 1, "a": [true, null] } });
        assert_eq!(peer.ask("queue_create", create).await, (201, json!("Queue q1 created.")));
        let again = json!({ "queue_name": "q1", "metadata": { "other": 1 } });
        assert_eq!(peer.ask("queue_create", again).await, (204, json!("Queue q1 created.")));
        let metadata = json!({ "z": 1, "a": [true, null] });
        assert_eq!(peer.ask("queue_get", q.clone()).await, (200, metadata));
        assert_eq!(peer.ask("queue_get_stats", q.clone()).await, (200, none));
        peer.ask("queue_create", json!({ "queue_name": "q2" })).await;
        let (status, body) = peer.ask("queue_list", json!({})).await;
        assert_eq!(
            (status, body),
            (200, json!({ "queues": [{ "name": "q1" }, { "name": "q2" }] }))
        );
        let (_, body) = peer.ask("queue_list", json!({ "marker": "q1", "limit": 1 })).await;
        assert_eq!(body, json!({ "queues": [{ "name": "q2" }] }));
        let (_, body) = peer.ask("queue_list", json!({ "detailed": true, "limit": 1 })).await;
        assert_eq!(body["queues"][0]["metadata"]["z"], 1);

        posted(peer, "q1", &[json!(1), json!(2)]).await;
        let (_, body) = peer.ask("queue_get_stats", q.clone()).await;
        assert_eq!(body["messages"]["free"], 2);
        assert_eq!(body["messages"]["oldest"]["age"], 0);
        let types = vec!["messages"; 21];
        let purge = json!({ "queue_name": "q1", "resource_types": types });
        let (status, error) = peer.ask("queue_purge", purge).await;
        assert!(status == 400 && error.to_string().contains("more than 20 values"), "{error}");
        let purge = json!({ "queue_name": "q1", "resource_types": ["subscriptions", "x", 1] });
        assert_eq!(peer.ask("queue_purge", purge).await, (204, json!({})));
        assert_eq!(peer.ask("queue_get_stats", q.clone()).await.1["messages"]["total"], 2);
        assert_eq!(peer.ask("queue_purge", q.clone()).await, (204, json!({})));
        assert_eq!(peer.ask("queue_get_stats", q.clone()).await.1["messages"]["total"], 0);
        assert_eq!(peer.ask("queue_delete", q.clone()).await, (204, json!("Queue q1 removed.")));
        assert_eq!(peer.ask("queue_get_stats", q).await.0, 404);
    }
}

#[tokio::test]
async fn message_actions() {
    for encoding in BOTH {
        let peer = &mut Setup::new(Options::default()).connect_as(encoding).await;
        let q = json!({ "queue_name": "q" });
        let bodies = [json!({ "a": [1, 2.5, "ä\u{0}\"", null] }), json!("two"), json!(null)];
        let ids = posted(peer, "q", &bodies).await;
        assert_eq!(peer.ask("message_list", q.clone()).await, (200, json!({ "messages": [] })));
        let listed = |at: usize| json!({ "id": ids[at], "claim_id": null, "ttl": 3600, "age": 0, "body": bodies[at] });
        let all = json!({ "messages": [listed(0), listed(1), listed(2)] });
        let echo = json!({ "queue_name": "q", "echo": true });
        assert_eq!(peer.ask("message_list", echo).await, (200, all));
        let page = json!({ "queue_name": "q", "echo": true, "limit": 1, "marker": ids[0] });
        assert_eq!(peer.ask("message_list", page).await.1, json!({ "messages": [listed(1)] }));

        let get = json!({ "queue_name": "q", "message_id": ids[1] });
        assert_eq!(
            peer.ask("message_get", get.clone()).await,
            (200, json!({ "messages": listed(1) }))
        );
        for action in ["message_get_many", "message_delete_many"] {
            let many = json!({ "queue_name": "q", "message_ids": vec![&ids[0]; 1000] });
            let (status, error) = peer.ask(action, many).await;
            let says = "ids parameter should have at least 1 and not greater than 20 values.";
            assert!(status == 400 && error.to_string().contains(says), "{error}");
        }
        let many = json!({ "queue_name": "q", "message_ids": [ids[2], "x", ids[0], 7] });
        let (status, body) = peer.ask("message_get_many", many).await;
        assert_eq!((status, body), (200, json!({ "messages": [listed(0), listed(2)] })));

        assert_eq!(peer.ask("message_delete", get.clone()).await, (204, json!({})));
        let gone = format!("Message {} does not exist in queue q for project p", ids[1]);
        let answer = json!({ "exception": gone, "error": null });
        assert_eq!(peer.ask("message_get", get).await, (404, answer));
        let delete = json!({ "queue_name": "q", "message_ids": [ids[0], "x", 7] });
        assert_eq!(peer.ask("message_delete_many", delete).await, (204, json!({})));
        let (status, body) =
            peer.ask("message_delete_many", json!({ "queue_name": "q", "pop": 5 })).await;
        let popped = json!({
            "id": ids[2], "age": 0, "ttl": 3600, "claim_count": 0, "body": null, "claim_id": null
        });
        assert_eq!((status, body), (200, json!({ "messages": [popped] })));
    }
}

#[tokio::test]
async fn claim_actions() {
    for encoding in BOTH {
        let peer = &mut Setup::new(Options::default()).connect_as(encoding).await;
        let q = json!({ "queue_name": "q" });
        assert_eq!(peer.ask("claim_create", q.clone()).await, (204, json!({ "claim_id": null })));
        let ids = posted(peer, "q", &[json!(1), json!(2)]).await;
        let create = json!({ "queue_name": "q", "limit": 1, "ttl": 100, "grace": 60 });
        let (status, body) = peer.ask("claim_create", create).await;
        assert_eq!(status, 201);
        let claim = body["claim_id"].as_str().unwrap().to_owned();
        let message = json!({ "id": ids[0], "claim_id": claim, "ttl": 3600, "age": 0, "body": 1 });
        assert_eq!(body["messages"], json!([message]));
        let named = json!({ "queue_name": "q", "claim_id": claim });
        let claimed = json!({ "age": 0, "ttl": 100, "messages": [message] });
        assert_eq!(peer.ask("claim_get", named.clone()).await, (200, claimed));
        let renew = json!({ "queue_name": "q", "claim_id": claim, "ttl": 200, "grace": 100 });
        let text = json!(format!("Claim {claim} updated."));
        assert_eq!(peer.ask("claim_update", renew).await, (204, text));
        assert_eq!(peer.ask("claim_get", named.clone()).await.1["ttl"], 200);

        let held = json!({ "queue_name": "q", "message_id": ids[0] });
        let (status, body) = peer.ask("message_delete", held).await;
        assert_eq!(
            (status, &body["exception"]),
            (403, &json!(format!("Message {} is claimed", ids[0])))
        );
        let free = json!({ "queue_name": "q", "message_id": ids[1], "claim_id": claim });
        let (status, body) = peer.ask("message_delete", free).await;
        assert_eq!(
            (status, &body["exception"]),
            (400, &json!(format!("Message {} is no longer claimed", ids[1])))
        );
        let wrong = json!({ "queue_name": "q", "message_id": ids[0], "claim_id": "x" });
        let (status, body) = peer.ask("message_delete", wrong).await;
        assert_eq!(status, 400);
        assert_eq!(body["exception"], "Claim x does not exist in queue q for project p");

        let text = json!(format!("Claim {claim} deleted."));
        assert_eq!(peer.ask("claim_delete", named.clone()).await, (204, text));
        let missing = json!({
            "exception": format!("Claim {claim} does not exist in queue q for project p"),
            "error": format!("Claim {claim} does not exist."),
        });
        assert_eq!(peer.ask("claim_get", named).await, (404, missing));
        let bad = json!({ "queue_name": "q", "claim_id": "x", "grace": "soon" });
        assert_eq!(peer.ask("claim_update", bad).await.0, 400);
    }
}

#[tokio::test]
async fn actions_of_subscriptions_by_address() {
    for encoding in BOTH {
        let peer = &mut Setup::new(Options::default()).connect_as(encoding).await;
        let q = json!({ "queue_name": "q" });
        assert_eq!(
            peer.ask("subscription_list", q.clone()).await,
            (200, json!({ "subscriptions": [] }))
        );
        let create = json!({
            "queue_name": "q", "subscriber": "http://a.example/x", "ttl": 600, "options": { "k": 1 }
        });
        let (status, body) = peer.ask("subscription_create", create).await;
        assert_eq!((status, &body["message"]), (201, &json!("Subscription q created.")));
        let id = body["subscription_id"].as_str().unwrap().to_owned();
        let shown = json!({
            "id": id, "source": "q", "subscriber": "http://a.example/x", "ttl": 600, "age": 0,
            "options": { "k": 1 }, "confirmed": false,
        });
        let named = json!({ "queue_name": "q", "subscription_id": id });
        assert_eq!(peer.ask("subscription_get", named.clone()).await, (200, shown.clone()));
        assert_eq!(peer.ask("subscription_list", q).await.1, json!({ "subscriptions": [shown] }));
        let text = json!(format!("Subscription {id} removed."));
        assert_eq!(peer.ask("subscription_delete", named.clone()).await, (204, text));
        let missing = json!({
            "exception": format!("Subscription {id} does not exist"),
            "error": format!("Subscription {id} for queue q does not exist."),
        });
        assert_eq!(peer.ask("subscription_get", named).await, (404, missing));
        let odd = json!({ "queue_name": "q", "subscriber": "ftp://a.example/x" });
        assert_eq!(peer.ask("subscription_create", odd).await.0, 400);
        let short = json!({ "queue_name": "q", "subscriber": "http://a.example/x", "ttl": 1 });
        assert_eq!(peer.ask("subscription_create", short).await.0, 400);
    }
}

#[tokio::test]
async fn actions_without_a_queue() {
    let options = Options { admin: true, ..Options::default() };
    for encoding in BOTH {
        let peer = &mut Setup::new(options.clone()).connect_as(encoding).await;
        peer.headers = json!({});
        assert_eq!(peer.ask("ping_node", json!({})).await, (204, json!({})));
        let (status, body) = peer.ask("get_home_doc", json!({})).await;
        assert_eq!(status, 200);
        assert_eq!(body["resources"]["rel/queue"]["href-template"], "/v2/queues/{queue_name}");
        assert_eq!(peer.ask("check_node_health", json!({})).await.0, 403);
        peer.headers = json!({ "X-Roles": "reader, Admin" });
        let (status, body) = peer.ask("check_node_health", json!({})).await;
        assert_eq!((status, &body["storage_reachable"]), (200, &json!(true)));
        assert_eq!(body["operation_status"]["post_messages"]["succeeded"], true, "{body}");
    }
    let peer = &mut Setup::new(Options::default()).connect().await;
    peer.headers = json!({ "X-Roles": "admin" });
    assert_eq!(peer.ask("check_node_health", json!({})).await.0, 403);
}

#[tokio::test]
async fn actions_are_503_while_the_store_is_down() {
    for encoding in BOTH {
        let store = Arc::new(Memory::new());
        let api = Api::new(store.clone(), store.clone(), zaqar_api::Options::default());
        let peer = &mut Setup::with(api, Options::default()).connect_as(encoding).await;
        posted(peer, "q", &[json!(1)]).await;
        store.shut_down().await.unwrap();
        let q = json!({ "queue_name": "q" });
        for (action, body, says) in [
            ("queue_list", json!({}), "Queues could not be listed."),
            ("queue_get", q.clone(), "Cannot retrieve queue q."),
            ("queue_delete", q.clone(), "Queue q could not be deleted."),
            ("subscription_list", q.clone(), "Subscriptions could not be listed."),
            ("subscription_create", q.clone(), "Subscription q could not be created."),
            ("message_list", q, "Service temporarily unavailable."),
            ("ping_node", json!({}), "Service temporarily unavailable."),
        ] {
            peer.send(action, body).await;
            let answer = peer.next().await;
            assert_eq!(answer["headers"], json!({ "status": 503, "Retry-After": 5 }), "{action}");
            assert_eq!(answer["body"]["error"], says, "{action}");
        }
    }
}

#[tokio::test]
async fn without_authentication_any_token_is_accepted_and_none_is_needed() {
    for encoding in BOTH {
        let peer = &mut Setup::new(Options::default()).connect_as(encoding).await;
        let request = json!({
            "action": "authenticate",
            "headers": { "X-Auth-Token": "t", "Client-ID": CLIENT, "X-Project-ID": "p" },
        });
        peer.send_raw(encoding.message(&request)).await;
        assert_eq!(
            peer.next().await,
            json!({
                "request": { "action": "authenticate", "body": {}, "headers": {}, "api": "v2" },
                "body": { "message": "Authentified." },
                "headers": { "status": 200 },
            })
        );
        assert_eq!(peer.ask("queue_list", json!({})).await.0, 200);
    }
}
