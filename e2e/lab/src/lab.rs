//! A lab: a cluster, its networks, its clients. Everything about a running lab
//! is in its files, in /proc and in the kernel, so that any process inside its
//! namespaces may open it and act on it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{Api, ListParams};
use kube::config::KubeConfigOptions;
use serde::{Deserialize, Serialize};

use crate::assets::{self, Programs};
use crate::aws;
use crate::controlplane::{self, ControlPlane};
use crate::isolate;
use crate::network;
use crate::node::kube_proxy;
use crate::node::spec::NodeSpec;
use crate::plan::{self, Families, Host};
use crate::process::{self, NODE, PROCESS};
use crate::router::Software;
use crate::vm;

/// Where a lab keeps its files, inside its own mount namespace.
const DIRECTORY: &str = "/run/herald-lab";

/// How long each part of a lab may take to start; a virtual machine stretches
/// it. Generous: other labs and builds may run beside this one.
const START: Duration = Duration::from_mins(2);
/// What kubectl says when a TLS handshake took longer than Go's ten seconds.
const NO_HANDSHAKE: &str = "TLS handshake timeout";

/// Port of `herald-fakecloud` on host `cloud`.
pub const FAKECLOUD_PORT: u16 = 8090;

/// What a lab is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabSpec {
    /// Nodes `n1`, `n2`, ... With none there is no cluster: networks, clients and
    /// routers only.
    pub nodes: u8,
    /// Clients `c1`, `c2`, ... outside the cluster.
    pub clients: u8,
    /// Service LANs.
    pub lans: u8,
    /// What runs on routers `r1`, `r2`, ... outside the cluster.
    #[serde(default)]
    pub routers: Vec<Software>,
    /// IP families of the cluster.
    pub families: Families,
    /// kube-proxy's mode: `nftables`, `iptables` or `ipvs`.
    pub proxy_mode: String,
    /// kube-proxy's `ipvs.strictARP`.
    pub strict_arp: bool,
    /// Whether the nodes are instances of AWS's stand-in, for `deploy/overlays/aws`.
    pub aws: bool,
    /// Programs that stand for images, beside the built-in ones.
    pub images: BTreeMap<String, PathBuf>,
    /// Where logs and captures are kept, outside the lab.
    pub logs: PathBuf,
}

impl Default for LabSpec {
    fn default() -> Self {
        Self {
            nodes: 3,
            clients: 1,
            lans: 1,
            routers: Vec::new(),
            families: Families::Dual,
            proxy_mode: "nftables".into(),
            strict_arp: true,
            aws: false,
            images: BTreeMap::new(),
            logs: std::env::temp_dir().join("herald-lab-logs"),
        }
    }
}

impl LabSpec {
    /// Whether there is a cluster.
    pub const fn has_cluster(&self) -> bool {
        self.nodes > 0
    }

    /// How many routers there are.
    pub fn router_count(&self) -> u8 {
        u8::try_from(self.routers.len()).unwrap_or(u8::MAX)
    }
}

/// A running lab, seen from inside its namespaces.
#[derive(Clone)]
pub struct Lab {
    /// What it was made of.
    pub spec: LabSpec,
    state: State,
    kube: kube::Client,
}

/// What [`Lab::open`] needs to know of a lab that another process started.
#[derive(Clone, Serialize, Deserialize)]
struct State {
    spec: LabSpec,
    control_plane: ControlPlane,
    programs: Programs,
}

impl Lab {
    /// Builds the networks and starts the control plane and the nodes, if there are
    /// nodes; returns when every node is Ready. Runs inside namespaces made by
    /// [`crate::isolate`].
    pub async fn start(spec: LabSpec) -> Result<Self> {
        isolate::furnish()?;
        let begin = Instant::now();
        let say = |what: &str| {
            eprintln!("lab: {what} after {:.1} s", begin.elapsed().as_secs_f64());
        };
        fs::create_dir_all(&spec.logs).with_context(|| format!("make {}", spec.logs.display()))?;
        let programs = if spec.has_cluster() {
            assets::ensure()?
        } else {
            Programs::default()
        };
        network::build(&spec)?;
        say("networks ready");
        let control_plane = ControlPlane::prepare(
            &spec,
            &Path::new(DIRECTORY).join("cp"),
            &spec.logs,
            &programs,
        )?;
        if spec.has_cluster() {
            control_plane.start()?;
        }
        let state = State {
            spec: spec.clone(),
            control_plane,
            programs,
        };
        fs::write(state_file(), serde_json::to_vec_pretty(&state)?)?;
        let lab = Self {
            spec,
            kube: client(&state.control_plane).await?,
            state,
        };
        if !lab.spec.has_cluster() {
            return Ok(lab);
        }
        lab.api_server_ready().await?;
        say("API server ready");
        lab.state.control_plane.start_controllers()?;
        for i in 1..=lab.spec.nodes {
            lab.start_node(&Host::Node(i).name())?;
        }
        lab.nodes_ready(START).await?;
        // No pod is taken before the account that it would run as exists.
        let accounts: Api<ServiceAccount> = Api::default_namespaced(lab.kube());
        poll(START, "the default service account to exist", || async {
            accounts.get("default").await.is_ok()
        })
        .await?;
        say("all nodes Ready");
        Ok(lab)
    }

    /// The lab whose namespaces this process is in.
    pub async fn open() -> Result<Self> {
        let state = fs::read(state_file()).context("no lab is running in these namespaces")?;
        let state: State = serde_json::from_slice(&state)?;
        Ok(Self {
            spec: state.spec.clone(),
            kube: client(&state.control_plane).await?,
            state,
        })
    }

    /// A client of the API server with an administrator's rights.
    pub fn kube(&self) -> kube::Client {
        self.kube.clone()
    }

    /// Directory of logs and captures, kept after the lab.
    pub fn logs(&self) -> &Path {
        &self.spec.logs
    }

    /// The API server's audit log: requests by Herald's accounts.
    pub fn audit_log(&self) -> PathBuf {
        self.state.control_plane.audit_log()
    }

    /// Path of one of the control plane's programs.
    pub fn program(&self, name: &str) -> Option<&Path> {
        self.state.programs.get(name).map(PathBuf::as_path)
    }

    /// `program` in the network namespace of `host`, not started yet.
    pub fn command(&self, host: &str, program: impl AsRef<Path>) -> tokio::process::Command {
        process::in_host(Some(host), program.as_ref()).into()
    }

    /// `kubectl ARGS` as administrator, not started yet.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(
            self.program("kubectl")
                .map_or_else(|| PathBuf::from("kubectl"), Path::to_owned),
        );
        command
            .arg(format!(
                "--kubeconfig={}",
                self.state.control_plane.kubeconfig("admin").display()
            ))
            .args(args)
            // kubectl keeps a cache and reads preferences below HOME.
            .env("HOME", DIRECTORY)
            .env("KUBERC", "off");
        command
    }

    /// `herald-operator ARGS` as an administrator runs it, not started yet.
    pub fn operator_command(&self, args: &[&str]) -> Result<tokio::process::Command> {
        let mut command = self.administrator(sibling("herald-operator")?);
        command.args(args);
        Ok(command)
    }

    /// A new folder that is gone with the lab.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = Path::new(DIRECTORY).join(name);
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(folder)
    }

    /// A program that an administrator of the cluster runs, not started yet.
    pub fn administrator(&self, program: impl AsRef<OsStr>) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program);
        command
            .env("KUBECONFIG", self.state.control_plane.kubeconfig("admin"))
            .env("HOME", DIRECTORY)
            .env("KUBERC", "off")
            .kill_on_drop(true);
        command
    }

    /// Runs `kubectl ARGS` and returns its standard output.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with(args, None).await
    }

    /// Applies manifests.
    pub async fn apply(&self, manifests: &str) -> Result<()> {
        self.kubectl_with(&["apply", "-f", "-"], Some(manifests))
            .await
            .map(drop)
    }

    /// Runs kubectl, again where the API server was too busy to shake hands: then
    /// it has seen nothing of the command. A virtual machine beside busy labs is
    /// that slow now and then.
    async fn kubectl_with(&self, args: &[&str], input: Option<&str>) -> Result<String> {
        let tries = 2 * vm::patience();
        for _ in 1..tries {
            match self.kubectl_once(args, input).await {
                Err(error) if error.to_string().contains(NO_HANDSHAKE) => {
                    eprintln!("lab: {error:#}; once more");
                }
                done => return done,
            }
        }
        self.kubectl_once(args, input).await
    }

    async fn kubectl_once(&self, args: &[&str], input: Option<&str>) -> Result<String> {
        use tokio::io::AsyncWriteExt as _;
        let mut command = tokio::process::Command::from(self.kubectl_command(args));
        command
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("run kubectl")?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(input.as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Installs Herald from `deploy/overlays/OVERLAY`, the manifests that a
    /// user applies, and waits for its roll-out.
    pub async fn install(&self, overlay: &str) -> Result<()> {
        let mut directory = deploy_directory()?.join("overlays").join(overlay);
        if overlay == "fake-cloud" {
            self.start_fakecloud(&[])?;
            let (v4, v6) = Host::Cloud
                .management()
                .context("the cloud is on management")?;
            let host = if self.spec.families.has_v4() {
                v4.to_string()
            } else {
                format!("[{v6}]")
            };
            // What the overlay asks its user for: where the cloud is.
            self.apply(&format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: herald-system}}\n---\n\
                 apiVersion: v1\nkind: ConfigMap\n\
                 metadata: {{name: herald-fakecloud, namespace: herald-system}}\n\
                 data: {{endpoint: \"http://{host}:{FAKECLOUD_PORT}\"}}\n"
            ))
            .await?;
        }
        if overlay == "aws" {
            self.start_fakeaws(&[])?;
            directory = aws::kustomization(&directory)?;
        }
        let directory = directory.to_string_lossy().into_owned();
        self.kubectl(&[
            "apply",
            "--server-side",
            "--force-conflicts",
            "-k",
            &directory,
        ])
        .await?;
        let limit = format!("--timeout={}s", (START * vm::patience()).as_secs());
        let list = [
            "-n",
            "herald-system",
            "get",
            "deployments,daemonsets",
            "-o",
            "name",
        ];
        for workload in self.kubectl(&list).await?.lines() {
            self.kubectl(&["-n", "herald-system", "rollout", "status", workload, &limit])
                .await?;
        }
        Ok(())
    }

    /// A folder of `deploy/`, as kubectl takes it.
    pub fn deploy(&self, folder: &str) -> Result<String> {
        let folder = deploy_directory()?.join(folder);
        Ok(folder.to_string_lossy().into_owned())
    }

    /// Starts the pretend cloud on host `cloud`; `more` are further flags.
    pub fn start_fakecloud(&self, more: &[&str]) -> Result<()> {
        if !process::find(PROCESS, "fakecloud").is_empty() {
            return Ok(());
        }
        let mut command = process::in_host(Some("cloud"), &sibling("herald-fakecloud")?);
        command
            .arg(format!("--listen=[::]:{FAKECLOUD_PORT}"))
            .args(["--interface=lan0"])
            .args([
                "--address-pool=10.20.3.0/24",
                "--address-pool=fd20::2:0/112",
            ])
            .args(more);
        process::start(
            command,
            "fakecloud",
            &process::log_path(self.logs(), "fakecloud"),
        )
    }

    /// Address of the API server on the management network.
    pub fn api_server_host(&self) -> String {
        let server = &self.state.control_plane.server;
        server
            .trim_start_matches("https://")
            .trim_end_matches(":6443")
            .to_owned()
    }

    /// Starts a proxy beside the API server by which `errors` of a hundred requests
    /// fail.
    pub fn start_api_proxy(&self, port: u16, errors: u8) -> Result<()> {
        let host = self.api_server_host();
        let mut command = process::in_host(Some(&Host::ControlPlane.name()), &isolate::own_path()?);
        command
            .arg("__api-proxy")
            .arg(format!("--listen={host}:{port}"))
            .arg(format!("--upstream={host}:6443"))
            .arg("--certificates")
            .arg(Path::new(DIRECTORY).join("cp"))
            .arg(format!("--errors={errors}"));
        process::start(
            command,
            "api-proxy",
            &process::log_path(self.logs(), "api-proxy"),
        )
    }

    /// Starts AWS's stand-in on host `cloud`; `more` are further flags.
    pub fn start_fakeaws(&self, more: &[&str]) -> Result<()> {
        if !self.spec.aws || !self.spec.families.has_v4() {
            bail!(
                "overlay aws needs a lab whose nodes are instances and have IPv4 addresses; \
                 start one with --overlay aws, and not with --families ipv6"
            );
        }
        aws::start(
            &sibling("herald-fakeaws")?,
            self.spec.nodes,
            self.logs(),
            more,
        )
    }

    /// Starts a node's process tree (again, after a crash).
    pub fn start_node(&self, name: &str) -> Result<()> {
        let i: u8 = name
            .strip_prefix('n')
            .and_then(|i| i.parse().ok())
            .with_context(|| format!("{name:?} is no node"))?;
        let directory = node_directory(name);
        fs::create_dir_all(&directory)?;
        let spec = self.node_spec(i, &directory)?;
        let file = directory.join("node.json");
        fs::write(&file, serde_json::to_vec_pretty(&spec)?)?;
        let mut command = process::in_host(Some(name), Path::new("unshare"));
        command
            .args([
                "--pid",
                "--mount",
                "--uts",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["--propagation", "private"])
            .arg(isolate::own_path()?)
            .args(["__init", "--", "__node", "--spec"])
            .arg(&file)
            .env(NODE, name);
        process::start(
            command,
            &format!("node/{name}"),
            &process::log_path(self.logs(), name),
        )
    }

    /// Changes kube-proxy's `ipvs.strictARP` on every node that is up, as an edit
    /// of its `ConfigMap` and a restart do.
    pub fn set_strict_arp(&self, strict: bool) -> Result<()> {
        for i in 1..=self.spec.nodes {
            let name = Host::Node(i).name();
            kube_proxy::set_strict_arp(&name, &node_directory(&name), strict)?;
        }
        Ok(())
    }

    fn node_spec(&self, i: u8, directory: &Path) -> Result<NodeSpec> {
        let host = Host::Node(i);
        let (v4, v6) = host.management().context("a node is on management")?;
        let families = self.spec.families;
        let mut internal_addresses = Vec::new();
        let mut pod_cidrs = Vec::new();
        if families.has_v4() {
            internal_addresses.push(v4.into());
            pod_cidrs.push(plan::pod_cidr_v4(i));
        }
        if families.has_v6() {
            internal_addresses.push(v6.into());
            pod_cidrs.push(plan::pod_cidr_v6(i));
        }
        let mut images = built_in_images()?;
        images.extend(self.spec.images.clone());
        Ok(NodeSpec {
            name: host.name(),
            families,
            internal_addresses,
            pod_cidrs,
            labels: BTreeMap::new(),
            provider_id: if self.spec.aws {
                aws::provider_id(i)
            } else {
                format!("herald-lab://{}", host.name())
            },
            api_server: self.state.control_plane.server.clone(),
            ca_file: self.state.control_plane.ca_file(),
            token: controlplane::token(&host.name()),
            proxy_token: controlplane::token("kube-proxy"),
            programs: self.state.programs.clone(),
            proxy_mode: self.spec.proxy_mode.clone(),
            strict_arp: self.spec.strict_arp,
            images,
            directory: directory.to_owned(),
            logs: self.logs().join("pods"),
        })
    }

    /// Starts the API server again, after [`crate::faults::stop_api_server`],
    /// waits until it answers, and starts the controllers anew.
    pub async fn start_api_server(&self) -> Result<()> {
        // A process that ends has its port for a moment longer than its name.
        let former = format!("{}:6443", self.api_server_host());
        poll(START, "the former API server to end", || async {
            tokio::net::TcpStream::connect(&former).await.is_err()
        })
        .await?;
        self.state.control_plane.stop_controllers();
        self.state.control_plane.start_api_server()?;
        self.api_server_ready().await?;
        self.state.control_plane.start_controllers()
    }

    async fn api_server_ready(&self) -> Result<()> {
        let request = || {
            http::Request::get("/readyz")
                .body(Vec::new())
                .expect("a constant request is valid")
        };
        poll(START, "the API server to answer /readyz", || async {
            self.kube
                .request_text(request())
                .await
                .is_ok_and(|text| text == "ok")
        })
        .await
    }

    /// Waits until every node is Ready.
    pub async fn nodes_ready(&self, limit: Duration) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.kube());
        poll(limit, "every node to be Ready", || async {
            nodes.list(&ListParams::default()).await.is_ok_and(|list| {
                list.items.len() == usize::from(self.spec.nodes)
                    && list.items.iter().all(node_is_ready)
            })
        })
        .await
    }

    /// Resident memory in KiB of a container's processes on a node, or of all
    /// of them with that name; 0 when none runs.
    pub fn rss_kib(&self, pod: &str) -> u64 {
        process::find(process::POD, pod)
            .iter()
            .filter_map(process::Found::rss_kib)
            .sum()
    }
}

fn state_file() -> PathBuf {
    Path::new(DIRECTORY).join("lab.json")
}

fn node_directory(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join("nodes").join(name)
}

fn node_is_ready(node: &Node) -> bool {
    node.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Asks again every 50 ms until `check` holds.
async fn poll<F: Future<Output = bool>>(
    limit: Duration,
    what: &str,
    check: impl Fn() -> F,
) -> Result<()> {
    let limit = limit * vm::patience();
    let begin = Instant::now();
    while !check().await {
        if begin.elapsed() > limit {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn client(control_plane: &ControlPlane) -> Result<kube::Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(control_plane.kubeconfig("admin"))?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Programs that stand for images without being asked for.
fn built_in_images() -> Result<BTreeMap<String, PathBuf>> {
    [
        "herald-operator",
        "herald-speaker",
        "herald-fakecloud",
        "herald-example-source",
        "echo",
    ]
    .into_iter()
    .map(|name| Ok((name.to_owned(), sibling(name)?)))
    .collect()
}

/// A program that was built beside this one.
pub(crate) fn sibling(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// `deploy/` of the tree that this program was built from.
fn deploy_directory() -> Result<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    directory
        .canonicalize()
        .with_context(|| format!("find {}", directory.display()))
}
