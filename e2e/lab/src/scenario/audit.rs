//! What Herald asked of the API server, and whether it was allowed to and
//! needed to: the audit log against the shipped roles.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, Subject,
};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::context::HERALD;

/// One request by a service account of Herald.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// Name of the service account.
    pub account: String,
    /// `get`, `watch`, ...
    pub verb: String,
    /// API group; empty for the core group.
    pub group: String,
    /// Resource, with `/subresource` where there is one.
    pub resource: String,
    /// Namespace; empty where it names none.
    pub namespace: String,
    /// Object; empty where it names none.
    pub name: String,
    /// Path of the request.
    pub path: String,
    /// HTTP status.
    pub status: u16,
    /// It was refused for want of a right. Other things are forbidden too, such as
    /// to make something in a namespace that is being deleted.
    pub denied: bool,
}

/// What a role of Herald grants to one of its accounts, one verb on one
/// resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Name of the service account.
    pub account: String,
    /// Name of the `Role` or `ClusterRole`.
    pub role: String,
    /// Only in this namespace; everywhere where there is none.
    pub namespace: Option<String>,
    /// API group.
    pub group: String,
    /// Resource, with `/subresource`; for a path of the API server, the path.
    pub resource: String,
    /// Only this object; any where there is none.
    pub name: Option<String>,
    /// Verb.
    pub verb: String,
}

/// The audit log of a lab.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Its requests, each kind once, in order.
    pub requests: BTreeSet<Request>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = if self.group.is_empty() {
            "core"
        } else {
            &self.group
        };
        write!(
            f,
            "{}: {} {} ({group})",
            self.role, self.verb, self.resource
        )?;
        if let Some(name) = &self.name {
            write!(f, " named {name}")?;
        }
        if let Some(namespace) = &self.namespace {
            write!(f, " in {namespace}")?;
        }
        write!(f, " for {}", self.account)
    }
}

impl Request {
    /// The API server refused it for want of a right.
    pub const fn is_denied(&self) -> bool {
        self.denied
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} by {}: {} ({})",
            self.verb, self.account, self.path, self.status
        )
    }
}

impl Rule {
    /// Whether a request rests on this rule.
    pub fn allows(&self, request: &Request) -> bool {
        let is = |rule: &str, asked: &str| rule == "*" || rule == asked;
        request.account == self.account
            && is(&self.verb, &request.verb)
            && self
                .namespace
                .as_ref()
                .is_none_or(|n| *n == request.namespace)
            && if self.resource.starts_with('/') {
                let path = request.path.split('?').next().unwrap_or_default();
                request.resource.is_empty() && is(&self.resource, path)
            } else {
                is(&self.group, &request.group)
                    && is(&self.resource, &request.resource)
                    && self.name.as_ref().is_none_or(|name| *name == request.name)
            }
    }
}

impl Audit {
    /// Reads the log as it stands. A last line that is not whole yet is left
    /// out.
    pub fn read(log: &Path) -> Result<Self> {
        Self::read_from(log, 0)
    }

    /// [`Audit::read`] from an offset on ([`length`]).
    pub fn read_from(log: &Path, offset: u64) -> Result<Self> {
        let entries = entries::<Entry>(log, offset)?;
        Ok(Self {
            requests: entries.into_iter().filter_map(Entry::request).collect(),
        })
    }

    /// Requests that were refused for want of a right.
    pub fn denied(&self) -> Vec<&Request> {
        self.requests
            .iter()
            .filter(|request| request.is_denied())
            .collect()
    }

    /// Rules on which no request rests.
    pub fn unused<'a>(&self, rules: &'a BTreeSet<Rule>) -> Vec<&'a Rule> {
        rules
            .iter()
            .filter(|rule| {
                !self
                    .requests
                    .iter()
                    .any(|request| !request.is_denied() && rule.allows(request))
            })
            .collect()
    }
}

/// The lines of the log from an offset on ([`length`]), as far as they matter to who
/// asks; what is no `E`, such as a last line that is not whole yet, is left out.
pub(super) fn entries<E: DeserializeOwned>(log: &Path, offset: u64) -> Result<Vec<E>> {
    let what = || format!("read the audit log {}", log.display());
    let mut file = File::open(log).with_context(what)?;
    file.seek(SeekFrom::Start(offset)).with_context(what)?;
    let mut entries = Vec::new();
    for line in BufReader::new(file).lines() {
        entries.extend(serde_json::from_str(&line.with_context(what)?));
    }
    Ok(entries)
}

/// Octets in the log now.
pub fn length(log: &Path) -> Result<u64> {
    Ok(std::fs::metadata(log)
        .with_context(|| format!("look at the audit log {}", log.display()))?
        .len())
}

/// Everything that roles grant to Herald's service accounts.
pub async fn rules(kube: &kube::Client) -> Result<BTreeSet<Rule>> {
    let all = ListParams::default();
    let mut rules = BTreeSet::new();
    let bindings: Api<ClusterRoleBinding> = Api::all(kube.clone());
    let cluster_roles: Api<ClusterRole> = Api::all(kube.clone());
    for binding in bindings.list(&all).await? {
        for account in accounts(binding.subjects.as_ref()) {
            let role = cluster_roles.get(&binding.role_ref.name).await?;
            expand(
                &mut rules,
                &account,
                &role.name_any(),
                None,
                role.rules.as_ref(),
            );
        }
    }
    let bindings: Api<RoleBinding> = Api::all(kube.clone());
    for binding in bindings.list(&all).await? {
        for account in accounts(binding.subjects.as_ref()) {
            let namespace = binding
                .namespace()
                .context("a RoleBinding has a namespace")?;
            let name = &binding.role_ref.name;
            let granted = if binding.role_ref.kind == "ClusterRole" {
                cluster_roles.get(name).await?.rules
            } else {
                let roles: Api<Role> = Api::namespaced(kube.clone(), &namespace);
                roles.get(name).await?.rules
            };
            expand(
                &mut rules,
                &account,
                name,
                Some(&namespace),
                granted.as_ref(),
            );
        }
    }
    Ok(rules)
}

fn accounts(subjects: Option<&Vec<Subject>>) -> Vec<String> {
    subjects
        .into_iter()
        .flatten()
        .filter(|subject| {
            subject.kind == "ServiceAccount" && subject.namespace.as_deref() == Some(HERALD)
        })
        .map(|subject| subject.name.clone())
        .collect()
}

/// One [`Rule`] for each verb, resource and name of a role's rules.
fn expand(
    into: &mut BTreeSet<Rule>,
    account: &str,
    role: &str,
    namespace: Option<&str>,
    granted: Option<&Vec<PolicyRule>>,
) {
    for rule in granted.into_iter().flatten() {
        let names: Vec<Option<String>> = match &rule.resource_names {
            Some(names) if !names.is_empty() => names.iter().cloned().map(Some).collect(),
            _ => vec![None],
        };
        let resources = rule.resources.iter().flatten().flat_map(|resource| {
            rule.api_groups
                .iter()
                .flatten()
                .map(move |group| (group.clone(), resource.clone()))
        });
        let paths = rule
            .non_resource_urls
            .iter()
            .flatten()
            .map(|path| (String::new(), path.clone()));
        for (group, resource) in resources.chain(paths) {
            for verb in &rule.verbs {
                for name in &names {
                    into.insert(Rule {
                        account: account.to_owned(),
                        role: role.to_owned(),
                        namespace: namespace.map(str::to_owned),
                        group: group.clone(),
                        resource: resource.clone(),
                        name: name.clone(),
                        verb: verb.clone(),
                    });
                }
            }
        }
    }
}

/// A line of the audit log (`audit.k8s.io/v1` Event), as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    verb: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    user: User,
    #[serde(default)]
    object_ref: Option<ObjectRef>,
    #[serde(default)]
    response_status: Option<ResponseStatus>,
    #[serde(default)]
    annotations: Annotations,
}

#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(rename = "authorization.k8s.io/decision", default)]
    decision: String,
}

/// Who made a request.
#[derive(Deserialize)]
pub(super) struct User {
    username: String,
}

impl User {
    /// The service account, if it is one of Herald's.
    pub(super) fn account(&self) -> Option<String> {
        self.username
            .strip_prefix("system:serviceaccount:")?
            .strip_prefix(HERALD)?
            .strip_prefix(':')
            .map(str::to_owned)
    }
}

/// What a request is about.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ObjectRef {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    pub(super) name: String,
}

impl ObjectRef {
    /// The resource, with `/subresource` where there is one.
    pub(super) fn resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

impl Entry {
    /// The request, if an account of Herald made it.
    fn request(self) -> Option<Request> {
        let account = self.user.account()?;
        let object = self.object_ref.unwrap_or_default();
        Some(Request {
            account,
            verb: self.verb,
            resource: object.resource(),
            group: object.api_group,
            namespace: object.namespace,
            name: object.name,
            path: self.request_uri,
            status: self.response_status.map_or(0, |status| status.code),
            denied: self.annotations.decision == "forbid",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Option<Request> {
        serde_json::from_str::<Entry>(line).unwrap().request()
    }

    const PATCH: &str = r#"{"verb":"patch","requestURI":"/api/v1/namespaces/a/services/web/status?x=1",
        "user":{"username":"system:serviceaccount:herald-system:herald-operator"},
        "objectRef":{"resource":"services","subresource":"status","namespace":"a","name":"web","apiVersion":"v1"},
        "annotations":{"authorization.k8s.io/decision":"allow"},
        "responseStatus":{"metadata":{},"code":200}}"#;

    fn rule(verb: &str, resource: &str) -> Rule {
        Rule {
            account: "herald-operator".into(),
            role: "herald-operator".into(),
            namespace: None,
            group: String::new(),
            resource: resource.into(),
            name: None,
            verb: verb.into(),
        }
    }

    #[test]
    fn a_request_rests_on_the_rule_for_its_verb_and_subresource() {
        let request = request(PATCH).unwrap();
        assert!(rule("patch", "services/status").allows(&request));
        for other in [rule("patch", "services"), rule("update", "services/status")] {
            assert!(!other.allows(&request), "{other}");
        }
        let elsewhere = Rule {
            namespace: Some("b".into()),
            ..rule("patch", "services/status")
        };
        assert!(!elsewhere.allows(&request));
        let other_name = Rule {
            name: Some("api".into()),
            ..rule("patch", "services/status")
        };
        assert!(!other_name.allows(&request));
    }

    #[test]
    fn a_denied_request_shows_no_need_of_a_rule() {
        let denied = request(&PATCH.replace("allow", "forbid")).unwrap();
        assert!(denied.is_denied());
        let audit = Audit {
            requests: BTreeSet::from([denied]),
        };
        let rules = BTreeSet::from([rule("patch", "services/status")]);
        assert_eq!(audit.denied().len(), 1);
        assert_eq!(audit.unused(&rules).len(), 1);
    }

    #[test]
    fn what_is_forbidden_for_another_reason_is_not_denied() {
        let ending = request(&PATCH.replace("200", "403")).unwrap();
        assert_eq!((ending.status, ending.is_denied()), (403, false));
    }

    #[test]
    fn others_requests_are_not_heralds() {
        assert_eq!(
            request(&PATCH.replace("herald-system", "herald-system2")),
            None
        );
        assert_eq!(request(&PATCH.replace("system:serviceaccount:", "")), None);
    }

    #[test]
    fn a_rule_is_taken_apart_to_its_smallest_parts() {
        let mut rules = BTreeSet::new();
        let granted = vec![PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["services".into(), "nodes".into()]),
            verbs: vec!["list".into(), "watch".into()],
            ..PolicyRule::default()
        }];
        expand(&mut rules, "herald-speaker", "r", None, Some(&granted));
        assert_eq!(rules.len(), 4);
        let texts: Vec<String> = rules.iter().map(Rule::to_string).collect();
        assert_eq!(texts[0], "r: list nodes (core) for herald-speaker");
    }
}
