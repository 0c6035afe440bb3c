//! When Herald wrote what, and what it follows: the audit log as a list of writes, and
//! of watches.

use std::collections::BTreeSet;
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

/// What a service account of Herald's follows, by the log from an offset on
/// ([`super::audit::length`]): from which address, and which resource.
pub fn watches(log: &Path, account: &str, offset: u64) -> Result<BTreeSet<(String, String)>> {
    let entries = entries::<Entry>(log, offset)?.into_iter();
    Ok(entries.filter_map(|entry| entry.watch(account)).collect())
}

/// A line of the log (`audit.k8s.io/v1` Event), as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    verb: String,
    stage: String,
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
    /// A watch that the API server has begun to answer.
    fn watch(self, account: &str) -> Option<(String, String)> {
        let begun = self.verb == "watch" && self.stage == "ResponseStarted";
        if !begun || self.user.account()? != account {
            return None;
        }
        Some((
            self.source_ips.into_iter().next()?,
            self.object_ref.resource(),
        ))
    }

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

    fn read(verb: &str, user: &str) -> Entry {
        let line = format!(
            r#"{{"verb":"{verb}","stage":"ResponseStarted","user":{{"username":"{user}"}},
                "sourceIPs":["172.30.0.11"],
                "stageTimestamp":"2026-01-01T00:00:00.000001Z",
                "objectRef":{{"resource":"services","subresource":"status","name":"web"}},
                "responseStatus":{{"code":409}}}}"#
        );
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn only_writes_of_heralds_accounts_count() {
        let operator = "system:serviceaccount:herald-system:herald-operator";
        let write = read("patch", operator).write().unwrap();
        assert_eq!(
            (write.account.as_str(), write.resource.as_str()),
            ("herald-operator", "services/status")
        );
        assert!(!write.succeeded());
        assert!(read("list", operator).write().is_none());
        assert!(read("patch", "lab-admin").write().is_none());
    }

    #[test]
    fn a_watch_is_one_when_it_is_answered() {
        let operator = "system:serviceaccount:herald-system:herald-operator";
        let watch = read("watch", operator).watch("herald-operator");
        let expected = ("172.30.0.11".to_owned(), "services/status".to_owned());
        assert_eq!(watch, Some(expected));
        assert_eq!(read("watch", operator).watch("herald-speaker"), None);
        let asked = Entry {
            stage: "RequestReceived".to_owned(),
            ..read("watch", operator)
        };
        assert_eq!(asked.watch("herald-operator"), None);
        assert_eq!(read("list", operator).watch("herald-operator"), None);
    }
}
