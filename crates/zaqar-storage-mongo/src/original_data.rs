//! The original's data, found beside ours.

use mongodb::Client;
use mongodb::bson::Document;

/// Says what of the original's is there: this store neither reads nor changes it. Where the server
/// does not let us look, nothing is said.
pub(crate) async fn warn_of_the_originals_data(client: &Client, database: &str) {
    match count(client, database).await {
        Ok(found) if found.is_empty() => {}
        Ok(found) => {
            let found: Vec<_> =
                found.iter().map(|(name, count)| format!("{name}: {count}")).collect();
            tracing::warn!(
                found = found.join(", "),
                "the original's data is in this MongoDB; it is left alone, and its queues and messages are not served"
            );
        }
        Err(error) => tracing::debug!(%error, "cannot look for the original's data"),
    }
}

/// Documents in each of the original's collections that holds any.
async fn count(client: &Client, database: &str) -> mongodb::error::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    let mut names = client.list_database_names().await?;
    names.sort();
    for name in names {
        let Some(collections) = collections(database, &name) else { continue };
        for collection in collections {
            let documents = client.database(&name).collection::<Document>(collection);
            let count = documents.estimated_document_count().await?;
            if count > 0 {
                found.push((format!("{name}.{collection}"), count));
            }
        }
    }
    Ok(found)
}

/// The original's collections in a database of this name, where it is one of its databases.
fn collections(base: &str, name: &str) -> Option<&'static [&'static str]> {
    match name.strip_prefix(base)? {
        "" => Some(&["pools", "flavors", "catalogue"]),
        "_queues" => Some(&["queues"]),
        "_topics" => Some(&["topics"]),
        "_subscriptions" => Some(&["subscriptions"]),
        rest => {
            let partition = rest
                .strip_prefix("_messages_p")
                .or_else(|| rest.strip_prefix("_messages_fifo_p"))?;
            partition.bytes().all(|b| b.is_ascii_digit()).then_some(&["messages"])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_originals_databases_are_known_and_ours_is_none() {
        for name in ["zaqar", "zaqar_queues", "zaqar_messages_p0", "zaqar_messages_fifo_p12"] {
            assert!(collections("zaqar", name).is_some(), "{name}");
        }
        for name in ["zaqar_server", "other", "zaqar_messages_px", "zaqar2"] {
            assert!(collections("zaqar", name).is_none(), "{name}");
        }
    }
}
