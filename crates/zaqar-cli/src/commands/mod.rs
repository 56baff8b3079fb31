//! One file for each group of commands.

use serde_json::Value;
use zaqar_client::{MetadataChange, Object};

use crate::Failure;

pub(crate) mod claim;
pub(crate) mod delivery;
pub(crate) mod flavor;
pub(crate) mod message;
pub(crate) mod pool;
pub(crate) mod queue;
pub(crate) mod quota;
pub(crate) mod subscription;
pub(crate) mod topic;

/// `NAME=VALUE`; a value that is JSON is that, any other is text.
pub(crate) fn pair(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    if name.is_empty() {
        return Err("it must be NAME=VALUE".to_owned());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

/// Pairs as an object.
pub(crate) fn object(pairs: Vec<(String, Value)>) -> Object {
    pairs.into_iter().collect()
}

/// Changes of metadata.
pub(crate) fn changes(
    set: Vec<(String, Value)>,
    unset: Vec<String>,
) -> Result<Vec<MetadataChange>, Failure> {
    if set.is_empty() && unset.is_empty() {
        return Err(Failure::Usage("say what to change: NAME=VALUE or --unset NAME".to_owned()));
    }
    let set = set.into_iter().map(|(name, value)| MetadataChange::Set(name, value));
    Ok(set.chain(unset.into_iter().map(MetadataChange::Remove)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_json_where_they_can_be() {
        assert_eq!(pair("a=1").unwrap(), ("a".to_owned(), json!(1)));
        assert_eq!(pair("a=b=c").unwrap(), ("a".to_owned(), json!("b=c")));
        assert_eq!(pair("a=").unwrap(), ("a".to_owned(), json!("")));
        assert_eq!(pair("a={\"b\":[]}").unwrap().1, json!({"b": []}));
        assert!(pair("a").is_err() && pair("=a").is_err());
    }
}
