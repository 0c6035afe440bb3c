//! How a container's process is started: what its spec asks for, put together
//! for the sandbox that becomes it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use kube::ResourceExt as _;
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::env::{self, Environment, PodFields};
use super::pod::PodContext;
use super::privileges::Privileges;
use super::sandbox::{Mount, Sandbox};
use super::{image, names, volumes};
use crate::process::{NODE, POD};

/// A container's process.
pub(super) struct Process {
    pub(super) child: Child,
    /// Its process group, named after the first process.
    pub(super) group: Pid,
    pub(super) since: jiff::Timestamp,
    /// What gives up privileges, for others who enter the container.
    pub(super) setpriv: Vec<String>,
    pub(super) environment: Environment,
    /// Where the sandbox says why it could not become the program.
    pub(super) error: PathBuf,
}

/// Starts a container; `image` is the program that stands for its image.
pub(super) async fn launch(
    pod: &PodContext,
    container: &Container,
    image: &Path,
) -> Result<Process> {
    let spec = pod.pod.spec.as_ref().context("a pod without a spec")?;
    refuse_what_is_missing(spec, container)?;
    let privileges = Privileges::of(spec, container)?;
    if !privileges.is_mapped() {
        eprintln!(
            "pod {}: container {} asks for user {}, whom an unprivileged user's lab does not \
             have; it runs as the lab's root without capabilities",
            pod.title(),
            container.name,
            privileges.user
        );
    }
    let environment = pod.environment(container).await?;
    let directory = pod.directory.join("containers").join(&container.name);
    fs::create_dir_all(&directory)?;
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        let words = words.iter().flatten();
        words.map(|word| env::expand(word, &environment)).collect()
    };
    let (program, mut arguments) = image::entry_point(
        image,
        container.image.as_deref().unwrap_or_default(),
        &expanded(&container.command),
    );
    arguments.extend(expanded(&container.args));
    let mut setpriv = vec![pod.shared.setpriv.to_string_lossy().into_owned()];
    setpriv.extend(privileges.setpriv());
    let sandbox = Sandbox {
        network: pod.network.clone(),
        hostname: pod.network.is_some().then(|| pod.hostname()),
        program,
        arguments,
        working_directory: container.working_dir.clone().map(PathBuf::from),
        mounts: mounts(pod, spec, container)?,
        read_only_root: privileges.read_only_root,
        other_user: privileges.changes_user(),
        setpriv: setpriv.clone(),
        error: directory.join("error"),
    };
    let file = directory.join("sandbox.json");
    fs::write(&file, serde_json::to_vec_pretty(&sandbox)?)?;
    let log = pod.log(&container.name);
    let output = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("open {}", log.display()))?;
    // This very program, even if another was built in its place since.
    let child = Command::new("/proc/self/exe")
        .arg("__container")
        .arg(&file)
        .env_clear()
        .envs(&environment)
        .stdin(Stdio::null())
        .stderr(output.try_clone()?)
        .stdout(output)
        .process_group(0)
        .spawn()
        .context("start the container's process")?;
    let pid = child
        .id()
        .context("a process that was just started has an id")?;
    Ok(Process {
        child,
        group: Pid::from_raw(i32::try_from(pid).context("a process id fits pid_t")?),
        since: jiff::Timestamp::now(),
        setpriv,
        environment,
        error: sandbox.error,
    })
}

/// What a kubelet does and this agent does not is an error, never ignored.
fn refuse_what_is_missing(spec: &PodSpec, container: &Container) -> Result<()> {
    let lifecycle = container.lifecycle.as_ref();
    if lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some()) {
        bail!("lifecycle.postStart is not known here");
    }
    let mut ports = container.ports.iter().flatten();
    let host_port = ports.any(|port| port.host_port.is_some_and(|port| port != 0));
    if host_port && spec.host_network != Some(true) {
        bail!("hostPort is not known here; use hostNetwork or a Service");
    }
    Ok(())
}

/// The container's mounts; a volume may lie on what every container has.
fn mounts(pod: &PodContext, spec: &PodSpec, container: &Container) -> Result<Vec<Mount>> {
    let mut mounts = names::write(spec, &pod.hostname(), &pod.addresses, &pod.directory)?;
    let volumes = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| {
            let volume = pod
                .volumes
                .get(&mount.name)
                .with_context(|| format!("the pod has no volume {:?}", mount.name))?;
            let source = match mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
                None => volume.path.clone(),
                Some(sub_path) => volumes::below(&volume.path, sub_path)?,
            };
            if !source.exists() && volume.writable {
                fs::create_dir_all(&source)?;
            }
            Ok(Mount {
                source,
                target: PathBuf::from(&mount.mount_path),
                read_only: !volume.writable || mount.read_only == Some(true),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    mounts.extend(volumes);
    Ok(mounts)
}

impl PodContext {
    /// A container's environment.
    async fn environment(&self, container: &Container) -> Result<Environment> {
        let mut base = self.shared.api_server().await?.clone();
        let process = format!("{}/{}", self.title(), container.name);
        for (name, value) in [
            (POD, process.as_str()),
            (NODE, &self.shared.spec.name),
            ("HOSTNAME", &self.hostname()),
            (
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
        ] {
            base.insert(name.to_owned(), value.to_owned());
        }
        env::resolve(&self.shared.client, &self.fields(), container, base).await
    }

    /// The pod's host name: the node's on the node's network.
    fn hostname(&self) -> String {
        if self.network.is_none() {
            return self.shared.spec.name.clone();
        }
        let asked = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.hostname.clone());
        let name = asked.unwrap_or_else(|| self.pod.name_any());
        // As long as Linux takes it (HOST_NAME_MAX is 64, the kubelet's 63).
        let name: String = name.chars().take(63).collect();
        name.trim_end_matches(['-', '.']).to_owned()
    }

    /// What the downward API reads.
    pub(super) fn fields(&self) -> PodFields<'_> {
        PodFields {
            pod: &self.pod,
            pod_ips: &self.addresses,
            host_ips: &self.shared.spec.internal_addresses,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_refused() {
        let container = serde_json::from_value(serde_json::json!({
            "name": "c", "ports": [{"containerPort": 80, "hostPort": 80}],
        }))
        .unwrap();
        let mut spec = PodSpec::default();
        assert!(refuse_what_is_missing(&spec, &container).is_err());
        spec.host_network = Some(true);
        assert!(refuse_what_is_missing(&spec, &container).is_ok());
    }
}
