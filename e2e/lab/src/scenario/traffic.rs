//! When Herald wrote what: the audit log as a list of writes.

use std::path::Path;

use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;

use super::audit::{ObjectRef, User, entries};

/// A request of a service account of Herald's that changed something, or would
/// have.
#[derive(Clone, Debug)]
pub struct Write {
    /// Name of the service account.
    pub account: String,
    /// Resource, with `/subresource` where there is one.
    pub resource: String,
    /// Object; empty where it was yet to be named.
    pub name: String,
    /// When the API server had answered.
    pub answered: Timestamp,
    /// Address that it came from.
    pub from: String,
    /// HTTP status.
    pub status: u16,
}

impl Write {
    /// Whether it was done.
    pub const fn succeeded(&self) -> bool {
        self.status < 300
    }
}

/// The writes in the log from an offset on ([`super::audit::length`]), in the order
/// of their answers.
pub fn writes(log: &Path, offset: u64) -> Result<Vec<Write>> {
    let entries = entries::<Entry>(log, offset)?;
    let mut writes: Vec<Write> = entries.into_iter().filter_map(Entry::write).collect();
    writes.sort_by_key(|write| write.answered);
    Ok(writes)
}

/// A line of the log (`audit.k8s.io/v1` Event), as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    verb: String,
    user: User,
    stage_timestamp: Timestamp,
    #[serde(rename = "sourceIPs", default)]
    source_ips: Vec<String>,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: Answer,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    code: u16,
}

impl Entry {
    fn write(self) -> Option<Write> {
        if ["get", "list", "watch"].contains(&self.verb.as_str()) {
            return None;
        }
        Some(Write {
            account: self.user.account()?,
            resource: self.object_ref.resource(),
            name: self.object_ref.name,
            answered: self.stage_timestamp,
            from: self.source_ips.into_iter().next().unwrap_or_default(),
            status: self.response_status.code,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(verb: &str, user: &str) -> Option<Write> {
        let line = format!(
            r#"{{"verb":"{verb}","user":{{"username":"{user}"}},
                "stageTimestamp":"2026-01-01T00:00:00.000001Z",
                "objectRef":{{"resource":"services","subresource":"status","name":"web"}},
                "responseStatus":{{"code":409}}}}"#
        );
        serde_json::from_str::<Entry>(&line).unwrap().write()
    }

    #[test]
    fn only_writes_of_heralds_accounts_count() {
        let operator = "system:serviceaccount:herald-system:herald-operator";
        let write = read("patch", operator).unwrap();
        assert_eq!(
            (write.account.as_str(), write.resource.as_str()),
            ("herald-operator", "services/status")
        );
        assert!(!write.succeeded());
        assert!(read("list", operator).is_none());
        assert!(read("patch", "lab-admin").is_none());
    }
}
