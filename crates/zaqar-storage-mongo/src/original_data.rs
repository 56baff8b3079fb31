//! Detects data of the original server.

use mongodb::Client;
use mongodb::bson::Document;

/// Logs a warning if the server has data of the original, which this store neither reads nor
/// changes. Without the permission to list databases, nothing is logged.
pub(crate) async fn warn_about_original_data(client: &Client, database: &str) {
    match count(client, database).await {
        Ok(found) if found.is_empty() => {}
        Ok(found) => {
            let found: Vec<_> =
                found.iter().map(|(name, count)| format!("{name}: {count}")).collect();
            tracing::warn!(
                found = found.join(", "),
                "the original's data is in this MongoDB; it is not changed, and its queues and messages are not served"
            );
        }
        Err(error) => tracing::debug!(%error, "cannot look for the original's data"),
    }
}

/// The number of documents in each of the original's collections that is not empty.
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

/// The original's collections in a database of this name, if it is one of the original's.
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
    fn the_originals_databases_are_recognized() {
        for name in ["zaqar", "zaqar_queues", "zaqar_messages_p0", "zaqar_messages_fifo_p12"] {
            assert!(collections("zaqar", name).is_some(), "{name}");
        }
        for name in ["zaqar_server", "other", "zaqar_messages_px", "zaqar2"] {
            assert!(collections("zaqar", name).is_none(), "{name}");
        }
    }
}
