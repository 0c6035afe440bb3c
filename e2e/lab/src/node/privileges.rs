//! A container's user and capabilities: what its security context asks for and
//! what a container runtime makes of it.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Container, PodSpec};

/// What a runtime leaves to a container that asks for nothing (containerd's
/// default set).
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "audit_write",
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "mknod",
    "net_bind_service",
    "net_raw",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_chroot",
];

/// The privileges of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Privileges {
    /// User id; 0 if nobody says otherwise, as in an image without `USER`.
    pub(super) user: u32,
    /// Group id.
    pub(super) group: u32,
    /// `readOnlyRootFilesystem`.
    pub(super) read_only_root: bool,
    /// Lower case, without `CAP_`; none means all (a privileged container).
    capabilities: Option<Vec<String>>,
    escalation_barred: bool,
}

impl Privileges {
    /// As the pod's and the container's security contexts say; the container's
    /// wins. An error names what the API allows and a runtime refuses.
    pub(super) fn of(pod: &PodSpec, container: &Container) -> Result<Self> {
        let outer = pod.security_context.as_ref();
        let inner = container.security_context.as_ref();
        let id = |own: Option<i64>, pods: Option<i64>| -> Result<u32> {
            let id = own.or(pods).unwrap_or(0);
            u32::try_from(id).with_context(|| format!("{id} is no user or group id"))
        };
        let user = id(
            inner.and_then(|c| c.run_as_user),
            outer.and_then(|c| c.run_as_user),
        )?;
        let group = id(
            inner.and_then(|c| c.run_as_group),
            outer.and_then(|c| c.run_as_group),
        )?;
        let non_root = inner
            .and_then(|c| c.run_as_non_root)
            .or_else(|| outer.and_then(|c| c.run_as_non_root))
            .unwrap_or(false);
        if non_root && user == 0 {
            bail!("container has runAsNonRoot and would run as root: set runAsUser");
        }
        let privileged = inner.and_then(|c| c.privileged).unwrap_or(false);
        let changes = inner.and_then(|c| c.capabilities.as_ref());
        let added = plain(changes.and_then(|c| c.add.as_deref()));
        let dropped = plain(changes.and_then(|c| c.drop.as_deref()));
        let all = privileged || added.iter().any(|name| name == "all");
        let capabilities = (!all).then(|| {
            let mut kept: Vec<String> = DEFAULT_CAPABILITIES
                .iter()
                .map(|name| (*name).to_owned())
                .filter(|name| !dropped.iter().any(|drop| drop == "all" || drop == name))
                .chain(added)
                .collect();
            kept.sort();
            kept.dedup();
            kept
        });
        Ok(Self {
            user,
            group,
            read_only_root: inner
                .and_then(|c| c.read_only_root_filesystem)
                .unwrap_or(false),
            capabilities,
            escalation_barred: inner.and_then(|c| c.allow_privilege_escalation) == Some(false),
        })
    }

    /// Whether the program runs as a user other than this process's.
    pub(super) fn changes_user(&self) -> bool {
        (self.user, self.group) != (0, 0) && self.is_mapped()
    }

    /// Whether the user exists here: an unprivileged user's lab has but one.
    /// There a container for another user runs as the namespace's root, which
    /// is nobody outside, and has no capabilities, as that user would have none.
    pub(super) fn is_mapped(&self) -> bool {
        self.user == 0
            || std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| maps(&map, self.user))
    }

    /// Arguments of setpriv (util-linux) that leave exactly this. Root keeps
    /// what is in the bounding set across exec, everybody else keeps nothing.
    pub(super) fn setpriv(&self) -> Vec<String> {
        self.setpriv_arguments(self.is_mapped())
    }

    fn setpriv_arguments(&self, mapped: bool) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(capabilities) = &self.capabilities {
            let mut bounding = String::from("-all");
            for name in capabilities.iter().filter(|_| mapped) {
                let _ = write!(bounding, ",+{name}");
            }
            arguments.push(format!("--bounding-set={bounding}"));
        }
        arguments.push("--inh-caps=-all".into());
        if (self.user, self.group) != (0, 0) && mapped {
            arguments.push(format!("--reuid={}", self.user));
            arguments.push(format!("--regid={}", self.group));
            arguments.push("--clear-groups".into());
        }
        if self.escalation_barred {
            arguments.push("--no-new-privs".into());
        }
        arguments
    }
}

/// Capability names as setpriv writes them.
fn plain(names: Option<&[String]>) -> Vec<String> {
    names
        .unwrap_or_default()
        .iter()
        .map(|name| name.to_lowercase())
        .map(|name| name.strip_prefix("cap_").unwrap_or(&name).to_owned())
        .collect()
}

/// Whether a uid map (`user_namespaces(7)`: lines of first id inside, first id
/// outside, count) has this user.
fn maps(map: &str, user: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(_), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (first..first + count).contains(&u64::from(user))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(context: &Value) -> Result<Privileges> {
        let container =
            serde_json::from_value(json!({"name": "c", "securityContext": context})).unwrap();
        Privileges::of(&PodSpec::default(), &container)
    }

    #[test]
    fn dropping_all_and_adding_one_leaves_one() {
        let privileges = of(&json!({
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["CAP_NET_RAW"]},
        }))
        .unwrap();
        assert_eq!(
            privileges.setpriv_arguments(true),
            [
                "--bounding-set=-all,+net_raw",
                "--inh-caps=-all",
                "--no-new-privs"
            ]
        );
    }

    #[test]
    fn a_user_that_is_not_mapped_has_no_capabilities() {
        let privileges = of(&json!({"runAsUser": 65532})).unwrap();
        assert_eq!(
            privileges.setpriv_arguments(false),
            ["--bounding-set=-all", "--inh-caps=-all"]
        );
        assert!(
            privileges
                .setpriv_arguments(true)
                .contains(&"--reuid=65532".to_owned())
        );
    }

    #[test]
    fn a_container_that_must_not_be_root_needs_a_user() {
        assert!(of(&json!({"runAsNonRoot": true})).is_err());
        assert!(of(&json!({"runAsNonRoot": true, "runAsUser": 65532})).is_ok());
    }

    #[test]
    fn a_privileged_container_keeps_everything() {
        let privileges = of(&json!({"privileged": true})).unwrap();
        assert_eq!(privileges.setpriv_arguments(true), ["--inh-caps=-all"]);
    }

    #[test]
    fn a_uid_map_has_ranges() {
        assert!(maps("         0          0 4294967295\n", 65532));
        assert!(!maps("         0       1000          1\n", 65532));
        assert!(maps("0 1000 1\n1 100000 65536\n", 65532));
    }
}
