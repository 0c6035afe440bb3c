//! How a container's program is started: its network namespace, a mount
//! namespace with its volumes, its user and its capabilities. What a container
//! runtime does, with the tools of util-linux.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Container, PodSpec};

/// What a runtime leaves to a container that asks for nothing.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "audit_write", "chown", "dac_override", "fowner", "fsetid", "kill", "mknod",
    "net_bind_service", "net_raw", "setfcap", "setgid", "setpcap", "setuid", "sys_chroot",
];

/// The privileges of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Privileges {
    user: u32,
    group: u32,
    /// Lower case, without `CAP_`; none means all (a privileged container).
    capabilities: Option<Vec<String>>,
    no_new_privileges: bool,
    read_only_root: bool,
}

impl Privileges {
    /// As the pod's and the container's security contexts say.
    pub(super) fn of(pod: &PodSpec, container: &Container) -> Result<Self> {
        let outer = pod.security_context.as_ref();
        let inner = container.security_context.as_ref();
        let number = |own: Option<i64>, pods: Option<i64>| -> Result<u32> {
            Ok(u32::try_from(own.or(pods).unwrap_or(0))?)
        };
        let user = number(inner.and_then(|c| c.run_as_user), outer.and_then(|c| c.run_as_user))?;
        let group =
            number(inner.and_then(|c| c.run_as_group), outer.and_then(|c| c.run_as_group))?;
        let non_root = inner
            .and_then(|c| c.run_as_non_root)
            .or_else(|| outer.and_then(|c| c.run_as_non_root))
            .unwrap_or(false);
        if non_root && user == 0 {
            bail!("container has runAsNonRoot and would run as root: set runAsUser");
        }
        let privileged = inner.and_then(|c| c.privileged).unwrap_or(false);
        let changes = inner.and_then(|c| c.capabilities.as_ref());
        let plain = |name: &String| name.trim_start_matches("CAP_").to_lowercase();
        let added: Vec<String> =
            changes.and_then(|c| c.add.as_ref()).into_iter().flatten().map(plain).collect();
        let dropped: Vec<String> =
            changes.and_then(|c| c.drop.as_ref()).into_iter().flatten().map(plain).collect();
        let capabilities = (!privileged && !added.iter().any(|name| name == "all")).then(|| {
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
            capabilities,
            no_new_privileges: inner.and_then(|c| c.allow_privilege_escalation) == Some(false),
            read_only_root: inner.and_then(|c| c.read_only_root_filesystem).unwrap_or(false),
        })
    }

    /// Arguments of setpriv that leave exactly this.
    fn setpriv(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(capabilities) = &self.capabilities {
            let mut bounding = String::from("-all");
            for name in capabilities {
                let _ = write!(bounding, ",+{name}");
            }
            arguments.push(format!("--bounding-set={bounding}"));
            arguments.push("--inh-caps=-all".into());
        }
        if (self.user, self.group) != (0, 0) && maps(self.user) {
            arguments.push(format!("--reuid={}", self.user));
            arguments.push(format!("--regid={}", self.group));
            arguments.push("--clear-groups".into());
        }
        if self.no_new_privileges {
            arguments.push("--no-new-privs".into());
        }
        arguments
    }
}

/// Whether a user id exists here: an unprivileged user's lab has but one, and
/// there a container runs as the namespace's root, which is nobody outside.
fn maps(user: u32) -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        map.lines().any(|line| {
            let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
            let (Some(first), _, Some(count)) = (numbers.next(), numbers.next(), numbers.next())
            else {
                return false;
            };
            (first..first + count).contains(&u64::from(user))
        })
    })
}

/// A container's program and what it may see.
pub(super) struct Sandbox<'a> {
    /// Network namespace; none is the node's.
    pub(super) network: Option<&'a str>,
    /// The program that stands for the image.
    pub(super) program: &'a Path,
    pub(super) arguments: Vec<String>,
    /// Directory on the node and where the container sees it.
    pub(super) mounts: Vec<Mount>,
    pub(super) privileges: &'a Privileges,
    /// Private directory of this container.
    pub(super) directory: &'a Path,
}

/// One mount of a volume.
pub(super) struct Mount {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    pub(super) read_only: bool,
}

impl Sandbox<'_> {
    /// The command; its process id is that of the container's program.
    pub(super) fn command(&self) -> Result<Command> {
        let mut command = match self.network {
            Some(name) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).args(["--", "unshare"]);
                command
            }
            None => Command::new("unshare"),
        };
        command
            .args(["--mount", "--propagation", "private", "sh", "-ec"])
            .arg(self.script()?)
            .arg("sh")
            .args(self.privileges.setpriv())
            .arg("--")
            .arg(self.inner_program())
            .args(&self.arguments);
        Ok(command)
    }

    /// Where the container sees its program: a place that every user can
    /// reach, whatever the rights of the directory it was built in.
    fn inner_program(&self) -> PathBuf {
        Path::new("/run/image").join(self.program.file_name().unwrap_or_default())
    }

    /// Prepares the mounts and becomes setpriv, whose arguments follow.
    fn script(&self) -> Result<String> {
        let run = self.directory.join("run");
        let tmp = self.directory.join("tmp");
        let mut script = format!(
            "mkdir -p {run} {tmp}\nmount -t tmpfs -o mode=755 tmpfs {run}\n\
             mount -t tmpfs -o mode=1777 tmpfs {tmp}\n\
             mkdir -p {run}/image {run}/lock\ntouch {run}{program}\n\
             mount --bind {image} {run}{program}\n",
            run = run.display(),
            tmp = tmp.display(),
            image = self.program.display(),
            program = self.inner_program().strip_prefix("/run").map_or_else(
                |_| String::new(),
                |path| format!("/{}", path.display())
            ),
        );
        for mount in &self.mounts {
            let target = self.place(&mount.target, &run, &tmp)?;
            let (source, target) = (mount.source.display(), target.display());
            let _ = writeln!(script, "mkdir -p {target}\nmount --bind {source} {target}");
            if mount.read_only {
                let _ = writeln!(script, "mount -o remount,bind,ro {target}");
            }
        }
        let _ = writeln!(script, "mount --rbind {} /tmp", tmp.display());
        let _ = writeln!(script, "mount --rbind {} /run", run.display());
        if self.privileges.read_only_root {
            script.push_str("mount -o remount,bind,ro /\n");
        }
        script.push_str("exec setpriv \"$@\"\n");
        Ok(script)
    }

    /// Where a mount point is made before `/run` and `/tmp` are covered. The
    /// host's own tree is never written to.
    fn place(&self, target: &Path, run: &Path, tmp: &Path) -> Result<PathBuf> {
        for (prefix, root) in [("/var/run", run), ("/run", run), ("/tmp", tmp)] {
            if let Ok(rest) = target.strip_prefix(prefix) {
                return Ok(root.join(rest));
            }
        }
        if target.is_dir() {
            return Ok(target.to_owned());
        }
        bail!(
            "mountPath {} can't be made: in the lab it must lie below /run, /var/run or /tmp, or exist",
            target.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(context: serde_json::Value) -> Container {
        serde_json::from_value(serde_json::json!({"name": "c", "securityContext": context}))
            .unwrap()
    }

    #[test]
    fn dropping_all_and_adding_one_leaves_one() {
        let context = serde_json::json!({
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]},
        });
        let privileges = Privileges::of(&PodSpec::default(), &container(context)).unwrap();
        assert_eq!(privileges.capabilities, Some(vec!["net_raw".to_owned()]));
        assert!(privileges.setpriv().contains(&"--bounding-set=-all,+net_raw".to_owned()));
        assert!(privileges.setpriv().contains(&"--no-new-privs".to_owned()));
    }

    #[test]
    fn a_container_that_must_not_be_root_needs_a_user() {
        let context = serde_json::json!({"runAsNonRoot": true});
        assert!(Privileges::of(&PodSpec::default(), &container(context)).is_err());
        let context = serde_json::json!({"runAsNonRoot": true, "runAsUser": 65532});
        assert!(Privileges::of(&PodSpec::default(), &container(context)).is_ok());
    }
}
